"""Look at the texts of a dataset as Arrow holds them: which columns they are, whether all are there, which repeat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm.auto import tqdm

from st_cluster_batches.labels import LABEL_COLUMNS

if TYPE_CHECKING:
    from datasets import Dataset

# The columns that sentence-transformers takes as training labels.
TARGET_COLUMNS = ("label", "labels", "score", "scores")

_CHUNK = 10_000


def find_text_columns(dataset: Dataset) -> list[str]:
    """Return the columns that a trainer would tokenise, in order: query, positive, then any negatives.

    Raises:
        ValueError: If there is none.
    """
    columns = [
        name
        for name, feature in dataset.features.items()
        if getattr(feature, "dtype", None) in ("string", "large_string")
        and name not in (*LABEL_COLUMNS, *TARGET_COLUMNS)
    ]
    if not columns:
        raise ValueError(f"The dataset has no column of text, only {dict(dataset.features)}; a query column is needed")
    return columns


def check_texts(dataset: Dataset, columns: Sequence[str], show_progress_bar: bool = True) -> str:
    """Check that no text is missing, and hash them all.

    Args:
        dataset: The pairs.
        columns: Their text columns.
        show_progress_bar: Whether to show progress.

    Returns:
        A hexadecimal hash of column names, texts and their order; unlike a dataset's own fingerprint it stays the same
        when a format is set, and through parquet.

    Raises:
        ValueError: If a text is None, empty or blank, with its column and row.
    """
    state = xxhash.xxh3_128("\0".join(columns).encode())
    first = 0
    for table in _iterate(dataset, columns, "Checking texts", show_progress_bar):
        for name in columns:
            texts = table[name].combine_chunks().cast(pa.large_string())
            blank = pc.equal(pc.binary_length(pc.utf8_trim_whitespace(texts)), 0).fill_null(True)
            if pc.any(blank).as_py():
                at = pc.index(blank, True).as_py()
                raise ValueError(
                    f"Column {name!r} has no text in row {first + at}: {texts[at].as_py()!r}. Remove such rows first: "
                    f"dataset.filter(lambda row: (row[{name!r}] or '').strip())"
                )
            offsets = np.frombuffer(texts.buffers()[1], dtype=np.int64)[texts.offset : texts.offset + len(texts) + 1]
            state.update(np.diff(offsets).data)
            state.update(memoryview(texts.buffers()[2])[offsets[0] : offsets[-1]])
        first += table.num_rows
    return state.hexdigest()


def group_false_negatives(
    dataset: Dataset, columns: Sequence[str], show_progress_bar: bool = True
) -> npt.NDArray[np.int32]:
    """Group the rows that would be false negatives of one another.

    Two rows are linked if they share a query or a positive, or if the positive of one is an explicit negative of the
    other; groups are the connected components. Rows that share only a negative are not linked. Texts count as equal
    after Unicode normalisation (NFKC), lower-casing and folding of white space.

    Args:
        dataset: The pairs, checked to hold no missing text.
        columns: Text columns in order: query, positive, negatives.
        show_progress_bar: Whether to show progress.

    Returns:
        (n,) int32 group numbers from 0.
    """
    hashes = np.empty((len(columns), len(dataset)), dtype=np.uint64)
    first = 0
    for table in _iterate(dataset, columns, "Finding false negatives", show_progress_bar):
        for at, name in enumerate(columns):
            texts = _fold(table[name].combine_chunks()).cast(pa.large_binary()).to_pylist()
            hashes[at, first : first + len(texts)] = [xxhash.xxh3_64_intdigest(text) for text in texts]
        first += table.num_rows
    # Nodes are the rows, then the distinct queries, then the distinct positives.
    rows = np.arange(len(dataset))
    queries, query_of_row = np.unique(hashes[0], return_inverse=True)
    ends = [query_of_row + len(rows)]
    starts = [rows]
    if len(columns) > 1:
        positives, positive_of_row = np.unique(hashes[1], return_inverse=True)
        starts.append(rows)
        ends.append(positive_of_row + len(rows) + len(queries))
        for negatives in hashes[2:]:
            at = np.minimum(np.searchsorted(positives, negatives), len(positives) - 1)
            is_positive = positives[at] == negatives
            starts.append(rows[is_positive])
            ends.append(at[is_positive] + len(rows) + len(queries))
    start, end = np.concatenate(starts), np.concatenate(ends)
    n_nodes = int(end.max(initial=0)) + 1
    graph = coo_array((np.ones(len(start), dtype=np.int8), (start, end)), shape=(n_nodes, n_nodes))
    components = connected_components(graph, directed=False)[1][: len(rows)]
    groups: npt.NDArray[np.int32] = np.unique(components, return_inverse=True)[1].astype(np.int32)
    return groups


def _fold(texts: Any) -> Any:
    folded = pc.utf8_lower(pc.utf8_normalize(texts, form="NFKC"))
    return pc.utf8_trim_whitespace(pc.replace_substring_regex(folded, pattern=r"\s+", replacement=" "))


def _iterate(dataset: Dataset, columns: Sequence[str], description: str, show_progress_bar: bool) -> Any:
    batches = dataset.with_format("arrow", columns=list(columns)).iter(batch_size=_CHUNK)
    n_chunks = -(-len(dataset) // _CHUNK)
    return tqdm(batches, description, n_chunks, unit="chunk", disable=not show_progress_bar or n_chunks < 5)
