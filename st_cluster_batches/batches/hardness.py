"""Measure how hard the negatives of a batch are, before training is spent on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.floating[Any]]

# A negative this near, as a share of the positive's similarity, is a doubtful one; as in NV-Retriever's mining.
NEAR_POSITIVE = 0.95


@dataclass(frozen=True)
class BatchHardness:
    """In-batch negatives as an encoder sees them; means over the queries of the batches that were looked at.

    Args:
        negative: Cosine similarity of a query and the other passages of its batch.
        hardest: Cosine similarity of a query and the nearest of them.
        positive: Cosine similarity of a query and its own passage.
        false_negative_rate: Share of the negatives that are nearer to the query than its own passage. The encoder
            takes them for better answers: many of them are.
        near_positive_rate: Share of the negatives whose similarity is above 0.95 times the positive's.
        batches: How many batches were looked at.
    """

    negative: float
    hardest: float
    positive: float
    false_negative_rate: float
    near_positive_rate: float
    batches: int


def measure_batches(
    query_vectors: Vectors, passage_vectors: Vectors, batches: Iterable[Sequence[int] | npt.NDArray[np.integer[Any]]]
) -> BatchHardness:
    """Measure the in-batch negatives of some batches.

    Args:
        query_vectors: (n, d) unit rows, the queries.
        passage_vectors: (n, d) unit rows; passage i is the positive of query i.
        batches: Row numbers of each batch. Batches of one row have no negatives and are left out.

    Returns:
        The means over all queries.

    Raises:
        ValueError: If no batch has two rows.
    """
    totals = np.zeros(5)
    n_batches = n_queries = 0
    for batch in batches:
        rows = np.asarray(batch)
        if len(rows) < 2:
            continue
        queries = np.asarray(query_vectors[rows], dtype=np.float32)
        similarity = queries @ np.asarray(passage_vectors[rows], dtype=np.float32).T
        own = np.diagonal(similarity).copy()
        np.fill_diagonal(similarity, -np.inf)
        n_nearer = (similarity > own[:, None]).sum()
        n_near = (similarity > NEAR_POSITIVE * own[:, None]).sum()
        hardest = similarity.max(axis=1).sum()
        np.fill_diagonal(similarity, 0)
        per_query = len(rows) - 1
        totals += [similarity.sum() / per_query, hardest, own.sum(), n_nearer / per_query, n_near / per_query]
        n_batches, n_queries = n_batches + 1, n_queries + len(rows)
    if n_batches == 0:
        raise ValueError("No batch with two rows or more was given: there are no in-batch negatives to measure")
    negative, hardest, positive, nearer, near = (totals / n_queries).tolist()
    return BatchHardness(negative, hardest, positive, nearer, near, n_batches)
