"""What a refresh of the clusters has changed: how many rows moved, and how hard the planned batches are."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import numpy.typing as npt

from st_cluster_batches.batches.hardness import measure_batches
from st_cluster_batches.clusters.vectors import PairVectors
from st_cluster_batches.data.pairs import Side

logger = logging.getLogger(__name__)

_COMPARED_ROWS = 100_000  # whose clusters before and after are compared

_WHEN = {"before": "before", "after": "now"}

Numbers = npt.NDArray[np.integer[Any]]


def measure_move(before: Numbers, after: Numbers) -> float:
    """Return the share of the rows that left most of their cluster."""
    rows = np.random.default_rng(0).permutation(len(before))[:_COMPARED_ROWS]
    old, new = (np.unique(one[rows], return_inverse=True)[1] for one in (before, after))
    pairs, counts = np.unique(old.astype(np.int64) * (new.max() + 1) + new, return_counts=True)
    stayed = np.zeros(old.max() + 1, dtype=np.int64)
    np.maximum.at(stayed, pairs // (new.max() + 1), counts)
    return float(1 - stayed.sum() / len(rows))


def measure_planned(vectors: PairVectors, batches: npt.NDArray[np.int64]) -> dict[str, float]:
    """Embed some batches and measure their negatives."""
    rows = np.unique(batches)
    table = vectors.pairs.dataset.with_format("arrow", columns=vectors.pairs.text_columns[:2])[rows]
    sides: tuple[Side, Side] = ("query", "passage")
    columns = [*vectors.pairs.text_columns[:2], vectors.pairs.text_columns[0]][:2]
    embedded = [
        vectors.encoder.encode(side, table[column].to_pylist()) for side, column in zip(sides, columns, strict=True)
    ]
    found = measure_batches(embedded[0], embedded[1], np.searchsorted(rows, batches))
    return {"negative": found.negative, "hardest": found.hardest, "positive": found.positive}


def tell_of_refresh(record: dict[str, Any], name: str | None) -> None:
    """Log what a refresh has cost and changed, of the dataset of that name where there are several."""
    moved = f", {record['moved']:.0%} of the rows moved" if "moved" in record else ""
    measured = {name: record.get(f"hardness_{when}") for when, name in _WHEN.items()}
    hardness = [f"{one['negative']:.3f} {name}" for name, one in measured.items() if one is not None]
    similar = f"; similarity of a query and the negatives of its batch: {', '.join(hardness)}" if hardness else ""
    text = "Epoch %d%s has %d clusters of the model as it is now, made in %.1f s%s%s"
    which = "" if name is None else f" of {name!r}"
    logger.info(text, record["epoch"], which, record["clusters"], record["seconds"], moved, similar)
