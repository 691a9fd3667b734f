"""The sampler above the samplers: which dataset of a `DatasetDict` fills the next step."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import PartialState
from sentence_transformers.base.sampler import MultiDatasetDefaultBatchSampler
from torch.utils.data import BatchSampler, ConcatDataset

from st_cluster_batches.batches.built import BuiltSampler
from st_cluster_batches.batches.callers import find_caller
from st_cluster_batches.batches.sampler import ClusterBatchSampler
from st_cluster_batches.plans.options import check_alpha, refuse_arguments

logger = logging.getLogger(__name__)

# Far apart, so that the seeds of one dataset and the epochs of another do not meet.
_SEED_STEP = 1_000_003


class ClusterMultiDatasetBatchSampler(BuiltSampler, MultiDatasetDefaultBatchSampler):  # type: ignore[misc]  # untyped
    """Interleave whole global batches of several datasets, in proportion to size^alpha.

    Given as `multi_dataset_batch_sampler`. In one step all processes see one dataset, hence one loss of a dict of
    losses. The stock samplers deal batches of different datasets to the processes of one step.

    An epoch has as many global batches as the datasets together. With `alpha=1` each dataset gives all of its own
    once. With a smaller alpha small datasets are passed through several times in an epoch, each time in another
    order, and large ones go on in the next epoch where they stopped. A dataset that is too small for one global batch
    is left out, with a warning that names it. Evaluated on, the datasets give all of their batches, one after another.

    Args:
        dataset: The concatenated datasets.
        batch_samplers: Their samplers.
        generator: Not used; part of the trainer's protocol.
        seed: Seed of the order of datasets. Every dataset's own seed is set apart from it: stock samplers would
            give datasets of one size one permutation.
        alpha: 1 is proportional to size, 0 uniform; as in Nomic-Embed, .3 lifts small datasets.

    Raises:
        ValueError: If alpha is negative, or no dataset fills a global batch.
    """

    def __init__(
        self,
        dataset: ConcatDataset[Any],
        batch_samplers: list[BatchSampler],
        generator: torch.Generator | None = None,
        seed: int | None = 0,
        *,
        alpha: float = 1.0,
    ) -> None:
        super().__init__(dataset, batch_samplers, generator, seed or 0)
        check_alpha(alpha)
        self.alpha = alpha
        ours = [one for one in batch_samplers if isinstance(one, ClusterBatchSampler)]
        self.world_size: int = ours[0].world_size if ours else PartialState().num_processes
        caller = find_caller(dataset)
        self._trainer, self._is_training = caller.trainer, caller.is_training
        self.is_done = False  # see `end_finished_run`
        self._is_told = False
        for at, sampler in enumerate(batch_samplers):
            if hasattr(sampler, "seed"):
                sampler.seed = self.seed + _SEED_STEP * at

    @classmethod
    def configure(cls, *misplaced: Any, alpha: float = 1.0, **unknown: Any) -> ConfiguredMultiDatasetSampler:
        """Return a picklable variant for `multi_dataset_batch_sampler`.

        Args:
            misplaced: Nothing; only a trainer that was given `configure` without its call passes a dataset.
            alpha: Exponent of the sizes.
            unknown: Nothing either.

        Returns:
            A callable that makes the sampler.
        """
        refuse_arguments("multi_dataset_batch_sampler=ClusterMultiDatasetBatchSampler.configure", misplaced, unknown)
        check_alpha(alpha)
        return ConfiguredMultiDatasetSampler(alpha)

    @property
    def shares(self) -> npt.NDArray[np.int64]:
        """(datasets,) global batches of each dataset in an epoch; the sum does not depend on alpha."""
        available = self._available
        if self.alpha == 1:
            return available
        weights = np.where(available > 0, available.astype(float) ** self.alpha, 0)
        exact = weights / weights.sum() * available.sum()
        shares: npt.NDArray[np.int64] = np.floor(exact).astype(np.int64)
        # Largest remainders; a stable sort, so that every process breaks ties alike.
        missing = int(available.sum() - shares.sum())
        shares[np.argsort(shares - exact, kind="stable")[:missing]] += 1
        return shares

    def count_passes(self, n_epochs: int) -> list[int]:
        """Count how often each dataset is passed through, wholly or in part, in so many epochs."""
        available = self._available
        passes: list[int] = (-(-n_epochs * self.shares // np.maximum(available, 1))).tolist()
        return passes

    def _tell_of_shares(self, n_batches: int) -> None:
        """Log what alpha makes of the datasets in a run of so many global batches; warn of rows that it leaves out.

        Nothing is said where every dataset gives all of its own batches in every epoch.
        """
        shares, available = self.shares, self._available
        total = int(available.sum())
        for at in np.flatnonzero((shares != available) & (available > 0)).tolist():
            share, own = int(shares[at]), int(available[at])
            logger.info(
                "%s: %d of the %d global batches of an epoch, %.2g times its own %d, by alpha=%g",
                self._name(at),
                share,
                total,
                share / own,
                own,
                self.alpha,
            )
            missing = own - n_batches * share // total
            if missing > 0:
                logger.warning(
                    "%s: %d of its %d global batches are in no step of this run, since alpha=%g gives it %d in an "
                    "epoch; train for %d epochs, or bring alpha nearer to 1",
                    self._name(at),
                    missing,
                    own,
                    self.alpha,
                    share,
                    -(-own // max(share, 1)),
                )

    def __len__(self) -> int:
        if not self._is_training:
            return sum(map(len, self.batch_samplers))
        return self.world_size * int(self._available.sum())

    def __iter__(self) -> Iterator[list[int]]:
        if self.is_done:
            return
        if not self._is_told and getattr(self._trainer, "is_in_train", False):
            self._is_told = True
            if self._trainer.is_world_process_zero():
                self._tell_of_shares(self._trainer.state.max_steps * self._trainer.args.gradient_accumulation_steps)
        offsets = np.cumsum([0, *(len(one) for one in self.dataset.datasets)])
        if not self._is_training:
            for first, sampler in zip(offsets, self.batch_samplers, strict=False):
                yield from ([int(first) + row for row in batch] for batch in sampler)
            return
        shares = self.shares
        streams = [self._stream(at, self.epoch * int(share)) for at, share in enumerate(shares)]
        rng = np.random.default_rng([self.seed % (1 << 32), self.epoch])
        for at in rng.permutation(np.repeat(np.arange(len(shares)), shares)).tolist():
            for batch in islice(streams[at], self.world_size):
                yield [int(offsets[at]) + row for row in batch]

    def _stream(self, at: int, start: int) -> Iterator[list[int]]:
        """Yield batches of a dataset for ever, pass after pass, from its global batch number `start` on."""
        sampler = self.batch_samplers[at]
        number, skipped = divmod(start, int(self._available[at]))
        while True:
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(number)
            whole = len(sampler) // self.world_size * self.world_size
            is_empty = True
            for batch in islice(sampler, skipped * self.world_size, whole):
                is_empty = False
                yield batch
            if is_empty and not skipped:
                raise ValueError(
                    f"{self._name(at)}: {type(sampler).__name__} promises {whole} batches and gives none; it may hold "
                    f"fewer different texts than the {self.batch_size} rows of a batch. Lower "
                    "per_device_train_batch_size, or leave the dataset out"
                )
            number, skipped = number + 1, 0

    @cached_property
    def _available(self) -> npt.NDArray[np.int64]:
        """(datasets,) the global batches that each dataset has."""
        available: npt.NDArray[np.int64] = np.array(
            [
                0 if getattr(sampler, "fills_no_batch", False) else len(sampler) // self.world_size
                for sampler in self.batch_samplers
            ],
            dtype=np.int64,
        )
        size = f"{self.batch_size} rows x {self.world_size} devices"
        for at in np.flatnonzero(available == 0).tolist():
            n_rows = len(self.dataset.datasets[at])
            remedy = "Lower per_device_train_batch_size to train on it" if n_rows else "It has none to train on"
            logger.warning(
                "%s is left out: its %d rows fill no global batch of %s. %s", self._name(at), n_rows, size, remedy
            )
        if not available.any():
            raise ValueError(f"No dataset fills a global batch of {size}; lower per_device_train_batch_size")
        return available

    def _name(self, at: int) -> str:
        """Name a dataset as its `DatasetDict` does, as far as the trainer can be found."""
        trained = getattr(self._trainer, "train_dataset", None)
        names = list(trained) if isinstance(trained, dict) else []
        return f"Dataset {names[at]!r}" if len(names) == len(self.batch_samplers) else f"Dataset number {at}"


@dataclass(frozen=True)
class ConfiguredMultiDatasetSampler:
    """A `multi_dataset_batch_sampler` argument with options; made by `ClusterMultiDatasetBatchSampler.configure`."""

    alpha: float

    def __call__(self, dataset: ConcatDataset[Any], **kwargs: Any) -> ClusterMultiDatasetBatchSampler:
        """Build the sampler, as the trainer asks for it."""
        return ClusterMultiDatasetBatchSampler(dataset, **kwargs, alpha=self.alpha)
