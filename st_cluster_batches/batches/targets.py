"""Pairs that say how well they fit, and a loss that does not ask: it learns from every pair as from a positive."""

from __future__ import annotations

import logging
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from sentence_transformers.sentence_transformer import losses

from st_cluster_batches.batches.loaders import find_loss
from st_cluster_batches.columns import list_targets

logger = logging.getLogger(__name__)

_IN_BATCH = (
    losses.CachedGISTEmbedLoss,
    losses.CachedMultipleNegativesRankingLoss,
    losses.GISTEmbedLoss,
    losses.MegaBatchMarginLoss,
    losses.MultipleNegativesRankingLoss,
    losses.MultipleNegativesSymmetricRankingLoss,
)


def describe_targets(dataset: Any) -> str:
    """Say which columns say how well pairs fit, and of how many rows they say that these do not."""
    parts = []
    for name in list_targets(dataset):
        column = dataset.with_format("arrow", columns=[name])[:][name]
        is_number = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
        rows = pc.sum(pc.less_equal(column, 0)).as_py() if is_number else None
        parts.append(f"{name!r}" + (f", 0 or less in {rows:,} of {len(dataset):,} rows" if rows else ""))
    return ", and ".join(parts)


def tell_of_targets(trainer: Any, dataset: Any) -> None:
    """Warn where a loss that takes in-batch negatives is given pairs with labels, which it does not read.

    Args:
        trainer: The trainer; None outside of one.
        dataset: One of its training datasets.
    """
    targets = list_targets(dataset)
    loss = find_loss(trainer, dataset) if targets and trainer is not None else None
    if loss is None or not any(isinstance(part, _IN_BATCH) for part in loss.modules()):
        return
    logger.warning(
        "The pairs have the column %s. %s does not read it: every pair is learnt as a positive, and no false "
        "negatives are kept apart. Keep the pairs that belong together, then attach: dataset.filter(lambda row: "
        "row[%r] > 0).remove_columns(%r); or take a loss of labelled pairs, to which batches make no difference",
        describe_targets(dataset),
        type(loss).__name__,
        targets[0],
        targets[0],
    )
