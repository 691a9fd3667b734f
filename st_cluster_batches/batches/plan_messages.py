"""What an epoch of a dataset is made of, and what of it is likely to be a mistake."""

from __future__ import annotations

import logging
from typing import Any

from st_cluster_batches.batches.callers import find_name, list_mask_counts
from st_cluster_batches.batches.label_batches import tell_of_single_labels
from st_cluster_batches.batches.protocols import PlannedSampler
from st_cluster_batches.batches.repeats import explain_repeats, tell_of_missing_keys
from st_cluster_batches.batches.sources import tell_of_source_texts
from st_cluster_batches.batches.targets import tell_of_idle_batches, tell_of_no_negatives, tell_of_targets
from st_cluster_batches.columns import SOURCE
from st_cluster_batches.plans.plan_counts import PlanCounts

logger = logging.getLogger(__name__)

WORTH_A_WARNING = 0.01  # share of the rows that meet a false negative, or are in no batch
WORTH_A_WARNING_OF_PURITY = 0.05  # share of the batches that are not pure on their account
# sentence-transformers 6.2 builds its loader from the arguments, not from the size that is being tried.
IDLE_SEARCH = (
    "auto_find_batch_size decides nothing: trainers of sentence-transformers keep per_device_train_batch_size=%d. "
    "Leave it out, and lower that one, or take a loss that embeds a batch in parts (in a recipe loss: cached_mnrl)"
)
IDLE_ORDER = (
    "train_sampling_strategy=%s decides nothing: the trainers of sentence-transformers read it nowhere, batch_sampler "
    "fills their batches; leave it out"
)
_SEVERAL = 0.5  # share of the chunks below which batches of several strata are not what rows_per_stratum says


def tell_of_batches(sampler: PlannedSampler, trainer: Any) -> None:
    """Log what epochs are made of, and warn of what is likely to be a mistake, before the first step.

    Args:
        sampler: A `ClusterBatchSampler` that follows a plan.
        trainer: The trainer; None outside of one.
    """
    if SOURCE in sampler.shown_columns:
        tell_of_source_texts(sampler.dataset)
    tell_of_targets(trainer, sampler.dataset)
    tell_of_no_negatives(trainer, sampler)
    tell_of_idle_batches(trainer, sampler)
    tell_of_single_labels(trainer, sampler)
    tell_of_missing_keys(sampler, find_name(trainer, sampler.dataset))
    stages = [epoch for epoch, _ in sampler.options.schedule]
    now = max(epoch for epoch in stages if epoch <= sampler.epoch)
    for epoch in stages:
        tell_of_epoch(sampler, sampler.epoch if epoch == now else epoch, trainer)
    share = sampler.options.random_fraction
    if share and not sampler.counts.random:
        n_batches = sampler.counts.planned  # global ones: these are drawn
        remedy = f"give more than {0.5 / n_batches:.2g}" if n_batches else "rows fill no whole one; leave it out"
        logger.warning("random_fraction=%g of %d batches is none; %s", share, n_batches, remedy)


