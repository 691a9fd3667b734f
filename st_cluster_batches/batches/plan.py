"""Turn labels into the batches of an epoch: which rows meet, and in which order.

Everything here is numpy on integers; no text, no model and no trainer. The plan is a function of (labels, batch size,
world size, drop_last, seed, epoch), so every process can make it for itself and a resumed run finds it again.

An epoch is cut at three levels. Each stratum is cut into *pure* global batches; what is left of it, with the rest of
its neighbours in the same source, into *pooled* ones; what is left of the sources into *mixed* ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from st_cluster_batches.batches.filling import MIXED, POOLED, PURE, RANDOM, Filler, PlanCounts, count_distinct_batches
from st_cluster_batches.batches.labels import Labels
from st_cluster_batches.batches.sorting import CHUNK, Rows, group_by_stratum

# A sort key is 64 bits, 32 of them a hash: rows and strata that are shuffled at once must fit into the other 32.
_MAX_STRATA = 1 << 12


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
    """Plan epochs of batches that share a stratum and repeat no false-negative group.

    Args:
        labels: Labels of all rows.
        batch_size: Rows of a batch on one device.
        world_size: Devices that step together; their batches form one global batch of one stratum.
        drop_last: Whether to leave out the rows that fill no whole global batch. With several devices they are left
            out in any case: a short batch would make accelerate drop its whole group, or leave one rank with a step
            more than the others.
        seed: Seed of all choices, beside the labels and the epoch.
        random_fraction: Share of the global batches that is drawn across all strata.

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
    ) -> None:
        if batch_size < 1 or world_size < 1:
            raise ValueError(f"batch_size={batch_size} and world_size={world_size} must be positive")
        self.labels = labels
        self.batch_size = batch_size
        self.world_size = world_size
        self.seed = seed
        self.global_size = batch_size * world_size
        self.random_fraction = random_fraction
        self._full_batches, self._unplaced_groups = count_distinct_batches(
            labels.groups, len(labels), self.global_size
        )
        self._keeps_rest = world_size == 1 and not drop_last
        if len(self) == 0:
            raise ValueError(
                f"{len(labels)} rows make no global batch of {self.global_size} = {batch_size} rows x {world_size} "
                "devices without false negatives; lower per_device_train_batch_size or add data"
            )

    def __len__(self) -> int:
        """Count the per-device batches of every epoch; it depends on group sizes alone, never on seed or strata."""
        has_rest = len(self.labels) > self._full_batches * self.global_size
        return self._full_batches * self.world_size + int(self._keeps_rest and has_rest)

    @cached_property
    def digest(self) -> int:
        """A 64-bit hash of the labels."""
        return self.labels.digest()

    @cached_property
    def _grouped(self) -> tuple[Rows, npt.NDArray[np.int64]]:
        return group_by_stratum(self.labels.strata, len(self.labels.source_of_stratum))

    def plan_epoch(self, epoch: int) -> EpochPlan:
        """Plan one epoch.

        The number of global batches is fixed before any is made: the largest at which all of them can be free of
        false negatives. Should the leftovers be too entangled to fill the last few, pure and pooled batches are
        opened, as few as needed, so that their rows can take the conflicting ones.

        Args:
            epoch: The epoch, from 0; another epoch gives other batches.

        Returns:
            The batches, with every row in at most one of them.
        """
        rng = np.random.default_rng([self.seed % (1 << 32), epoch, self.digest])
        filler = Filler(self.labels.groups, self.global_size, self._full_batches)
        rest: list[Rows] = []
        rows, sizes = self._draw_random(filler, rng)
        bounds = np.concatenate([[0], np.cumsum(sizes)])
        n_sources = int(self.labels.source_of_stratum[-1]) + 1
        first_strata = np.searchsorted(self.labels.source_of_stratum, np.arange(n_sources + 1))
        for low, high in pairwise(first_strata.tolist()):
            leftovers = [
                filler.fill_pure(rows[bounds[a] : bounds[b]], sizes[a:b], rng)
                for a, b in _split_strata(sizes[low:high], offset=low)
            ]
            rest.append(filler.fill_along_path(np.concatenate(leftovers), rng))
        last = filler.finish(np.concatenate(rest), MIXED if n_sources > 1 else POOLED, self._keeps_rest)
        order = rng.permutation(self._full_batches)
        return EpochPlan(filler.rows, filler.kinds, order, last, self._count(filler, last))

    def _draw_random(self, filler: Filler, rng: np.random.Generator) -> tuple[Rows, npt.NDArray[np.int64]]:
        """Fill the batches that cross strata; return the other rows by stratum, and what is left of each stratum."""
        rows, sizes = self._grouped
        n_random = round(self.random_fraction * self._full_batches)
        if n_random == 0:
            return rows, sizes
        shuffled = np.arange(len(rows), dtype=rows.dtype)
        rng.shuffle(shuffled)
        taken = filler.fill_random(shuffled, n_random)
        left = rows[~taken[rows]]
        return left, sizes - np.bincount(self.labels.strata[taken], minlength=len(sizes))

    def _count(self, filler: Filler, last: Rows) -> PlanCounts:
        by_kind = np.bincount(filler.kinds, minlength=4)
        return PlanCounts(
            global_batch_size=self.global_size,
            pure=int(by_kind[PURE]),
            pooled=int(by_kind[POOLED]),
            mixed=int(by_kind[MIXED]),
            random=int(by_kind[RANDOM]),
            last=len(last),
            dropped=len(self.labels) - filler.rows.size - len(last),
            unplaced_groups=self._unplaced_groups,
        )


def _split_strata(sizes: npt.NDArray[np.int64], offset: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of consecutive strata small enough to be shuffled at once; a large stratum is a range alone."""
    low, total = 0, 0
    for index, size in enumerate(sizes.tolist()):
        if index > low and (total + size > CHUNK or index - low == _MAX_STRATA):
            yield offset + low, offset + index
            low, total = index, 0
        total += size
    yield offset + low, offset + len(sizes)
