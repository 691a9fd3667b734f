"""Whether a run is long enough for what is to begin in a later epoch, and how it ends that has all of its steps."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from st_cluster_batches.plans.options import PlanOptions, StartError

if TYPE_CHECKING:
    from transformers import TrainerState, TrainingArguments

    from st_cluster_batches.batches.protocols import RefreshSchedule

logger = logging.getLogger(__name__)


def count_updates(n_batches: int, args: TrainingArguments) -> int:
    """Count the steps of the optimizer in an epoch, as the trainer does.

    Args:
        n_batches: Batches of an epoch on one process.
        args: The trainer's arguments.
    """
    accumulated: int = args.gradient_accumulation_steps
    return max(-(-n_batches // accumulated), 1)


def find_unreached(options: PlanOptions, refresh: RefreshSchedule | None, n_epochs: int) -> dict[str, int]:
    """Find what begins only after so many epochs.

    Returns:
        By what the user has written, the epoch that it begins with, from 0.
    """
    starts = {f"strata={{{first}: {columns!r}}}": first for first, columns in options.schedule}
    if refresh is not None:
        starts[f"refresh=Refresh(first={refresh.first})"] = refresh.first
    return {name: first for name, first in starts.items() if first >= max(n_epochs, 1)}


def count_epochs(args: TrainingArguments, state: TrainerState, n_batches: int) -> int:
    """Count the epochs that a run begins; the last may be cut by `max_steps`."""
    n_steps: int = state.max_steps
    return -(-n_steps // count_updates(n_batches, args))


def count_passes(outer: Any, n_epochs: int) -> list[int]:
    """Count how often each dataset is passed through, wholly or in part, in so many epochs.

    Args:
        outer: The sampler, ours or one for many datasets.
        n_epochs: Epochs of the run, the last of them whole or not.
    """
    if hasattr(outer, "count_passes"):
        return list(outer.count_passes(n_epochs))
    return [n_epochs] * len(getattr(outer, "batch_samplers", [outer]))


def tell_of_other_length(args: TrainingArguments, state: TrainerState, n_steps: int) -> None:
    """Warn of a run that goes on with another length: its schedule is laid out anew, and learning rates jump.

    Args:
        args: The trainer's arguments.
        state: Its state, which knows the steps of the run as it is now, and those that are done.
        n_steps: Those of the run as the checkpoint knows it.
    """
    if n_steps != state.max_steps and args.lr_scheduler_type not in ("constant", "constant_with_warmup"):
        logger.warning(
            "The run had %d steps and now has %d: the schedule of learning rates (lr_scheduler_type=%s) is laid out "
            "anew over these, so from step %d on rates are not what they would have been. Resume with the "
            "num_train_epochs or max_steps of before, or start anew",
            n_steps,
            state.max_steps,
            args.lr_scheduler_type.value,
            state.global_step,
        )


def refuse_fewer_steps(state: TrainerState) -> None:
    """Refuse a run that is to have fewer steps than its checkpoint has.

    Raises:
        StartError: If it is one.
    """
    if state.global_step > state.max_steps:
        raise StartError(
            f"The checkpoint has {state.global_step} steps, and this run is to have {state.max_steps}: resume with "
            "max_steps or num_train_epochs of before, or start anew with resume_from_checkpoint=None"
        )


def end_finished_run(state: TrainerState, outer: Any) -> None:
    """Give no batch to a run whose checkpoint has all of its steps: within an epoch a trainer would take one more.

    It counts after a step, not before (transformers 5.24), so each resume of a finished run would change the model.

    Args:
        state: The trainer's state, from the checkpoint.
        outer: The sampler, ours or one for many datasets; a stock one ends where those that it takes from do.
    """
    if state.global_step == state.max_steps:
        for one in (outer, *getattr(outer, "batch_samplers", ())):
            one.is_done = True
        if state.is_world_process_zero:
            logger.info("The checkpoint has all %d steps of the run: nothing is left to train", state.max_steps)


def refuse_unreached(args: TrainingArguments, state: TrainerState, outer: Any, n_batches: int) -> None:
    """Refuse what no epoch of a run reaches; warn of it where steps cut the run, or for some of the datasets alone.

    Args:
        args: The trainer's arguments.
        state: Its state, which knows the steps of the run.
        outer: The sampler, ours or one for many datasets.
        n_batches: Batches of an epoch on one process.

    Raises:
        StartError: If the number of epochs says that something is never reached.
    """
    updates = count_updates(n_batches, args)
    n_epochs = count_epochs(args, state, n_batches)
    parts = getattr(outer, "batch_samplers", [outer])
    passes = count_passes(outer, n_epochs)
    planned = [at for at, one in enumerate(parts) if getattr(one, "is_planned", False)]
    late: dict[tuple[str, int], list[int]] = {}
    for at in planned:
        for found in find_unreached(parts[at].options, parts[at].refresh, int(passes[at])).items():
            late.setdefault(found, []).append(at)
    for (name, first), datasets in late.items():
        if len(datasets) < len(planned):
            logger.warning(
                "%s is never reached in %d of %d datasets, which are passed through less often than there are epochs: "
                "%s. Train for more epochs, let it begin earlier, or take alpha=1",
                name,
                len(datasets),
                len(planned),
                ", ".join(f"number {at} {passes[at]} times" for at in datasets),
            )
        elif args.max_steps > 0:
            logger.warning(
                "%s is never reached: max_steps=%d ends the run in epoch %d, counted from 0, of %d steps each. Give "
                "max_steps of more than %d, or let it begin earlier",
                name,
                args.max_steps,
                n_epochs - 1,
                updates,
                first * updates,
            )
        else:
            raise StartError(
                f"{name} is never reached: num_train_epochs={args.num_train_epochs:g}, counted from 0; train for more "
                f"than {first} epochs, or let it begin earlier"
            )
