"""Read which rows are false negatives of one another: the keys that several rows hold.

Most rows share no key with any other, and what they hold is dropped here: a plan keeps the shared ones alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from st_cluster_batches.column_values import is_text
from st_cluster_batches.plans.sorting import CHUNK, Integers, find_starts, row_dtype, stable_order

# An odd number: multiplying by it is one to one, and spreads any values over the leading bits.
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Keys:
    """The keys that at least two rows hold.

    Two rows conflict if they hold one key, unless both hold it only as the text of an explicit negative.

    Args:
        rows: (m,) ascending row numbers, a row once for each of its keys.
        keys: (m,) uint32 dense key numbers.
        is_negative: (m,) whether the row holds the key only as an explicit negative; None if none does.
    """

    rows: Integers
    keys: npt.NDArray[np.uint32]
    is_negative: npt.NDArray[np.bool_] | None = None

    def drop_negatives(self) -> Keys | None:
        """Return the keys that several rows hold as a query or positive, and these rows; None if there is none."""
        if self.is_negative is None:
            return self
        rows, keys = self.rows[~self.is_negative], self.keys[~self.is_negative]
        is_shared = np.bincount(keys)[keys] > 1
        return Keys(rows[is_shared], keys[is_shared]) if is_shared.any() else None


def read_keys(column: pa.ChunkedArray, name: str, is_signed: bool) -> Keys | None:
    """Read the shared keys of a column of integers, strings, or lists of them.

    Args:
        column: One key a row, or a list of keys, which may be null or empty.
        name: The name of the column, for messages.
        is_signed: Whether a negative integer -k is key k, held only as an explicit negative.

    Returns:
        The keys that several rows share, or None if there is none.

    Raises:
        ValueError: If a key is null, or keys are neither integers nor strings.
    """
    n_rows = len(column)
    column, lengths = _flatten(column)
    if column.null_count:
        at = int(pc.index(pc.is_null(column), True).as_py())
        row = at if lengths is None else int(np.searchsorted(np.cumsum(lengths), at, side="right"))
        raise ValueError(f"Column {name!r} has {column.null_count} null keys, the first in row {row}")
    values = _read_values(column, name)
    positions = _find_candidates(values, is_signed)
    numbers, is_negative = _split_sign(values[positions], is_signed)
    order = stable_order(numbers)  # positions, and thus rows, stay ascending
    rows = _find_rows(positions[order], lengths, n_rows)
    rows, numbers, is_negative = _keep_shared(rows, numbers[order], is_negative[order])
    if not len(rows):
        return None
    firsts = find_starts(numbers)
    keys = np.repeat(np.arange(len(firsts), dtype=np.uint32), np.diff(firsts, append=len(numbers)))
    order = stable_order(rows)
    return Keys(rows[order], keys[order], is_negative[order] if is_negative.any() else None)


def join_keys(parts: Sequence[Keys | None]) -> Keys | None:
    """Join the keys of several columns: rows conflict if they share a key of any."""
    found = [one for one in parts if one is not None]
    if len(found) < 2:
        return found[0] if found else None
    ends = np.cumsum([int(one.keys.max()) + 1 for one in found])
    keys = np.concatenate([one.keys + np.uint32(end) for one, end in zip(found, [0, *ends[:-1]], strict=True)])
    is_negative = np.concatenate(
        [np.zeros(len(one.rows), dtype=bool) if one.is_negative is None else one.is_negative for one in found]
    )
    rows: Integers = np.concatenate([one.rows for one in found])
    order = stable_order(rows)
    return Keys(rows[order], keys[order], is_negative[order] if is_negative.any() else None)


def _flatten(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, Integers | None]:
    """Return all keys end to end, and how many each row has; None stands for one."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (
        pa.types.is_list(column.type)
        or pa.types.is_large_list(column.type)
        or pa.types.is_fixed_size_list(column.type)
    ):
        return column, None
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    flat = pc.list_flatten(column)
    return (flat.cast(flat.type.value_type) if pa.types.is_dictionary(flat.type) else flat), lengths


