"""The cheapest model that can rank batches: static token embeddings, of which a step touches only the tokens it reads.

A run of 12,000 pairs takes seconds on one core, where the stock trainer takes a minute: texts are tokenised once,
gradients are sparse, and so is Adam (torch). The loss is that of MultipleNegativesRankingLoss, with a mask if wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import cross_entropy, embedding_bag, normalize

from st_cluster_batches.clusters.strength import score_rankings
from st_cluster_batches.plans.batch_plan import BatchPlan
from st_cluster_batches.plans.sorting import Integers, expand

SCALE = 20.0  # of the in-batch softmax, as in sentence-transformers

_WARMUP = 0.1  # share of the steps; the rate falls to zero in the rest of them, as the stock trainer's does
_TOKENS_AT_ONCE = 1 << 18


@dataclass(frozen=True)
class Bags:
    """Tokenised texts.

    Args:
        tokens: The tokens of all texts, one text after the other.
        starts: (n + 1,) where the tokens of each text start.
    """

    tokens: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]

    @classmethod
    def tokenize(cls, tokenizer: Any, texts: Sequence[str], max_tokens: int) -> Bags:
        """Tokenise texts with a tokenizer of the `tokenizers` library, up to so many tokens of each."""
        ids = [one.ids[:max_tokens] for one in tokenizer.encode_batch(list(texts), add_special_tokens=False)]
        starts = np.concatenate([[0], np.cumsum([len(one) for one in ids], dtype=np.int64)])
        return cls(np.asarray([token for one in ids for token in one], dtype=np.int32), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def take(self, rows: Integers) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the tokens of some texts, and where each of them starts."""
        lengths = np.diff(self.starts)[rows]
        _, at = expand(self.starts[rows], lengths)
        return torch.from_numpy(self.tokens[at].astype(np.int64)), torch.from_numpy(np.cumsum(lengths) - lengths)


def as_bags(texts: Bags | list[str]) -> Bags:
    """Return texts that have been tokenised."""
    if isinstance(texts, Bags):
        return texts
    raise TypeError("Static models train on tokenised texts: Bags.tokenize(...)")


@dataclass(frozen=True)
class Judged:
    """Queries with the documents that answer them.

    Args:
        queries: The queries; tokenised for a static model.
        rows: (a,) the query of each answer, ascending.
        answers: (a,) the document that it is, as a position among all documents.
    """

    queries: Bags | list[str]
    rows: npt.NDArray[np.int64]
    answers: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Guide:
    """Vectors of all pairs, by which false negatives are told.

    Args:
        queries: (n, d) unit rows.
        passages: (n, d) unit rows.
        margin: How much more similar than the positive a negative must be to count as false.
    """

    queries: npt.NDArray[np.float16]
    passages: npt.NDArray[np.float16]
    margin: float = 0.0

    def find_false(self, rows: Integers) -> torch.Tensor:
        """Return the (b, b) mask of the false negatives among the rows of a batch."""
        queries, passages = (torch.from_numpy(one[rows].astype(np.float32)) for one in (self.queries, self.passages))
        return mask_false(queries, passages, self.margin)


def mask_false(queries: torch.Tensor, passages: torch.Tensor, margin: float) -> torch.Tensor:
    """Return where passage j is more similar to query i than passage i is, by more than a margin."""
    similarity = queries @ passages.T
    is_false = similarity > similarity.diagonal()[:, None] + margin
    return is_false.fill_diagonal_(False)


def train_embeddings(
    weights: torch.Tensor,
    pairs: tuple[Bags, Bags],
    plan: BatchPlan,
    rate: float,
    *,
    n_epochs: int = 1,
    guide: Guide | None = None,
) -> None:
    """Train token embeddings on the batches of a plan, in place.

    Args:
        weights: (tokens, d) embeddings.
        pairs: Queries and passages, row by row.
        plan: Which rows meet.
        rate: Learning rate of Adam, at its highest.
        n_epochs: Times that all rows are seen.
        guide: What masks false negatives; None for no mask.
    """
    weights.requires_grad_(True)
    optimizer = torch.optim.SparseAdam([weights], lr=rate)
    n_steps = n_epochs * len(plan)
    n_warmup = max(1, round(_WARMUP * n_steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / n_warmup, (n_steps - step) / max(1, n_steps - n_warmup))
    )
    for epoch in range(n_epochs):
        for batch in plan.plan_epoch(epoch).batches(plan.batch_size * plan.world_size):
            rows = np.asarray(batch)
            queries, passages = (embed(weights, one, rows, is_sparse=True) for one in pairs)
            loss = compute_loss(queries, passages, None if guide is None else guide.find_false(rows))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()  # type: ignore[no-untyped-call]
            schedule.step()
    weights.requires_grad_(False)


def compute_loss(queries: torch.Tensor, passages: torch.Tensor, is_false: torch.Tensor | None) -> torch.Tensor:
    """Return the in-batch softmax loss of (b, d) unit queries and passages, without the negatives that are masked."""
    scores = SCALE * queries @ passages.T
    if is_false is not None:
        scores = scores.masked_fill(is_false, -torch.inf)
    return cross_entropy(scores, torch.arange(len(scores)))


def embed(weights: torch.Tensor, bags: Bags, rows: Integers, is_sparse: bool = False) -> torch.Tensor:
    """Return the unit means of the tokens of some texts."""
    tokens, offsets = bags.take(rows)
    return normalize(embedding_bag(tokens, weights, offsets, mode="mean", sparse=is_sparse))


def embed_all(weights: torch.Tensor, bags: Bags) -> torch.Tensor:
    """Return the unit rows of all texts, part by part."""
    parts = np.searchsorted(bags.starts, np.arange(0, bags.starts[-1] + 1, _TOKENS_AT_ONCE), side="left")
    edges = np.unique(np.concatenate([[0], parts, [len(bags)]]).clip(max=len(bags)))
    with torch.no_grad():
        return torch.cat([embed(weights, bags, np.arange(low, high)) for low, high in pairwise(edges.tolist())])


def rank_documents(queries: torch.Tensor, documents: torch.Tensor, judged: Judged) -> npt.NDArray[np.float64]:
    """Return nDCG@10 of every query, given the unit rows of queries and documents."""
    is_relevant = np.zeros((len(queries), len(documents)), dtype=bool)
    is_relevant[judged.rows, judged.answers] = True
    return score_rankings((queries @ documents.T).numpy(), is_relevant)
