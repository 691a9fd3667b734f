"""What the values of a column may be: texts by their type, sources by how many there are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

if TYPE_CHECKING:
    from datasets import Dataset

FEW_SOURCES = 20  # that any number of rows may have
ROWS_OF_A_SOURCE = 10  # at least, of a column `source` that stands where texts do
ROWS_OF_A_CODE = 3  # rows for each different value, from which on single words are codes


def is_text(kind: pa.DataType) -> bool:
    """Whether an Arrow type is one of texts; there are three, all of which `datasets` may give."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view())


def count_sources_at_most(n_rows: int) -> int:
    """Return how many sources some rows may have before the column of sources is one of texts."""
    return max(FEW_SOURCES, n_rows // 2)


def sample_rows(n_rows: int, n_sampled: int = 4096) -> npt.NDArray[np.int64]:
    """Return some rows in ascending order, evenly over all of them, or all where there are no more."""
    return np.unique(np.linspace(0, n_rows - 1, min(n_rows, n_sampled)).astype(np.int64))


def looks_like_codes(dataset: Dataset, name: str) -> bool:
    """Whether a column of texts holds few single words that recur, or one value, in a sample of its rows."""
    rows = sample_rows(len(dataset))
    values = dataset.with_format("arrow", columns=[name])[rows][name].cast(pa.large_string())
    n_values = pc.count_distinct(values).as_py()
    has_spaces = pc.any(pc.match_substring_regex(values, r"\s")).as_py()
    return len(rows) > 1 and (n_values == 1 or (not has_spaces and ROWS_OF_A_CODE * n_values <= len(rows)))


def hash_sample(dataset: Dataset, columns: Iterable[str]) -> str:
    """Hash the texts of some columns, of rows evenly over all, and how many rows there are.

    Of more than 4,096 rows a change to few of them may be missed; other data are not. Transforms are left aside, since
    they may draw at random.
    """
    state = xxhash.xxh3_128(str(len(dataset)).encode())
    kinds = dataset.data.schema
    texts = [name for name in columns if name in dataset.column_names and is_text(kinds.field(name).type)]
    table = dataset.with_format("arrow", columns=texts).select(sample_rows(len(dataset)))[:] if texts else {}
    for name in texts:
        state.update(name.encode("utf-8", "surrogatepass"))
        for text in table[name].to_pylist():
            state.update(b"\0" if text is None else f"{len(text)} {text}".encode("utf-8", "surrogatepass"))
    return state.hexdigest()
