"""Many centroids are found within cells: as near to their rows as those of one k-means, in the order of a path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from examples import make_pairs, make_static_model

from st_cluster_batches import attach_clusters
from st_cluster_batches.clusters import fitting
from st_cluster_batches.clusters.kmeans import NearestCentroid, fit_centroids
from st_cluster_batches.clusters.two_level_kmeans import fit_in_cells


def make_rows(n_rows: int, dimensions: int = 16) -> np.ndarray:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(40, dimensions))[rng.integers(40, size=n_rows)] + rng.normal(size=(n_rows, dimensions))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.slow
def test_cells_lose_little_and_keep_the_order() -> None:
    rows = make_rows(6000)
    seen = []

    def take(positions: np.ndarray) -> np.ndarray:
        assert (np.diff(positions) > 0).all(), "vectors on disk are read in ascending order"
        seen.append(len(positions))
        return rows[positions]

    centroids = fit_in_cells(take, len(rows), 200, seed=0, niter=20)
    assert 190 <= len(centroids) <= 200 and np.allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-5)
    flat = fit_centroids(rows, 200, seed=0, niter=20)
    ours, theirs = (NearestCentroid(one).find(rows)[1].mean() for one in (centroids, flat))
    assert ours > 0.99 * theirs
    steps, shuffled = (
        (one[1:] * one[:-1]).sum(axis=1).mean()
        for one in (centroids, centroids[np.random.default_rng(0).permutation(len(centroids))])
    )
    assert steps > 3 * max(shuffled, 0.01)
    again = fit_in_cells(lambda positions: rows[positions], len(rows), 200, seed=0, niter=20)
    assert np.array_equal(centroids, again)


def test_alike_rows_and_more_centroids_than_rows_make_fewer() -> None:
    rows = np.repeat(make_rows(5), 20, axis=0)
    centroids = fit_in_cells(lambda positions: rows[positions], len(rows), 50, seed=0, niter=5)
    assert len(np.unique(NearestCentroid(centroids).find(rows)[0])) == 5


@pytest.mark.parametrize("key", ["query", "both", "symmetric"])
def test_many_clusters_of_a_source_are_attached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setattr(fitting, "MOST_AT_ONCE", 10)
    pairs = make_pairs(400).add_column("source", ["a"] * 300 + ["b"] * 100)
    labelled = attach_clusters(pairs, make_static_model(), cluster_size=10, key=key, cache_dir=tmp_path)
    sizes = {name: np.unique(labelled.filter(lambda row, own=name: row["source"] == own)["cluster"]) for name in "ab"}
    assert 20 <= len(sizes["a"]) <= 30 and 6 <= len(sizes["b"]) <= 10
