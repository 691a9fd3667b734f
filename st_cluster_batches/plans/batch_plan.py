"""Turn labels into the batches of an epoch: which rows meet, and in which order.

Everything here is numpy on integers; no text, no model and no trainer. The plan is a function of (labels, batch size,
world size, drop_last, seed, epoch), so every process can make it for itself and a resumed run finds it again.

An epoch is cut at three levels. Each stratum is cut into *pure* global batches; what is left of it, with the rest of
its neighbours in the same source, into *pooled* ones; what is left of the sources into *mixed* ones. Which of them a
row goes to, and with whom, is then chosen such that few rows meet a false negative.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from st_cluster_batches.plans.exchanging import Exchange
from st_cluster_batches.plans.filling import MIXED, POOLED, PURE, RANDOM, Layout
from st_cluster_batches.plans.holders import Holders
from st_cluster_batches.plans.joining import label_chunks, name_kinds
from st_cluster_batches.plans.labels import Labels
from st_cluster_batches.plans.min_conflicts import MinConflicts
from st_cluster_batches.plans.options import check_chunks
from st_cluster_batches.plans.plan_counts import PlanCounts
from st_cluster_batches.plans.quotas import choose_quotas
from st_cluster_batches.plans.sorting import Rows, count_strata, group_by_stratum

PLAN_VERSION = 4  # to be raised by any change that makes other batches of the same labels and options

# Small data are searched several times from the same start, the smaller the more often, and the best plan is taken.
_SEARCHES, _SEARCHED_ROWS = 20, 4096


@dataclass(frozen=True)
class EpochPlan:
    """The batches of one epoch.

    Args:
        rows: (global batches, rows of a global batch) row numbers.
        kinds: (global batches,) PURE, POOLED, MIXED or RANDOM.
        order: (global batches,) the order in which they are yielded.
        last: Row numbers of a final short batch, often empty.
        counts: What the epoch is made of.
    """

    rows: Rows
    kinds: npt.NDArray[np.uint8]
    order: npt.NDArray[np.intp]
    last: Rows
    counts: PlanCounts

    def batches(self, batch_size: int) -> Iterator[list[int]]:
        """Yield per-device batches; consecutive ones form a global batch, as accelerate deals them to ranks.

        Args:
            batch_size: Rows of a batch on one device.

        Yields:
            Row numbers.
        """
        for position in self.order:
            for batch in self.rows[position].reshape(-1, batch_size):
                yield batch.tolist()
        if len(self.last):
            yield self.last.tolist()


class BatchPlan:
    """Plan epochs of batches that share a stratum, and whose rows are not false negatives of each other if possible.

    Args:
        labels: Labels of all rows.
        batch_size: Rows of a batch on one device.
        world_size: Devices that step together; their batches form one global batch of one stratum.
        drop_last: Whether to leave out the rows that fill no whole global batch. With several devices they are left
            out in any case: a short batch would make accelerate drop its whole group, or leave one rank with a step
            more than the others.
        seed: Seed of all choices, beside the labels and the epoch.
        random_fraction: Share of the global batches, in [0, 1], that is drawn across all strata.
        rows_per_stratum: Fill a global batch with chunks of so many rows, each of one stratum, drawn at random within
            the source, as in B3 (arXiv 2505.11293) and TAS-B (arXiv 2104.06967); None for one stratum a batch. The
            batches of devices may cut through chunks.

    Raises:
        ValueError: If a size is not positive or no single batch can be made.
    """

    def __init__(
        self,
        labels: Labels,
        batch_size: int,
        world_size: int = 1,
        drop_last: bool = False,
        seed: int = 0,
        random_fraction: float = 0.0,
        rows_per_stratum: int | None = None,
    ) -> None:
        check_chunks(rows_per_stratum, batch_size * world_size, random_fraction)
        if batch_size < 1 or world_size < 1:
            raise ValueError(f"batch_size={batch_size} and world_size={world_size} must be positive")
        self.labels = labels
        self.batch_size = batch_size
        self.world_size = world_size
        self.seed = seed
        self.global_size = batch_size * world_size
        self.random_fraction = random_fraction
        # One chunk that is the whole batch is one stratum a batch.
        self.rows_per_stratum = None if rows_per_stratum == self.global_size else rows_per_stratum
        self._full_batches = len(labels) // self.global_size
        self._keeps_rest = world_size == 1 and not drop_last
        self._gives_up = True  # pure batches whose rows would meet false negatives
        if len(self) == 0:
            raise ValueError(self._explain_emptiness())

    def __len__(self) -> int:
        """Count the per-device batches of every epoch; it depends on the number of rows alone."""
        has_rest = len(self.labels) > self._full_batches * self.global_size
        return self._full_batches * self.world_size + int(self._keeps_rest and has_rest)

    def across_strata(self) -> BatchPlan:
        """Return the plan of random batches of the same rows."""
        return BatchPlan(self.labels, self.batch_size, self.world_size, not self._keeps_rest, self.seed, 1.0)

    def _explain_emptiness(self) -> str:
        n_rows, size = len(self.labels), self.batch_size
        if n_rows == 0:
            return "The dataset has no rows"
        if self.world_size == 1:
            return (
                f"{n_rows} rows fill no batch of {size}, and drop_last=True leaves a shorter one out; lower the batch "
                "size (per_device_train_batch_size), pass drop_last=False or add data"
            )
        blamed = "use fewer devices or a smaller batch" if size <= n_rows else "lower the batch size"
        return (
            f"{n_rows} rows fill no global batch of {self.global_size} = {size} rows x {self.world_size} devices; "
            f"{blamed} (per_device_train_batch_size) or add data"
        )

    @cached_property
    def digest(self) -> int:
        """A 64-bit hash of the labels."""
        return self.labels.digest()

    @cached_property
    def _holders(self) -> Holders:
        return Holders.build(self.labels.keys, len(self.labels))

    def plan_epoch(self, epoch: int) -> EpochPlan:
        """Plan one epoch.

        Args:
            epoch: The epoch, from 0; another epoch gives other batches.

        Returns:
            The batches, with every row in at most one of them.
        """
        if self.rows_per_stratum is not None and self._full_batches:
            return self._join_chunks(epoch, self.rows_per_stratum)
        rng = np.random.default_rng([self.seed % (1 << 32), epoch, self.digest])
        layout = self._lay_out(rng)
        n_sources = int(self.labels.source_of_stratum[-1]) + 1
        # The first heap is that of the random batches.
        layout.cut_path(1 + np.searchsorted(self.labels.source_of_stratum, np.arange(n_sources + 1)), rng)
        repeats = 0
        if self.labels.keys is not None:
            layout.spread(self._holders)
            repeats = self._part(layout, rng)
        n_full = self._full_batches * self.global_size
        kinds = layout.kinds[: self._full_batches]
        rows = layout.rows[:n_full].reshape(-1, self.global_size)
        last = layout.rows[n_full:] if self._keeps_rest else layout.rows[:0]
        order = rng.permutation(self._full_batches)
        return EpochPlan(rows, kinds, order, last, self._count(kinds, len(last), repeats, layout.given_up))

    def _join_chunks(self, epoch: int, n_rows: int) -> EpochPlan:
        """Plan chunks of so many rows, and batches of them; where chunks give up purity in vain, they keep it."""
        chunks = BatchPlan(self.labels, n_rows, seed=self.seed)
        chunked = chunks.plan_epoch(epoch)
        plan = self._join(chunked, epoch)
        if not chunked.counts.given_up:
            return plan
        chunks._gives_up = False
        purer = self._join(chunks.plan_epoch(epoch), epoch)
        return purer if purer.counts.repeats <= plan.counts.repeats else plan

    def _join(self, chunked: EpochPlan, epoch: int) -> EpochPlan:
        """Plan batches of chunks; see `joining`."""
        n_rows = chunked.rows.shape[1]
        by_chunk = label_chunks(self.labels, chunked.rows, chunked.kinds)
        joined = BatchPlan(by_chunk, self.global_size // n_rows, drop_last=not self._keeps_rest, seed=self.seed)
        plan = joined.plan_epoch(epoch)
        kinds = name_kinds(plan.kinds, chunked.kinds[plan.rows])
        rows = chunked.rows[plan.rows].reshape(-1, self.global_size)
        left = np.setdiff1d(np.arange(len(chunked.rows)), plan.rows)
        rest = np.concatenate([chunked.rows[left].ravel(), chunked.last])
        sizes = np.array([0, len(self.labels)])
        layout = Layout(sizes, sizes // self.global_size, self.global_size, self._keeps_rest)
        layout.rows = np.concatenate([rows.ravel(), rest])
        repeats = 0
        if self.labels.keys is not None:
            rng = np.random.default_rng([self.seed % (1 << 32), epoch, self.digest])
            repeats = self._part(layout, rng)
            rows, rest = np.split(layout.rows, [rows.size])
            rows = rows.reshape(-1, self.global_size)
        last = rest if self._keeps_rest else rest[:0]
        given_up = chunked.counts.given_up * n_rows // self.global_size
        counts = self._count(kinds, len(last), repeats, given_up)
        is_pure = chunked.kinds[plan.rows] == PURE
        counts = replace(counts, chunks=is_pure.size, pure_chunks=int(is_pure.sum()))
        return EpochPlan(rows, kinds, plan.order, last, counts)

    def _part(self, layout: Layout, rng: np.random.Generator) -> int:
        """Part false negatives by exchanging rows; return how many rows meet one all the same."""
        holders, n_rows = self._holders, len(self.labels)
        if not MinConflicts.fits(holders, n_rows, layout.n_batches + 1):
            exchange = Exchange(layout, self.labels, holders, rng)
            if self.rows_per_stratum is None:  # chunks have been parted as a whole
                exchange.run()
            return exchange.count_repeats()
        start = best = layout.rows
        fewest = Exchange(layout, self.labels, holders, rng).count_repeats()
        search = MinConflicts(layout, self.labels, holders)
        for _ in range(max(1, min(_SEARCHES, _SEARCHED_ROWS // n_rows))):
            if fewest == 0:
                break
            layout.rows = start.copy()
            search.search(rng)
            repeats = Exchange(layout, self.labels, holders, rng).count_repeats()
            if repeats < fewest:
                fewest, best = repeats, layout.rows
        layout.rows = best
        return fewest

    def _lay_out(self, rng: np.random.Generator) -> Layout:
        """Place every row, heap by heap: the random batches, then the strata."""
        labels, holders = self.labels, self._holders
        n_strata = len(labels.source_of_stratum)
        heaps = labels.strata[holders.rows].astype(holders.rows.dtype) + 1
        placed = holders.has_key if labels.keys is not None else None
        taken: Rows = np.zeros(0, dtype=np.int32)
        n_random = round(self.random_fraction * self._full_batches) * self.global_size
        if n_random:
            is_taken = np.zeros(len(labels), dtype=bool)
            is_taken[rng.choice(len(labels), n_random, replace=False, shuffle=False)] = True
            heaps[is_taken[holders.rows]] = 0
            taken = np.flatnonzero(is_taken & ~holders.has_key)
            placed = is_taken | holders.has_key
        # Rows without a key are grouped last, so that they take no memory while the others are dealt.
        sizes = np.append(len(taken), count_strata(labels.strata, n_strata, placed))
        heap_sizes = sizes + np.bincount(heaps, minlength=len(sizes))
        quota = np.append(n_random // self.global_size, self._choose_quotas(heap_sizes[1:]))
        layout = Layout(heap_sizes, quota, self.global_size, self._keeps_rest)
        layout.deal(holders.rows, heaps, holders.groups, sizes, rng)
        del heaps
        singles = group_by_stratum(labels.strata, sizes[1:], placed)
        layout.fill(np.concatenate([taken, singles]) if n_random else singles, sizes, rng)
        return layout

    def _choose_quotas(self, outside: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Choose how many pure batches each stratum fills, given its rows outside of random ones."""
        labels, holders = self.labels, self._holders
        if not self._gives_up:
            return outside // self.global_size
        sizes = count_strata(labels.strata, len(outside)) if self.random_fraction else outside
        strata = labels.strata[holders.rows]
        return choose_quotas(sizes, outside, labels.source_of_stratum, strata, holders.groups, self.global_size)

    def _count(self, kinds: npt.NDArray[np.uint8], n_last: int, repeats: int, given_up: int) -> PlanCounts:
        by_kind = np.bincount(kinds, minlength=4)
        return PlanCounts(
            global_batch_size=self.global_size,
            pure=int(by_kind[PURE]),
            pooled=int(by_kind[POOLED]),
            mixed=int(by_kind[MIXED]),
            random=int(by_kind[RANDOM]),
            last=n_last,
            dropped=len(self.labels) - len(kinds) * self.global_size - n_last,
            repeats=repeats,
            given_up=given_up,
        )
