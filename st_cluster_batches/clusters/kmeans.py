"""Spherical k-means with FAISS: a training sample, centroids in path order, the nearest centroid of a row."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.floating[Any]]
Centroids = npt.NDArray[np.float32]

# k-means trains on a uniform sample: at least this many rows, and this many for each centroid. The mean similarity of
# all rows is then within 0.5 % of what training on all of them gives: tests/bench/bench_attach.py sample.
_SAMPLE_ROWS = 100_000
_SAMPLE_ROWS_PER_CENTROID = 256
# All but the last iterations run on a quarter of the sample, but on no fewer rows for each centroid than this. The
# mean similarity stays what it was, in half the time: tests/bench/bench_attach.py sample.
_COARSE_DIVISOR = 4
_COARSE_ROWS_PER_CENTROID = 1024
_FINE_ITERATIONS = 3
_NEARLY = 0.1  # of the clusters that may have come empty since k-means last ran


def require_faiss() -> Any:
    """Return the faiss module.

    Raises:
        ImportError: If it is missing, with the two extras that bring it.
    """
    if find_spec("faiss") is None:
        raise ImportError(
            "Clustering needs faiss: pip install 'st-cluster-batches[cpu]', or 'st-cluster-batches[gpu]' for CUDA"
        )
    import faiss

    return faiss


def sample_positions(n_rows: int, n_clusters: int, seed: int) -> npt.NDArray[np.int64]:
    """Choose the rows that k-means trains on, uniformly.

    Args:
        n_rows: Rows to choose from.
        n_clusters: k, which sets how many are needed.
        seed: Seed of the choice.

    Returns:
        Ascending row numbers; all of them where there are few.
    """
    n_sample = max(_SAMPLE_ROWS, _SAMPLE_ROWS_PER_CENTROID * n_clusters)
    if n_sample >= n_rows:
        return np.arange(n_rows)
    return np.sort(np.random.default_rng(seed).choice(n_rows, n_sample, replace=False, shuffle=False))


def fit_centroids(
    sample: Vectors, n_clusters: int, *, seed: int, niter: int, start: Centroids | None = None
) -> Centroids:
    """Find the centroids of unit vectors by spherical k-means, in path order.

    Args:
        sample: (n, d) unit rows.
        n_clusters: k; reduced to n where it is larger.
        seed: Seed of FAISS; not negative, which to FAISS would mean the clock.
        niter: Iterations.
        start: (k', d) centroids to start from, of nearly the same data: their number is k, if it is about the one that
            is asked for.

    Returns:
        (k, d) float32 unit rows, each the nearest to a row of the sample: duplicates leave some without, which go.
    """
    n_rows = len(sample)
    sample = np.ascontiguousarray(sample, dtype=np.float32)
    if start is not None and abs(len(start) - n_clusters) <= _NEARLY * n_clusters and len(start) < n_rows:
        centroids = normalise(_train(sample, len(start), seed, niter, start))
    elif n_clusters >= n_rows:
        centroids = normalise(sample)
    else:
        n_coarse = max(n_rows // _COARSE_DIVISOR, _COARSE_ROWS_PER_CENTROID * n_clusters)
        begun = None
        if 2 * n_coarse <= n_rows and niter > _FINE_ITERATIONS:
            coarse = np.random.default_rng(seed).choice(n_rows, n_coarse, replace=False, shuffle=False)
            begun = _train(sample[coarse], n_clusters, seed, niter - _FINE_ITERATIONS)
            niter = _FINE_ITERATIONS
        centroids = normalise(_train(sample, n_clusters, seed, niter, begun))
    centroids = centroids[np.unique(NearestCentroid(centroids).find(sample)[0])]
    return centroids[order_along_path(centroids)]


def _train(sample: Centroids, n_clusters: int, seed: int, niter: int, start: Centroids | None = None) -> Centroids:
    """Return the centroids that FAISS finds on all rows of a sample."""
    faiss = require_faiss()
    # Keywords only: FAISS ignores attributes that are set later. By default it would train on 256 rows a centroid
    # however few centroids there are.
    kmeans = faiss.Kmeans(
        sample.shape[1],
        n_clusters,
        niter=niter,
        spherical=True,
        seed=seed,
        max_points_per_centroid=len(sample),
        min_points_per_centroid=1,
        check_input_data_for_NaNs=False,  # the encoder's vectors have been checked
        gpu=faiss.get_num_gpus() > 0,
    )
    kmeans.train(sample, init_centroids=start)
    centroids: Centroids = kmeans.centroids
    return centroids


def widen(halves: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
    """Turn (n, d) float16 rows into float32, in half the time that numpy takes."""
    faiss = require_faiss()
    codec = faiss.IndexScalarQuantizer(halves.shape[1], faiss.ScalarQuantizer.QT_fp16)
    singles: npt.NDArray[np.float32] = codec.sa_decode(np.ascontiguousarray(halves).view(np.uint8))
    return singles


def make_index(vectors: Centroids) -> Any:
    """Return the index that finds those of some (n, d) unit rows that are most similar, on all GPUs or on the CPU."""
    faiss = require_faiss()
    index = faiss.IndexFlatIP(vectors.shape[1])
    if faiss.get_num_gpus() > 0:
        index = faiss.index_cpu_to_all_gpus(index)
    index.add(np.ascontiguousarray(vectors))
    return index


class NearestCentroid:
    """Exact search for the most similar centroid, on all GPUs that FAISS sees or on the CPU.

    Args:
        centroids: (k, d) float32 unit rows.
    """

    def __init__(self, centroids: Centroids) -> None:
        self._index = make_index(centroids)

    def find(self, vectors: Vectors) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Return the (n,) number of every row's centroid, and its similarity."""
        similarity, nearest = self._index.search(np.ascontiguousarray(vectors, dtype=np.float32), 1)
        return nearest[:, 0], similarity[:, 0]


def normalise(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return rows of unit length."""
    normalised: npt.NDArray[np.float32] = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return normalised


def order_along_path(centroids: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    """Order centroids greedily, each after its most similar predecessor, from the one farthest from the middle."""
    order = np.empty(len(centroids), dtype=np.intp)
    is_free = np.ones(len(centroids), dtype=bool)
    similarity = -(centroids @ centroids.mean(axis=0))
    for position in range(len(order)):
        order[position] = np.argmax(np.where(is_free, similarity, -np.inf))
        is_free[order[position]] = False
        similarity = centroids @ centroids[order[position]]
    return order
