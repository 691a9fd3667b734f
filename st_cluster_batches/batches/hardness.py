"""Measure how hard the negatives of a batch are, before training is spent on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from st_cluster_batches.batches.callers import find_inner_sampler
from st_cluster_batches.clusters.encoder import Encoder
from st_cluster_batches.clusters.vectors import take_by_key
from st_cluster_batches.data.pairs import Side
from st_cluster_batches.data.texts import hash_rows
from st_cluster_batches.row_keys import NO_TEXT_COLUMNS
from st_cluster_batches.storage.shared_cache import SharedCache

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

Vectors = npt.NDArray[np.floating[Any]]

# A negative this near, as a share of the positive's similarity, is a doubtful one; as in NV-Retriever's mining.
NEAR_POSITIVE = 0.95

_MEASURED_BATCHES = 16


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


def measure_loader(loader: DataLoader[Any], encoder: Encoder, cache: SharedCache) -> BatchHardness:
    """Measure the first batches that a trainer will see.

    Args:
        loader: The training data with their sampler, prepared by accelerate or not.
        encoder: The model whose similarities are taken.
        cache: Where vectors of these rows may lie: only those that do not are embedded.

    Returns:
        The means over all queries of these batches.
    """
    batches = list(islice(find_inner_sampler(loader), _MEASURED_BATCHES))
    rows = [loader.dataset[int(row)] for batch in batches for row in batch]
    # The collator takes columns by position: query, positive, negatives; datasets of a dict may differ in them.
    rows_by_columns: dict[tuple[str, ...], list[int]] = {}
    for at, row in enumerate(rows):
        columns = tuple(name for name, one in row.items() if isinstance(one, str) and name not in NO_TEXT_COLUMNS)
        rows_by_columns.setdefault(columns, []).append(at)
    found: dict[Side, list[Vectors]] = {"query": [], "passage": []}
    for columns, own in rows_by_columns.items():
        table = pa.table({name: [rows[at][name] for at in own] for name in columns})
        texts: dict[Side, list[str]] = {side: table[columns[at]].to_pylist() for at, side in enumerate(found)}
        vectors = take_by_key(encoder, cache, hash_rows(table, columns), texts, "Embedding some batches")
        for side, one in found.items():
            one.append(vectors[side])
    order = np.argsort(np.concatenate([*rows_by_columns.values()]))
    queries, passages = (np.concatenate(one)[order] for one in found.values())
    bounds = np.cumsum([0, *map(len, batches)])
    return measure_batches(queries, passages, [np.arange(low, high) for low, high in pairwise(bounds)])
