from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from examples import make_pairs, make_static_model

from st_cluster_batches.clusters.attach import attach_clusters, cluster_dataset, fit_clusters
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


def conflicts_of(labelled: Dataset) -> np.ndarray:
    """Return an (n, n) array of which rows share a key."""
    keys = [set(one) for one in labelled["false_negative_keys"]]
    return np.array([[bool(one & other) for other in keys] for one in keys])


@pytest.mark.parametrize("many", [64, 3])
def test_exactly_the_pairs_above_the_threshold_share_a_key(
    rows: Dataset, cache: Path, monkeypatch: pytest.MonkeyPatch, many: int
) -> None:
    # With few near-duplicates counting as many, some passages stand for those close around them.
    monkeypatch.setattr("st_cluster_batches.clusters.near_duplicates._MANY", many)
    similarity = similarity_of(rows)
    is_clear = np.abs(similarity - THRESHOLD) > 2e-3  # but for what float16 rounds
    shared = conflicts_of(attach(rows, cache, THRESHOLD))
    assert np.array_equal(shared[is_clear], (similarity > THRESHOLD)[is_clear])
    assert shared.sum() > 200, "there are such pairs"


def test_a_cut_cell_misses_few_and_adds_none(rows: Dataset, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("st_cluster_batches.clusters.near_duplicates._CELL_ROWS", 20)
    is_near = similarity_of(rows) > THRESHOLD
    shared = conflicts_of(attach(rows, cache, THRESHOLD))
    assert not (shared & ~(similarity_of(rows) > THRESHOLD - 2e-3)).any() and shared[is_near].mean() > 0.8


def test_rows_of_different_clusters_are_not_compared(rows: Dataset, cache: Path) -> None:
    labelled = attach(rows, cache, THRESHOLD, n_clusters=4)
    clusters = np.asarray(labelled["cluster"])
    assert not (conflicts_of(labelled) & (clusters[:, None] != clusters[None, :])).any()


def test_exact_alone_and_near_are_different_labels(rows: Dataset, cache: Path) -> None:
    exact, near = (attach(rows, cache, threshold) for threshold in (None, THRESHOLD))
    assert conflicts_of(exact).sum() == 200 < conflicts_of(near).sum()
    assert exact["cluster"][:] == near["cluster"][:]


def test_links_are_not_passed_on_and_equal_texts_share_those_of_one_another(cache: Path) -> None:
    data = {"query": ["a", "b", "c", "a", "d"], "passage": ["soup salt", "soup salt x1", "mast", "queen", "soup salt"]}
    shared = conflicts_of(attach(Dataset.from_dict(data), cache, 0.8))
    assert shared[0, 1] and shared[0, 3] and shared[0, 4] and shared[4, 1]
    assert not shared[1, 3] and not shared[2, :2].any()


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
    assert "soup" not in json.dumps(clustering.manifest)
    samples = json.loads(next(cache.glob("near-duplicates-*.json")).read_text())
    assert len(samples) == 10 and all(one["passages"][0] != one["passages"][1] for one in samples)
    assert [one["similarity"] for one in samples] == pytest.approx(
        sorted(similarity[similarity > THRESHOLD])[:10], abs=2e-3
    ), "the least similar come first"
    assert samples[0]["passages"][0] in caplog.text


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.5, 95])
def test_a_threshold_that_is_no_similarity_is_refused(rows: Dataset, cache: Path, threshold: float) -> None:
    with pytest.raises(ValueError, match=r"must be in \(0, 1\)"):
        attach(rows, cache, threshold)


def test_a_threshold_needs_passages(cache: Path) -> None:
    with pytest.raises(ValueError, match="false_negative_threshold= needs a passage"):
        attach(make_pairs(10).select_columns("query"), cache, 0.9)


@pytest.mark.parametrize("threshold", ["0.9", True, [0.9], complex(1)])
def test_a_threshold_that_is_no_number_is_refused_by_its_name(cache: Path, threshold: Any) -> None:
    with pytest.raises(ValueError, match=r"false_negative_threshold=.* must be a number, not a"):
        attach(make_pairs(10), cache, threshold)
    clustering = fit_clusters(make_pairs(30), make_static_model(), n_clusters=2, cache_dir=cache)
    with pytest.raises(ValueError, match=r"false_negative_threshold=.* must be a number, not a"):
        clustering.attach(make_pairs(30), false_negative_threshold=threshold, cache_dir=cache)


def test_a_cluster_full_of_duplicates_fits_in_memory(cache: Path) -> None:
    same = Dataset.from_dict({"query": [f"soup {at}" for at in range(3000)], "passage": ["salt"] * 3000})
    labelled = attach(same, cache, 0.9, columns=("query", "passage"))  # named, or one value for all would be refused
    keys = [set(one) for one in labelled["false_negative_keys"]]
    assert set.intersection(*keys)


def test_a_family_of_near_duplicates_has_few_keys(cache: Path) -> None:
    letters = [" ".join(["soup"] * 200) + f" salt{' mast' * (at % 3)} x{at}" for at in range(1000)]
    labelled = attach(Dataset.from_dict({"query": [f"q {at}" for at in range(1000)], "passage": letters}), cache, 0.9)
    keys = labelled["false_negative_keys"][:]
    assert set.intersection(*map(set, keys)), "each is near each"
    assert max(map(len, keys)) < 70


def test_near_duplicates_of_labelled_pairs_are_refused_before_anything_is_embedded(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    model = make_static_model()
    labelled = make_pairs(40).add_column("label", [0, 1] * 20)
    clustering = fit_clusters(labelled, model, n_clusters=2, cache_dir=cache)
    monkeypatch.setattr(model, "encode", lambda *_, **__: pytest.fail("a text is embedded"))
    told = r"threshold=0\.9 finds rows .* pairs with 'label' \(0 in 20 rows, 1 in 20 rows\) get no such keys"
    with pytest.raises(ValueError, match=told):
        attach_clusters(labelled, model, false_negative_threshold=0.9, cache_dir=cache)
    with pytest.raises(ValueError, match="get no such keys"):
        clustering.attach(labelled, false_negative_threshold=0.9, cache_dir=cache)
