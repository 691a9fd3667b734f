"""The losses that a refresh gives new vectors, and the row keys by which they find them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from st_cluster_batches.batches.callers import list_losses
from st_cluster_batches.clusters.guide import GuideVectors
from st_cluster_batches.plans.options import StartError
from st_cluster_batches.row_keys import ROW_KEY, has_row_keys


def find_guided_losses(loss: Any) -> list[Any]:
    """Return the guided losses of a trainer, also those within others or by name of dataset.

    Raises:
        ValueError: If there is none.
    """
    guided = [part for part in list_losses(loss) if isinstance(getattr(part, "guide", None), GuideVectors)]
    if not guided:
        raise StartError(
            f"refresh=Refresh(guide=True), but the loss {type(loss).__name__} has no guide; take "
            "GuidedMultipleNegativesRankingLoss, or guide=False"
        )
    return guided


def read_row_keys(dataset: Any, name: str | None = None) -> npt.NDArray[np.int64]:
    """Return the (n,) row keys of a dataset.

    Args:
        dataset: The rows.
        name: That of the dataset, if there are several.

    Raises:
        ValueError: If it has none.
    """
    if not has_row_keys(dataset):
        raise StartError(
            f"refresh=Refresh(guide=True) needs row keys, which {f'the dataset {name!r}' if name else 'the dataset'} "
            "does not have: attach_clusters(dataset, encoder, guide=True)"
        )
    keys: npt.NDArray[np.int64] = dataset.with_format("arrow", columns=[ROW_KEY])[:][ROW_KEY].to_numpy()
    return keys
