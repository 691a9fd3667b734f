"""Part rows that meet a false negative, by exchanging them with rows of other batches.

A local search in rounds. Each round proposes partners for all rows in conflict at once, looks up what each exchange
would change, and makes those that gain something and do not touch one another. Purity is never paid for it: a row
only goes where a row of its stratum was, among pooled batches of its source, or among mixed ones.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from st_cluster_batches.plans.cells import Cells, Changes
from st_cluster_batches.plans.filling import Layout
from st_cluster_batches.plans.holders import Holders
from st_cluster_batches.plans.labels import Labels
from st_cluster_batches.plans.partners import Partners
from st_cluster_batches.plans.sorting import CHUNK, Integers, expand, find_starts, stable_order

Slots = npt.NDArray[np.int64]

# Keys of the rows that propose in a round: the fewer rows are in conflict, the more partners each of them tries.
_LEAST, _MOST = 1 << 13, 1 << 18
_PATIENCE = 1 << 17  # keys of proposals without progress after which the search ends
_FEW = 1 << 15  # so few rows in conflict may also make exchanges that gain nothing, to get around obstacles
_MOST_ROUNDS = 1000


class Exchange:
    """The state of a search: where each row with keys is, and how often each batch holds each key."""

    def __init__(self, layout: Layout, labels: Labels, holders: Holders, rng: np.random.Generator) -> None:
        self.layout = layout
        self.labels = labels
        self.holders = holders
        self.rng = rng
        slots = np.concatenate(
            [
                low + np.flatnonzero(holders.has_key[layout.rows[low : low + CHUNK]])
                for low in range(0, layout.n_rows, CHUNK)
            ]
        )
        slots = slots.astype(layout.rows.dtype)
        self.slots: Integers = slots[stable_order(layout.rows[slots])]
        self.owner = np.repeat(np.arange(len(holders.rows), dtype=slots.dtype), np.diff(holders.starts))
        self.cells = Cells(self._cells_of(self.owner, holders.keys), holders.is_negative)

    def count_repeats(self) -> int:
        """Count the rows that conflict with a row placed earlier in their batch."""
        cells = self._cells_of(self.owner, self.holders.keys)
        at = np.flatnonzero(self.cells.has_conflict(cells)) if self.cells.total else np.zeros(0, dtype=np.int64)
        order = at[np.lexsort((self.slots[self.owner[at]], cells[at]))]
        starts = find_starts(cells[order])
        sizes = np.diff(starts, append=len(order))
        is_negative = self.holders.is_negative[order]
        earlier = np.arange(len(order)) - np.repeat(starts, sizes)
        positives: Slots = np.cumsum(~is_negative) - ~is_negative
        positives -= np.repeat(positives[starts], sizes)
        repeats = np.where(is_negative, positives > 0, earlier > 0)
        return len(np.unique(self.owner[order[repeats]]))

    def run(self) -> None:
        """Search until no conflict is left, or none that exchanges seem to be able to resolve."""
        active = self._find_hopeful()
        if not len(active):
            return
        self._partners = Partners(self.layout, self.labels, self.holders.rows[active], self.rng)
        lengths = np.diff(self.holders.starts)
        gained, spent, number = 0, 0, 0
        while len(active) and spent < _PATIENCE and number < _MOST_ROUNDS:
            n_keys = int(lengths[active].sum())
            proposing = self.rng.permutation(np.repeat(active, max(1, _LEAST // n_keys)))
            proposing = proposing[: max(1, len(proposing) * _MOST // n_keys)] if n_keys > _MOST else proposing
            spent += int(lengths[proposing].sum())
            partners, gain = self._exchange(proposing, number, len(active) <= _FEW)
            gained, number = gained + gain, number + 1
            if gained >= max(1, len(active) // 100):
                gained, spent = 0, 0
            active = np.unique(np.concatenate([active, partners]))
            active = active[self._gain_of(active) > 0]

    def _cells_of(self, owner: Integers, keys: npt.NDArray[np.uint32]) -> Slots:
        cells = self.layout.batch_of(self.slots)[owner]
        cells *= self.holders.n_keys
        cells += keys
        return cells

    def _gain_of(self, chosen: Integers) -> npt.NDArray[np.int64]:
        """Return by how much conflicts would fall if a row left its batch."""
        of, at = expand(self.holders.starts[chosen], np.diff(self.holders.starts)[chosen])
        batch = self.layout.batch_of(self.slots[chosen])
        gain = self.cells.gain(batch[of] * self.holders.n_keys + self.holders.keys[at], self.holders.is_negative[at])
        sums: npt.NDArray[np.int64] = np.bincount(of, weights=gain, minlength=len(chosen)).astype(np.int64)
        return sums

    def _find_hopeful(self) -> npt.NDArray[np.int64]:
        """Return the rows in conflict over a key that some batch within their reach is free of."""
        if not self.cells.total:
            return np.zeros(0, dtype=np.int64)
        holders, layout = self.holders, self.layout
        cells = self._cells_of(self.owner, holders.keys)
        at = np.flatnonzero(self.cells.has_conflict(cells))
        regions, lengths = self._find_regions()
        held = self.cells.cells[self.cells.positives > 0]
        held = held[held < len(regions) * holders.n_keys]
        filled = regions[held // holders.n_keys] * holders.n_keys + held % holders.n_keys
        filled = filled[stable_order(filled)]
        starts = find_starts(filled)
        is_full = np.diff(starts, append=len(filled)) >= lengths[filled[starts] // holders.n_keys]
        full = filled[starts[is_full]]
        stratum = self.labels.strata[holders.rows[self.owner[at]]].astype(np.int64)
        n_strata = len(self.labels.source_of_stratum)
        hopeful = np.zeros(len(at), dtype=bool)
        outside = layout.left[stratum + 1] > 0
        everywhere = held[held < layout.n_batches * holders.n_keys] % holders.n_keys
        is_everywhere = np.bincount(everywhere, minlength=holders.n_keys) >= layout.n_batches
        # The batches of its own stratum, the pooled ones of its source, the mixed and the random ones, and the last.
        for region, is_reached in (
            (stratum + 1, layout.quota[stratum + 1] > 0),
            (n_strata + 1 + self.labels.source_of_stratum[stratum], outside),
            (np.full(len(at), len(lengths) - 2), outside),
            (np.full(len(at), len(lengths) - 1), outside & (not self._is_last_full(is_everywhere))),
            (np.zeros(len(at), dtype=np.int64), np.ones(len(at), dtype=bool)),
        ):
            wanted = region * holders.n_keys + holders.keys[at]
            place = np.minimum(np.searchsorted(full, wanted), max(len(full) - 1, 0))
            is_taken = full[place] == wanted if len(full) else np.zeros(len(at), dtype=bool)
            hopeful |= is_reached & (lengths[region] > 0) & ~is_taken
        return np.unique(self.owner[at[hopeful]])

    def _is_last_full(self, is_everywhere: npt.NDArray[np.bool_]) -> bool:
        """Tell whether all rows of the last short batch hold keys that all other batches hold, so that none can go."""
        end = self.layout.n_batches * self.layout.size
        is_stuck = is_everywhere[self.holders.keys] & ~self.holders.is_negative
        stuck = np.unique(self.owner[is_stuck & (self.slots[self.owner] >= end)])
        return len(stuck) == self.layout.n_rows - end

    def _find_regions(self) -> tuple[Slots, Slots]:
        """Number the regions within which rows move freely, for each batch, and count the batches of each.

        They are the random batches, the pure ones of each stratum, the pooled ones of each source, the mixed ones, and
        the last short one.
        """
        layout = self.layout
        pooled = np.diff(layout.pools, axis=1)[:, 0] // layout.size
        n_last = int(layout.keeps_rest and layout.n_rows % layout.size > 0)
        n_mixed = layout.n_batches - layout.n_pure - int(pooled.sum())
        lengths = np.concatenate([layout.quota, pooled, [n_mixed, n_last]])
        return np.repeat(np.arange(len(lengths)), lengths), lengths

    def _exchange(self, proposing: Integers, number: int, allows_sideways: bool) -> tuple[Slots, int]:
        """Make one round of exchanges; return the partners, where they have keys, and what was gained."""
        slots = self.slots[proposing]
        others = self._partners.propose(slots, number)
        kept = np.flatnonzero(others >= 0)
        kept = kept[self._partners.is_allowed(slots[kept], others[kept])]
        proposing, slots, others = proposing[kept], slots[kept], others[kept]
        partners = self._find_holders(self.layout.rows[others])
        here, there = self.layout.batch_of(slots), self.layout.batch_of(others)
        changes = self._list_changes(proposing, partners, here, there)
        rise = self.cells.rise(changes, len(proposing))
        good = np.flatnonzero(rise <= 0 if allows_sideways else rise < 0)
        good = good[stable_order(rise[good] - rise.min(initial=0))]
        won = good[changes.claim(good, slots, others)]
        self.cells.apply(changes, won)
        rows = self.layout.rows
        rows[slots[won]], rows[others[won]] = rows[others[won]], rows[slots[won]]
        self.slots[proposing[won]] = others[won]
        has_keys = won[partners[won] >= 0]
        self.slots[partners[has_keys]] = slots[has_keys]
        return partners[has_keys], -int(rise[won].sum())

    def _find_holders(self, rows: Integers) -> npt.NDArray[np.int64]:
        """Return the number of each row among those with keys, or -1."""
        found = np.full(len(rows), -1, dtype=np.int64)
        at = np.flatnonzero(self.holders.has_key[rows])
        found[at] = np.searchsorted(self.holders.rows, rows[at])
        return found

    def _list_changes(self, proposing: Integers, partners: Integers, here: Slots, there: Slots) -> Changes:
        """List what each exchange takes from cells and what it brings to others."""
        holders = self.holders
        lengths = np.diff(holders.starts)
        parts = []
        for moved, source, target in ((proposing, here, there), (partners, there, here)):
            which = np.flatnonzero(moved >= 0)
            of, at = expand(holders.starts[moved[which]], lengths[moved[which]])
            of = which[of]
            for batch, sign in ((source, -1), (target, 1)):
                cells = batch[of] * holders.n_keys + holders.keys[at]
                parts.append((of, cells, np.where(holders.is_negative[at], 0, sign), np.full(len(of), sign)))
        return Changes.merge(*(np.concatenate(part) for part in zip(*parts, strict=True)))
