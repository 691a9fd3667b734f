from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from examples import make_pairs, make_static_model

from st_cluster_batches.clusters.attach import attach_clusters, cluster_dataset
from st_cluster_batches.clusters.options import AttachOptions, ClusterOptions

THRESHOLD = 0.95


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def rows() -> Dataset:
    """Five words of few make many passages that say nearly the same; queries all differ."""
    rng = np.random.default_rng(0)
    passages = [" ".join(rng.choice(["soup", "salt", "mast", "rope"], 5)) + f" x{at}" for at in range(200)]
    return Dataset.from_dict({"query": make_pairs(200)["query"][:], "passage": passages})


def attach(rows: Dataset, cache: Path, threshold: float | None, **options: Any) -> Dataset:
    defaults = {"n_clusters": 1, "cache_dir": cache, "show_progress_bar": False}
    return attach_clusters(rows, make_static_model(), false_negative_threshold=threshold, **{**defaults, **options})


def similarity_of(rows: Dataset) -> np.ndarray:
    vectors = make_static_model().encode_document(rows["passage"][:], normalize_embeddings=True)
    return vectors @ vectors.T


def components_of(linked: np.ndarray) -> list[int]:
    """Spread the smallest row number of each connected component."""
    group = np.arange(len(linked))
    for _ in linked:
        group = np.where(linked, group[None, :], len(linked)).min(axis=1)
    return group.tolist()


@pytest.mark.parametrize("cell", [8192, 20])
def test_groups_are_the_components_of_similar_passages(
    rows: Dataset, cache: Path, monkeypatch: pytest.MonkeyPatch, cell: int
) -> None:
    monkeypatch.setattr("st_cluster_batches.clusters.near_duplicates._CELL_ROWS", cell)
    groups = np.asarray(attach(rows, cache, THRESHOLD)["false_negative_group"])
    is_near = similarity_of(rows) > THRESHOLD
    expected = np.asarray(components_of(is_near))
    together, truly = (one[:, None] == one[None, :] for one in (groups, expected))
    assert not (together & ~truly).any(), "no group holds rows that nothing links"
    assert 1 < len(set(groups)) < 200
    # One cell parts no pair; many small ones part some.
    assert (together == truly).all() if cell == 8192 else together[is_near].mean() > 0.8


def test_rows_of_different_clusters_are_not_compared(rows: Dataset, cache: Path) -> None:
    labelled = attach(rows, cache, THRESHOLD, n_clusters=4)
    clusters, groups = (np.asarray(labelled[name]) for name in ("cluster", "false_negative_group"))
    assert all(len(set(clusters[groups == one])) == 1 for one in set(groups))


def test_exact_alone_and_near_are_different_labels(rows: Dataset, cache: Path) -> None:
    exact, near = (attach(rows, cache, threshold) for threshold in (None, THRESHOLD))
    assert len(set(exact["false_negative_group"])) == 200 > len(set(near["false_negative_group"]))
    assert exact["cluster"][:] == near["cluster"][:]


def test_equal_texts_join_near_ones(cache: Path) -> None:
    data = {"query": ["a", "b", "c", "a"], "passage": ["soup salt", "soup salt x1", "mast", "queen"]}
    groups = attach(Dataset.from_dict(data), cache, 0.8)["false_negative_group"][:]
    assert groups[0] == groups[1] == groups[3] != groups[2]


def test_a_person_can_judge_and_the_manifest_holds_no_text(
    rows: Dataset, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "st_cluster_batches")
    _, clustering = cluster_dataset(
        rows,
        make_static_model(),
        AttachOptions(
            ClusterOptions(n_clusters=1),
            false_negative_threshold=THRESHOLD,
            cache_dir=cache,
            show_progress_bar=False,
        ),
    )
    report = clustering.manifest["false_negatives"]["all"]
    similarity = similarity_of(rows)[np.triu_indices(200, 1)]
    assert report["near_duplicate_pairs"] == (similarity > THRESHOLD).sum()
    assert sum(int(size) * count for size, count in report["groups_by_size"].items()) == 200
    assert "soup" not in json.dumps(clustering.manifest)
    samples = json.loads(next(cache.glob("near-duplicates-*.json")).read_text())
    assert len(samples) == 10 and all(one["passages"][0] != one["passages"][1] for one in samples)
    assert [one["similarity"] for one in samples] == pytest.approx(
        sorted(similarity[similarity > THRESHOLD])[:10], abs=2e-3
    ), "the least similar come first"
    assert samples[0]["passages"][0] in caplog.text


def test_a_group_that_links_have_chained_too_far_is_warned_of(
    rows: Dataset, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def warn(rows: Dataset, threshold: float | None) -> tuple[int, list[str]]:
        caplog.clear()
        groups = attach(rows, cache, threshold)["false_negative_group"]
        messages = [one.getMessage() for one in caplog.records]
        return int(np.bincount(groups).max()), [one for one in messages if "largest false-negative group" in one]

    assert warn(rows, None) == (1, [])
    size, messages = warn(rows.select(range(9)), 0.8)
    assert size > 1 and messages == [], "a handful of rows"
    for _ in range(2):  # the second time from the cache
        size, (message,) = warn(rows, 0.8)
        assert f"{size} of 200 rows" in message and "above 0.8 makes smaller groups" in message
        assert any(repr(passage) in message for passage in rows["passage"])


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.5, 95])
def test_a_threshold_that_is_no_similarity_is_refused(rows: Dataset, cache: Path, threshold: float) -> None:
    with pytest.raises(ValueError, match=r"must be in \(0, 1\)"):
        attach(rows, cache, threshold)


def test_a_threshold_needs_passages(cache: Path) -> None:
    with pytest.raises(ValueError, match="false_negative_threshold= needs a passage"):
        attach(make_pairs(10).select_columns("query"), cache, 0.9)


def test_a_cluster_full_of_duplicates_fits_in_memory(cache: Path) -> None:
    same = Dataset.from_dict({"query": [f"soup {at}" for at in range(3000)], "passage": ["salt"] * 3000})
    assert set(attach(same, cache, 0.9)["false_negative_group"]) == {0}
