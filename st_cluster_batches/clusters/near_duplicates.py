"""Find passages that say nearly the same: negatives of one another only by name."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm.auto import tqdm

from st_cluster_batches.clusters.kmeans import NearestCentroid, fit_centroids, require_faiss, sample_positions
from st_cluster_batches.clusters.vectors import PairVectors
from st_cluster_batches.data.duplicates import Links
from st_cluster_batches.storage.cache import hash_values, write_atomically

if TYPE_CHECKING:
    from st_cluster_batches.data.pairs import Pairs

logger = logging.getLogger(__name__)

# Larger clusters are cut into cells of about half this size, so that cost grows with the rows and not their square.
# Near-duplicates that a cut parts are missed: tests/bench/bench_attach.py near counts them.
_CELL_ROWS = 8192
_QUERY_ROWS = 256  # at once: bounds the pairs in memory where a cell is full of duplicates
_N_SAMPLES = 10

Integers = npt.NDArray[np.integer[Any]]


@dataclass
class NearDuplicates:
    """Pairs of passages above a similarity, as links between rows and as samples to read.

    Args:
        threshold: The similarity.
        starts: Rows, cell by cell.
        ends: The rows that they are linked to.
        n_pairs: How many pairs of rows are that similar.
        samples: The least similar pairs of different texts: where the threshold is wrong, it shows here first.
    """

    threshold: float
    starts: list[Integers] = field(default_factory=list)
    ends: list[Integers] = field(default_factory=list)
    n_pairs: int = 0
    samples: list[tuple[float, str, str]] = field(default_factory=list)

    @property
    def links(self) -> Links:
        """The links as two arrays."""
        none = np.zeros(0, dtype=np.int64)
        return np.concatenate([none, *self.starts]), np.concatenate([none, *self.ends])


def find_near_duplicates(vectors: PairVectors, clusters: npt.NDArray[np.int32], threshold: float) -> NearDuplicates:
    """Search each cluster for passages that are more similar than a threshold (FAISS range search).

    Ten sample pairs are logged, and written to the cache, so that a person can judge the threshold.

    Args:
        vectors: The pairs, whose passages have been embedded.
        clusters: (n,) the cluster of every row.
        threshold: Cosine similarity.

    Returns:
        What was found.
    """
    found = NearDuplicates(threshold)
    order = np.argsort(clusters, kind="stable").astype(np.int32)
    ends = np.cumsum(np.bincount(clusters))
    cells = zip([0, *ends[:-1]], ends, strict=True)
    for start, end in tqdm(
        cells, "Near-duplicates", len(ends), unit="cluster", disable=not vectors.cache.show_progress_bar
    ):
        for rows in _cut(order[start:end], vectors):
            _search(rows, vectors, found)
    samples = [{"similarity": round(one, 4), "passages": texts} for one, *texts in found.samples]
    path = (
        vectors.cache.folder
        / f"near-duplicates-{hash_values(vectors.pairs.data_hash, vectors.name('passage'), threshold)}.json"
    )
    write_atomically(path, json.dumps(samples, indent=2, ensure_ascii=False) + "\n")
    logger.info("%d pairs of passages are nearly equal; samples, least similar first: %s", found.n_pairs, path)
    for similarity, one, other in found.samples:
        logger.info("%.4f %r | %r", similarity, one[:100], other[:100])
    return found


def _cut(rows: npt.NDArray[np.int32], vectors: PairVectors) -> list[npt.NDArray[np.int32]]:
    """Cut the rows of a large cluster into cells of similar passages."""
    if len(rows) <= _CELL_ROWS:
        return [rows] if len(rows) > 1 else []
    n_cells = -(-2 * len(rows) // _CELL_ROWS)
    sample = vectors.take("passage", rows[sample_positions(len(rows), n_cells, seed=0)])
    nearest = NearestCentroid(fit_centroids(sample, n_cells, seed=0, niter=5))
    cell_of_row = np.concatenate(
        [
            nearest.find(vectors.take("passage", rows[low : low + _CELL_ROWS]))[0]
            for low in range(0, len(rows), _CELL_ROWS)
        ]
    )
    order = np.argsort(cell_of_row, kind="stable")
    return [rows[at] for at in np.split(order, np.cumsum(np.bincount(cell_of_row))[:-1]) if len(at) > 1]


def _search(rows: npt.NDArray[np.int32], vectors: PairVectors, found: NearDuplicates) -> None:
    """Link the near-duplicates of one cell."""
    passages = vectors.take("passage", rows)
    index = require_faiss().IndexFlatIP(passages.shape[1])
    index.add(passages)
    starts, ends = [], []
    for low in range(0, len(rows), _QUERY_ROWS):
        limits, similarity, other = index.range_search(passages[low : low + _QUERY_ROWS], found.threshold)
        one = low + np.repeat(np.arange(len(limits) - 1), np.diff(limits).astype(np.int64))
        is_new = other > one
        one, other, similarity = one[is_new], other[is_new], similarity[is_new]
        found.n_pairs += len(one)
        _keep_samples(found, vectors.pairs, rows, (one, other), similarity)
        # A tree of links is enough: of a block full of duplicates, all pairs would not fit.
        edges = coo_array((np.ones(len(one), dtype=np.int8), (one, other)), shape=(len(rows), len(rows)))
        component = connected_components(edges, directed=False)[1]
        linked = np.unique(np.concatenate((one, other)))
        starts.append(linked)
        ends.append(np.unique(component, return_index=True)[1][component[linked]])
    found.starts.append(rows[np.concatenate(starts)])
    found.ends.append(rows[np.concatenate(ends)])


def _keep_samples(
    found: NearDuplicates,
    pairs: Pairs,
    rows: npt.NDArray[np.int32],
    both: tuple[Integers, Integers],
    similarity: npt.NDArray[np.float32],
) -> None:
    """Keep the least similar pairs whose texts differ."""
    worst = found.samples[-1][0] if len(found.samples) == _N_SAMPLES else np.inf
    texts = pairs.dataset.with_format(None)
    for at in np.argsort(similarity, kind="stable")[:_N_SAMPLES]:
        if similarity[at] >= worst:
            break
        one, other = (texts[int(rows[side[at]])][pairs.text_columns[1]] for side in both)
        if one != other:
            found.samples.append((float(similarity[at]), one, other))
    found.samples.sort()
    del found.samples[_N_SAMPLES:]
