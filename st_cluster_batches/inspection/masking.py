"""What a guided loss would mask in the planned batches: how much at each margin, and which pairs are at its border."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from st_cluster_batches.inspection.findings import MaskedShare, WorstPair
from st_cluster_batches.inspection.sample import Ahead, Sample

# Absolute margins: added to the similarity of query and positive.
_MARGINS = (-0.2, -0.15, -0.1, -0.05, 0.0, 0.05, 0.1)
_SHOWN = 3  # pairs on either side of a margin

Rows = npt.NDArray[np.integer]


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

    def show(found: Sequence[Ahead]) -> list[WorstPair]:
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
        for _, lead in sample.measure_leads(batch, counts_unmasked=False):
            counts += [np.count_nonzero(lead > margin) for margin in _MARGINS]
    return counts / sum(len(batch) * (len(batch) - 1) for batch in batches)


def _find_borders(sample: Sample) -> list[list[list[Ahead]]]:
    """Find the negatives of cluster batches just above each margin and just below it; one at most of each query."""
    borders: list[list[list[Ahead]]] = [[[], []] for _ in _MARGINS]
    for batch in sample.batches["cluster"]:
        for rows, lead in sample.measure_leads(batch, counts_unmasked=False):
            for margin, sides in zip(_MARGINS, borders, strict=True):
                for found, distance in zip(sides, (lead - margin, margin - lead), strict=True):
                    distance[distance <= 0] = np.inf
                    found.extend(sample.choose_nearest(rows, batch, lead, distance, _SHOWN))
    for margin, sides in zip(_MARGINS, borders, strict=True):
        for found in sides:
            found.sort(key=lambda one: (abs(one[0] - margin), one[3]))  # called at once
            del found[_SHOWN:]
    return borders
