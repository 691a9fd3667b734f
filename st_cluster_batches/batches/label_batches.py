"""Batches of one label, from which losses that compare the rows of a batch by their labels learn nothing."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pyarrow as pa
from sentence_transformers.sentence_transformer import losses

from st_cluster_batches.batches.callers import find_loss_among
from st_cluster_batches.batches.protocols import PlannedSampler
from st_cluster_batches.row_keys import list_targets

logger = logging.getLogger(__name__)

# AnglELoss and the losses of sparse encoders are subclasses of these.
COMPARING_LOSSES = (
    losses.BatchAllTripletLoss,
    losses.BatchHardTripletLoss,
    losses.BatchSemiHardTripletLoss,
    losses.CoSENTLoss,
)
_WORTH_A_WARNING = 0.05  # share of the batches


def tell_of_single_labels(trainer: Any, sampler: PlannedSampler) -> None:
    """Warn where many batches hold one label or score, and the loss compares rows of different ones.

    Clusters gather what is alike, so that rows of one class, or pairs of one score, come together.

    Args:
        trainer: The trainer; None outside of one.
        sampler: A `ClusterBatchSampler` of one of its training datasets.
    """
    comparing = find_loss_among(COMPARING_LOSSES, trainer, sampler.dataset)
    if comparing is None:
        return
    targets = list_targets(sampler.dataset, sampler.dataset.format["columns"])
    if not targets:
        return
    column = sampler.dataset.with_format("arrow", columns=targets[:1])[:][targets[0]].combine_chunks()
    if pa.types.is_nested(column.type):
        return
    labels = column.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    batches = labels[sampler.plan_epoch().rows].reshape(-1, sampler.batch_size)
    n_single = int((np.ptp(batches, axis=1) == 0).sum())
    if n_single >= _WORTH_A_WARNING * max(1, len(batches)):
        logger.warning(
            "In one epoch %d of %d batches hold one value of %r each, and %s compares rows of different ones: it "
            "learns nothing there. Fill batches at random, ClusterBatchSampler.configure(strata=()), or larger ones",
            n_single,
            len(batches),
            targets[0],
            type(comparing).__name__,
        )
