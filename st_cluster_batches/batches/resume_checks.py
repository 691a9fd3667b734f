"""Whether a run goes on with the batches that its checkpoint was trained on."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import xxhash

from st_cluster_batches.batches.protocols import PlannedSampler
from st_cluster_batches.batches.run_length import count_updates
from st_cluster_batches.plans.options import StartError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import TrainerState, TrainingArguments

logger = logging.getLogger(__name__)


def refuse_other_batches(kept: dict[str, Any], now: dict[str, Any]) -> None:
    """Compare what decides the batches with what a checkpoint says of it.

    Args:
        kept: What the checkpoint says: `plans`, one of each dataset, and `run`; empty if it knows of no plan.
        now: The same of this run.

    Raises:
        ValueError: If they differ, with what they differ in.
    """
    if {name: kept.get(name) for name in now} == now:
        return
    if not kept.get("plans"):
        changes = ["batch_sampler was another one and is ClusterBatchSampler"]
    elif len(kept["plans"]) != len(now["plans"]):
        changes = [f"the number of datasets was {len(kept['plans'])} and is {len(now['plans'])}"]
    else:
        before, after = [kept.get("run", {}), *kept["plans"]], [now["run"], *now["plans"]]
        changes = [
            f"the {name} have changed"
            if name in ("labels", "texts")
            else f"{name} was {one.get(name)!r} and is {other.get(name)!r}"
            for one, other in zip(before, after, strict=True)
            for name in {**one, **other}
            if one.get(name) != other.get(name) and (name != "texts" or name in one)  # of before they were kept
        ]
        if not changes:  # a checkpoint from before there was an option, which is not used now, or a hash
            return
    raise StartError(
        f"The checkpoint was trained on other batches: {'; '.join(dict.fromkeys(changes))}. Resume with what it was "
        "trained with, or start anew with resume_from_checkpoint=None"
    )


def check_skipping(
    args: TrainingArguments, state: TrainerState, samplers: Sequence[PlannedSampler], n_batches: int
) -> None:
    """Warn of a run that goes on within an epoch with the first batches of it, as `ignore_data_skip` has it.

    Args:
        args: The trainer's arguments.
        state: Its state, from the checkpoint.
        samplers: Those that follow a plan.
        n_batches: Batches of an epoch on one process.

    Raises:
        StartError: If clusters are refreshed: epochs would begin within those that clusters are made for.
    """
    done = state.global_step % count_updates(n_batches, args)
    if not (args.ignore_data_skip and done):
        return
    told = (
        f"ignore_data_skip=True: the checkpoint is {done} steps into an epoch, and the run would go on with the first "
        "batches of it, so that rows come twice"
    )
    remedy = "Leave it out: to skip the batches that are done costs nothing here, for no row of them is read"
    if any(one.refresh is not None for one in samplers):
        raise StartError(f"{told}, and clusters are made anew at the start of epochs alone. {remedy}")
    if state.is_world_process_zero:
        logger.warning("%s. %s", told, remedy)


def describe_run(args: TrainingArguments, outer: Any) -> dict[str, Any]:
    """Return what decides the batches beside the samplers, named as the trainer's arguments are."""
    described: dict[str, Any] = {"gradient_accumulation_steps": args.gradient_accumulation_steps}
    if hasattr(outer, "batch_samplers"):
        described["multi_dataset_batch_sampler"] = type(outer).__name__
        described["alpha"] = getattr(outer, "alpha", None)
    return described


def hash_clusters(samplers: Sequence[PlannedSampler]) -> dict[str, str]:
    """Return, by dataset and epoch at whose start they were made, a hash of the clusters that batches are of."""
    return {
        f"dataset {number}, epoch {one.refreshed_at}": xxhash.xxh3_64_hexdigest(one.clusters.tobytes())
        for number, one in enumerate(samplers)
        if one.refreshed_at is not None and one.clusters is not None
    }
