"""Paired bootstrap of nDCG@10 differences, over seeds and queries (scipy)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import bootstrap, false_discovery_control

Scores = npt.NDArray[np.floating[Any]]

_RESAMPLES = 9999
_BATCH = 200


@dataclass(frozen=True)
class Difference:
    """A mean difference to the baseline.

    Args:
        mean: Over seeds and queries; of several collections the mean of their means.
        low: Lower end of the interval.
        high: Upper end.
        p_value: Two-sided, of no difference.
    """

    mean: float
    low: float
    high: float
    p_value: float


def bootstrap_difference(differences: Sequence[Scores], confidence: float = 0.95) -> Difference:
    """Estimate a mean difference and its interval, over seeds and queries.

    Seeds are drawn with replacement, and so are the queries of each collection, all independently: a drawn seed is
    the same for all collections, and a drawn query for all seeds. The interval is the percentile one. With few seeds
    it is too narrow (with n of them by a factor of up to sqrt((n - 1) / n)), and with one seed it says nothing of
    the variation between seeds.

    Args:
        differences: For each collection (seeds, queries) scores minus those of the baseline, of the same seed and
            query.
        confidence: Of the interval.

    Returns:
        The difference. Its p-value is twice the share of draws on the other side of zero.
    """

    def mean_of(*drawn: npt.NDArray[np.intp], axis: int = -1) -> npt.NDArray[np.float64]:
        seeds, *queries = drawn
        means = [
            one[seeds[..., :, None], numbers[..., None, :]].mean(axis=(-2, -1))
            for one, numbers in zip(differences, queries, strict=True)
        ]
        return np.asarray(np.mean(means, axis=0))

    sizes = [len(differences[0]), *(one.shape[1] for one in differences)]
    # Indices of seeds and of queries are drawn. scipy wants two at least, so a single one is given twice.
    samples = [np.arange(size) if size > 1 else np.zeros(2, dtype=np.intp) for size in sizes]
    result = bootstrap(
        samples,
        mean_of,
        n_resamples=_RESAMPLES,
        batch=_BATCH,
        vectorized=True,
        method="percentile",
        confidence_level=confidence,
        rng=np.random.default_rng(0),
    )
    drawn = result.bootstrap_distribution
    beyond = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    interval = result.confidence_interval
    mean = float(np.mean([one.mean() for one in differences]))
    p_value = min(1.0, 2 * (beyond + 1) / (len(drawn) + 1))
    return Difference(mean, float(interval.low), float(interval.high), p_value)


def correct_p_values(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for the number of collections that were compared, by Benjamini and Hochberg (scipy).

    Args:
        p_values: One of each collection.

    Returns:
        Corrected ones: of the differences with a value below .05, one in twenty at most is expected to be due to
        chance.
    """
    corrected: list[float] = false_discovery_control(p_values).tolist()
    return corrected
