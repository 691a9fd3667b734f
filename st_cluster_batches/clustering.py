"""Spherical k-means with FAISS, and the artefact it leaves: centroids that label rows again. The only faiss import."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from st_cluster_batches.embedding import KEYS, Key, write_atomically

logger = logging.getLogger(__name__)

Vectors = npt.NDArray[np.floating[Any]]

CENTROIDS_FILE = "centroids.safetensors"
MANIFEST_FILE = "clustering.json"

# k-means trains on a uniform sample: at least this many rows, and this many for each centroid.
_SAMPLE_ROWS = 100_000
_SAMPLE_ROWS_PER_CENTROID = 1000

_ASSIGN_ROWS = 16_384


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


@dataclass(frozen=True)
class ClusterOptions:
    """What decides the labels beside the data and the encoder.

    Args:
        n_clusters: k of every source; 10, as in arXiv 2407.18887, unless `cluster_size` is given.
        cluster_size: Mean rows of a cluster, which sets k source by source.
        key: The text that decides the cluster: query, passage, or both.
        seed: Seed of k-means.
        niter: Iterations of k-means.
    """

    n_clusters: int | None = None
    cluster_size: int | None = None
    key: Key = "query"
    seed: int = 0
    niter: int = 20

    def __post_init__(self) -> None:
        if self.key not in KEYS:
            raise ValueError(f"key={self.key!r} is none of {', '.join(map(repr, KEYS))}")
        if self.n_clusters is not None and self.cluster_size is not None:
            raise ValueError(
                f"n_clusters={self.n_clusters} and cluster_size={self.cluster_size} exclude each other; give one"
            )
        for name in ("n_clusters", "cluster_size", "niter"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if not 0 <= self.seed < 1 << 31:
            raise ValueError(f"seed={self.seed} must be in [0, 2^31): FAISS takes a negative one for the clock")

    def count_clusters(self, n_rows: int) -> int:
        """Return k for a source of `n_rows` rows."""
        if self.cluster_size is not None:
            return max(1, round(n_rows / self.cluster_size))
        return self.n_clusters or 10


@dataclass(frozen=True)
class Clustering:
    """Centroids of every source, and how they came to be.

    Args:
        centroids: For each source a (k, d) float32 array of unit rows, ordered along a path through space, so that
            neighbours in number are neighbours in meaning.
        manifest: Encoder, key, seed, sizes and whatever else tells one clustering from another.
    """

    centroids: dict[str, npt.NDArray[np.float32]]
    manifest: dict[str, Any] = field(default_factory=dict)

    def first_cluster(self, source: str) -> int:
        """Return the number of a source's first cluster; numbers are unique across sources."""
        names = list(self.centroids)
        return sum(len(self.centroids[name]) for name in names[: names.index(source)])

    def save(self, directory: str | Path) -> None:
        """Write `centroids.safetensors` and `clustering.json` into a folder."""
        from safetensors.numpy import save

        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        temporary = directory / f"{CENTROIDS_FILE}.tmp"
        temporary.write_bytes(save({f"source {at}": array for at, array in enumerate(self.centroids.values())}))
        temporary.replace(directory / CENTROIDS_FILE)
        manifest = {**self.manifest, "sources": list(self.centroids)}
        write_atomically(directory / MANIFEST_FILE, json.dumps(manifest, indent=2) + "\n")

    @classmethod
    def load(cls, directory: str | Path) -> Clustering:
        """Read a clustering that `save` wrote.

        Raises:
            FileNotFoundError: If the folder holds none.
        """
        from safetensors.numpy import load_file

        directory = Path(directory)
        for name in (CENTROIDS_FILE, MANIFEST_FILE):
            if not (directory / name).is_file():
                raise FileNotFoundError(
                    f"{directory} holds no clustering: {name} is missing; Clustering.save writes it"
                )
        manifest = json.loads((directory / MANIFEST_FILE).read_text())
        arrays = load_file(directory / CENTROIDS_FILE)
        return cls({name: arrays[f"source {at}"] for at, name in enumerate(manifest.pop("sources"))}, manifest)


def fit_centroids(vectors: Vectors, n_clusters: int, *, seed: int, niter: int) -> npt.NDArray[np.float32]:
    """Find the centroids of unit vectors by spherical k-means on a uniform sample, in path order.

    Args:
        vectors: (n, d) unit rows, perhaps memory-mapped.
        n_clusters: k; reduced to n where it is larger.
        seed: Seed of the sample and of FAISS; not negative, which to FAISS would mean the clock.
        niter: Iterations.

    Returns:
        (k, d) float32 unit rows, k as asked or n if smaller.
    """
    faiss = require_faiss()
    n_rows, dimensions = vectors.shape
    n_clusters = min(n_clusters, n_rows)
    n_sample = min(n_rows, max(_SAMPLE_ROWS, _SAMPLE_ROWS_PER_CENTROID * n_clusters))
    if n_sample < n_rows:
        vectors = vectors[np.sort(np.random.default_rng(seed).choice(n_rows, n_sample, replace=False))]
    sample = np.ascontiguousarray(vectors, dtype=np.float32)
    if n_clusters == n_rows:
        return _normalise(sample[_order_along_path(sample)])
    # Keywords only: FAISS ignores attributes that are set later. By default it would train on 256 rows a centroid.
    kmeans = faiss.Kmeans(
        dimensions,
        n_clusters,
        niter=niter,
        spherical=True,
        seed=seed,
        max_points_per_centroid=n_sample,
        min_points_per_centroid=1,
        gpu=faiss.get_num_gpus() > 0,
    )
    kmeans.train(sample)
    centroids = _normalise(kmeans.centroids)
    return centroids[_order_along_path(centroids)]


def assign(vectors: Vectors, centroids: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int32], float]:
    """Assign every row to its most similar centroid.

    Args:
        vectors: (n, d) unit rows, perhaps memory-mapped; read in chunks.
        centroids: (k, d) float32 unit rows.

    Returns:
        (n,) int32 centroid numbers, and the mean similarity of a row to its centroid.
    """
    index = require_faiss().IndexFlatIP(centroids.shape[1])
    index.add(np.ascontiguousarray(centroids))
    labels = np.empty(len(vectors), dtype=np.int32)
    total = 0.0
    for low in range(0, len(vectors), _ASSIGN_ROWS):
        similarity, nearest = index.search(vectors[low : low + _ASSIGN_ROWS].astype(np.float32), 1)
        labels[low : low + _ASSIGN_ROWS] = nearest[:, 0]
        total += float(similarity.sum(dtype=np.float64))
    return labels, total / len(vectors)


def _normalise(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    normalised: npt.NDArray[np.float32] = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return normalised


def _order_along_path(centroids: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    """Order centroids greedily, each after its most similar predecessor, from the one farthest from the middle."""
    order = np.empty(len(centroids), dtype=np.intp)
    is_free = np.ones(len(centroids), dtype=bool)
    similarity = -(centroids @ centroids.mean(axis=0))
    for position in range(len(order)):
        order[position] = np.argmax(np.where(is_free, similarity, -np.inf))
        is_free[order[position]] = False
        similarity = centroids @ centroids[order[position]]
    return order