def _read_values(column: pa.ChunkedArray, name: str) -> Integers:
    column = column.cast(pa.large_string()) if column.type == pa.string_view() else column
    kind = column.type
    if is_text(kind):
        codes: Integers = column.dictionary_encode().unify_dictionaries().combine_chunks().indices.to_numpy()
        return codes
    if pa.types.is_null(kind):
        return np.zeros(0, dtype=np.int64)  # empty lists alone
    if not pa.types.is_integer(kind):
        raise ValueError(f"Column {name!r} holds {kind}; needed are integers, strings, or lists of them")
    values: Integers = column.to_numpy()
    return values


def _find_rows(positions: npt.NDArray[np.int64], lengths: Integers | None, n_rows: int) -> Integers:
    """Return the rows of some keys, given their positions among all keys."""
    if lengths is None:
        return positions.astype(row_dtype(n_rows))
    if not (lengths != lengths[:1]).any():
        return (positions // max(int(lengths[0]) if n_rows else 1, 1)).astype(row_dtype(n_rows))
    row_of_key = np.empty(int(lengths.sum(dtype=np.int64)), dtype=row_dtype(n_rows))
    end = 0
    for low in range(0, n_rows, CHUNK):
        own = np.repeat(np.arange(low, min(low + CHUNK, n_rows), dtype=row_dtype(n_rows)), lengths[low : low + CHUNK])
        row_of_key[end : end + len(own)] = own
        end += len(own)
    rows: Integers = row_of_key[positions]
    return rows


def _find_candidates(values: Integers, is_signed: bool) -> npt.NDArray[np.int64]:
    """Return the positions of all values that repeat, and of a few others.

    Sorting 32 bits of each value, without positions, tells which of these fingerprints repeat; a table of their
    leading bits then picks the values out. Nothing but the fingerprints takes memory for every value.
    """
    blocks = [slice(low, low + (CHUNK >> 2)) for low in range(0, len(values), CHUNK >> 2)]
    fingerprints = np.empty(len(values), dtype=np.uint32)
    for block in blocks:
        fingerprints[block] = _take_fingerprints(values[block], is_signed)
    fingerprints.sort()
    shift = np.uint32(32 - min(max(len(values).bit_length(), 16), 32))
    is_repeated = np.zeros((1 << 32) >> int(shift), dtype=bool)
    for block in blocks:
        own = fingerprints[block.start : block.stop + 1]
        is_repeated[own[1:][own[1:] == own[:-1]] >> shift] = True
    del fingerprints
    found = [
        np.flatnonzero(is_repeated[_take_fingerprints(values[block], is_signed) >> shift]) + block.start
        for block in blocks
    ]
    return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)


def _take_fingerprints(values: Integers, is_signed: bool) -> npt.NDArray[np.uint32]:
    return (_split_sign(values, is_signed)[0] * _SPREAD >> np.uint64(32)).astype(np.uint32)


def _split_sign(values: Integers, is_signed: bool) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
    """Return keys as unsigned numbers, and which are held as explicit negatives."""
    if values.dtype.kind == "u" or not is_signed:
        wide = values if values.dtype.itemsize == 8 else values.astype(np.int64)
        return wide.view(np.uint64), np.zeros(len(values), dtype=bool)
    wide = values.astype(np.int64, copy=False)
    return np.abs(wide).view(np.uint64), values < 0  # the most negative number is its own absolute value: 2 ** 63


def _keep_shared(
    rows: Integers, keys: npt.NDArray[np.uint64], is_negative: npt.NDArray[np.bool_]
) -> tuple[Integers, npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
    """Drop keys that are held once or as negatives alone; a row that holds one twice holds it as a positive, if once.

    All are given sorted by key, then row.
    """
    once = np.ones(len(rows), dtype=bool)
    once[1:] = (keys[1:] != keys[:-1]) | (rows[1:] != rows[:-1])
    starts = np.flatnonzero(once)
    if not len(starts):
        return rows, keys, is_negative
    rows, keys, is_negative = rows[starts], keys[starts], np.logical_and.reduceat(is_negative, starts)
    firsts = find_starts(keys)
    holders = np.diff(firsts, append=len(keys))
    is_shared = np.repeat((holders > 1) & ~np.logical_and.reduceat(is_negative, firsts), holders)
    return rows[is_shared], keys[is_shared], is_negative[is_shared]
