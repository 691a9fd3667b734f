"""Sort, group and shuffle row numbers by the million: radix sorts and a keyed hash, in numpy alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from st_cluster_batches.batches.labels import Integers

Rows = npt.NDArray[np.signedinteger[Any]]

# Rows that are grouped or shuffled at once: enough to hide numpy's call cost, few enough to keep memory down.
CHUNK = 1 << 18


def group_by_stratum(strata: Integers, n_strata: int) -> tuple[Rows, npt.NDArray[np.int64]]:
    """Return the rows sorted by stratum, and the size of each stratum; a counting sort in chunks, to save memory."""
    chunks = [slice(low, low + CHUNK) for low in range(0, len(strata), CHUNK)]
    sizes = np.zeros(n_strata, dtype=np.int64)
    for chunk in chunks:
        sizes += np.bincount(strata[chunk], minlength=n_strata)
    rows: Rows = np.empty(len(strata), dtype=row_dtype(len(strata)))
    free = np.cumsum(sizes) - sizes
    for chunk in chunks:
        _, order = sort_by(strata[chunk].astype(np.uint32))
        counts = np.bincount(strata[chunk], minlength=n_strata)
        target = np.arange(len(order)) + np.repeat(free - (np.cumsum(counts) - counts), counts)
        rows[target] = order + chunk.start
        free += counts
    return rows, sizes


def sort_by(keys: npt.NDArray[np.unsignedinteger[Any]]) -> tuple[npt.NDArray[Any], npt.NDArray[np.intp]]:
    """Sort keys stably; return them and their old positions.

    Digit by digit: numpy sorts 16-bit integers by radix, several times faster than wider ones by comparison.
    """
    n_digits = max(1, -(-int(keys.max(initial=0)).bit_length() // 16))
    order = np.lexsort([(keys >> keys.dtype.type(16 * digit)).astype(np.uint16) for digit in range(n_digits)])
    return keys[order], order


def count_earlier(keys: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Count, for each element of a sorted array, the equal ones before it."""
    starts = np.flatnonzero(np.concatenate([np.ones(min(len(keys), 1), dtype=bool), keys[1:] != keys[:-1]]))
    return np.arange(len(keys)) - np.repeat(starts, np.diff(starts, append=len(keys)))


def draw_key(rng: np.random.Generator) -> npt.NDArray[np.uint32]:
    """Draw the key of a hash."""
    return rng.integers(1 << 32, size=2, dtype=np.uint32)


def hash_bijectively(ids: npt.NDArray[np.uint32], keys: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Scramble 32-bit numbers one to one, by two keyed rounds of MurmurHash3's finaliser.

    Being one to one, it never lets two groups share a key, which a table of random numbers would.
    """
    hashed = ids.copy()
    for key in keys:
        hashed ^= key
        for multiplier, shift in ((0x85EBCA6B, 13), (0xC2B2AE35, 16)):
            hashed ^= hashed >> np.uint32(16)
            hashed *= np.uint32(multiplier)
            hashed ^= hashed >> np.uint32(shift)
    return hashed


def row_dtype(n_rows: int) -> type[np.int32] | type[np.int64]:
    """Return the narrowest type for that many row numbers."""
    return np.int32 if n_rows <= np.iinfo(np.int32).max else np.int64
