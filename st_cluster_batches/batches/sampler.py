"""The batch samplers that a stock sentence-transformers trainer takes as its arguments."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from sentence_transformers.base.sampler import DefaultBatchSampler
from torch.utils.data import BatchSampler, RandomSampler

from st_cluster_batches.batches.built import BuiltSampler
from st_cluster_batches.batches.callback import PlanCallback
from st_cluster_batches.batches.callers import Caller, find_caller
from st_cluster_batches.batches.hiding import list_hidden
from st_cluster_batches.batches.protocols import RefreshSchedule
from st_cluster_batches.batches.shown import check_shown
from st_cluster_batches.batches.sources import is_source_hidden
from st_cluster_batches.columns import CLUSTER, FALSE_NEGATIVE_KEYS, SOURCE, hide_labels
from st_cluster_batches.plans.batch_plan import PLAN_VERSION, BatchPlan, EpochPlan
from st_cluster_batches.plans.labels import find_strata_columns, read_labels
from st_cluster_batches.plans.options import Distinct, PlanOptions, Strata, check_own_chunks, refuse_arguments
from st_cluster_batches.plans.plan_counts import PlanCounts
from st_cluster_batches.plans.sorting import Integers
from st_cluster_batches.row_keys import NO_TEXT_COLUMNS

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


class ClusterBatchSampler(BuiltSampler, DefaultBatchSampler):  # type: ignore[misc]  # the host library has no types
    """Fill every batch from one cluster: `SentenceTransformerTrainingArguments(batch_sampler=ClusterBatchSampler)`.

    In-batch negatives are then on the topic of the query, hence hard; `BatchPlan` says what an epoch promises. Label
    columns are hidden from the collator, on the dataset itself, whatever format it has. An evaluation dataset gets
    the stock order if it has no labels, or if a plan would leave rows out.

    Args:
        dataset: Dataset with label columns, as `attach_clusters` writes them.
        batch_size: Rows of a batch on one device.
        drop_last: Whether to drop the last short batch; with several processes it is always dropped.
        valid_label_columns: Not used; part of the trainer's protocol.
        generator: Used for the stock order alone; the plan has its own generator.
        seed: Seed of the plan.
        strata: Columns that a batch shares, coarse to fine; `("source", "cluster")` by default, where `source` is a
            label and no text. `("source",)` gives single-source batches, `()` random ones. A dict from first epochs
            to columns makes a curriculum: `{0: ("source",), 2: ("source", "cluster")}`.
        distinct: Column of keys, or several, that a global batch repeats only where it must; or None.
        random_fraction: Share of the global batches, in [0, 1), that is drawn across all strata instead.
        refresh: When clusters are made anew of the model that is being trained; never by default.
        rows_per_stratum: Fill a global batch with chunks of so many rows, each of one stratum, all of one source (B3,
            TAS-B). It divides the batch of one device too, unless the loss gathers across devices.
        world_size: Processes that step together; by default those that are running.

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
        strata: Strata | None = None,
        distinct: Distinct | None = FALSE_NEGATIVE_KEYS,
        random_fraction: float = 0.0,
        refresh: RefreshSchedule | None = None,
        rows_per_stratum: int | None = None,
        world_size: int | None = None,
    ) -> None:
        super().__init__(dataset, batch_size, drop_last, valid_label_columns, generator, seed or 0)
        self.dataset = dataset
        self.options = PlanOptions.check(strata, distinct, random_fraction, rows_per_stratum)
        self.world_size: int = PartialState().num_processes if world_size is None else world_size
        if refresh is not None:
            refresh.check_strata(self.options)
        self.refresh = refresh
        self.refreshed_at: int | None = None
        self.is_done = False  # see `end_finished_run`
        self._refreshed: Integers | None = None
        self._plans: dict[tuple[str, ...], BatchPlan] = {}
        self._planned: tuple[int, EpochPlan] | None = None
        self._stock: BatchSampler | None = None
        caller = find_caller(dataset)
        hides_source = SOURCE in self.options.named or is_source_hidden(dataset, caller, refresh is not None)
        if SOURCE in dataset.column_names and not hides_source:
            self.options = self.options.without_source()
        self.hidden_columns = list_hidden(dataset, self.options, hides_source, caller.is_training)
        self._fit_to_trainer(caller)
        self._is_one_of_many = caller.is_one_of_many
        if caller.is_training:
            for _, columns in self.options.schedule:
                find_strata_columns(dataset.column_names, self._without_missing(columns), caller.name(dataset))
        elif not self._can_evaluate():
            # Never fewer rows than the set has: accelerate evens out a short last batch, unless it is told to drop it.
            self.drop_last = False
            self._stock = BatchSampler(RandomSampler(dataset, generator=generator), batch_size, drop_last=False)
        self.callback = caller.trainer and PlanCallback.of(caller.trainer).watch(dataset, caller.is_training)
        hide_labels(dataset, self.hidden_columns)
        if caller.is_training and not self.is_left_out:
            caller.check_rows(dataset)
            check_shown(caller.trainer, dataset, self.shown_columns, caller.name(dataset))

    def _fit_to_trainer(self, caller: Caller) -> None:
        """Take the number of processes from what accelerate will do with the batches, and see what the loss sees."""
        caller.refuse_dispatching()
        if caller.trainer is None or self.world_size == 1:
            return
        n_devices, global_size = self.world_size, self.world_size * self.batch_size
        if caller.trainer.accelerator.split_batches:
            # accelerate cuts every batch into one slice per process: a batch is a global batch already.
            global_size, self.world_size, self.drop_last = self.batch_size, 1, True
        if caller.is_training and not caller.gathers(self.dataset):
            check_own_chunks(self.options.rows_per_stratum, global_size // n_devices, global_size)

    def _can_evaluate(self) -> bool:
        """Whether an evaluation set has labels, and a plan that gives all its rows."""
        if self.world_size > 1 or self.drop_last or not self.options.needed <= set(self.dataset.column_names):
            return False
        try:
            self.plan_epoch()
        except ValueError as error:  # hours of training are not to end at an evaluation
            logger.warning("The evaluation set is taken in the stock order, for no batches can be planned: %s", error)
            return False
        return True

    @classmethod
    def configure(
        cls,
        *misplaced: Any,
        strata: Strata | None = None,
        distinct: Distinct | None = FALSE_NEGATIVE_KEYS,
        random_fraction: float = 0.0,
        refresh: RefreshSchedule | None = None,
        rows_per_stratum: int | None = None,
        **unknown: Any,
    ) -> ConfiguredSampler:
        """Return a picklable variant for `batch_sampler`, with other options than the defaults.

        Args:
            misplaced: Nothing; only a trainer that was given `configure` without its call passes a dataset.
            strata: Columns that a batch shares, or a dict of them by first epoch; as for the sampler.
            distinct: Column of keys, or several, that a global batch repeats only where it must; or None.
            random_fraction: Share of the global batches that is drawn across all strata.
            refresh: When clusters are made anew of the model that is being trained: `Refresh(first=1)`.
            rows_per_stratum: Rows of each stratum in a batch of several; as for the sampler.
            unknown: Nothing either.

        Returns:
            What makes the sampler; unlike a lambda it can be saved with the training arguments.

        Raises:
            ValueError: If an option has no meaning.
            TypeError: If there is no such option, or this was passed to a trainer without its call.
        """
        refuse_arguments("batch_sampler=ClusterBatchSampler.configure", misplaced, unknown)
        return ConfiguredSampler(PlanOptions.check(strata, distinct, random_fraction, rows_per_stratum), refresh)

    @property
    def shown_columns(self) -> list[str]:
        """The columns that a collator takes for texts."""
        return [one for one in self.dataset.format["columns"] if one not in (*self.hidden_columns, *NO_TEXT_COLUMNS)]

    @property
    def is_planned(self) -> bool:
        """Whether batches follow a plan; an evaluation dataset may have the stock order, a tiny one no batch."""
        return self._stock is None and not self.is_left_out

    @property
    def plan(self) -> BatchPlan:
        """The plan of the current epoch's strata."""
        return self.plan_of(self.epoch)

    def plan_of(self, epoch: int) -> BatchPlan:
        """Return the plan of an epoch's strata; made when first needed, since trainers build samplers in vain."""
        strata = self.strata_of(epoch)
        if strata not in self._plans:
            self._plans[strata] = self.make_plan(strata, self._refreshed)
        return self._plans[strata]

    def strata_of(self, epoch: int) -> tuple[str, ...]:
        """Return what batches of an epoch share, as far as there are clusters by now."""
        strata = self.options.strata_of(epoch)
        return strata if self._refreshed is not None else self._without_missing(strata)

    def make_plan(self, strata: tuple[str, ...], clusters: Integers | None) -> BatchPlan:
        """Make a plan of batches that share some columns, perhaps with other clusters than those of the dataset."""
        return BatchPlan(
            read_labels(self.dataset, strata, self.options.distinct, clusters),
            self.batch_size,
            self.world_size,
            self.drop_last,
            self.seed,
            self.options.random_fraction if strata else 1.0,
            self.options.rows_per_stratum if strata else None,
        )

    def _without_missing(self, strata: tuple[str, ...]) -> tuple[str, ...]:
        """Return what batches share before there are clusters, where a refresh is to make them."""
        if self.refresh is None or CLUSTER in self.dataset.column_names or CLUSTER not in strata:
            return strata
        return tuple(one for one in strata if one != CLUSTER and (one != SOURCE or one in self.dataset.column_names))

    @property
    def clusters(self) -> Integers | None:
        """(n,) the clusters that the current epoch's batches are of: refreshed, of the dataset, or None."""
        if self._refreshed is not None or CLUSTER not in self.dataset.column_names:
            return self._refreshed
        own: Integers = self.dataset.with_format("arrow", columns=[CLUSTER])[:][CLUSTER].to_numpy()
        return own

    def find_refresh(self, epoch: int) -> int | None:
        """Return the epoch at whose start the clusters of an epoch are made; None before the first, or without any."""
        return None if self.refresh is None else self.refresh.find_epoch(epoch, self.options)

    def relabel(self, epoch: int, clusters: Integers) -> None:
        """Fill batches from other clusters from now on.

        Args:
            epoch: The epoch at whose start they were made.
            clusters: (n,) the cluster of every row.
        """
        self._refreshed, self.refreshed_at = clusters, epoch
        self._plans, self._planned = {}, None

    @property
    def is_left_out(self) -> bool:
        """Whether this is one of many datasets, too small for a global batch: it does not stop the others."""
        return self._is_one_of_many and self.fills_no_batch

    @property
    def fills_no_batch(self) -> bool:
        """Whether the dataset has too few rows for a single global batch, and may make no short one, or has none."""
        needs_whole = self._stock is None and (self.world_size > 1 or self.drop_last)
        return len(self.dataset) < (self.batch_size * self.world_size if needs_whole else 1)

    @property
    def counts(self) -> PlanCounts:
        """What the current epoch is made of."""
        return self.plan_epoch().counts

    def describe(self) -> dict[str, Any]:
        """Return what decides the batches, for JSON; but refreshed clusters, which have a checksum of their own."""
        plans = [
            self.plan_of(epoch) if self._refreshed is None else self.make_plan(self._without_missing(columns), None)
            for epoch, columns in self.options.schedule
        ]
        distinct = [name for name in self.options.distinct if name in self.dataset.column_names]
        return {
            "plan_version": PLAN_VERSION,
            "labels": "+".join(f"{plan.digest:016x}" for plan in plans),
            "rows": len(self.dataset),
            "batch_size": self.batch_size,
            "world_size": self.world_size,
            "drop_last": self.drop_last,
            "seed": self.seed,
            "strata": {str(epoch): list(columns) for epoch, columns in self.options.schedule},
            "distinct": distinct[0] if len(distinct) == 1 else distinct or None,
            "random_fraction": self.options.random_fraction,
            **({} if self.refresh is None else {"refresh": self.refresh.describe()}),
            "rows_per_stratum": self.options.rows_per_stratum,
        }

    def __len__(self) -> int:
        return 0 if self.is_left_out else len(self.plan if self._stock is None else self._stock)

    def __iter__(self) -> Iterator[list[int]]:
        if self._stock is not None:
            if self.generator is not None:
                self.generator.manual_seed(self.seed + self.epoch)
            yield from self._stock
        elif not (self.is_done or self.is_left_out):
            yield from self.plan_epoch().batches(self.batch_size)

    def plan_epoch(self) -> EpochPlan:
        """Return the batches of the current epoch, made when first asked for."""
        if self._planned is None or self._planned[0] != self.epoch:
            self._planned = (self.epoch, self.plan.plan_epoch(self.epoch))
        return self._planned[1]


@dataclass(frozen=True)
class ConfiguredSampler:
    """A `batch_sampler` argument with options; made by `ClusterBatchSampler.configure`."""

    options: PlanOptions
    refresh: RefreshSchedule | None = None

    def __call__(self, dataset: Dataset, **kwargs: Any) -> ClusterBatchSampler:
        """Build the sampler, as the trainer asks for it."""
        return ClusterBatchSampler(dataset, **kwargs, **self.options.arguments, refresh=self.refresh)
