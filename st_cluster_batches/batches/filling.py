"""Cut rows into global batches that repeat no false-negative group, without a Python loop over rows.

The primitives of a plan: count how many batches are possible at all, deal a stratum out, and fill batches along a
path. All of it is sorts of integers, in chunks that bound the memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

import numpy as np
import numpy.typing as npt

from st_cluster_batches.batches.sorting import (
    CHUNK,
    Rows,
    count_earlier,
    draw_key,
    group_by_stratum,
    hash_bijectively,
    row_dtype,
    sort_by,
)

PURE, POOLED, MIXED, RANDOM = 0, 1, 2, 3


@dataclass(frozen=True)
class PlanCounts:
    """What an epoch is made of, known before training.

    Args:
        global_batch_size: Rows of a global batch.
        pure: Global batches of one stratum.
        pooled: Global batches of neighbouring strata in one source.
        mixed: Global batches of leftovers from several sources.
        random: Global batches drawn across all strata on purpose.
        last: Rows of a final short batch.
        dropped: Rows in no batch.
        unplaced_groups: False-negative groups with more rows than there are batches, so that some rows are dropped.
    """

    global_batch_size: int
    pure: int
    pooled: int
    mixed: int
    random: int
    last: int
    dropped: int
    unplaced_groups: int

    def __str__(self) -> str:
        kinds = {"pure": self.pure, "neighbour-pooled": self.pooled, "source-mixed": self.mixed, "random": self.random}
        total = max(sum(kinds.values()), 1)
        shares = ", ".join(f"{count:,} {kind} ({count / total:.1%})" for kind, count in kinds.items())
        unplaced = f", some from {self.unplaced_groups:,} false-negative groups" if self.unplaced_groups else ""
        return (
            f"{total:,} global batches of {self.global_batch_size:,} rows: {shares}; {self.last:,} rows in a last "
            f"short batch; {self.dropped:,} rows dropped{unplaced}"
        )


class Filler:
    """Fills a fixed number of global batches, level by level."""

    def __init__(self, groups: npt.NDArray[np.uint32] | None, global_size: int, n_batches: int) -> None:
        self.groups = groups
        self.size = global_size
        self.rows: Rows = np.empty((n_batches, global_size), dtype=row_dtype(n_batches * global_size))
        self.kinds = np.empty(n_batches, dtype=np.uint8)
        self.filled = 0

    def fill_pure(self, rows: Rows, sizes: npt.NDArray[np.int64], rng: np.random.Generator) -> Rows:
        """Cut consecutive strata of `sizes` rows into pure batches; return the leftovers, stratum by stratum."""
        if len(rows) <= CHUNK or len(sizes) > 1:
            return self._deal(rows, sizes, rng)
        # One large stratum: part it at random, groups whole, and deal what is left of the parts in a second round.
        parts = np.empty(len(rows), dtype=np.uint32)
        n_parts = -(-len(rows) // CHUNK)
        key = draw_key(rng)
        for low in range(0, len(rows), CHUNK):
            hashed = hash_bijectively(self._ids(rows[low : low + CHUNK]), key).astype(np.uint64)
            parts[low : low + CHUNK] = hashed * np.uint64(n_parts) >> np.uint64(32)
        order, part_sizes = group_by_stratum(parts, n_parts)
        ends = np.cumsum(part_sizes)
        left = [
            self._deal(rows[order[end - size : end]], np.array([size]), rng)
            for end, size in zip(ends, part_sizes, strict=True)
            if size
        ]
        rest = np.concatenate(left)
        return self._deal(rest, np.array([len(rest)]), rng) if len(rest) else rest

    def _deal(self, rows: Rows, sizes: npt.NDArray[np.int64], rng: np.random.Generator) -> Rows:
        """Shuffle strata and deal each out to its pure batches; return the leftovers, stratum by stratum.

        One sort does the shuffling: by stratum, then by a keyed bijective hash of the group. Rows of one group thus
        lie side by side, and dealing a stratum out like cards, row i to batch i mod q, keeps them apart wherever
        the group has no more rows than the stratum has batches.
        """
        sizes = sizes[sizes > 0]
        keys = np.repeat(np.arange(len(sizes), dtype=np.uint64), sizes) << np.uint64(32)
        keys |= hash_bijectively(self._ids(rows), draw_key(rng))
        keys, order = sort_by(keys)
        rows = rows[order]
        quota = sizes // self.size
        if self.groups is None or not (keys[1:] == keys[:-1]).any():
            position = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            placed = position < np.repeat(quota * self.size, sizes)
            self._append(rows[placed], PURE)
            return rows[~placed]
        occurrence = count_earlier(keys)
        starts = np.cumsum(sizes) - sizes
        while True:
            fits = occurrence < np.repeat(quota, sizes)
            fitting = np.add.reduceat(fits, starts, dtype=np.int64)
            if np.array_equal(quota, fitting // self.size):
                break
            quota = fitting // self.size
        position = np.cumsum(fits) - fits - np.repeat(np.cumsum(fitting) - fitting, sizes)
        placed = fits & (position < np.repeat(quota * self.size, sizes))
        first_batch = np.cumsum(quota) - quota
        batch = np.repeat(first_batch, sizes)[placed] + position[placed] % np.repeat(quota, sizes)[placed]
        self._append(rows[placed][sort_by(batch.astype(np.uint32))[1]], PURE)
        return rows[~placed]

    def fill_random(self, shuffled: Rows, n_batches: int) -> npt.NDArray[np.bool_]:
        """Fill batches across strata from rows in random order; return which rows they took, by row number."""
        taken = np.zeros(len(shuffled), dtype=bool)
        left, low = shuffled[:0], 0
        while self.filled < n_batches and (len(left) + len(shuffled) - low) >= self.size:
            first = self.filled
            # As many rows as are missing and no more, so that the surplus of large groups is what is carried along.
            wanted = min((n_batches - first) * self.size, max(CHUNK, self.size))
            block = shuffled[low : low + max(wanted - len(left), self.size)]
            low += len(block)
            if not len(block):
                break
            left = self._fill_block(np.concatenate([left, block]), RANDOM, most=n_batches - first)
            taken[self.rows[first : self.filled].ravel()] = True
        return taken

    def fill_along_path(self, path: Rows, rng: np.random.Generator) -> Rows:
        """Cut the leftovers of one source, in the order of its path, into pooled batches; return what is left."""
        # A random start on the path, or clusters smaller than a batch would meet the same neighbours every epoch.
        start = int(rng.integers(len(path) + 1))
        block = max(CHUNK // self.size, 16) * self.size
        left = path[:0]
        for arc in (path[start:], path[:start]):
            for low in range(0, len(arc), block):
                left = self._fill_block(np.concatenate([left, arc[low : low + block]]), POOLED)
        return left

    def finish(self, rest: Rows, kind: int, keeps_last: bool) -> Rows:
        """Fill the remaining batches from the rows that are left over.

        Args:
            rest: The rows, neighbours together.
            kind: What to call these batches.
            keeps_last: Whether what fills no batch is to make a last short one.

        Returns:
            The rows of the last short batch, one of each group at most; empty if there is none.
        """
        n_last = len(rest) - (len(self.rows) - self.filled) * self.size if keeps_last else 0
        reserved, opened = rest[:0], 0
        for attempt in count():
            first = self.filled
            leftover = self._fill_block(rest, kind)
            last = self._take_one_of_each_group(np.concatenate([reserved, leftover]))
            is_last_attempt = attempt > 0 and first == 0
            if self.filled == len(self.rows) and (len(last) >= n_last or is_last_attempt):
                break
            # Take this attempt back and open some batches. With all of them open, dealing is sure to fill every one.
            opened = min(max(2 * opened, len(self.rows) - self.filled, 1), first)
            self.filled = first - opened
            pool = np.concatenate([self.rows[self.filled : first].ravel(), reserved, rest])
            reserved, rest = self._reserve(pool, n_last, len(self.rows) - self.filled)
        return last[:n_last]

    def _take_one_of_each_group(self, rows: Rows) -> Rows:
        if self.groups is None:
            return rows
        return rows[np.sort(np.unique(self.groups[rows], return_index=True)[1])]

    def _reserve(self, pool: Rows, n_last: int, n_open: int) -> tuple[Rows, Rows]:
        """Part rows for the last short batch, one of each of the largest groups, from those of `n_open` batches."""
        if self.groups is None or n_last == 0:
            return pool[:0], pool
        _, first, sizes = np.unique(self.groups[pool], return_index=True, return_counts=True)
        # Rows that neither the open batches nor the last can hold are left over whatever is reserved.
        n_last -= int(np.maximum(sizes - n_open - 1, 0).sum())
        taken = np.zeros(len(pool), dtype=bool)
        taken[first[np.argsort(-sizes, kind="stable")[: max(n_last, 0)]]] = True
        return pool[taken], pool[~taken]

    def _fill_block(self, rows: Rows, kind: int, most: int | None = None) -> Rows:
        """Cut rows into as many batches as can be had, neighbours together; return the leftovers in order.

        Rows whose group repeats here choose first: a group takes consecutive batches from the one where its first
        row would lie. The others then fill the gaps in order.
        """
        n_batches = min(len(rows) // self.size, len(self.rows) - self.filled if most is None else most)
        if self.groups is None:
            n_placed = n_batches * self.size
            self._append(rows[:n_placed], kind)
            return rows[n_placed:]
        keys, position = sort_by(self.groups[rows])
        occurrence = count_earlier(keys)
        while (possible := int(np.count_nonzero(occurrence < n_batches)) // self.size) < n_batches:
            n_batches = possible
        if n_batches == 0:
            return rows
        repeats = np.zeros(len(rows), dtype=bool)
        repeats[1:] = keys[1:] == keys[:-1]
        repeats[:-1] |= repeats[1:]
        batch = np.full(len(rows), n_batches)  # n_batches stands for none
        batch[position[repeats]] = self._spread(position[repeats], occurrence[repeats], n_batches)
        room = self.size - np.bincount(batch, minlength=n_batches)[:n_batches]
        gaps = np.repeat(np.arange(n_batches), room)
        is_single = np.zeros(len(rows), dtype=bool)
        is_single[position[~repeats]] = True
        batch[np.flatnonzero(is_single)[: len(gaps)]] = gaps
        order = sort_by(batch.astype(np.uint32))[1]
        n_placed = n_batches * self.size
        self._append(rows[order[:n_placed]], kind)
        return rows[order[n_placed:]]

    def _spread(
        self, position: npt.NDArray[np.int64], occurrence: npt.NDArray[np.int64], n_batches: int
    ) -> npt.NDArray[np.int64]:
        """Choose a batch for every row of repeated groups, given group by group; `n_batches` stands for none."""
        fits = occurrence < n_batches
        home = np.minimum(position // self.size, n_batches - 1)
        home = home[np.maximum.accumulate(np.where(occurrence == 0, np.arange(len(position)), 0))]
        batch = np.where(fits, (home + occurrence) % n_batches, n_batches)
        if len(batch) and np.bincount(batch, minlength=n_batches)[:n_batches].max() > self.size:
            # Too many groups start at one place: give up nearness and deal them out, which always fits.
            dealt: npt.NDArray[np.int64] = np.cumsum(fits) - fits
            batch = np.where(fits & (dealt < n_batches * self.size), dealt % n_batches, n_batches)
        return batch

    def _ids(self, rows: Rows) -> npt.NDArray[np.uint32]:
        return rows.astype(np.uint32) if self.groups is None else self.groups[rows]

    def _append(self, rows: Rows, kind: int) -> None:
        end = self.filled + len(rows) // self.size
        self.rows[self.filled : end] = rows.reshape(-1, self.size)
        self.kinds[self.filled : end] = kind
        self.filled = end


def count_distinct_batches(groups: npt.NDArray[np.uint32] | None, n_rows: int, size: int) -> tuple[int, int]:
    """Count how many batches of `size` rows can be made in which no group appears twice.

    T batches can be filled exactly when the groups offer T * size rows, none of them more than T: dealing the rows
    out group by group then does it. The left side is concave in T, so the iteration ends at the largest.

    Returns:
        T, and the number of groups with more than T rows.
    """
    n_batches = n_rows // size
    if groups is None:
        return n_batches, 0
    multiplicity = _count_repeats(groups)
    while True:
        possible = (n_rows - int(np.maximum(multiplicity - n_batches, 0).sum())) // size
        if possible == n_batches or n_batches == 0:
            return n_batches, int((multiplicity > n_batches).sum())
        n_batches = possible


def _count_repeats(groups: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
    """Count the rows of every group that has several."""
    if int(groups.max(initial=0)) >= 4 * len(groups):
        groups = np.unique(groups, return_inverse=True)[1].astype(np.uint32)
    # Where the last row of each group is; every other row is a repeat. Chunks keep the temporaries small.
    last = np.empty(int(groups.max(initial=0)) + 1, dtype=np.uint32)
    rows = np.arange(len(groups), dtype=np.uint32)
    last[groups] = rows
    repeats = [
        groups[low : low + CHUNK][last[groups[low : low + CHUNK]] != rows[low : low + CHUNK]]
        for low in range(0, len(groups), CHUNK)
    ]
    counts: npt.NDArray[np.int64] = np.unique(np.concatenate(repeats), return_counts=True)[1] + 1
    return counts
