"""The trainer callback of a plan: sets the epoch on every process, and checks the plan after a resume."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import extract_model_from_parallel
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from st_cluster_batches.batches.callers import find_inner_sampler, list_mask_counts
from st_cluster_batches.batches.card_block import PLAN_FILE, carry_block, choose_tags, describe_batches, find_strategy
from st_cluster_batches.batches.card_columns import forget_labels
from st_cluster_batches.batches.plan_messages import (
    tell_of_batches,
    tell_of_epoch,
    tell_of_idle_arguments,
    tell_of_stock,
)
from st_cluster_batches.batches.protocols import PlannedSampler, Refresher
from st_cluster_batches.batches.resume_checks import check_skipping, describe_run, hash_clusters, refuse_other_batches
from st_cluster_batches.batches.run_length import (
    count_epochs,
    count_passes,
    count_updates,
    end_finished_run,
    refuse_fewer_steps,
    refuse_unreached,
    tell_of_other_length,
)
from st_cluster_batches.batches.shown import check_evaluation
from st_cluster_batches.column_values import hash_sample
from st_cluster_batches.columns import show_labels
from st_cluster_batches.plans.options import StartError
from st_cluster_batches.row_keys import ROW_KEY, has_row_keys
from st_cluster_batches.storage.cache import read_json, write_atomically

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments


logger = logging.getLogger(__name__)


class PlanCallback(TrainerCallback, ExportableState):  # type: ignore[misc]  # the host library has no types
    """Sets epochs, refuses to resume with another plan, and writes the plan beside the checkpoints and into the card.

    A `ClusterBatchSampler` adds it to the trainer that builds it, so that users need no second line. Without it, a run
    that is resumed on several processes would repeat the batches of epoch 0: on resume accelerate wraps the sampler
    once more, and neither it nor transformers reaches through (accelerate 1.15, transformers 5.24).
    """

    def __init__(self) -> None:
        self.plans: list[dict[str, Any]] = []
        self.run: dict[str, Any] = {}
        self.trainer: Any = None
        self.refresher: Refresher | None = None
        # The datasets whose labels samplers of this trainer have hidden, by whether they are trained on.
        self.hidden: dict[bool, list[Any]] = {True: [], False: []}
        self._steps = 0  # of the whole run, as it is laid out when training begins
        self._outer: Any = None  # the sampler that has an epoch
        self._refreshed: list[Any] = []  # the samplers whose clusters have been refreshed
        self._clusters: dict[str, str] = {}  # of the checkpoint, to be compared once

    @classmethod
    def of(cls, trainer: Any) -> PlanCallback:
        """Return the trainer's callback of ours, which it gets with its first sampler."""
        found = (one for one in trainer.callback_handler.callbacks if isinstance(one, PlanCallback))
        if (callback := next(found, None)) is None:
            callback = cls()
            trainer.add_callback(callback)
        callback.trainer = trainer  # which one that was restored from a checkpoint does not know
        return callback

    def _take_over(self, train_dataloader: Any) -> None:
        """Take the trainer and the datasets from the callback whose place this one takes, if it was restored.

        With `restore_callback_states_from_checkpoint=True` the trainer makes a new one of what the checkpoint keeps,
        after the samplers have been built.
        """
        outer = find_inner_sampler(train_dataloader)
        for one in getattr(outer, "batch_samplers", [outer]):
            if (earlier := getattr(one, "callback", None)) not in (None, self):
                self.trainer = earlier.trainer
                for is_training, datasets in earlier.hidden.items():
                    for dataset in datasets:
                        self.watch(dataset, is_training)
                one.callback = self

    def watch(self, dataset: Any, is_training: bool) -> PlanCallback:
        """Remember a dataset whose labels are hidden, to show them again in the end; return itself."""
        if not _is_among(dataset, self.hidden[is_training]):
            self.hidden[is_training].append(dataset)
        return self

    def state(self) -> dict[str, Any]:
        """Return what the checkpoint keeps, as `ExportableState` asks."""
        masks = [counts.values for counts in list_mask_counts(self.trainer)]
        told = {"clusters": hash_clusters(self._refreshed), "steps": self._steps, "masks": masks}
        return {"args": {}, "attributes": {"plans": self.plans, "run": self.run, **told}}

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        train_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        """Compare the plans with those of the checkpoint, if there is one, and write down what they hold.

        Raises:
            ValueError: If labels, sizes or options are not those of the checkpoint, or the run ends before what is
                to begin in a later epoch.
        """
        self._take_over(train_dataloader)
        self.refresher, self._refreshed, self._clusters = None, [], {}
        outer, samplers = find_samplers(train_dataloader)
        if samplers:
            refuse_unreached(args, state, outer, len(train_dataloader))
        check_evaluation(self.trainer, samplers)
        self.plans = [{**one.describe(), "texts": hash_sample(one.dataset, one.shown_columns)} for one in samplers]
        self.run = describe_run(args, outer)
        self._steps, self._outer = state.max_steps, outer
        if state.global_step:
            kept = state.stateful_callbacks.get(type(self).__name__, {"attributes": {}})["attributes"]
            refuse_other_batches(kept, {"plans": self.plans, "run": self.run})
            self._clusters = kept.get("clusters", {})
            for counts, values in zip(list_mask_counts(self.trainer), kept.get("masks", ()), strict=False):
                counts.values = values  # of the whole run, as a card tells them
            refuse_fewer_steps(state)
            tell_of_other_length(args, state, kept.get("steps", state.max_steps))
            if samplers:
                check_skipping(args, state, samplers, len(train_dataloader))
                end_finished_run(state, outer)
        # The trainer saves the states of callbacks that have a key here; after random batches ours has none.
        state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        if not state.is_world_process_zero:
            return
        if type(outer).__module__.startswith("sentence_transformers"):
            tell_of_stock(outer)
        if not samplers:
            return
        tell_of_idle_arguments(args, outer)
        for sampler in samplers:
            tell_of_batches(sampler, self.trainer)
        counts = [sampler.counts for sampler in samplers]
        alpha = {"alpha": outer.alpha} if hasattr(outer, "alpha") else {}
        # Of all datasets the most: a card says nothing of what batches of none of them had.
        run = {**alpha, "epochs": max(count_passes(outer, count_epochs(args, state, len(train_dataloader))))}
        content = [{**plan, **run, "counts": asdict(one)} for plan, one in zip(self.plans, counts, strict=True)]
        if getattr(outer, "is_done", False):  # it refreshes nothing any more
            content = _keep_refreshes(args, content)
        _write_plans(args, content)
        model = extract_model_from_parallel(model)
        if self.trainer is not None:
            names = {name for sampler in samplers for name in sampler.hidden_columns}
            names |= {ROW_KEY for sampler in samplers if has_row_keys(sampler.dataset)}
            forget_labels(model.model_card_data, self.trainer, names)
        _tell_card(model, content)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Claim no stage that a run which another callback has ended did not reach, and show the labels again."""
        if self.plans and state.is_world_process_zero and state.global_step < state.max_steps:
            passes = max(count_passes(self._outer, math.ceil(state.epoch or 0)))
            if content := _amend_plans(args, lambda _: {"epochs": passes}):
                _tell_card(extract_model_from_parallel(model), content)
        self.hidden[False] += self.hidden[True]
        self.hidden[True] = []
        self._show_labels()

    def _show_labels(self) -> None:
        """Show what was hidden for the collator, but in what is trained on: it is still the user's dataset."""
        for dataset in self.hidden[False]:
            if not _is_among(dataset, self.hidden[True]):
                show_labels(dataset)
        self.hidden[False] = []

    def on_evaluate(self, *_: Any, **__: Any) -> None:
        """Likewise, after an evaluation by itself: a loader of the training data may still be in use."""
        if not getattr(self.trainer, "is_in_train", False):
            self._show_labels()

    def on_predict(self, *_: Any, **__: Any) -> None:
        """Likewise, after a prediction."""
        self.on_evaluate()

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        """Set the epoch of the innermost samplers, before the loader asks them for batches."""
        outer, samplers = find_samplers(train_dataloader)
        if outer is None or getattr(outer, "is_done", False):
            return
        # Computed from the steps, since state.epoch is a float with rounding errors.
        epoch, step = divmod(state.global_step, count_updates(len(train_dataloader), args))
        outer.set_epoch(epoch)
        if refreshed := [one for one in samplers if one.refresh is not None]:
            if getattr(outer, "alpha", 1.0) != 1:
                raise StartError(
                    f"alpha={outer.alpha} passes through large datasets in more than one epoch, and refreshed "
                    "clusters serve whole epochs: rows would come twice, or not at all. Take alpha=1, or no refresh="
                )
            self._refresh(args, refreshed, epoch, step == 0)

    def _refresh(self, args: TrainingArguments, samplers: list[PlannedSampler], epoch: int, is_start: bool) -> None:
        """Give samplers the clusters of the model as it is now, and write down what that cost."""
        if self.refresher is None:
            refresh = samplers[0].refresh
            assert refresh is not None, "only such samplers are refreshed"
            self.refresher = refresh.make_refresher(self.trainer)
            self.refresher.start(epoch, samplers)
        self.refresher.refresh(samplers, epoch, is_start)
        for sampler in samplers:
            if sampler.refreshed_at == epoch and self.trainer.is_world_process_zero():
                tell_of_epoch(sampler, epoch, self.trainer)
        self._refreshed = samplers
        now, kept = hash_clusters(samplers), self._clusters
        if others := [name for name in now if kept.get(name, now[name]) != now[name]]:
            raise StartError(
                f"The clusters in {self.refresher.place} are not those that the checkpoint was trained on "
                f"({', '.join(others)}): another run has written them. Resume in the output_dir of the checkpoint, or "
                "start anew with resume_from_checkpoint=None"
            )
        self._clusters = {}
        if self.trainer.is_world_process_zero():
            list_records = self.refresher.list_records
            _amend_plans(args, lambda number: {"refreshes": list_records(number)})


