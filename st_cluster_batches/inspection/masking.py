"""What a guided loss would mask in the planned batches: how much at each margin, and which pairs are at its border."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from st_cluster_batches.inspection.findings import MaskedShare, WorstPair
from st_cluster_batches.inspection.sample import Sample

# Absolute margins: added to the similarity of query and positive.
_MARGINS = (-0.2, -0.15, -0.1, -0.05, 0.0, 0.05, 0.1)
_SHOWN = 3  # pairs on either side of a margin
_NEVER = -3.0  # below all differences of cosines

Found = tuple[float, float, float, int, int]  # how far ahead; similarity of positive and negative; their rows


def measure_masks(sample: Sample) -> list[MaskedShare]:
    """Measure which in-batch negatives each margin would mask, under the vectors of the sample.

    Args:
        sample: Whole batches of each kind, embedded.

    Returns:
        One entry a margin, ascending: the larger, the less is masked.
    """
    ahead = {
        kind: np.concatenate([_measure_lead(sample, batch).ravel() for batch in batches])
        for kind, batches in sample.batches.items()
    }
    border = [_find_border(sample, margin) for margin in _MARGINS]
    rows = np.array([one[at] for found in border for side in found for one in side for at in (3, 4)], dtype=np.int64)
    texts = dict(zip(rows.tolist(), zip(*sample.pairs.read_texts(rows), strict=True), strict=True))

    def show(found: Sequence[Found]) -> list[WorstPair]:
        return [
            WorstPair(row, other, positive, negative, texts[row][0], texts[row][1], texts[other][1])
            for _, positive, negative, row, other in found
        ]

    return [
        MaskedShare(
            margin,
            {kind: float(np.mean(one[np.isfinite(one)] > margin)) for kind, one in ahead.items()},
            *(show(side) for side in found),
        )
        for margin, found in zip(_MARGINS, border, strict=True)
    ]


def _measure_lead(sample: Sample, batch: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
    """Return (B, B) how much nearer each passage is to a query than its own; -inf for its own.

    For a query for which nothing is masked, whatever the margin, it is less than any margin.
    """
    at = sample.find(batch)
    similarity = sample.query_vectors[at] @ sample.passage_vectors[at].T
    lead: npt.NDArray[np.float32] = similarity - np.diagonal(similarity)[:, None]
    lead[sample.pairs.is_unmasked[batch]] = _NEVER
    np.fill_diagonal(lead, -np.inf)
    return lead


def _find_border(sample: Sample, margin: float) -> tuple[list[Found], list[Found]]:
    """Find the negatives of cluster batches just above a margin and just below it; one at most of each query."""
    sides: tuple[list[Found], list[Found]] = ([], [])
    for batch in sample.batches["cluster"]:
        lead = _measure_lead(sample, batch)
        for found, distance in zip(sides, (lead - margin, margin - lead), strict=True):
            distance = np.where((distance > 0) & (lead > _NEVER), distance, np.inf)
            nearest = distance.argmin(axis=1)
            found.extend(_describe(sample, batch, lead, distance.min(axis=1), nearest))
    best = [sorted(found, key=lambda one: (abs(one[0] - margin), one[3]))[:_SHOWN] for found in sides]
    return best[0], best[1]


def _describe(
    sample: Sample,
    batch: npt.NDArray[np.integer],
    lead: npt.NDArray[np.float32],
    distance: npt.NDArray[np.float32],
    nearest: npt.NDArray[np.integer],
) -> Iterator[Found]:
    at = sample.find(batch)
    for row in np.argsort(distance, kind="stable")[:_SHOWN].tolist():
        if np.isfinite(distance[row]):
            positive = float(sample.query_vectors[at[row]] @ sample.passage_vectors[at[row]])
            ahead = float(lead[row, nearest[row]])
            yield ahead, positive, positive + ahead, int(batch[row]), int(batch[nearest[row]])
