"""The batch samplers that a stock sentence-transformers trainer takes as its arguments."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from sentence_transformers.base.sampler import DefaultBatchSampler
from torch.utils.data import BatchSampler, RandomSampler
from transformers import Trainer

from st_cluster_batches.batches.callback import PlanCallback
from st_cluster_batches.batches.filling import PlanCounts
from st_cluster_batches.batches.labels import (
    CLUSTER,
    FALSE_NEGATIVE_KEYS,
    LABEL_COLUMNS,
    SOURCE,
    find_strata_columns,
    hide_labels,
    read_labels,
)
from st_cluster_batches.batches.plan import BatchPlan, EpochPlan

if TYPE_CHECKING:
    from datasets import Dataset

Strata = str | Sequence[str] | Mapping[int, Sequence[str]]


@dataclass(frozen=True)
class PlanOptions:
    """What batches share, what they never repeat, and how many of them are random.

    Args:
        schedule: (first epoch, columns) pairs: from which epoch on a batch shares which columns.
        distinct: Column that no global batch repeats, or None.
        random_fraction: Share of the global batches that is drawn across all strata.
    """

    schedule: tuple[tuple[int, tuple[str, ...]], ...]
    distinct: str | None
    random_fraction: float

    @classmethod
    def check(cls, strata: Strata, distinct: str | None, random_fraction: float) -> PlanOptions:
        """Check options as users write them.

        Raises:
            ValueError: If one has no meaning.
        """
        stages = strata if isinstance(strata, Mapping) else {0: strata}
        schedule = tuple(
            (epoch, (columns,) if isinstance(columns, str) else tuple(columns))
            for epoch, columns in sorted(stages.items())
        )
        if not schedule or not all(
            columns and all(isinstance(name, str) for name in columns) for _, columns in schedule
        ):
            raise ValueError(f"strata={strata!r} must name at least one label column, such as ('source', 'cluster')")
        if schedule[0][0] != 0:
            raise ValueError(f"strata={strata!r} must say what batches share from epoch 0 on")
        if not 0 <= random_fraction < 1:
            raise ValueError(
                f"random_fraction={random_fraction} must be in [0, 1); for random batches alone use the stock sampler"
            )
        return cls(schedule, distinct, float(random_fraction))

    @property
    def columns(self) -> list[str]:
        """All label columns that any epoch uses."""
        names = [name for _, columns in self.schedule for name in columns]
        return list(dict.fromkeys([*names, *([self.distinct] if self.distinct else [])]))

    def strata_of(self, epoch: int) -> tuple[str, ...]:
        """Return what a batch shares in an epoch."""
        return [columns for first, columns in self.schedule if first <= epoch][-1]


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
        strata: Columns that a batch shares, coarse to fine. `("source",)` gives single-source batches. A dict from
            first epochs to columns makes a curriculum: `{0: ("source",), 2: ("source", "cluster")}`.
        distinct: Column that no global batch repeats, or None.
        random_fraction: Share of the global batches, in [0, 1), that is drawn across all strata instead.
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
        strata: Strata = (SOURCE, CLUSTER),
        distinct: str | None = FALSE_NEGATIVE_KEYS,
        random_fraction: float = 0.0,
        world_size: int | None = None,
    ) -> None:
        super().__init__(dataset, batch_size, drop_last, valid_label_columns, generator, seed or 0)
        self.dataset = dataset
        self.options = PlanOptions.check(strata, distinct, random_fraction)
        self.world_size: int = PartialState().num_processes if world_size is None else world_size
        self._plans: dict[tuple[str, ...], BatchPlan] = {}
        self._planned: tuple[int, EpochPlan] | None = None
        self._stock: BatchSampler | None = None
        trainer = _find_trainer()
        if trainer is not None and self.world_size > 1:
            if trainer.accelerator.dispatch_batches:
                raise ValueError(
                    "dispatch_batches=True joins the batches of all processes as one tensor, which texts of different "
                    "lengths do not make; pass accelerator_config={'dispatch_batches': False}"
                )
            if trainer.accelerator.split_batches:
                # accelerate will cut every batch into one slice per process: a batch is a global batch already.
                self.world_size, self.drop_last = 1, True
        needed = [columns[-1] for _, columns in self.options.schedule]
        has_labels = set(needed) <= set(dataset.column_names)
        if (has_labels and len(dataset) >= batch_size * self.world_size) or _is_trained_on(dataset, trainer):
            for _, columns in self.options.schedule:
                find_strata_columns(dataset.column_names, columns)
            if trainer is not None:
                _keep_in_step(trainer)
        else:
            self._stock = BatchSampler(RandomSampler(dataset, generator=generator), batch_size, drop_last)
        hide_labels(dataset, [*LABEL_COLUMNS, *self.options.columns])

    @classmethod
    def configure(
        cls,
        *,
        strata: Strata = (SOURCE, CLUSTER),
        distinct: str | None = FALSE_NEGATIVE_KEYS,
        random_fraction: float = 0.0,
    ) -> ConfiguredSampler:
        """Return a picklable variant for `batch_sampler`, with other options than the defaults.

        Args:
            strata: Columns that a batch shares, or a dict of them by first epoch; as for the sampler.
            distinct: Column that no global batch repeats, or None.
            random_fraction: Share of the global batches that is drawn across all strata.

        Returns:
            A callable that makes the sampler; unlike a lambda it can be saved with the training arguments.

        Raises:
            ValueError: If an option has no meaning.
        """
        return ConfiguredSampler(PlanOptions.check(strata, distinct, random_fraction))

    @property
    def is_planned(self) -> bool:
        """Whether batches follow a plan; an evaluation dataset without labels has the stock order."""
        return self._stock is None

    @property
    def plan(self) -> BatchPlan:
        """The plan of the current epoch's strata; made when first needed, since trainers build samplers in vain."""
        strata = self.options.strata_of(self.epoch)
        if strata not in self._plans:
            self._plans[strata] = BatchPlan(
                read_labels(self.dataset, strata, self.options.distinct),
                self.batch_size,
                self.world_size,
                self.drop_last,
                self.seed,
                self.options.random_fraction,
            )
        return self._plans[strata]

    @property
    def counts(self) -> PlanCounts:
        """What the current epoch is made of."""
        return self.plan_epoch().counts

    def describe(self) -> dict[str, Any]:
        """Return all that decides the batches, as JSON keeps it."""
        return {
            "labels": f"{self.plan.digest:016x}",
            "rows": len(self.dataset),
            "batch_size": self.batch_size,
            "world_size": self.world_size,
            "drop_last": self.drop_last,
            "seed": self.seed,
            "strata": {str(epoch): list(columns) for epoch, columns in self.options.schedule},
            "distinct": self.options.distinct if self.options.distinct in self.dataset.column_names else None,
            "random_fraction": self.options.random_fraction,
        }

    def __len__(self) -> int:
        return len(self.plan if self._stock is None else self._stock)

    def __iter__(self) -> Iterator[list[int]]:
        if self._stock is not None:
            if self.generator is not None:
                self.generator.manual_seed(self.seed + self.epoch)
            yield from self._stock
            return
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

    def __call__(self, dataset: Dataset, **kwargs: Any) -> ClusterBatchSampler:
        """Build the sampler, as the trainer asks for it."""
        options = self.options
        return ClusterBatchSampler(
            dataset,
            **kwargs,
            strata=dict(options.schedule),
            distinct=options.distinct,
            random_fraction=options.random_fraction,
        )


def _find_trainer() -> Any:
    """Find the trainer that is building the sampler, or None outside of one.

    The trainer gives its train, eval and test samplers the same arguments, so the only witness of what a dataset is
    for is the trainer itself, further up the call stack.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if isinstance(owner := frame.f_locals.get("self"), Trainer):
            return owner
        frame = frame.f_back
    return None


def _is_trained_on(dataset: Dataset, trainer: Any) -> bool:
    """Tell whether a dataset is to be trained on; outside a trainer, every one is.

    Without this, hours of training would end at the first evaluation on unlabelled data.
    """
    if trainer is None:
        return True
    trained = trainer.train_dataset
    return any(dataset is one for one in (trained.values() if isinstance(trained, dict) else (trained,)))


def _keep_in_step(trainer: Any) -> None:
    if not any(isinstance(one, PlanCallback) for one in trainer.callback_handler.callbacks):
        trainer.add_callback(PlanCallback())
