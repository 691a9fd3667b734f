from __future__ import annotations

import faiss
import numpy as np
import pytest

from st_cluster_batches.clusters.kmeans import NearestCentroid, fit_centroids, require_faiss, sample_positions, widen


def make_blobs(n_rows: int = 4000, n_blobs: int = 12, dimensions: int = 24, spread: float = 0.6) -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(n_blobs, dimensions)).cumsum(axis=0)  # a chain: each lies near the one before
    vectors = centres[rng.integers(n_blobs, size=n_rows)] + spread * rng.normal(size=(n_rows, dimensions))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_centroids_are_unit_vectors_and_rows_go_to_the_nearest() -> None:
    vectors = make_blobs()
    centroids = fit_centroids(vectors, 12, seed=0, niter=20)
    assert np.allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-5)
    labels, found = NearestCentroid(centroids).find(vectors.astype(np.float16))
    similarity = vectors @ centroids.T
    assert found == pytest.approx(similarity.max(axis=1), abs=2e-3)
    assert (labels == similarity.argmax(axis=1)).mean() > 0.99


def test_training_sees_more_than_the_256_rows_a_centroid_that_faiss_takes_by_default() -> None:
    vectors = make_blobs(30_000, n_blobs=200, dimensions=64, spread=20.0)
    default = faiss.Kmeans(64, 10, niter=20, spherical=True, seed=0)
    default.train(vectors)
    few, ours = (
        NearestCentroid(centroids).find(vectors)[1].mean()
        for centroids in (default.centroids, fit_centroids(vectors, 10, seed=0, niter=20))
    )
    assert ours > few


@pytest.mark.slow
def test_iterations_on_part_of_the_sample_lose_nothing() -> None:
    vectors = make_blobs(30_000, n_blobs=200, dimensions=64, spread=20.0)
    ours, plain = [], []
    for seed in range(5):
        everything = faiss.Kmeans(64, 10, niter=20, spherical=True, seed=seed, max_points_per_centroid=30_000)
        everything.train(vectors)
        plain.append(NearestCentroid(everything.centroids).find(vectors)[1].mean())
        ours.append(NearestCentroid(fit_centroids(vectors, 10, seed=seed, niter=20)).find(vectors)[1].mean())
    assert np.mean(ours) > 0.995 * np.mean(plain)


def test_halves_widen_to_what_numpy_makes_of_them() -> None:
    rows = np.random.default_rng(0).normal(size=(33, 13)).astype(np.float16)
    rows[0, :4] = 6e-8, 1e-5, -0.0, 65504  # subnormal numbers and the largest
    assert np.array_equal(widen(rows[::2]), rows[::2].astype(np.float32))


def test_clusters_follow_a_path_through_their_centroids() -> None:
    centroids = fit_centroids(make_blobs(), 12, seed=0, niter=20)
    steps = (centroids[1:] * centroids[:-1]).sum(axis=1).mean()
    rng = np.random.default_rng(0)
    shuffled = [centroids[rng.permutation(12)] for _ in range(50)]
    at_random = [(one[1:] * one[:-1]).sum(axis=1).mean() for one in shuffled]
    assert steps > max(at_random)


def test_centroids_without_rows_vanish() -> None:
    vectors = np.repeat(make_blobs(3), 50, axis=0)
    centroids = fit_centroids(vectors, 10, seed=0, niter=20)
    assert len(centroids) == len(np.unique(NearestCentroid(centroids).find(vectors)[0])) == 3


def test_the_sample_is_uniform_and_a_function_of_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("st_cluster_batches.clusters.kmeans._SAMPLE_ROWS", 500)
    monkeypatch.setattr("st_cluster_batches.clusters.kmeans._SAMPLE_ROWS_PER_CENTROID", 50)
    first, again, other = (sample_positions(20_000, 8, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len(first) == len(np.unique(first)) == 500 and (np.diff(first) > 0).all()
    assert len(sample_positions(20_000, 100, 1)) == 5000, "more centroids need more rows"
    assert np.array_equal(sample_positions(300, 8, 1), np.arange(300))
    assert 0.4 < (first < 10_000).mean() < 0.6


def test_without_faiss_both_extras_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("st_cluster_batches.clusters.kmeans.find_spec", lambda _: None)
    with pytest.raises(ImportError, match=r"st-cluster-batches\[cpu\].*st-cluster-batches\[gpu\]"):
        require_faiss()
