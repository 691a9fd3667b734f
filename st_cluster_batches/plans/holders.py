"""The rows that hold keys of false negatives, in the form in which a plan places and moves them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from st_cluster_batches.plans.keys import Keys
from st_cluster_batches.plans.sorting import Rows, find_starts, row_dtype, stable_order


@dataclass(frozen=True)
class Holders:
    """The rows with a key, and their keys.

    Args:
        rows: (h,) ascending numbers of the rows that hold a key.
        starts: (h + 1,) where the keys of each start.
        keys: (m,) key numbers.
        is_negative: (m,) whether a key is held only as the text of an explicit negative.
        groups: (h,) the most frequent key of each row; a number of its own where it repeats nowhere.
        has_key: (n,) whether each row of the data is among them.
    """

    rows: Rows
    starts: npt.NDArray[np.int64]
    keys: npt.NDArray[np.uint32]
    is_negative: npt.NDArray[np.bool_]
    groups: Rows
    has_key: npt.NDArray[np.bool_]

    @property
    def n_keys(self) -> int:
        """One more than the largest key."""
        return int(self.keys.max(initial=0)) + 1

    def find(self, rows: Rows) -> npt.NDArray[np.intp]:
        """Return where rows with keys are among them."""
        order = stable_order(rows)  # neighbours are found from the cache
        at = np.empty(len(rows), dtype=np.intp)
        at[order] = np.searchsorted(self.rows, rows[order])
        return at

    @classmethod
    def build(cls, keys: Keys | None, n_rows: int) -> Holders:
        """List the keys of every row that has one."""
        if keys is None:
            keys = Keys(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.uint32))
        has_key = np.zeros(n_rows, dtype=bool)
        has_key[keys.rows] = True
        starts = find_starts(keys.rows)
        rows: Rows = keys.rows[starts].astype(row_dtype(n_rows), copy=False)
        is_negative = np.zeros(len(keys.rows), dtype=bool) if keys.is_negative is None else keys.is_negative
        groups = _choose_groups(keys.keys, is_negative, starts)
        return cls(rows, np.append(starts, len(keys.rows)), keys.keys, is_negative, groups, has_key)


def _choose_groups(
    keys: npt.NDArray[np.uint32], is_negative: npt.NDArray[np.bool_], starts: npt.NDArray[np.intp]
) -> Rows:
    """Choose the key by which each row is dealt; negatives may meet each other, so they make no group."""
    if not len(keys):
        return np.zeros(0, dtype=np.int32)
    holders = np.bincount(keys[~is_negative], minlength=int(keys.max()) + 1)
    frequency = np.where(is_negative, 0, holders[keys]).astype(np.uint64)
    best = np.maximum.reduceat(frequency << np.uint64(32) | keys, starts)
    own = np.arange(len(starts)) + len(holders)
    groups = np.where(best >> np.uint64(32) > 1, (best & np.uint64(0xFFFFFFFF)).view(np.int64), own)
    return groups.astype(row_dtype(len(holders) + len(starts)))
