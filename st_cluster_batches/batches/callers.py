"""What a sampler is made for: the trainer that asks for it, and whether it trains or evaluates with it.

A trainer gives its train, eval and test samplers the same arguments, so the only witness of what a dataset is for is
the call stack.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from sentence_transformers.base.sampler import MultiDatasetBatchSamplers
from transformers import Trainer

from st_cluster_batches.columns import list_parts
from st_cluster_batches.row_keys import ROW_KEY, has_row_keys

_EVALUATING = ("get_eval_dataloader", "get_test_dataloader")


@dataclass(frozen=True)
class Caller:
    """Who asks for a sampler.

    Args:
        trainer: The trainer, or None outside of one.
        is_training: Whether the dataset is to be trained on; outside a trainer, every one is.
    """

    trainer: Any
    is_training: bool

    @property
    def is_one_of_many(self) -> bool:
        """Whether the trainer trains on several datasets, and does so without one of them."""
        trained = getattr(self.trainer, "train_dataset", None)
        if not (self.is_training and isinstance(trained, dict) and len(trained) > 1):
            return False
        # Round robin ends with the shortest dataset: with an empty one before the first step.
        return bool(self.trainer.args.multi_dataset_batch_sampler != MultiDatasetBatchSamplers.ROUND_ROBIN)

    @property
    def trained(self) -> list[Any]:
        """The datasets that the trainer trains on."""
        return list_parts(getattr(self.trainer, "train_dataset", None))

    def name(self, dataset: Any) -> str:
        """Return what messages call a dataset: by its name, if it is one of several."""
        own = find_name(self.trainer, dataset)
        return "the dataset" if own is None else f"the dataset {own!r}"

    def gathers(self, dataset: Any) -> bool:
        """Whether the loss of a dataset takes negatives from the batches of all devices."""
        return gathers(find_loss(self.trainer, dataset))

    def refuse_dispatching(self) -> None:
        """Check that each process reads its own batches.

        Raises:
            ValueError: If the first one is to deal them out.
        """
        if self.trainer is not None and self.trainer.accelerator.dispatch_batches:
            raise ValueError(
                "dispatch_batches=True makes one tensor of the batches of all processes, even of one, and cuts it: "
                "texts of different lengths do not bear that; pass accelerator_config={'dispatch_batches': False}"
            )

    def check_rows(self, dataset: Any) -> None:
        """Check that there are rows, and that guided losses have the vectors of the texts that they show, in order.

        Raises:
            ValueError: If there are none, or a guided loss gets no row keys of them, or vectors of other columns.
        """
        if self.trainer is None:
            return
        if not len(dataset):
            among_others = (
                ", and round_robin ends an epoch with its shortest dataset. Take it out of the dict, or pass "
                "multi_dataset_batch_sampler=ClusterMultiDatasetBatchSampler, which leaves it out"
            )
            remedy = among_others if len(self.trained) > 1 else "; pass a train_dataset= that has some"
            raise ValueError(f"There are no rows in {self.name(dataset)}{remedy}")
        # Their guides are `GuideVectors`, of a module that embeds and clusters.
        parts: list[Any] = list(find_loss(self.trainer, dataset).modules())
        guided = [part for part in parts if hasattr(getattr(part, "guide", None), "check_rows")]
        if guided and not has_row_keys(dataset):
            raise ValueError(
                f"{type(guided[0]).__name__} gets no row keys from {self.name(dataset)}: its column {ROW_KEY!r} "
                f"{'holds none' if ROW_KEY in dataset.column_names else 'is missing'}. Attach all that is trained on, "
                "train = attach_clusters(train, encoder, guide=True, overwrite=True), and pass it to the loss, "
                "guide=train; or give a loss without a guide to it: loss={name: loss, ...}"
            )
        for part in guided:
            part.guide.check_rows(dataset)


def find_name(trainer: Any, dataset: Any) -> str | None:
    """Return the name that a trainer, if there is one, knows one of several training datasets by; else None."""
    parts = None if trainer is None else trainer.train_dataset
    return next((name for name, part in parts.items() if part is dataset), None) if isinstance(parts, dict) else None


def find_loss(trainer: Any, dataset: Any) -> Any:
    """Return the loss that a trainer has for one of its training datasets."""
    return trainer.loss[find_name(trainer, dataset)] if isinstance(trainer.loss, dict) else trainer.loss


def find_loss_among(kinds: tuple[type, ...], trainer: Any, dataset: Any) -> Any:
    """Return the loss that a trainer has for a dataset, or one within it, if it is of some kinds; else None.

    Args:
        kinds: Classes of losses.
        trainer: The trainer; None outside of one.
        dataset: One of its training datasets.
    """
    parts = [] if trainer is None else find_loss(trainer, dataset).modules()
    return next((part for part in parts if isinstance(part, kinds)), None)


def list_losses(loss: Any) -> list[Any]:
    """Return the losses of a trainer, by name of dataset or one alone, with those within them, each once."""
    given = loss.values() if isinstance(loss, dict) else [loss]
    return list(dict.fromkeys(part for one in given for part in one.modules()))


def list_mask_counts(trainer: Any) -> list[Any]:
    """Return what the guided losses of a trainer, or those within its losses, have counted; none outside of one."""
    parts = [] if trainer is None else list_losses(trainer.loss)
    return [part.mask_counts for part in parts if hasattr(part, "mask_counts")]


def gathers(loss: Any) -> bool:
    """Whether a loss, or one within it, takes negatives from the batches of all devices."""
    return any(getattr(part, "gather_across_devices", False) for part in loss.modules())


def find_inner_sampler(loader: Any) -> Any:
    """Return what gives a DataLoader its batches, without the wrappers of accelerate; None if nothing does."""
    sampler: Any = getattr(loader, "batch_sampler", None)
    while hasattr(sampler, "batch_sampler"):
        sampler = sampler.batch_sampler
    return sampler


def find_caller(dataset: Any) -> Caller:
    """Find who is building a sampler for a dataset.

    Args:
        dataset: The dataset; where the trainer's method for it is unknown, those that it was made with are trained on.
    """
    trainer, frame = None, inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, Trainer):
            trainer = owner
            if frame.f_code.co_name in _EVALUATING:
                return Caller(trainer, is_training=False)
            if frame.f_code.co_name == "get_train_dataloader":
                return Caller(trainer, is_training=True)
        frame = frame.f_back
    if trainer is None:
        return Caller(None, is_training=True)
    return Caller(trainer, is_training=any(dataset is one for one in list_parts(trainer.train_dataset)))