def tell_of_epoch(sampler: PlannedSampler, epoch: int, trainer: Any) -> None:
    """Log what an epoch is made of, and warn of false negatives that meet, and of purity that is given up for them.

    Args:
        sampler: A `ClusterBatchSampler` that follows a plan.
        epoch: The current epoch, or the first that shares other columns.
        trainer: The trainer; None outside of one.
    """
    plan, columns = sampler.plan_of(epoch), sampler.strata_of(epoch)
    counts: PlanCounts = sampler.counts if epoch == sampler.epoch else plan.plan_epoch(epoch).counts
    is_like_others = sampler.refresh is None and len(sampler.options.schedule) == 1
    which = "one epoch" if is_like_others else f"epoch {epoch}"
    which += f" of {name!r}" if (name := find_name(trainer, sampler.dataset)) else ""
    logger.info("Batches of %s, by %s: %s", which, columns[-1] if columns else "random", counts)
    if counts.repeats > WORTH_A_WARNING * len(sampler.dataset):
        is_guided = bool(list_mask_counts(trainer))
        logger.warning("In %s %s", which, explain_repeats(plan, sampler.dataset, counts, is_guided))
    if counts.dropped > WORTH_A_WARNING * len(sampler.dataset):
        logger.warning(
            "In %s %d of %d rows are in no batch: they fill no whole global batch of %d = %d rows x %d devices. "
            "Smaller batches or fewer devices leave fewer out",
            which,
            counts.dropped,
            len(sampler.dataset),
            counts.global_batch_size,
            sampler.batch_size,
            sampler.world_size,
        )
    n_batches = counts.planned
    if columns and counts.chunks and counts.pure_share < _SEVERAL:
        logger.warning(
            "In %s only %d of %d chunks of %s rows are of one %s: most of these hold fewer rows. %s, or lower "
            "rows_per_stratum",
            which,
            counts.pure_chunks,
            counts.chunks,
            sampler.options.rows_per_stratum,
            columns[-1],
            "Are these the rows that were labelled, or a part of them? Label them anew, with larger clusters"
            if sampler.refreshed_at is None
            else "Make larger clusters of the model: Refresh(cluster_size=...)",
        )
    if columns and counts.is_one_batch and len(plan.labels.source_of_stratum) > 1:
        logger.warning(
            "In %s one batch of %d rows holds them all, so that clusters decide nothing; lower "
            "per_device_train_batch_size",
            which,
            len(sampler.dataset),
        )
    if counts.given_up > WORTH_A_WARNING_OF_PURITY * n_batches:
        logger.warning(
            "In %s %d of %d global batches of %d rows could be of one cluster each, but clusters hold too few "
            "different texts for that: the rows would meet false negatives, so they are pooled with those of "
            "neighbours. Larger clusters or smaller batches help, or distinct=None with a loss that masks false "
            "negatives (attach with guide=True)",
            which,
            counts.given_up,
            n_batches,
            counts.global_batch_size,
        )


def tell_of_idle_arguments(args: Any, outer: Any) -> None:
    """Warn of training arguments that decide nothing where batches are planned.

    Args:
        args: Those of the trainer.
        outer: The sampler that has an epoch.
    """
    if args.auto_find_batch_size:
        logger.warning(IDLE_SEARCH, args.per_device_train_batch_size)
    if args.data_seed is not None and not hasattr(args, "strategy"):  # of a recipe it seeds what is held out
        logger.warning(
            "data_seed=%d decides nothing: trainers of sentence-transformers give samplers seed=%d. Give that one",
            args.data_seed,
            args.seed,
        )
    if args.train_sampling_strategy != "random":
        logger.warning(IDLE_ORDER, args.train_sampling_strategy)
    alpha = getattr(args.multi_dataset_batch_sampler, "alpha", 1.0)
    if alpha != 1 and not hasattr(outer, "alpha"):
        logger.warning(
            "alpha=%g is for several datasets, and there is one; pass a dict of them, or leave it out", alpha
        )


def tell_of_stock(outer: Any) -> None:
    """Warn of what a stock sampler of several datasets makes of the batches of ours."""
    name, parts = type(outer).__name__, outer.batch_samplers
    remedy = "multi_dataset_batch_sampler=ClusterMultiDatasetBatchSampler"
    if left_out := [at for at, one in enumerate(parts) if getattr(one, "is_left_out", False)]:
        is_empty = not any(len(parts[at].dataset) for at in left_out)
        logger.warning(
            "Datasets with fewer rows than a global batch of %d are left out: %s. %s",
            parts[left_out[0]].batch_size * parts[left_out[0]].world_size,
            ", ".join(f"number {at} with {len(parts[at].dataset):,}" for at in left_out),
            "They have none to train on" if is_empty else "Lower per_device_train_batch_size to train on them",
        )
    if len(outer) < (n_batches := sum(map(len, parts))):
        logger.warning(
            "%s ends an epoch with its shortest dataset: %d of %d batches are in it, and the rows of the others in no "
            "step of that epoch. %s gives all of them, its .configure(alpha=0) as many of each dataset",
            name,
            len(outer),
            n_batches,
            remedy,
        )
    if any(getattr(one, "world_size", 1) > 1 for one in parts):
        logger.warning(
            "%s deals batches of different datasets to the processes of one step; %s keeps a step within one dataset",
            name,
            remedy,
        )
