"""What a guide says of a batch: which of its negatives are false, and how similar the others are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer, SparseEncoder
from torch import Tensor, nn

from st_cluster_batches.storage.numbers import as_number

MarginStrategy = Literal["absolute", "relative"]
Direction = Literal["query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc"]

# The order in which the stock losses ask for similarities.
DIRECTIONS: tuple[Direction, ...] = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")


TEACHER_SCALE = 20.0  # inverse temperature of soft labels, unless one is given


@dataclass(frozen=True)
class Margin:
    """How much more similar than the positive a negative has to be, under the guide, to be a false one.

    Args:
        margin: What is added to the similarity of query and positive, or what it is multiplied by.
        strategy: Which of the two. A relative margin of .95, as NV-Retriever has it, masks from 95 % of the positive's
            similarity on; that of a positive below zero is moved by as much in the same direction.
    """

    margin: float = 0.0
    strategy: MarginStrategy = "absolute"

    def __post_init__(self) -> None:
        if self.strategy not in ("absolute", "relative"):
            raise ValueError(f"margin_strategy={self.strategy!r} is neither 'absolute' nor 'relative'")
        as_number("margin", self.margin)
        if self.strategy == "relative" and not self.margin > 0:
            raise ValueError(
                f"margin={self.margin} with margin_strategy='relative' is a factor of the positive's similarity and "
                "must be positive, such as .95; for a margin of nothing, pass margin=1.0 or margin_strategy='absolute'"
            )
        if self.strategy == "absolute" and not -2 <= self.margin <= 2:
            raise ValueError(f"margin={self.margin} is added to a cosine similarity and must be in [-2, 2]")

    def threshold(self, positive: Tensor) -> Tensor:
        """Return (n,) the similarity above which a negative is false, given those of query and positive."""
        if self.strategy == "absolute":
            return positive + self.margin
        return positive - positive.abs() * (1 - self.margin)


def check_embedding(model: Any, is_of_many: bool) -> None:
    """Check that a model embeds texts as a loss compares them, so that there are similarities to be masked.

    Args:
        model: The model to train.
        is_of_many: Whether the loss compares several vectors of a text.

    Raises:
        TypeError: If the model scores pairs, or gives one vector for several or the other way round.
    """
    if isinstance(model, CrossEncoder):
        raise TypeError(
            "A guided loss masks similarities of a batch, and a CrossEncoder makes none; take a loss of "
            "sentence_transformers.cross_encoder.losses"
        )
    if isinstance(model, MultiVectorEncoder) and not is_of_many:
        raise TypeError(
            "A MultiVectorEncoder gives several vectors of a text, and this guided loss compares one; take "
            "GuidedMultiVectorMultipleNegativesRankingLoss"
        )
    if isinstance(model, SentenceTransformer | SparseEncoder) and is_of_many:
        raise TypeError(
            f"A {type(model).__name__} gives one vector of a text, and this guided loss compares several; take "
            "GuidedMultipleNegativesRankingLoss"
        )


def check_guidance(margin: Margin, mask: bool, teacher_weight: float, teacher_scale: float) -> None:
    """Check that all that a guide is told has a meaning.

    Args:
        margin: When a negative is false.
        mask: Whether these are masked.
        teacher_weight: Weight of the guide's soft labels.
        teacher_scale: Inverse temperature of these.

    Raises:
        ValueError: If an option is out of its range, or another one leaves it idle.
    """
    if not as_number("teacher_weight", teacher_weight) >= 0:
        raise ValueError(f"teacher_weight={teacher_weight} must not be negative")
    if not as_number("teacher_scale", teacher_scale) > 0:
        raise ValueError(f"teacher_scale={teacher_scale} must be positive")
    if not mask and not teacher_weight:
        raise ValueError("mask=False with teacher_weight=0 leaves the guide nothing to do; use the stock loss")
    if not teacher_weight and teacher_scale != TEACHER_SCALE:
        raise ValueError(
            f"teacher_scale={teacher_scale:g} means nothing with teacher_weight=0: give a teacher_weight, such as "
            "0.3, or leave teacher_scale out"
        )
    if not mask and margin != Margin():
        raise ValueError(
            f"margin={margin.margin:g} ({margin.strategy}) means nothing with mask=False: leave one of them out"
        )


@dataclass(frozen=True)
class Guidance:
    """The guide's vectors of a global batch of G rows.

    Args:
        vectors: (G, d) unit float32 vectors of queries, positives, then each column of negatives.
        is_known: (G,) whether the guide has the vectors of a row; no other row's negatives are masked, nor is it.
        rows: (B,) the rows whose queries this process trains on.
        margin: When a negative is false.
        is_masking: (G,) whether anything is masked for a row at all: not in a source that was tuned without a mask.
    """

    vectors: Sequence[Tensor]
    is_known: Tensor
    rows: Tensor
    margin: Margin
    is_masking: Tensor

    @cached_property
    def documents(self) -> Tensor:
        """(G * columns, d) positives, then each column of negatives."""
        return torch.cat(list(self.vectors[1:]))

    def mask(self, direction: Direction, begin: int = 0, end: int | None = None) -> Tensor:
        """Return which candidates of some rows are false negatives.

        Args:
            direction: From what to what, as the stock loss names it.
            begin: The first of this process's rows.
            end: The one after the last; all by default.

        Returns:
            (rows, candidates) bool; candidates are G queries, or G documents of every column.
        """
        rows = self.rows[begin:end]
        queries, positives = self.vectors[0][rows], self.vectors[1][rows]
        anchors = queries if direction.startswith("query") else positives
        candidates = self.vectors[0] if direction.endswith("query") else self.documents
        threshold = self.margin.threshold((queries * positives).sum(1))
        mask = self.similarity(anchors, candidates) > threshold[:, None]
        is_known = self.is_known.repeat(len(candidates) // len(self.is_known))
        mask &= (self.is_known & self.is_masking)[rows][:, None] & is_known
        if direction in ("query_to_doc", "doc_to_query"):
            mask[torch.arange(len(rows), device=rows.device), rows] = False  # never the positive itself
        return mask

    @staticmethod
    def similarity(first: Tensor, second: Tensor) -> Tensor:
        """Return the (n, m) cosine similarities in float32, whatever the autocast of the training."""
        with torch.autocast(first.device.type, enabled=False):
            return first.float() @ second.float().T

    def teach(self, logits: Tensor, scale: float, begin: int = 0, end: int | None = None) -> Tensor:
        """Return the cross-entropy of a model's logits to the softmax of the guide over the candidates that are left.

        Margin-free soft labels of the batch, as TAS-B's in-batch teacher (arXiv 2104.06967) gives them.

        Args:
            logits: (rows, G * columns) the model's, -inf where a candidate is masked.
            scale: Inverse temperature of the guide's softmax.
            begin: The first of this process's rows.
            end: The one after the last.

        Returns:
            (rows,) losses; zero for a row that the guide does not know.
        """
        rows = self.rows[begin:end]
        similarity = self.similarity(self.vectors[0][rows], self.documents) * scale
        is_known = self.is_known.repeat(len(self.vectors) - 1)
        is_left = torch.isfinite(logits) & is_known
        teacher = similarity.masked_fill(~is_left, -torch.inf).softmax(1)
        student = logits.float().masked_fill(~is_left, -torch.inf).log_softmax(1)
        losses = -(teacher * student.masked_fill(~is_left, 0.0)).sum(1)
        return torch.where(self.is_known[rows], losses, 0.0)


class MaskedSimilarity(nn.Module):
    """A similarity function that takes false negatives out of the softmax, by giving them -inf.

    Args:
        similarity_fct: The stock loss's own.
    """

    def __init__(self, similarity_fct: Callable[..., Tensor]) -> None:
        super().__init__()
        self.similarity_fct = similarity_fct
        self.masks: Iterator[Tensor] | None = None
        self.scores: list[Tensor] | None = None  # of the batch, where soft labels need them

    def forward(self, first: Tensor, second: Tensor, **options: Tensor) -> Tensor:
        """Return the (n, m) similarities, masked if a batch is being guided."""
        scores: Tensor = self.similarity_fct(first, second, **options)
        if self.masks is None:
            return scores
        mask = next(self.masks, None)
        if mask is None or mask.shape != scores.shape:
            raise RuntimeError(
                f"The stock loss asks for similarities of shape {tuple(scores.shape)} where the guide's are "
                f"{None if mask is None else tuple(mask.shape)}: this version of sentence-transformers orders its "
                "terms otherwise than 6.2; use one between 6.2 and 7"
            )
        scores = scores.masked_fill(mask, -torch.inf)
        if self.scores is not None:
            self.scores.append(scores)
        return scores
