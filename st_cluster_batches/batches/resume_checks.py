"""Whether a run goes on with the batches that its checkpoint was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import xxhash

from st_cluster_batches.batches.options import StartError
from st_cluster_batches.batches.protocols import PlannedSampler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import TrainingArguments


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
            if name == "labels"
            else f"{name} was {one.get(name)!r} and is {other.get(name)!r}"
            for one, other in zip(before, after, strict=True)
            for name in {**one, **other}
            if one.get(name) != other.get(name)
        ]
        if not changes:  # a checkpoint from before there was an option, which is not used now
            return
    raise StartError(
        f"The checkpoint was trained on other batches: {'; '.join(dict.fromkeys(changes))}. Resume with what it was "
        "trained with, or start anew with resume_from_checkpoint=None"
    )


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
