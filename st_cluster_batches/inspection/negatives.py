"""In-batch negatives that may be positives: those nearer than the positive, and near-duplicates of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from st_cluster_batches.data.duplicates import hash_folded
from st_cluster_batches.inspection.findings import NearDuplicatePair, WorstPair
from st_cluster_batches.inspection.sample import Ahead, Sample, split_batch

NEAR_DUPLICATE = 0.95  # similarity of passages from which on they count as near-duplicates
_WORST = 10


def find_worst_pairs(sample: Sample) -> list[WorstPair]:
    """Find the negatives of the sampled cluster batches that exceed the positive most; one at most for each query."""
    found: list[Ahead] = []
    for batch in sample.batches["cluster"]:
        for rows, lead in sample.measure_leads(batch):
            distance = np.where(lead > 0, -lead, np.inf)
            found.extend(sample.choose_nearest(rows, batch, lead, distance, _WORST))
    found = sorted(found, key=lambda one: (-one[0], one[3]))[:_WORST]
    if not found:
        return []
    queries, positives = sample.pairs.read_texts(np.array([one[3] for one in found]))
    _, others = sample.pairs.read_texts(np.array([one[4] for one in found]))
    return [
        WorstPair(row, other, positive, negative, *texts)
        for (_, positive, negative, row, other), texts in zip(
            found, zip(queries, positives, others, strict=True), strict=True
        )
    ]


def find_near_pairs(sample: Sample) -> dict[str, Any]:
    """Find rows of the sampled cluster batches whose passages are near-duplicates; equal ones share a key already.

    Returns:
        `near_duplicates`, the ten nearest pairs, and `near_duplicate_rate`, the share of the rows that have one.
    """
    found: list[tuple[float, int, int]] = []
    n_rows = n_found = 0
    for batch in sample.batches["cluster"]:
        vectors = sample.passage_vectors[sample.find(batch)]
        passages = hash_folded(sample.pairs.read_texts(batch)[1])
        for part in split_batch(len(batch)):
            similarity = vectors[part] @ vectors.T
            similarity[passages[part, None] == passages] = -1
            n_rows, n_found = n_rows + len(similarity), n_found + int((similarity.max(axis=1) > NEAR_DUPLICATE).sum())
            # A family of form letters has millions of pairs: the best alone become Python objects.
            at, others = np.nonzero(np.triu(similarity, part.start + 1) > NEAR_DUPLICATE)
            values = similarity[at, others]
            best = np.argsort(-values, kind="stable")[:_WORST]
            numbers = batch[part.start + at[best]].tolist(), batch[others[best]].tolist()
            found.extend(zip(values[best].tolist(), *numbers, strict=True))
    nearest = sorted(found, key=lambda one: (-one[0], one[1]))[:_WORST]
    pairs = []
    for similarity_of_two, row, other in nearest:
        texts = sample.pairs.read_texts(np.array([row, other]))[1]
        pairs.append(NearDuplicatePair(row, other, similarity_of_two, texts[0][:80], texts[1][:80]))
    return {"near_duplicates": pairs, "near_duplicate_rate": n_found / max(n_rows, 1)}
