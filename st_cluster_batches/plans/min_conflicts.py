"""Exchange rows one by one where the data are small, until few meet a false negative.

The min-conflicts heuristic (Minton et al., 1992): take a row in conflict, look at all rows that it may change places
with, and make the best exchange. One that gains nothing is made too, to get around obstacles.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from st_cluster_batches.plans.filling import MIXED, POOLED, PURE, RANDOM, Layout
from st_cluster_batches.plans.holders import Holders
from st_cluster_batches.plans.labels import Labels
from st_cluster_batches.plans.sorting import Integers, expand, stable_order

Counts = npt.NDArray[np.int64]

_MOST_ROWS = 1 << 13
_MOST = 1 << 22  # entries of the table of meetings, and half as many as the pairs of rows may be
_IN_VAIN = 300  # exchanges without progress after which a search ends
_MOST_LOOKS = 1 << 23  # partners that a search looks at, about a second's work
_NEVER = np.iinfo(np.int32).max


class MinConflicts:
    """The rows that must not meet, and how many of them are in each batch.

    Args:
        layout: The slots, with the rows that start in them.
        labels: The labels of all rows.
        holders: The rows with keys.
    """

    def __init__(self, layout: Layout, labels: Labels, holders: Holders) -> None:
        self.layout, self.holders = layout, holders
        self.batch = layout.batch_of(np.arange(layout.n_rows))
        self.strata = labels.strata
        self.sources = labels.source_of_stratum
        self.kinds = layout.kinds[np.arange(layout.n_rows) // layout.size]
        pairs = _list_pairs(holders)
        self._rivals = pairs % len(holders.rows)
        self._starts = np.searchsorted(pairs, np.arange(len(holders.rows) + 1) * len(holders.rows))

    @staticmethod
    def fits(holders: Holders, n_rows: int, n_batches: int) -> bool:
        """Tell whether the data are small enough."""
        sizes = np.bincount(holders.keys).astype(float)
        table = (len(holders.rows) + 1) * (n_batches + 1)
        return bool(n_rows <= _MOST_ROWS and table <= _MOST and sizes @ sizes <= 2 * _MOST)

    def search(self, rng: np.random.Generator) -> None:
        """Exchange rows of the layout, from where they are now."""
        self._place()
        in_vain = 0
        left = min(4 * len(self.holders.rows) + _IN_VAIN, _MOST_LOOKS // self.layout.n_rows)
        own = np.arange(len(self.holders.rows))
        while in_vain < _IN_VAIN and left:
            hit = np.flatnonzero(self._met[own, self.batch[self._slot]])
            if not len(hit):
                return
            one = int(hit[rng.integers(len(hit))])
            rise = self._rise(one)
            lowest = rise.min()
            if lowest <= 0:
                best = np.flatnonzero(rise == lowest)
                self._exchange(one, int(best[rng.integers(len(best))]))
            in_vain, left = (0 if lowest < 0 else in_vain + 1), left - 1

    def _place(self) -> None:
        """Read where the rows are, and count whom each would meet in each batch."""
        n_holders = len(self.holders.rows)
        at = np.flatnonzero(self.holders.has_key[self.layout.rows])
        self._holder = np.full(self.layout.n_rows, n_holders)  # which one is in a slot; the last stands for the others
        self._holder[at] = np.searchsorted(self.holders.rows, self.layout.rows[at])
        self._slot = np.empty(n_holders, dtype=np.int64)
        self._slot[self._holder[at]] = at
        self._met = np.zeros((n_holders + 1, int(self.batch.max()) + 1), dtype=np.int32)
        owner = np.repeat(np.arange(n_holders), np.diff(self._starts))
        np.add.at(self._met, (owner, self.batch[self._slot[self._rivals]]), 1)

    def _rise(self, one: int) -> npt.NDArray[np.int32]:
        """Return by how many meetings an exchange with the row of each slot would rise."""
        slot = self._slot[one]
        here, met = self.batch[slot], self._met
        rise: npt.NDArray[np.int32] = (
            met[one][self.batch] - met[one, here] + met[self._holder, here] - met[self._holder, self.batch]
        )
        # Two rows in conflict that change places meet neither before nor after.
        rise[self._slot[self._rivals[self._starts[one] : self._starts[one + 1]]]] -= 2
        rise[(self.batch == here) | ~self._is_allowed(int(slot))] = _NEVER
        return rise

    def _is_allowed(self, slot: int) -> npt.NDArray[np.bool_]:
        """Tell with which slots an exchange keeps pure batches pure and pooled ones within their source."""
        rows, kind = self.layout.rows, self.kinds[slot]
        strata = self.strata[rows]
        allowed: npt.NDArray[np.bool_] = strata == strata[slot]
        if kind != PURE:
            same_source = self.sources[strata] == self.sources[strata[slot]]
            mixed = (self.kinds == MIXED) | (self.kinds == RANDOM)
            allowed |= (self.kinds == POOLED) & same_source | mixed & (same_source | (kind != POOLED))
        return allowed

    def _exchange(self, one: int, target: int) -> None:
        slot = int(self._slot[one])
        other = int(self._holder[target])
        rows, here, there = self.layout.rows, self.batch[slot], self.batch[target]
        rows[slot], rows[target] = rows[target], rows[slot]
        self._holder[slot], self._holder[target] = other, one
        self._slot[one] = target
        self._move(one, here, there)
        if other < len(self._slot):
            self._slot[other] = slot
            self._move(other, there, here)

    def _move(self, one: int, source: int, target: int) -> None:
        rivals = self._rivals[self._starts[one] : self._starts[one + 1]]
        self._met[rivals, source] -= 1
        self._met[rivals, target] += 1


def _list_pairs(holders: Holders) -> Counts:
    """List the pairs of rows in conflict, each in both orders, as one number: first times all rows plus second."""
    lengths = np.diff(holders.starts)
    owner: Integers = np.repeat(np.arange(len(lengths)), lengths)
    order = stable_order(holders.keys)
    sizes = np.bincount(holders.keys, minlength=holders.n_keys)
    of, place = expand((np.cumsum(sizes) - sizes)[holders.keys], sizes[holders.keys])
    met = order[place]
    conflicts = ~(holders.is_negative[of] & holders.is_negative[met]) & (owner[of] != owner[met])
    # Two rows may share several keys; they are one pair.
    pairs: Counts = np.unique(owner[of[conflicts]] * len(lengths) + owner[met[conflicts]])
    return pairs
