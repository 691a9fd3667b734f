"""Count how many rows of each batch hold each key, and what exchanges of rows would change.

A cell is a batch and a key, as one number. Its cost is how many of its rows are too many: all but one of those that
hold the key, and all that hold it as the text of an explicit negative beside one that does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from st_cluster_batches.plans.sorting import Integers, find_starts, stable_order

Counts = npt.NDArray[np.int64]


def cost_of(positives: Integers, holders: Integers) -> Counts:
    """Return the cost of cells."""
    return np.where(positives > 0, holders - 1, 0)


@dataclass(frozen=True)
class Changes:
    """What proposed exchanges would change, cell by cell.

    Args:
        proposals: (c,) ascending numbers of proposals.
        cells: (c,) the cells that they touch, each once for a proposal.
        positives: (c,) how many more rows hold the key, other than as a negative.
        holders: (c,) how many more rows hold the key.
    """

    proposals: Integers
    cells: Counts
    positives: Counts
    holders: Counts

    @classmethod
    def merge(cls, proposals: Integers, cells: Counts, positives: Counts, holders: Counts) -> Changes:
        """Add up the changes of one proposal to one cell."""
        order = stable_order(cells)
        order = order[stable_order(proposals[order])]
        proposals, cells = proposals[order], cells[order]
        is_first = np.ones(len(order), dtype=bool)
        is_first[1:] = (proposals[1:] != proposals[:-1]) | (cells[1:] != cells[:-1])
        starts = np.flatnonzero(is_first)
        if not len(starts):
            return cls(proposals, cells, positives, holders)
        sums = [np.add.reduceat(part[order], starts) for part in (positives, holders)]
        return cls(proposals[starts], cells[starts], *sums)

    def claim(self, ranked: Integers, slots: Integers, others: Integers) -> npt.NDArray[np.intp]:
        """Choose exchanges that share no cell and no slot with a better one; return their ranks.

        Args:
            ranked: Numbers of proposals, the best first.
            slots: One slot of each proposal.
            others: The other slot of each proposal.
        """
        rank = np.full(len(slots), len(ranked))
        rank[ranked] = np.arange(len(ranked))
        has_won = np.ones(len(ranked) + 1, dtype=bool)
        # Slots and cells are looked at apart: their numbers mean different things.
        for ranks, claimed in (
            (rank[self.proposals], self.cells),
            (np.tile(np.arange(len(ranked)), 2), np.concatenate([slots[ranked], others[ranked]])),
        ):
            ranks, claimed = ranks[ranks < len(ranked)], claimed[ranks < len(ranked)]
            order = stable_order(ranks)
            order = order[stable_order(claimed[order])]
            loses = np.ones(len(order), dtype=bool)
            loses[find_starts(claimed[order])] = False
            has_won[ranks[order[loses]]] = False
        return np.flatnonzero(has_won[:-1])


class Cells:
    """The cells that some row is in."""

    def __init__(self, cells: Counts, is_negative: npt.NDArray[np.bool_]) -> None:
        order = stable_order(cells)
        cells, is_negative = cells[order], is_negative[order]
        del order
        starts = find_starts(cells)
        self.cells = cells[starts]
        self.holders = np.diff(starts, append=len(cells)).astype(np.int32)
        self.positives = np.add.reduceat(~is_negative, starts, dtype=np.int32) if len(starts) else self.holders
        self.total = int(cost_of(self.positives, self.holders).sum())

    def find(self, cells: Counts) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.intp]]:
        """Return which cells are there, and where they are or would be."""
        order = stable_order(cells)  # neighbours are found from the cache
        at = np.empty(len(cells), dtype=np.intp)
        at[order] = np.searchsorted(self.cells, cells[order])
        is_found = np.zeros(len(cells), dtype=bool)
        inside = np.flatnonzero(at < len(self.cells))
        is_found[inside] = self.cells[at[inside]] == cells[inside]
        return is_found, at

    def look_up(self, cells: Counts) -> tuple[Counts, Counts]:
        """Return how many rows hold the keys, other than as negatives, and in all."""
        is_found, at = self.find(cells)
        positives, holders = np.zeros((2, len(cells)), dtype=np.int64)
        positives[is_found], holders[is_found] = self.positives[at[is_found]], self.holders[at[is_found]]
        return positives, holders

    def has_conflict(self, cells: Counts) -> npt.NDArray[np.bool_]:
        """Tell which of some cells are in conflict."""
        return cost_of(*self.look_up(cells)) > 0

    def gain(self, cells: Counts, is_negative: npt.NDArray[np.bool_]) -> Counts:
        """Return by how much the cost of each cell falls if a row leaves it."""
        positives, holders = self.look_up(cells)
        return cost_of(positives, holders) - cost_of(positives - ~is_negative, holders - 1)

    def rise(self, changes: Changes, n_proposals: int) -> Counts:
        """Return by how much all costs would rise with each proposal alone."""
        positives, holders = self.look_up(changes.cells)
        rise = cost_of(positives + changes.positives, holders + changes.holders) - cost_of(positives, holders)
        return np.bincount(changes.proposals, weights=rise, minlength=n_proposals).astype(np.int64)

    def apply(self, changes: Changes, proposals: Integers) -> None:
        """Make some changes, no two of which touch one cell."""
        chosen = np.zeros(int(changes.proposals.max(initial=0)) + 1, dtype=bool)
        chosen[proposals[proposals < len(chosen)]] = True
        chosen_changes = np.flatnonzero(chosen[changes.proposals])
        cells = changes.cells[chosen_changes]
        positives, holders = changes.positives[chosen_changes], changes.holders[chosen_changes]
        is_found, at = self.find(cells)
        new = np.flatnonzero(~is_found)
        new = new[np.argsort(cells[new])]
        old = at[is_found]
        before = cost_of(self.positives[old], self.holders[old]).sum()
        self.positives[old] += positives[is_found]
        self.holders[old] += holders[is_found]
        self.total += int(cost_of(self.positives[old], self.holders[old]).sum() - before)
        self.total += int(cost_of(positives[new], holders[new]).sum())
        if len(new):
            self.cells = np.insert(self.cells, at[new], cells[new])
            self.positives = np.insert(self.positives, at[new], positives[new])
            self.holders = np.insert(self.holders, at[new], holders[new])
