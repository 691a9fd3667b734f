"""Rows that would be false negatives of one another: equal texts, and passages that say nearly the same."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import numpy.typing as npt

from st_cluster_batches.clusters.near_duplicates import find_near_duplicates
from st_cluster_batches.clusters.vectors import PairVectors
from st_cluster_batches.data.duplicates import group_false_negatives
from st_cluster_batches.data.pairs import Pairs

logger = logging.getLogger(__name__)

_BLOCK = 1 << 20
# A group that would be in every global batch of so many rows, and is no handful, is warned of.
_BATCH, _FEW_ROWS = 512, 10


def group_rows(
    vectors: PairVectors, clusters: npt.NDArray[np.int32], threshold: float | None
) -> tuple[npt.NDArray[np.int32], dict[str, Any]]:
    """Return the (n,) false-negative groups of all rows, and how many there are of every size."""
    pairs = vectors.pairs
    near = None if threshold is None else find_near_duplicates(vectors, clusters, threshold)
    links = None if near is None else near.links
    groups = group_false_negatives(pairs.dataset, pairs.text_columns, vectors.cache.show_progress_bar, links)
    sizes = np.zeros(int(groups.max()) + 1, dtype=np.int32)
    for low in range(0, len(groups), _BLOCK):
        np.add.at(sizes, groups[low : low + _BLOCK], 1)
    values, counts = np.unique(sizes, return_counts=True)
    report: dict[str, Any] = {
        "groups_by_size": {str(size): int(count) for size, count in zip(values, counts, strict=True)}
    }
    if near is not None:
        largest = int(sizes.argmax())
        report |= {
            "near_duplicate_threshold": threshold,
            "near_duplicate_pairs": near.n_pairs,
            "largest_group": {"rows": int(sizes[largest]), "first_row": int((groups == largest).argmax())},
        }
    return groups, report


def warn_of_large_groups(parts: list[Pairs], reports: list[dict[str, Any]]) -> None:
    """Warn of groups that have more rows than there will be batches: links chain, so a low threshold makes such."""
    for part, report in zip(parts, reports, strict=True):
        n_rows, largest = len(part), report.get("largest_group", {"rows": 1})
        if largest["rows"] > max(n_rows / _BATCH, _FEW_ROWS):
            passage = part.dataset.with_format(None)[largest["first_row"]][part.text_columns[1]]
            logger.warning(
                "The largest false-negative group holds %d of %d rows, such as %r. With global batches of more than "
                "%d rows every batch has one of them, hardly any is of one cluster, and some rows are dropped. Links "
                "chain: a false_negative_threshold above %s makes smaller groups",
                largest["rows"],
                n_rows,
                passage[:100],
                n_rows // largest["rows"],
                report["near_duplicate_threshold"],
            )
