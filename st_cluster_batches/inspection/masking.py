"""What a guided loss would mask in the planned batches: how much at each margin, and which pairs are at its border."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from st_cluster_batches.inspection.findings import MaskedShare, WorstPair
from st_cluster_batches.inspection.sample import Sample, split_batch

# Absolute margins: added to the similarity of query and positive.
_MARGINS = (-0.2, -0.15, -0.1, -0.05, 0.0, 0.05, 0.1)
_SHOWN = 3  # pairs on either side of a margin
_NEVER = -3.0  # below all differences of cosines

Rows = npt.NDArray[np.integer]
Found = tuple[float, float, float, int, int]  # how far ahead; similarity of positive and negative; their rows


def measure_masks(sample: Sample) -> list[MaskedShare]:
    """Measure which in-batch negatives each margin would mask, under the vectors of the sample.

    Args:
        sample: Whole batches of each kind, embedded.

    Returns:
        One entry a margin, ascending: the larger, the less is masked.
    """
    shares = {kind: _measure_shares(sample, batches) for kind, batches in sample.batches.items()}
    borders = _find_borders(sample)
    rows = np.array([one[at] for sides in borders for side in sides for one in side for at in (3, 4)], dtype=np.int64)
    texts = dict(zip(rows.tolist(), zip(*sample.pairs.read_texts(rows), strict=True), strict=True))

    def show(found: Sequence[Found]) -> list[WorstPair]:
        return [
            WorstPair(row, other, positive, negative, texts[row][0], texts[row][1], texts[other][1])
            for _, positive, negative, row, other in found
        ]

    return [
        MaskedShare(
            margin,
            {kind: float(one[at]) for kind, one in shares.items()},
            *(show(side) for side in sides),
        )
        for at, (margin, sides) in enumerate(zip(_MARGINS, borders, strict=True))
    ]


def _measure_shares(sample: Sample, batches: Sequence[Rows]) -> npt.NDArray[np.float64]:
    """Return for each margin the share of the negatives of some batches that are further ahead."""
    counts = np.zeros(len(_MARGINS))
    for batch in batches:
        for _, lead in _measure_leads(sample, batch):
            counts += [np.count_nonzero(lead > margin) for margin in _MARGINS]
    return counts / sum(len(batch) * (len(batch) - 1) for batch in batches)


def _measure_leads(sample: Sample, batch: Rows) -> Iterator[tuple[Rows, npt.NDArray[np.float32]]]:
    """Yield, part by part of a batch, its rows, and how much nearer each passage is to them than their own.

    It is -inf for their own, and less than any margin for a query for which nothing is masked, whatever the margin.
    """
    at = sample.find(batch)
    passages = sample.passage_vectors[at]
    for part in split_batch(len(batch)):
        lead: npt.NDArray[np.float32] = sample.query_vectors[at[part]] @ passages.T
        rows = np.arange(len(lead))
        lead -= lead[rows, rows + part.start][:, None]
        lead[sample.pairs.is_unmasked[batch[part]]] = _NEVER
        lead[rows, rows + part.start] = -np.inf
        yield batch[part], lead


def _find_borders(sample: Sample) -> list[list[list[Found]]]:
    """Find the negatives of cluster batches just above each margin and just below it; one at most of each query."""
    borders: list[list[list[Found]]] = [[[], []] for _ in _MARGINS]
    for batch in sample.batches["cluster"]:
        for rows, lead in _measure_leads(sample, batch):
            for margin, sides in zip(_MARGINS, borders, strict=True):
                for found, distance in zip(sides, (lead - margin, margin - lead), strict=True):
                    distance[(distance <= 0) | (lead <= _NEVER)] = np.inf
                    found.extend(_describe(sample, rows, batch, lead, distance))
    for margin, sides in zip(_MARGINS, borders, strict=True):
        for found in sides:
            found.sort(key=lambda one: (abs(one[0] - margin), one[3]))  # called at once
            del found[_SHOWN:]
    return borders


def _describe(
    sample: Sample, rows: Rows, batch: Rows, lead: npt.NDArray[np.float32], distance: npt.NDArray[np.float32]
) -> Iterator[Found]:
    nearest, smallest = distance.argmin(axis=1), distance.min(axis=1)
    for at in np.argsort(smallest, kind="stable")[:_SHOWN].tolist():
        if np.isfinite(smallest[at]):
            place = sample.find(rows[at])
            positive = float(sample.query_vectors[place] @ sample.passage_vectors[place])
            ahead = float(lead[at, nearest[at]])
            yield ahead, positive, positive + ahead, int(rows[at]), int(batch[nearest[at]])
