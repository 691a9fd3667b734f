from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from examples import TOPICS, make_pairs, make_static_model

from st_cluster_batches import Clustering, fit_clusters
from st_cluster_batches.clusters.options import ClusterOptions


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def fit(cache: Path, dataset: Dataset, **options: Any) -> Clustering:
    return fit_clusters(dataset, make_static_model(), **{"cache_dir": cache, "show_progress_bar": False, **options})


def make_lopsided(n_rows: int = 600) -> Dataset:
    """Make pairs of which nine in ten are on one topic."""
    rng = random.Random(0)
    topics = rng.choices(sorted(TOPICS), weights=[18, 1, 1], k=n_rows)
    texts = [" ".join(rng.choices(TOPICS[topic], k=6)) for topic in topics]
    return Dataset.from_dict({"query": texts, "passage": texts})


def path_of(clustering: Clustering) -> float:
    """Return the mean similarity of clusters that are neighbours in number."""
    centroids = clustering.centroids["all"]
    return float((centroids[1:] * centroids[:-1]).sum(axis=1).mean())


def test_no_cluster_is_larger_than_asked(cache: Path) -> None:
    sizes = {}
    for limit in (None, 150, 40):
        clustering = fit(cache, make_lopsided(), n_clusters=5, max_cluster_size=limit)
        sizes[limit] = clustering.manifest["statistics"]["all"]["sizes"]
        labelled = clustering.attach(make_lopsided(), cache_dir=cache, show_progress_bar=False)
        assert np.unique(labelled["cluster"], return_counts=True)[1].tolist() == sizes[limit]
    assert max(sizes[None]) > 150 >= max(sizes[150]) and max(sizes[40]) <= 40
    assert min(map(min, sizes.values())) > 0


