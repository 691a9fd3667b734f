"""The guided loss of multi-vector (late interaction) models: the guide is a model of one vector for each text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from sentence_transformers.multi_vector_encoder.losses import (
    CachedMultiVectorMultipleNegativesRankingLoss,
    MultiVectorMultipleNegativesRankingLoss,
)
from torch import Tensor

from st_cluster_batches.losses.guidance import Guidance
from st_cluster_batches.losses.guided import Guided


class _GuidedMultiVector(Guided):
    is_of_many = True
    score_mini_batch_size: int | None
    model: Any

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Tensor:
        """Return the loss of a batch, given the features of each column and the row keys."""
        features = list(sentence_features)
        guidance = self.guide_batch(labels, len(features), self.model.device)
        loss: Tensor
        if guidance is None:
            loss = super().forward(features, labels)
            return loss
        with self.masking(self._order_masks(guidance), bool(self.teacher_weight)) as scores:
            loss = super().forward(features, labels)
        if self.teacher_weight:
            n_columns = len(guidance.vectors) - 1
            by_query = torch.cat(scores).reshape(len(guidance.rows), -1, n_columns)
            logits = by_query.transpose(1, 2).flatten(1)
            loss = loss + self.teacher_weight * guidance.teach(logits * self.scale, self.teacher_scale).mean()
        return loss

    def _order_masks(self, guidance: Guidance) -> Iterator[Tensor]:
        """Yield masks as the stock loss lays scores out: all documents of the first query, then of the second."""
        n_rows, n_columns = len(guidance.rows), len(guidance.vectors) - 1
        step = self.score_mini_batch_size or n_rows
        for begin in range(0, n_rows, step):
            mask = self.make_mask(guidance, "query_to_doc", begin, min(begin + step, n_rows))
            yield mask.reshape(len(mask), n_columns, -1).transpose(1, 2).flatten(1)


class GuidedMultiVectorMultipleNegativesRankingLoss(
    _GuidedMultiVector,
    MultiVectorMultipleNegativesRankingLoss,  # type: ignore[misc]  # the host library has no types
):
    """The in-batch negatives loss of multi-vector models, with false negatives masked by vectors stored before.

    Args:
        model: The MultiVectorEncoder to train.
        guide: See `Guided`; the other arguments too, and those of the stock loss.
    """


class CachedGuidedMultiVectorMultipleNegativesRankingLoss(
    _GuidedMultiVector,
    CachedMultiVectorMultipleNegativesRankingLoss,  # type: ignore[misc]
):
    """The same with gradient caching; it masks, but takes no soft labels.

    Args:
        model: The MultiVectorEncoder to train.
        guide: See `Guided`; the other arguments too, and those of the stock loss.
    """

    def __init__(self, *stock: Any, teacher_weight: float = 0.0, **options: Any) -> None:
        if teacher_weight:
            raise ValueError(
                f"teacher_weight={teacher_weight}: the cached loss of multi-vector models keeps no scores to be "
                "taught; use GuidedMultiVectorMultipleNegativesRankingLoss"
            )
        super().__init__(*stock, **options)
