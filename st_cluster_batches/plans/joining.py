"""Batches of several strata: chunks of one stratum each, planned like rows of their source, and joined.

A coarser plan takes chunks for rows and sources for strata, so all that a plan promises holds for chunks too: batches
of one source while they last, and false negatives apart where that can be had.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from st_cluster_batches.plans.filling import MIXED, PURE
from st_cluster_batches.plans.keys import Keys
from st_cluster_batches.plans.labels import Labels
from st_cluster_batches.plans.sorting import Rows


def label_chunks(labels: Labels, chunks: Rows, kinds: npt.NDArray[np.uint8]) -> Labels:
    """Label chunks of rows by their source, with the keys of all their rows.

    Args:
        labels: The labels of the rows.
        chunks: (c, k) the rows of each chunk.
        kinds: (c,) of each chunk whether it is of one stratum, of neighbours in one source, or of several sources;
            those of several make a source of their own.
    """
    sources = labels.source_of_stratum[labels.strata[chunks[:, 0]]].astype(np.int64)
    sources[kinds == MIXED] = labels.source_of_stratum[-1] + 1
    distinct, strata = np.unique(sources, return_inverse=True)
    keys = None if labels.keys is None else _join_keys(labels.keys, chunks, len(labels))
    return Labels(strata, np.arange(len(distinct)), keys)


def _join_keys(keys: Keys, chunks: Rows, n_rows: int) -> Keys | None:
    """Give each chunk the keys of its rows; as an explicit negative only what none of them holds otherwise."""
    chunk_of_row = np.full(n_rows, -1)
    chunk_of_row[chunks.ravel()] = np.repeat(np.arange(len(chunks)), chunks.shape[1])
    is_within = chunk_of_row[keys.rows] >= 0
    if not is_within.any():
        return None
    n_keys = int(keys.keys.max()) + 1
    cells, cell_of = np.unique(chunk_of_row[keys.rows[is_within]] * n_keys + keys.keys[is_within], return_inverse=True)
    is_negative = None
    if keys.is_negative is not None:
        is_negative = np.ones(len(cells), dtype=bool)
        is_negative[cell_of[~keys.is_negative[is_within]]] = False
    return Keys(cells // n_keys, (cells % n_keys).astype(np.uint32), is_negative)


def name_kinds(kinds: npt.NDArray[np.uint8], chunk_kinds: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Name joined batches by the least pure of their chunks, and mixed where their chunks are of several sources.

    Args:
        kinds: (b,) the kinds of batches whose strata are sources.
        chunk_kinds: (b, c) the kinds of their chunks.
    """
    return np.where(kinds == PURE, chunk_kinds.max(axis=1), MIXED).astype(np.uint8)
