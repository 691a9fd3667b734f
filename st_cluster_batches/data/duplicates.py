"""Find rows whose texts count as equal: after Unicode normalisation, lower-casing and folding of white space."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from st_cluster_batches.data.texts import iterate_tables, join_chunks, read_bytes

if TYPE_CHECKING:
    from datasets import Dataset

_hash = xxhash.xxh3_64_intdigest
# What `fold_text` makes of a byte of ASCII, but for runs of white space.
_FOLDED_BYTES = bytes(ord(" ") if chr(byte).isspace() and byte < 128 else byte for byte in bytes(range(256)).lower())


def group_equal(dataset: Dataset, columns: Sequence[str]) -> npt.NDArray[np.int32]:
    """Group the rows that share a text of any of the columns, directly or through others.

    Args:
        dataset: The rows, checked to hold no missing text.
        columns: Text columns; texts of different columns are not compared.

    Returns:
        (n,) int32 group numbers from 0, in the order of first rows.
    """
    links = [_link_equal(hash_column(dataset, name, False)) for name in columns]
    starts, ends = (np.concatenate(side) for side in zip(*links, strict=True))
    linked, nodes = np.unique(np.concatenate((starts, ends)), return_inverse=True)
    edges = (np.ones(len(starts), dtype=np.int8), (nodes[: len(starts)], nodes[len(starts) :]))
    component = np.zeros(0, dtype=np.int32)
    if len(linked):
        component = connected_components(coo_array(edges, shape=(len(linked), len(linked))), directed=False)[1]
    first_row = np.arange(len(dataset))
    first_row[linked] = linked[np.unique(component, return_index=True)[1]][component]
    groups: npt.NDArray[np.int32] = np.unique(first_row, return_inverse=True)[1].astype(np.int32)
    return groups


def hash_column(dataset: Dataset, name: str, show_progress_bar: bool = True) -> npt.NDArray[np.uint64]:
    """Return an (n,) hash of every text of a column, equal for texts that count as equal."""
    hashes = np.empty(len(dataset), dtype=np.uint64)
    first = 0
    for table in iterate_tables(dataset, [name], "Hashing texts", show_progress_bar):
        hashes[first : first + table.num_rows] = _hash_chunk(join_chunks(table[name]))
        first += table.num_rows
    return hashes


def _hash_chunk(texts: pa.LargeStringArray) -> npt.NDArray[np.uint64]:
    """Hash like `hash_folded`, at half the time: what is plain is folded for all texts at once.

    Texts with a byte beyond ASCII or two blanks in a row are folded one by one.
    """
    view, offsets = read_bytes(texts)
    data = bytes(view)
    folded = data.translate(_FOLDED_BYTES)
    codes = np.frombuffer(folded, dtype=np.uint8)
    is_blank, is_odd = codes == ord(" "), codes > 127
    is_odd[1:] |= is_blank[1:] & is_blank[:-1]
    one_by_one = np.logical_or.reduceat(is_odd, offsets[:-1])
    hashes = [
        _hash(fold_text(data[low:high].decode()).encode() if is_special else folded[low:high].strip())
        for (low, high), is_special in zip(pairwise(offsets.tolist()), one_by_one.tolist(), strict=True)
    ]
    return np.asarray(hashes, dtype=np.uint64)


def _link_equal(values: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Link every row to the next one with the same value."""
    rows = np.argsort(values, kind="stable")
    at = np.flatnonzero(values[rows[1:]] == values[rows[:-1]])
    return rows[at], rows[at + 1]


def hash_folded(texts: Iterable[str]) -> npt.NDArray[np.uint64]:
    """Return an (n,) hash of every text, equal for texts that count as equal."""
    return np.asarray([_hash(fold_text(text).encode("utf-8", "surrogatepass")) for text in texts], dtype=np.uint64)


def combine_hashes(
    hashes: npt.NDArray[np.uint64], others: npt.NDArray[np.uint64] | np.uint64
) -> npt.NDArray[np.uint64]:
    """Hash pairs of hashes, in their order, by the mixing of splitmix64."""
    mixed = hashes * np.uint64(0x9E3779B97F4A7C15) + others
    for multiplier, shift in ((0xBF58476D1CE4E5B9, 30), (0x94D049BB133111EB, 27)):
        mixed ^= mixed >> np.uint64(shift)
        mixed *= np.uint64(multiplier)
    return mixed ^ mixed >> np.uint64(31)


def fold_text(text: str) -> str:
    """Return what texts that count as equal have in common."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())
