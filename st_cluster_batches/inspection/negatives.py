"""In-batch negatives that may be positives: those nearer than the positive, and near-duplicates of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from st_cluster_batches.inspection.findings import NearDuplicatePair, WorstPair
from st_cluster_batches.inspection.sample import Sample

_NEAR_DUPLICATE = 0.95  # similarity of passages from which on they count as near-duplicates
_WORST = 10


def find_worst_pairs(sample: Sample) -> list[WorstPair]:
    """Find the negatives of the sampled cluster batches that exceed the positive most; one at most for each query."""
    found: list[tuple[float, float, float, int, int]] = []
    for batch in sample.batches["cluster"]:
        at = sample.find(batch)
        similarity = sample.query_vectors[at] @ sample.passage_vectors[at].T
        own = np.diagonal(similarity).copy()
        np.fill_diagonal(similarity, -np.inf)
        nearest = similarity.argmax(axis=1)
        ahead = similarity[np.arange(len(batch)), nearest] - own
        for row in np.argsort(-ahead, kind="stable")[:_WORST].tolist():
            if ahead[row] > 0:
                other = int(nearest[row])
                values = (float(ahead[row]), float(own[row]), float(similarity[row, other]))
                found.append((*values, int(batch[row]), int(batch[other])))
    found = sorted(found, key=lambda one: (-one[0], one[3]))[:_WORST]
    if not found:
        return []
    queries, passages = sample.pairs.read_texts(np.array([one[3] for one in found]))
    _, others = sample.pairs.read_texts(np.array([one[4] for one in found]))
    return [
        WorstPair(row, other, positive, negative, *texts)
        for (_, positive, negative, row, other), texts in zip(
            found, zip(queries, passages, others, strict=True), strict=True
        )
    ]


def find_near_duplicates(sample: Sample) -> dict[str, Any]:
    """Find rows of the sampled cluster batches whose passages are near-duplicates.

    Returns:
        `near_duplicates`, the ten nearest pairs, and `near_duplicate_rate`, the share of the rows that have one.
    """
    found: list[tuple[float, int, int]] = []
    n_rows = n_found = 0
    for batch in sample.batches["cluster"]:
        vectors = sample.passage_vectors[sample.find(batch)]
        similarity = vectors @ vectors.T
        np.fill_diagonal(similarity, -1)
        n_rows, n_found = n_rows + len(batch), n_found + int((similarity.max(axis=1) > _NEAR_DUPLICATE).sum())
        for row, other in np.argwhere(np.triu(similarity) > _NEAR_DUPLICATE).tolist():
            found.append((float(similarity[row, other]), int(batch[row]), int(batch[other])))
    nearest = sorted(found, key=lambda one: (-one[0], one[1]))[:_WORST]
    pairs = []
    for similarity_of_two, row, other in nearest:
        passages = sample.pairs.read_texts(np.array([row, other]))[1]
        pairs.append(NearDuplicatePair(row, other, similarity_of_two, passages[0][:80], passages[1][:80]))
    return {"near_duplicates": pairs, "near_duplicate_rate": n_found / max(n_rows, 1)}