def test_splitting_that_never_settles_ends_in_a_clustering(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("st_cluster_batches.clusters.fitting._MAX_ROUNDS", 2)
    clustering = fit(cache, make_lopsided(), n_clusters=5, max_cluster_size=40)
    assert sum(clustering.manifest["statistics"]["all"]["sizes"]) == 600


def test_a_draft_that_cannot_be_written_leaves_nothing_behind(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
        patch.setattr("st_cluster_batches.clusters.clustering.write_atomically", fail)
        fit(cache, make_lopsided())
    assert not list(cache.glob("draft-*")) and fit(cache, make_lopsided()).centroids


def test_parts_of_a_split_cluster_stay_neighbours(cache: Path) -> None:
    clustering = fit(cache, make_lopsided(), n_clusters=5, max_cluster_size=40)
    rng = np.random.default_rng(0)
    own = clustering.centroids["all"]
    shuffled = [Clustering({"all": own[rng.permutation(len(own))]}) for _ in range(50)]
    assert path_of(clustering) > max(map(path_of, shuffled))


def test_equal_texts_cannot_be_split_and_are_told(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    same = Dataset.from_dict({"query": ["soup salt"] * 90 + ["mast rope"] * 20, "passage": ["x", "y"] * 55})
    clustering = fit(cache, same, n_clusters=2, max_cluster_size=50)
    assert sorted(clustering.manifest["statistics"]["all"]["sizes"]) == [20, 90]
    assert "more than max_cluster_size=50 rows, too alike to be split: 'all' one of 90 rows. Take" in caplog.text


def test_a_cluster_of_most_rows_is_warned_of(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = Dataset.from_dict(
        {"query": ["soup salt"] * 90 + ["mast rope", "queen king", "oven"], "passage": ["x", "y", "z"] * 31}
    )
    fit(cache, rows, n_clusters=3)
    assert "in one cluster: 'all' 90 of its 93 rows in one of 3 clusters. max_cluster_size= splits it" in caplog.text
    caplog.clear()
    fit(cache, make_pairs(300), n_clusters=3)
    assert "splits it" not in caplog.text


@pytest.mark.parametrize(("n_rows", "k"), [(100, 1), (8_000_000, 977), (16_384, 2)])
def test_auto_lets_a_cluster_hold_eight_global_batches(n_rows: int, k: int) -> None:
    assert ClusterOptions(n_clusters="auto").count_clusters(n_rows, "all") == k
    assert ClusterOptions(n_clusters="auto", global_batch_size=512).count_clusters(n_rows, "all") == max(
        1, n_rows // 4096
    )


def test_statistics_are_of_every_source(cache: Path) -> None:
    rows = make_pairs(300).add_column("source", ["a"] * 200 + ["b"] * 100)
    statistics = fit(cache, rows, cluster_size=50).manifest["statistics"]
    assert {name: (one["rows"], one["clusters"]) for name, one in statistics.items()} == {"a": (200, 4), "b": (100, 2)}
    assert all(sum(one["sizes"]) == one["rows"] and 0 < one["objective"] <= 1 for one in statistics.values())


def test_interleaved_sources_are_clustered_as_if_each_were_alone(cache: Path) -> None:
    rows = make_pairs(300)
    mixed = fit(cache, rows.add_column("source", ["a", "b", "b"] * 100), n_clusters=3)
    for name, at in (("a", 0), ("b", 1)):
        chosen = [row for row in range(300) if (row % 3 > 0) == bool(at)]
        alone = fit(cache, rows.select(chosen), n_clusters=3).centroids["all"]
        assert np.array_equal(mixed.centroids[name], alone)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_cluster_size": 0}, "max_cluster_size=0 must be at least 1"),
        ({"n_clusters": "many"}, "n_clusters='many' is neither a number nor 'auto'"),
        ({"n_clusters": "auto", "cluster_size": 3}, "exclude each other"),
        ({"global_batch_size": 0}, "global_batch_size=0"),
        ({"cluster_size": 10, "max_cluster_size": 5}, "max_cluster_size=5 is below the mean of cluster_size=10"),
        (
            {"cluster_size": {"all": 32, "few": None}, "max_cluster_size": 30},
            "tuned=, 32 for 'all', so .*; leave max_cluster_size out, or give 32 or more",
        ),
        ({"niter": "20"}, "niter='20' must be a whole number"),
        ({"cluster_size": {"all": "32"}}, "cluster_size of 'all'='32' must be a whole number"),
    ],
)
def test_bad_options_are_refused(cache: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(cache, make_pairs(30), **options)


def test_fewer_clusters_than_asked_for_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = Dataset.from_dict({"query": [f"unknown{at}" for at in range(60)], "passage": make_pairs(60)["passage"][:]})
    for _ in range(2):  # also where the clustering is found in the cache
        caplog.clear()
        fit(tmp_path, rows, n_clusters=10)
        assert "fewer clusters than asked for, since so few of their vectors differ: 'all' 1 of 10. Ask" in caplog.text
    fit(tmp_path, make_pairs(5), n_clusters=10)
    assert "1 of 1 sources have fewer rows than the 10 clusters asked for: every row is one: 'all' 5. " in caplog.text


@pytest.mark.parametrize(
    ("n_rows", "options", "n_kinds"),
    [(3, {"n_clusters": 5}, 1), (3, {"cluster_size": 10}, 1), (9, {"n_clusters": 3, "max_cluster_size": 3}, 2)],
)
def test_many_sources_are_told_of_in_one_line_of_each_kind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, n_rows: int, options: dict[str, Any], n_kinds: int
) -> None:
    queries = [text for source in range(100) for text in ["soup salt"] * (n_rows - 2) + ["mast rope", "queen king"]]
    rows = Dataset.from_dict({"query": queries, "source": [f"s{at // n_rows:02}" for at in range(100 * n_rows)]})
    fit(tmp_path, rows, **options)
    warnings = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert len(warnings) == n_kinds
    for told in warnings:
        assert "100 of 100 sources" in told and "'s04'" in told and "'s05'" not in told and "and 95 more" in told


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"cluster_size": 5000}, "attach_clusters(cluster_size=5000) makes one cluster of a whole source"),
        ({"n_clusters": "auto"}, "attach_clusters(n_clusters='auto', global_batch_size=1024) makes one cluster"),
        ({"n_clusters": 1}, None),
    ],
)
def test_a_source_that_becomes_one_cluster_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, options: dict[str, Any], told: str | None
) -> None:
    fit(tmp_path, make_pairs(60), **options)
    warnings = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert told in warnings[0] if told else not warnings
