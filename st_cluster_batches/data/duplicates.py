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

Links = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]  # (m,) rows, and the (m,) rows that each is linked to

_BLOCK = 1 << 20
_SORTED_ROWS = 1 << 22

_hash = xxhash.xxh3_64_intdigest
# What `_fold` makes of a byte of ASCII, but for runs of white space.
_FOLDED_BYTES = bytes(ord(" ") if chr(byte).isspace() and byte < 128 else byte for byte in bytes(range(256)).lower())


def group_false_negatives(
    dataset: Dataset, columns: Sequence[str], show_progress_bar: bool = True, near: Links | None = None
) -> npt.NDArray[np.int32]:
    """Group the rows that would be false negatives of one another.

    Two rows are linked if they share a query or a positive, or if the positive of one is an explicit negative of the
    other; groups are the connected components. Rows that share only a negative are not linked. Texts count as equal
    after Unicode normalisation (NFKC), lower-casing and folding of white space.

    Args:
        dataset: The pairs, checked to hold no missing text.
        columns: Text columns in order: query, positive, negatives.
        show_progress_bar: Whether to show progress.
        near: Further links, between rows whose passages are nearly equal.

    Returns:
        (n,) int32 group numbers from 0, in the order of first rows.
    """
    links = [near] if near is not None else []
    links += _link_equal(_hash_column(dataset, columns[0], show_progress_bar), [])
    if len(columns) > 1:
        positives, *negatives = [_hash_column(dataset, name, show_progress_bar) for name in columns[1:]]
        links += _link_equal(positives, negatives)
        del positives, negatives
    starts, ends = (np.concatenate(side) for side in zip(*links, strict=True))
    return _number_groups(len(dataset), starts, ends)


def _hash_column(dataset: Dataset, name: str, show_progress_bar: bool) -> npt.NDArray[np.uint64]:
    hashes = np.empty(len(dataset), dtype=np.uint64)
    first = 0
    for table in iterate_tables(dataset, [name], "Finding false negatives", show_progress_bar):
        hashes[first : first + table.num_rows] = _hash_chunk(join_chunks(table[name]))
        first += table.num_rows
    return hashes


def _hash_chunk(texts: pa.LargeStringArray) -> npt.NDArray[np.uint64]:
    """Hash like `hash_texts`, at half the time: what is plain is folded for all texts at once.

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
        _hash(_fold(data[low:high].decode()).encode() if is_special else folded[low:high].strip())
        for (low, high), is_special in zip(pairwise(offsets.tolist()), one_by_one.tolist(), strict=True)
    ]
    return np.asarray(hashes, dtype=np.uint64)


def _link_equal(values: npt.NDArray[np.uint64], others: Sequence[npt.NDArray[np.uint64]]) -> list[Links]:
    """Link every row to the next one with the same value, and to one whose value is among its `others`.

    One range of values after another, so that sorting needs no memory that grows with the rows.
    """
    bits = max(0, (len(values) - 1).bit_length() - _SORTED_ROWS.bit_length() + 1)
    links: list[Links] = []
    for prefix in range(1 << bits):
        rows = _find_prefix(values, prefix, bits)
        rows = rows[np.argsort(values[rows], kind="stable")]
        own = values[rows]
        at = np.flatnonzero(own[1:] == own[:-1])
        links.append((rows[at], rows[at + 1]))
        for other in others if len(rows) else ():
            other_rows = _find_prefix(other, prefix, bits)
            at = np.minimum(np.searchsorted(own, other[other_rows]), len(rows) - 1)
            is_equal = own[at] == other[other_rows]
            links.append((other_rows[is_equal], rows[at[is_equal]]))
    return links


def _find_prefix(values: npt.NDArray[np.uint64], prefix: int, bits: int) -> npt.NDArray[np.int64]:
    """Return the rows whose value starts with some bits."""
    if bits == 0:
        return np.arange(len(values))
    blocks = range(0, len(values), _BLOCK)
    return np.concatenate(
        [low + np.flatnonzero(values[low : low + _BLOCK] >> np.uint64(64 - bits) == prefix) for low in blocks]
    )


def _number_groups(n_rows: int, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Number the connected components of rows, reckoning with those rows alone that have a link."""
    linked, nodes = np.unique(np.concatenate((starts, ends)), return_inverse=True)
    edges = (np.ones(len(starts), dtype=np.int8), (nodes[: len(starts)], nodes[len(starts) :]))
    component = np.zeros(0, dtype=np.int32)
    if len(linked):
        component = connected_components(coo_array(edges, shape=(len(linked), len(linked))), directed=False)[1]
    first_row = linked[np.unique(component, return_index=True)[1]]
    groups = np.arange(n_rows, dtype=np.int32)
    is_first = np.ones(n_rows, dtype=bool)
    groups[linked] = first_row[component]
    is_first[linked] = groups[linked] == linked
    number = np.cumsum(is_first, dtype=np.int32)
    for low in range(0, n_rows, _BLOCK):
        groups[low : low + _BLOCK] = number[groups[low : low + _BLOCK]] - 1
    return groups


def hash_texts(texts: Iterable[str]) -> npt.NDArray[np.uint64]:
    """Return an (n,) hash of every text, equal for texts that count as equal."""
    return np.asarray([_hash(_fold(text).encode("utf-8", "surrogatepass")) for text in texts], dtype=np.uint64)


def _fold(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())
