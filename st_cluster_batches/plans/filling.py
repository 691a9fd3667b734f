"""Lay rows out in global batches, stratum by stratum, so that few of them meet a false negative.

The first draft of an epoch: how many rows each stratum gives to pure, pooled and mixed batches is decided before any
row is placed, so every batch has its slots from the start. Rows with keys are dealt like cards, which keeps the rows
of one key apart; all others fill the gaps in random order. `exchanging` repairs what dealing cannot see.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from st_cluster_batches.plans.holders import Holders
from st_cluster_batches.plans.sorting import (
    CHUNK,
    Integers,
    Rows,
    count_earlier,
    find_starts,
    row_dtype,
    shuffle_within,
    stable_order,
)

PURE, POOLED, MIXED, RANDOM = 0, 1, 2, 3

Counts = npt.NDArray[np.int64]


class Layout:
    """The slots of an epoch: which belong to which stratum and batch, and the row that each of them holds.

    The random batches come first, as if they were a stratum of their own, then the pure ones of each stratum, then
    what is left of the strata along their path; `cut_path` makes pooled and mixed batches of it. Slots after the last
    whole batch hold the last short batch, or the rows that are left out.

    Args:
        sizes: Rows of each heap: those of the random batches first, then those left of each stratum.
        quota: How many batches each heap fills by itself; the rest of its rows is pooled.
        global_size: Rows of a global batch.
        keeps_rest: Whether rows that fill no whole batch make a last short one.
    """

    def __init__(self, sizes: Counts, quota: Counts, global_size: int, keeps_rest: bool) -> None:
        self.size = global_size
        self.keeps_rest = keeps_rest
        self.n_rows = int(sizes.sum())
        self.n_batches = self.n_rows // global_size
        self.quota = quota
        self.given_up = int((sizes // global_size - quota).sum())
        self.left = sizes - self.quota * global_size
        self.first_batch = _sum_earlier(self.quota)
        self.n_pure = int(self.quota.sum())  # random ones included
        self.first_left = self.n_pure * global_size + _sum_earlier(self.left)
        self.rows: Rows = np.full(self.n_rows, -1, dtype=row_dtype(self.n_rows))
        self.kinds = np.full(self.n_batches + 1, PURE, dtype=np.uint8)  # one more for the slots of no whole batch
        self.kinds[: self.quota[0]] = RANDOM
        self.pools = np.zeros((0, 2), dtype=np.int64)  # first and last slot of each source's pooled batches
        # Rows of one batch are dealt this far apart, lest the first device gets all rows with keys.
        self._stride = next(step for step in range(global_size * 5 // 8 + 1, 0, -1) if np.gcd(step, global_size) == 1)

    def batch_of(self, slots: Integers) -> Counts:
        """Return the batch of each slot; a row that is left out is a batch of its own, where it meets nobody."""
        batches = slots.astype(np.int64) // self.size
        if not self.keeps_rest:
            end = self.n_batches * self.size
            batches = np.where(slots >= end, slots - end + self.n_batches, batches)
        return batches

    def deal(self, rows: Rows, heaps: Integers, groups: Integers, singles: Counts, rng: np.random.Generator) -> None:
        """Deal rows with keys out to the batches of their heaps, group by group.

        Row i goes to batch i mod q, so that a group repeats nowhere if it has no more rows than the heap has batches.
        Rows of a larger group that are left over are the first to go to pooled batches.

        Args:
            rows: Rows that have a key.
            heaps: Their heaps.
            groups: Their groups: rows of one group are not to meet.
            singles: How many rows without a key each heap has.
            rng: Source of randomness.
        """
        if not len(rows):
            return
        # By heap, then by group in random order, then at random. Narrow numbers save memory.
        shuffled = np.arange(len(rows), dtype=row_dtype(len(rows)))
        rng.shuffle(shuffled)
        n_groups = int(groups.max()) + 1
        number = np.arange(n_groups, dtype=row_dtype(n_groups))
        rng.shuffle(number)
        runs = heaps[shuffled] * np.int64(n_groups)
        runs += number[groups[shuffled]]
        del number
        order = stable_order(runs)
        starts = find_starts(runs[order])
        del runs
        shuffled = shuffled[order]
        del order
        rows, heaps = rows[shuffled], heaps[shuffled]
        del shuffled
        is_left = self._choose_left(heaps, starts, singles)
        dealt = np.bincount(heaps, minlength=len(self.quota))
        left = np.bincount(heaps[is_left], minlength=len(self.quota))
        self.rows[self.first_left[heaps[is_left]] + _rank(is_left, heaps, left)] = rows[is_left]
        rows, heaps = rows[~is_left], heaps[~is_left]
        position = np.arange(len(rows)) - _sum_earlier(dealt - left)[heaps]
        batch = self.first_batch[heaps] + position % self.quota[heaps]
        self.rows[batch * self.size + position // self.quota[heaps] * self._stride % self.size] = rows

    def _choose_left(self, heaps: Integers, starts: Integers, singles: Counts) -> npt.NDArray[np.bool_]:
        """Choose the dealt rows, given their heaps and where groups start, that are left for pooled batches.

        Rows beyond a heap's batches are first, as far as other batches can part them; then one of each other group,
        in proportion to the rows without a key; then what repeats wherever it is.
        """
        sizes = np.diff(starts, append=len(heaps)).astype(heaps.dtype)
        earlier = np.arange(len(heaps), dtype=heaps.dtype)
        earlier -= np.repeat(starts.astype(heaps.dtype), sizes)
        earlier -= self.quota.astype(heaps.dtype)[heaps]  # how far beyond the batches of the heap
        others = self.n_batches - self.n_pure + 1 if self.keeps_rest else self.n_rows
        classes = np.full(len(heaps), 3, dtype=np.uint8)
        classes[earlier >= 0] = 0
        classes[earlier >= others] = 2
        first = starts[sizes <= self.quota[heaps[starts]]]
        classes[first] = 1
        counts = [np.bincount(heaps[classes == one], minlength=len(self.quota)) for one in range(4)]
        need = self.left.copy()
        taken = [np.minimum(counts[0], need)]
        need -= taken[0]
        share = need * (counts[1] + counts[3]) // np.maximum(counts[1] + counts[3] + singles, 1)
        taken.append(np.clip(share, np.minimum(need - singles, counts[1]), counts[1]).clip(min=0))
        need -= taken[1]
        need -= np.minimum(singles, need)
        for one in (2, 3):
            taken.append(np.minimum(counts[one], need))
            need -= taken[one]
        is_left = np.zeros(len(heaps), dtype=bool)
        for one in range(4):
            own = np.flatnonzero(classes == one)
            position = np.arange(len(own)) - _sum_earlier(counts[one])[heaps[own]]
            is_left[own[position < taken[one][heaps[own]]]] = True
        return is_left

    def fill(self, rows: Rows, sizes: Counts, rng: np.random.Generator) -> None:
        """Fill the gaps with rows without a key, given heap by heap, in random order."""
        ends = np.cumsum(sizes)
        low = 0
        while low < len(sizes):
            start = int(ends[low - 1]) if low else 0
            high = max(int(np.searchsorted(ends, start + CHUNK, side="right")), low + 1)
            own = shuffle_within(rows[start : int(ends[high - 1])], sizes[low:high], rng)
            pure = self.rows[self.first_batch[low] * self.size :][: int(self.quota[low:high].sum()) * self.size]
            left = self.rows[self.first_left[low] :][: int(self.left[low:high].sum())]
            free = left < 0
            if high == low + 1:
                n_left = np.array([np.count_nonzero(free)])
            else:
                before = np.concatenate([[0], np.cumsum(free)])
                bounds = self.first_left[low:high] - self.first_left[low]
                n_left = before[bounds + self.left[low:high]] - before[bounds]
            parts = np.stack([sizes[low:high] - n_left, n_left], axis=1).ravel()
            is_pure = np.repeat(np.tile([True, False], high - low), parts)
            pure[pure < 0] = own[is_pure]
            left[free] = own[~is_pure]
            low = high

    def cut_path(self, first_heaps: Counts, rng: np.random.Generator) -> None:
        """Cut what is left of each source, in the order of its path, into pooled batches, and the rest into mixed.

        Args:
            first_heaps: (number of sources + 1,) the first heap of each source, and the end.
            rng: Source of randomness.
        """
        ends = np.append(self.first_left, self.n_rows)[first_heaps]
        lengths = np.diff(ends)
        pooled = lengths // self.size * self.size
        # A random start on the path, or clusters smaller than a batch would meet the same neighbours every epoch.
        turns = rng.integers(lengths + 1)
        zone = self.rows[int(ends[0]) :].copy()
        target, tails = int(ends[0]), []
        for low, length, n_pooled, turn in np.stack([ends[:-1] - ends[0], lengths, pooled, turns], axis=1).tolist():
            path = np.concatenate([zone[low + turn : low + length], zone[low : low + turn]])
            self.rows[target : target + n_pooled] = path[:n_pooled]
            tails.append(path[n_pooled:])
            target += n_pooled
        # Nor is it always the last source whose rows are left out.
        tail = np.concatenate(tails)
        self.rows[target:] = np.roll(tail, int(rng.integers(len(tail) + 1)))
        self.kinds[self.n_pure : target // self.size] = POOLED
        self.kinds[target // self.size :] = MIXED
        edges = ends[0] + np.concatenate([[0], np.cumsum(pooled)])
        self.pools = np.stack([edges[:-1], edges[1:]], axis=1)

    def spread(self, holders: Holders) -> None:
        """Part rows of one group that lie together on the path: each goes to the next batch that has none."""
        low, end = self.n_pure * self.size, self.n_batches * self.size
        zone = self.rows[low:end]
        slots = np.flatnonzero(holders.has_key[zone])
        if not len(slots):
            return
        batch = slots // self.size
        edges = np.unique(np.concatenate([(self.pools.ravel() - low) // self.size, [len(zone) // self.size]]))
        segment = np.searchsorted(edges, batch, side="right") - 1
        groups = holders.groups[holders.find(zone[slots])]
        order = stable_order(groups)
        order = order[stable_order(segment[order])]
        run = segment[order] * (int(groups.max()) + 1) + groups[order]
        starts = find_starts(run)
        sizes = np.diff(starts, append=len(run))
        order = order[np.repeat(sizes > 1, sizes)]
        sizes = sizes[sizes > 1]
        first, n_segment = edges[:-1][segment[order]], np.diff(edges)[segment[order]]
        batch = first + _step_apart(batch[order] - first, sizes, n_segment)
        # Whoever comes to a full batch stays in line with the rows that have no such wish.
        by_batch = stable_order(batch)
        rank = count_earlier(batch[by_batch])
        fits = rank < self.size
        moved, rank, batch = slots[order][by_batch[fits]], rank[fits], batch[by_batch[fits]]
        rows = zone[moved]
        others = np.delete(zone, moved)
        zone[:] = -1
        zone[batch * self.size + rank * self._stride % self.size] = rows
        zone[zone < 0] = others


def _step_apart(batch: Counts, sizes: Counts, n_batches: Counts) -> Counts:
    """Choose other batches for runs of rows, no two of a run the same, each as near to its own as can be."""
    earlier = np.arange(len(batch)) - np.repeat(_sum_earlier(sizes), sizes)
    later = np.repeat(sizes, sizes) - earlier
    # The running maximum of (batch - number of row), within each run.
    leap = int(batch.max(initial=0)) + int(sizes.max(initial=0)) + 1
    offset = 2 * leap * np.repeat(np.arange(len(sizes)), sizes)
    wanted: Counts = np.maximum.accumulate(batch - earlier + offset) - offset + earlier
    wanted = np.minimum(wanted, n_batches - later)
    return np.where(np.repeat(sizes, sizes) <= n_batches, wanted, earlier % n_batches)


def _sum_earlier(counts: Counts) -> Counts:
    sums: Counts = np.cumsum(counts) - counts
    return sums


def _rank(chosen: npt.NDArray[np.bool_], heaps: Integers, counts: Counts) -> Counts:
    """Number the chosen ones of each heap from 0, given how many each heap has."""
    own = heaps[chosen]
    return np.arange(len(own)) - _sum_earlier(counts)[own]
