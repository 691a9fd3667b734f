"""The texts of a dataset as Arrow holds them: whether all are there, and their hashes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from tqdm.auto import tqdm

if TYPE_CHECKING:
    from datasets import Dataset

_CHUNK = 4096  # rows read at once: few enough that folding their texts stays in the cache of the processor
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying loses no bit


def check_texts(dataset: Dataset, columns: Sequence[str], show_progress_bar: bool = True) -> dict[str, str]:
    """Check that no text is missing, and hash them all.

    Args:
        dataset: The pairs.
        columns: Their text columns.
        show_progress_bar: Whether to show progress.

    Returns:
        A hexadecimal hash of each column's texts and their order; unlike a dataset's own fingerprint it stays the
        same when a format is set, and through parquet.

    Raises:
        ValueError: If a text is None, empty or blank, with its column and row.
    """
    states = {name: xxhash.xxh3_128() for name in columns}
    first = 0
    for table in iterate_tables(dataset, columns, "Checking texts", show_progress_bar):
        for name, state in states.items():
            texts = join_chunks(table[name])
            blank = pc.equal(pc.binary_length(pc.utf8_trim_whitespace(texts)), 0).fill_null(True)
            if pc.any(blank).as_py():
                at = pc.index(blank, True).as_py()
                raise ValueError(
                    f"Column {name!r} has no text in row {first + at}: {texts[at].as_py()!r}. Remove such rows first: "
                    f"dataset.filter(lambda row: (row[{name!r}] or '').strip())"
                )
            data, offsets = read_bytes(texts)
            state.update(np.diff(offsets).data)
            state.update(data)
        first += table.num_rows
    return {name: state.hexdigest() for name, state in states.items()}


def find_wordless(dataset: Dataset, column: str, limit: int) -> list[int]:
    """Return the first rows whose text has neither a letter nor a digit, in which an encoder may find no token.

    Args:
        dataset: The rows, checked.
        column: The column of text.
        limit: Rows to return at most.
    """
    found: list[int] = []
    first = 0
    for table in iterate_tables(dataset, [column], "Looking for texts without a word", False):
        is_wordless = pc.invert(pc.match_substring_regex(join_chunks(table[column]), r"[\pL\pN]"))
        found += (first + np.flatnonzero(is_wordless.to_numpy(zero_copy_only=False))).tolist()
        first += table.num_rows
        if len(found) >= limit:
            break
    return found[:limit]


def hash_rows(table: pa.Table, columns: Sequence[str]) -> npt.NDArray[np.uint64]:
    """Return the (n,) row keys of a table: 64 bits of a row's texts as they are, case and white space kept.

    Equal rows have equal keys, wherever `select`, `shuffle`, `concatenate_datasets` or a file has taken them.

    Args:
        table: The rows, with no text missing.
        columns: Their text columns in order; another order gives other keys.
    """
    keys = np.zeros(table.num_rows, dtype=np.uint64)
    for name in columns:
        view, offsets = read_bytes(join_chunks(table[name]))
        data = bytes(view)
        hashes = [xxhash.xxh3_64_intdigest(data[low:high]) for low, high in pairwise(offsets.tolist())]
        keys = (keys ^ np.asarray(hashes, dtype=np.uint64)) * _MULTIPLIER
    return keys


def join_chunks(column: pa.ChunkedArray) -> pa.LargeStringArray:
    """Return a column of texts as one array."""
    return column.combine_chunks().cast(pa.large_string())


def read_bytes(texts: pa.LargeStringArray) -> tuple[memoryview, npt.NDArray[np.int64]]:
    """Return the bytes of n texts, end to end, and the (n + 1,) offsets at which they start and end."""
    offsets = np.frombuffer(texts.buffers()[1], dtype=np.int64)[texts.offset : texts.offset + len(texts) + 1]
    return memoryview(texts.buffers()[2])[offsets[0] : offsets[-1]], offsets - offsets[0]


def iterate_tables(dataset: Dataset, columns: Sequence[str], description: str, show_progress_bar: bool) -> Any:
    """Yield some columns as Arrow tables of a few thousand rows."""
    batches = dataset.with_format("arrow", columns=list(columns)).iter(batch_size=_CHUNK)
    n_chunks = -(-len(dataset) // _CHUNK)
    return tqdm(batches, description, n_chunks, unit="chunk", disable=not show_progress_bar or n_chunks < 5)
