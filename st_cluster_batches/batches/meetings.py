"""Count the false negatives that every row has in every batch, where the data are small enough for it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from st_cluster_batches.batches.holders import Holders
from st_cluster_batches.batches.sorting import Integers, expand, stable_order

Counts = npt.NDArray[np.int64]

_MOST = 1 << 22  # entries of the table, and pairs of rows


class Meetings:
    """A table of rows with keys by batches: how many rows of the batch the row is not to meet.

    With it, many partners can be tried for each row at the price of a look-up, and the best one be taken.

    Args:
        holders: The rows with keys.
        batches: (h,) the batches that they are in.
        n_batches: How many batches there are.
    """

    def __init__(self, holders: Holders, batches: Counts, n_batches: int) -> None:
        lengths = np.diff(holders.starts)
        owner = np.repeat(np.arange(len(lengths)), lengths)
        order = stable_order(holders.keys)
        n_rows = np.bincount(holders.keys, minlength=holders.n_keys)
        of, place = expand((np.cumsum(n_rows) - n_rows)[holders.keys], n_rows[holders.keys])
        met = order[place]
        conflicts = ~(holders.is_negative[of] & holders.is_negative[met]) & (owner[of] != owner[met])
        # Two rows may share several keys; they are one pair.
        pairs = np.unique(owner[of[conflicts]] * len(lengths) + owner[met[conflicts]])
        self._pairs = pairs
        self._rivals = pairs % len(lengths)
        self._starts = np.searchsorted(pairs, np.arange(len(lengths) + 1) * len(lengths))
        # The last line stands for all rows without keys.
        self.table = np.zeros((len(lengths) + 1, n_batches), dtype=np.int32)
        np.add.at(self.table, (pairs // len(lengths), batches[self._rivals]), 1)

    @staticmethod
    def fit(holders: Holders, n_batches: int) -> bool:
        """Tell whether the table and its pairs are few enough."""
        n_rows = np.bincount(holders.keys).astype(float)
        return bool((len(holders.rows) + 1) * n_batches <= _MOST and n_rows @ n_rows <= _MOST)

    def rise(self, rows: Integers, partners: Integers, here: Counts, there: Counts) -> Counts:
        """Return by how many pairs meetings would rise with each exchange alone.

        Args:
            rows: (p,) numbers of rows with keys.
            partners: (p,) numbers of their partners, or -1 for a row without keys.
            here: (p,) batches of the rows.
            there: (p,) batches of the partners.
        """
        table = self.table
        rise = table[rows, there] - table[rows, here] + table[partners, here] - table[partners, there]
        # Two rows in conflict that change places meet neither before nor after.
        pairs = rows * np.int64(len(table) - 1) + partners
        at = np.minimum(np.searchsorted(self._pairs, pairs), len(self._pairs) - 1)
        rise = rise.astype(np.int64)
        rise[(self._pairs[at] == pairs) & (partners >= 0)] -= 2
        return rise

    def move(self, rows: Integers, here: Counts, there: Counts) -> None:
        """Bring the table up to date after rows went from batches to others."""
        of, at = expand(self._starts[rows], (self._starts[1:] - self._starts[:-1])[rows])
        np.add.at(self.table, (self._rivals[at], here[of]), -1)
        np.add.at(self.table, (self._rivals[at], there[of]), 1)
