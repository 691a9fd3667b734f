"""Pairs that say how well they fit, and a loss that does not ask: it learns from every pair as from a positive."""

from __future__ import annotations

import logging
from typing import Any

from sentence_transformers.cross_encoder import losses as cross_encoder
from sentence_transformers.multi_vector_encoder import losses as multi_vector
from sentence_transformers.sentence_transformer import losses

from st_cluster_batches.batches.callers import find_loss_among, gathers
from st_cluster_batches.batches.protocols import PlannedSampler
from st_cluster_batches.row_keys import ROW_KEY, has_row_keys, list_targets
from st_cluster_batches.target_values import describe_targets, read_targets

logger = logging.getLogger(__name__)

# Those of sparse encoders are subclasses of these.
IN_BATCH_LOSSES = (
    cross_encoder.MultipleNegativesRankingLoss,
    losses.CachedGISTEmbedLoss,
    losses.CachedMultipleNegativesRankingLoss,
    losses.GISTEmbedLoss,
    losses.MegaBatchMarginLoss,
    losses.MultipleNegativesRankingLoss,
    losses.MultipleNegativesSymmetricRankingLoss,
    multi_vector.CachedMultiVectorMultipleNegativesRankingLoss,
    multi_vector.MultiVectorMultipleNegativesRankingLoss,
)
LABEL_LOSSES = (
    cross_encoder.ADRMSELoss,
    cross_encoder.BinaryCrossEntropyLoss,
    cross_encoder.CrossEntropyLoss,
    cross_encoder.LambdaLoss,
    cross_encoder.ListNetLoss,
    cross_encoder.MarginMSELoss,
    cross_encoder.MSELoss,
    cross_encoder.PListMLELoss,
    losses.BatchAllTripletLoss,
    losses.BatchHardTripletLoss,
    losses.BatchSemiHardTripletLoss,
    losses.ContrastiveLoss,
    losses.CoSENTLoss,
    losses.CosineSimilarityLoss,
    losses.DistillKLDivLoss,
    losses.EmbedDistillLoss,
    losses.MarginMSELoss,
    losses.OnlineContrastiveLoss,
    losses.SoftmaxLoss,
    multi_vector.MultiVectorDistillKLDivLoss,
    multi_vector.MultiVectorMarginMSELoss,
)

# They look at each row by itself: also those of a list of documents, which compare those of one query.
ROW_LOSSES = (
    cross_encoder.ADRMSELoss,
    cross_encoder.BinaryCrossEntropyLoss,
    cross_encoder.CrossEntropyLoss,
    cross_encoder.LambdaLoss,
    cross_encoder.ListNetLoss,
    cross_encoder.MarginMSELoss,
    cross_encoder.MSELoss,
    cross_encoder.PListMLELoss,
    losses.ContrastiveLoss,
    losses.CosineSimilarityLoss,
    losses.DistillKLDivLoss,
    losses.EmbedDistillLoss,
    losses.MarginMSELoss,
    losses.SoftmaxLoss,
    losses.TripletLoss,
    multi_vector.MultiVectorDistillKLDivLoss,
    multi_vector.MultiVectorMarginMSELoss,
)


def refuse_row_keys(trainer: Any, dataset: Any) -> None:
    """Check that no loss learns the row keys of a guide, which lie where it looks for labels or scores.

    Args:
        trainer: The trainer; None outside of one.
        dataset: One of its training datasets.

    Raises:
        ValueError: If one does.
    """
    reading = find_loss_among(LABEL_LOSSES, trainer, dataset)
    if reading is not None and has_row_keys(dataset):
        raise ValueError(
            f"{type(reading).__name__} learns from the column {ROW_KEY!r}, which holds the row keys of a guide. "
            f"Take them away: dataset.remove_columns({ROW_KEY!r}); labels or scores of your own go there instead"
        )


def explain_no_negatives(n_rows: int, n_texts: int, batch_size: int, n_compared: int) -> str | None:
    """Say why the rows of a dataset have no negative at all, in a batch or of their own; None if they have.

    Args:
        n_rows: Rows of the dataset.
        n_texts: Texts of a row: more than two are explicit negatives.
        batch_size: Rows of a batch of one device.
        n_compared: Rows among which the loss takes negatives: of all devices, if it gathers.
    """
    if min(n_compared, n_rows) > 1 or n_texts > 2:
        return None
    return (
        f"A batch has one pair ({n_rows} rows, per_device_train_batch_size {batch_size}), so the loss has no negative "
        "to compare it with, and learns nothing: its value is 0 in every step. Take larger batches: "
        "gradient_accumulation_steps joins none"
    )


def tell_of_no_negatives(trainer: Any, sampler: PlannedSampler) -> None:
    """Warn where batches are of one row: a loss of in-batch negatives then learns nothing from pairs.

    Args:
        trainer: The trainer; None outside of one.
        sampler: A `ClusterBatchSampler` of one of its training datasets.
    """
    dataset, size = sampler.dataset, sampler.batch_size
    loss = find_loss_among(IN_BATCH_LOSSES, trainer, dataset)
    if loss is None:
        return
    if gathers(loss):
        size *= sampler.world_size
    if explanation := explain_no_negatives(len(dataset), len(sampler.shown_columns), sampler.batch_size, size):
        logger.warning("%s: %s", type(loss).__name__, explanation)


def tell_of_idle_batches(trainer: Any, sampler: PlannedSampler) -> None:
    """Warn of a loss that looks at each row by itself, to which it makes no difference who shares a batch.

    Where there are several datasets, each perhaps with a loss of its own, this may be meant, and is no warning.

    Args:
        trainer: The trainer; None outside of one.
        sampler: A `ClusterBatchSampler` of one of its training datasets.
    """
    if not any(columns for _, columns in sampler.options.schedule):
        return
    alone = find_loss_among(ROW_LOSSES, trainer, sampler.dataset)
    if alone is not None and find_loss_among(IN_BATCH_LOSSES, trainer, sampler.dataset) is None:
        logger.log(
            logging.INFO if isinstance(trainer.train_dataset, dict) else logging.WARNING,
            "%s looks at each row by itself, so that clusters change nothing for it but the order of the rows. A loss "
            "of in-batch negatives learns from who shares a batch, such as MultipleNegativesRankingLoss",
            type(alone).__name__,
        )


def tell_of_targets(trainer: Any, dataset: Any) -> None:
    """Warn where a loss that takes in-batch negatives is given pairs with labels, which it does not read.

    Args:
        trainer: The trainer; None outside of one.
        dataset: One of its training datasets.
    """
    targets = list_targets(dataset)
    loss = find_loss_among(IN_BATCH_LOSSES, trainer, dataset) if targets else None
    if loss is None:
        return
    values = read_targets(dataset, targets)
    logger.warning(
        "The pairs have the column %s. %s does not read it: every pair is learnt as a positive, and no false "
        "negatives are kept apart. Keep the pairs that belong together, then attach: %s; or take a loss of labelled "
        "pairs",
        describe_targets(values),
        type(loss).__name__,
        values[0].call,
    )
