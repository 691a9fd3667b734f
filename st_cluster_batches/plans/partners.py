"""Propose rows to exchange with rows in conflict, and tell which exchanges cost no purity."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from st_cluster_batches.plans.filling import MIXED, POOLED, PURE, RANDOM, Layout
from st_cluster_batches.plans.labels import Labels
from st_cluster_batches.plans.sorting import CHUNK, Integers, stable_order

Slots = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class Partners:
    """Finds slots whose rows may take the place of others.

    A row only goes where a row of its stratum was, among pooled batches of its source, or among mixed or random ones.

    Args:
        layout: The slots, whose rows may change later.
        labels: The labels of all rows.
        rows: The rows in conflict.
        rng: Source of randomness.
    """

    def __init__(self, layout: Layout, labels: Labels, rows: Integers, rng: np.random.Generator) -> None:
        self.layout, self.labels, self.rng = layout, labels, rng
        # The slots outside pure batches that hold rows of the strata in conflict.
        strata = labels.strata
        is_needed = np.zeros(len(labels.source_of_stratum), dtype=bool)
        is_needed[strata[rows]] = True
        found, end = [np.zeros(0, dtype=np.int64)], int(layout.quota[0]) * layout.size
        for first, last in ((0, end), (layout.n_pure * layout.size, layout.n_rows)):
            for low in range(first, last, CHUNK):
                own = strata[layout.rows[low : min(low + CHUNK, last)]]
                found.append(low + np.flatnonzero(is_needed[own]))
        slots = np.concatenate(found)
        own = strata[layout.rows[slots]]
        self._outside = slots[stable_order(own)]
        self._n_outside = np.bincount(own, minlength=len(is_needed))
        self._first_outside = np.cumsum(self._n_outside) - self._n_outside

    def propose(self, slots: Integers, number: int) -> Slots:
        """Propose a slot to exchange with each slot; -1 where there is none.

        Four kinds of partner: a row of the stratum in a pure batch or outside of them, a near one on the path or in
        another random batch, and one of the mixed batches.
        """
        layout, rng = self.layout, self.rng
        strata = self.labels.strata[layout.rows[slots]].astype(np.int64)
        kind = self._kind_of(slots)
        draws = rng.random((4, len(slots)))
        proposed = np.full((4, len(slots)), -1, dtype=np.int64)

        def put(row: int, where: Mask, first: Integers, count: Integers) -> None:
            where = where & (count > 0)
            proposed[row, where] = (first + (draws[row] * count).astype(np.int64))[where]

        everywhere = np.ones(len(slots), dtype=bool)
        put(0, everywhere, layout.first_batch[strata + 1] * layout.size, layout.quota[strata + 1] * layout.size)
        if len(self._outside):
            put(1, self._n_outside[strata] > 0, self._first_outside[strata], self._n_outside[strata])
            proposed[1] = np.where(proposed[1] >= 0, self._outside[proposed[1]], -1)
        pool = layout.pools[self.labels.source_of_stratum[strata]]
        # Near ones first, farther ones as rounds go by.
        width = layout.size << min(1 + number // 2, 20)
        first = np.where(kind == POOLED, np.maximum(pool[:, 0], slots - width), pool[:, 0])
        last = np.where(kind == POOLED, np.minimum(pool[:, 1], slots + width), pool[:, 1])
        put(2, (kind == POOLED) | (kind == MIXED), first, last - first)
        put(2, kind == RANDOM, np.zeros_like(slots), np.full_like(slots, layout.quota[0] * layout.size))
        first_mixed = int(layout.pools[-1, 1])
        put(3, kind != PURE, np.full_like(slots, first_mixed), np.full_like(slots, layout.n_rows - first_mixed))
        choice = np.argmax(np.where(proposed >= 0, rng.random(proposed.shape), -1), axis=0)
        chosen: Slots = np.take_along_axis(proposed, choice[None], axis=0)[0]
        return chosen

    def _kind_of(self, slots: Integers) -> npt.NDArray[np.uint8]:
        kinds: npt.NDArray[np.uint8] = self.layout.kinds[slots // self.layout.size]
        return kinds

    def is_allowed(self, slots: Integers, others: Integers) -> Mask:
        """Tell which exchanges keep every pure batch pure and every pooled one within its source."""
        kinds = self._kind_of(slots), self._kind_of(others)
        strata = [self.labels.strata[self.layout.rows[one]] for one in (slots, others)]
        sources = [self.labels.source_of_stratum[one] for one in strata]
        any_pure = (kinds[0] == PURE) | (kinds[1] == PURE)
        any_pooled = (kinds[0] == POOLED) | (kinds[1] == POOLED)
        allowed: Mask = (strata[0] == strata[1]) | (~any_pure & (~any_pooled | (sources[0] == sources[1])))
        allowed &= self.layout.batch_of(slots) != self.layout.batch_of(others)
        return allowed
