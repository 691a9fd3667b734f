"""The batch sampler that a stock sentence-transformers trainer takes as its `batch_sampler` argument."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from sentence_transformers.base.sampler import DefaultBatchSampler
from torch.utils.data import BatchSampler, RandomSampler
from transformers import Trainer

from st_cluster_batches.filling import PlanCounts
from st_cluster_batches.labels import (
    CLUSTER,
    FALSE_NEGATIVE_GROUP,
    LABEL_COLUMNS,
    SOURCE,
    find_strata_columns,
    hide_labels,
    read_labels,
)
from st_cluster_batches.plan import BatchPlan, EpochPlan

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


class ClusterBatchSampler(DefaultBatchSampler):  # type: ignore[misc]  # the host library has no types
    """Fill every batch from one cluster: `SentenceTransformerTrainingArguments(batch_sampler=ClusterBatchSampler)`.

    In-batch negatives are then on the topic of the query, hence hard. The order of an epoch is a function of the
    labels, the batch size, the number of processes, the seed and the epoch; see `BatchPlan` for its promises. Label
    columns are hidden from the collator, on the dataset itself, whatever format it has.

    A dataset that the trainer only evaluates on gets the stock order if it has no labels or fills no batch.

    Args:
        dataset: Dataset with label columns, as `attach_clusters` writes them.
        batch_size: Rows of a batch on one device.
        drop_last: Whether to drop the last short batch; with several processes it is always dropped.
        valid_label_columns: Not used; part of the trainer's protocol.
        generator: Used for the stock order alone; the plan has its own generator.
        seed: Seed of the plan.
        strata: Columns that a batch shares, coarse to fine. `("source",)` gives single-source batches.
        distinct: Column that no global batch repeats, or None.

    Raises:
        ValueError: If the dataset is trained on and has no labels, with the call that adds them.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        drop_last: bool = False,
        valid_label_columns: list[str] | None = None,
        generator: torch.Generator | None = None,
        seed: int | None = 0,
        *,
        strata: Sequence[str] = (SOURCE, CLUSTER),
        distinct: str | None = FALSE_NEGATIVE_GROUP,
    ) -> None:
        super().__init__(dataset, batch_size, drop_last, valid_label_columns, generator, seed or 0)
        self.dataset = dataset
        self.strata = tuple(strata)
        self.distinct = distinct
        self.world_size = PartialState().num_processes
        self._stock: BatchSampler | None = None
        can_be_planned = self.strata[-1] in dataset.column_names and len(dataset) >= batch_size * self.world_size
        if can_be_planned or _is_trained_on(dataset):
            find_strata_columns(dataset.column_names, self.strata)
        else:
            self._stock = BatchSampler(RandomSampler(dataset, generator=generator), batch_size, drop_last)
        hide_labels(dataset, [*LABEL_COLUMNS, *self.strata, *([distinct] if distinct else [])])

    @classmethod
    def configure(
        cls, *, strata: Sequence[str] = (SOURCE, CLUSTER), distinct: str | None = FALSE_NEGATIVE_GROUP
    ) -> ConfiguredSampler:
        """Return a picklable variant for `batch_sampler`, with other options than the defaults.

        Args:
            strata: Columns that a batch shares, coarse to fine; one name alone may be given as it is.
            distinct: Column that no global batch repeats, or None.

        Returns:
            A callable that makes the sampler; unlike a lambda it can be saved with the training arguments.
        """
        columns = (strata,) if isinstance(strata, str) else tuple(strata)
        if not columns or not all(isinstance(column, str) for column in columns):
            raise ValueError(f"strata={strata!r} must name at least one label column, such as ('source', 'cluster')")
        return ConfiguredSampler(columns, distinct)

    @cached_property
    def plan(self) -> BatchPlan:
        """The plan of this sampler; made when first needed, since a trainer may build samplers it never uses."""
        labels = read_labels(self.dataset, self.strata, self.distinct)
        return BatchPlan(labels, self.batch_size, self.world_size, self.drop_last, self.seed)

    @property
    def counts(self) -> PlanCounts:
        """Rows in pure, pooled and mixed batches, and dropped ones, in the current epoch."""
        return self._plan_epoch().counts

    def __len__(self) -> int:
        return len(self.plan if self._stock is None else self._stock)

    def __iter__(self) -> Iterator[list[int]]:
        if self._stock is not None:
            if self.generator is not None:
                self.generator.manual_seed(self.seed + self.epoch)
            yield from self._stock
            return
        yield from self._plan_epoch().batches(self.batch_size)

    def _plan_epoch(self) -> EpochPlan:
        cached: tuple[int, EpochPlan] | None = self.__dict__.get("_planned")
        if cached is None or cached[0] != self.epoch:
            self._planned = (self.epoch, self.plan.plan_epoch(self.epoch))
            if cached is None:
                logger.info("Cluster batches of epoch %d: rows %s", self.epoch, self._planned[1].counts)
        return self._planned[1]


@dataclass(frozen=True)
class ConfiguredSampler:
    """A `batch_sampler` argument with options; made by `ClusterBatchSampler.configure`."""

    strata: tuple[str, ...]
    distinct: str | None

    def __call__(self, dataset: Dataset, **kwargs: Any) -> ClusterBatchSampler:
        """Build the sampler, as the trainer asks for it."""
        return ClusterBatchSampler(dataset, **kwargs, strata=self.strata, distinct=self.distinct)


def _is_trained_on(dataset: Dataset) -> bool:
    """Tell whether a dataset is to be trained on; outside a trainer, every one is.

    The trainer gives its train, eval and test samplers the same arguments, so the only witness is the trainer itself,
    further up the call stack. Without this, hours of training would end at the first evaluation on unlabelled data.
    """
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, Trainer):
            trained = owner.train_dataset
            return any(dataset is one for one in (trained.values() if isinstance(trained, dict) else (trained,)))
        frame = frame.f_back
    return True
