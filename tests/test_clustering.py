from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest

from st_cluster_batches.clustering import Clustering, assign, fit_centroids, require_faiss


def make_blobs(n_rows: int = 4000, n_blobs: int = 12, dimensions: int = 24, spread: float = 0.6) -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(n_blobs, dimensions)).cumsum(axis=0)  # a chain: each lies near the one before
    vectors = centres[rng.integers(n_blobs, size=n_rows)] + spread * rng.normal(size=(n_rows, dimensions))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_centroids_are_unit_vectors_and_rows_go_to_the_nearest() -> None:
    vectors = make_blobs()
    centroids = fit_centroids(vectors, 12, seed=0, niter=20)
    assert np.allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-5)
    labels, objective = assign(vectors.astype(np.float16), centroids)
    similarity = vectors @ centroids.T
    assert objective == pytest.approx(similarity.max(axis=1).mean(), abs=1e-3)
    assert (labels == similarity.argmax(axis=1)).mean() > 0.99


def test_training_sees_more_than_the_256_rows_a_centroid_that_faiss_takes_by_default() -> None:
    vectors = make_blobs(30_000, n_blobs=200, spread=3.0)
    default = faiss.Kmeans(24, 10, niter=20, spherical=True, seed=0)
    default.train(vectors)
    few = assign(vectors, default.centroids)[1]
    assert assign(vectors, fit_centroids(vectors, 10, seed=0, niter=20))[1] > few


def test_clusters_follow_a_path_through_their_centroids() -> None:
    centroids = fit_centroids(make_blobs(), 12, seed=0, niter=20)
    steps = (centroids[1:] * centroids[:-1]).sum(axis=1).mean()
    rng = np.random.default_rng(0)
    shuffled = [centroids[rng.permutation(12)] for _ in range(50)]
    at_random = [(one[1:] * one[:-1]).sum(axis=1).mean() for one in shuffled]
    assert steps > max(at_random)


def test_the_sample_is_a_function_of_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("st_cluster_batches.clustering._SAMPLE_ROWS", 500)
    monkeypatch.setattr("st_cluster_batches.clustering._SAMPLE_ROWS_PER_CENTROID", 50)
    vectors = make_blobs()
    first, again, other = (fit_centroids(vectors, 8, seed=seed, niter=10) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_clustering_is_read_as_it_was_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    centroids = {name: rng.normal(size=(k, 4)).astype(np.float32) for name, k in (("web/é", 3), ("a", 2))}
    Clustering(centroids, {"seed": 3}).save(tmp_path / "x")
    loaded = Clustering.load(tmp_path / "x")
    assert list(loaded.centroids) == ["web/é", "a"]
    assert all(np.array_equal(loaded.centroids[name], centroids[name]) for name in centroids)
    assert loaded.manifest == {"seed": 3}
    assert [loaded.first_cluster(name) for name in centroids] == [0, 3]
    (tmp_path / "x" / "clustering.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"clustering\.json is missing"):
        Clustering.load(tmp_path / "x")


def test_without_faiss_both_extras_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("st_cluster_batches.clustering.find_spec", lambda _: None)
    with pytest.raises(ImportError, match=r"st-cluster-batches\[cpu\].*st-cluster-batches\[gpu\]"):
        require_faiss()