def _is_among(dataset: Any, others: list[Any]) -> bool:
    return any(one is dataset for one in others)


def _read_plans(args: TrainingArguments) -> list[dict[str, Any]]:
    path = Path(args.output_dir) / PLAN_FILE
    return read_json(path) if path.is_file() else []


def _write_plans(args: TrainingArguments, content: list[dict[str, Any]]) -> None:
    Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    write_atomically(Path(args.output_dir) / PLAN_FILE, json.dumps(content, indent=2) + "\n")


def _keep_refreshes(args: TrainingArguments, content: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return plans with what the finished run has written down of refreshes of the same labels."""
    earlier = {one["labels"]: one.get("refreshes") for one in _read_plans(args)}
    return [{**one, "refreshes": kept} if (kept := earlier.get(one["labels"])) else one for one in content]


def _amend_plans(args: TrainingArguments, amend: Callable[[int], dict[str, Any]]) -> list[dict[str, Any]]:
    """Write more of each plan, by its number, into the file of all; return them, or none where there is no file."""
    content = [plan | amend(number) for number, plan in enumerate(_read_plans(args))]
    if content:
        _write_plans(args, content)
    return content


def _tell_card(model: Any, content: list[dict[str, Any]]) -> None:
    strategy = find_strategy(content)
    carry_block(model, describe_batches(strategy, content), choose_tags(strategy))


def find_samplers(loader: Any) -> tuple[Any, list[PlannedSampler]]:
    """Find our samplers behind the wrappers of accelerate.

    Args:
        loader: A DataLoader, prepared by accelerate or not.

    Returns:
        The sampler that has an epoch, ours or one for many datasets, or None; and our samplers in it that follow a
        plan.
    """
    sampler = find_inner_sampler(loader)
    if not (hasattr(sampler, "is_planned") or hasattr(sampler, "batch_samplers")):
        return None, []
    parts = getattr(sampler, "batch_samplers", [sampler])
    return sampler, [one for one in parts if getattr(one, "is_planned", False)]
