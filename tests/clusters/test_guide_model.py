"""Clusters of one model's vectors, and masks by another's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from examples import make_pairs, make_static_model

from st_cluster_batches import Choice, Clustering, GuidedMultipleNegativesRankingLoss, attach_clusters, inspect
from st_cluster_batches.__main__ import main
from st_cluster_batches.clusters.attach import cluster_dataset
from st_cluster_batches.clusters.choice import Candidate
from st_cluster_batches.clusters.description import describe_clustering
from st_cluster_batches.clusters.fingerprint import fingerprint_model
from st_cluster_batches.clusters.guide import GuideVectors
from st_cluster_batches.clusters.options import AttachOptions, ClusterOptions
from st_cluster_batches.row_keys import ROW_KEY


@pytest.fixture
def pairs() -> Dataset:
    return make_pairs(120)


@pytest.fixture
def encoder() -> Any:
    return make_static_model(seed=0)


@pytest.fixture
def guide() -> Any:
    return make_static_model(dimensions=24, seed=1)


def choose(encoder: Any, guide: Any) -> Choice:
    about = {"guide_model": "strong", "guide_hash": fingerprint_model(guide)}
    chosen = {"all": Candidate(20, masked=True)}
    return Choice(chosen, 8, "weak", fingerprint_model(encoder), about=about)


def take(labelled: Dataset) -> list[np.ndarray]:
    return GuideVectors.open(labelled).take(np.asarray(labelled[ROW_KEY]), 2)[0]


def test_clusters_are_of_the_encoder_and_vectors_that_mask_of_the_guide(
    pairs: Dataset, encoder: Any, guide: Any, tmp_path: Path
) -> None:
    own = attach_clusters(pairs, encoder, n_clusters=3, guide=True, cache_dir=tmp_path)
    labelled = attach_clusters(pairs, encoder, n_clusters=3, guide_model=guide, cache_dir=tmp_path)
    assert labelled["cluster"] == own["cluster"] and labelled[ROW_KEY] != own[ROW_KEY]
    for side, texts in zip(take(labelled), (pairs["query"], pairs["passage"]), strict=True):
        expected = guide.encode(texts, normalize_embeddings=True)
        assert side == pytest.approx(expected, abs=2e-3)
    again = attach_clusters(pairs, encoder, n_clusters=3, guide_model=encoder, cache_dir=tmp_path)
    assert again[ROW_KEY] == own[ROW_KEY], "the encoder by name is the encoder"
    loss = GuidedMultipleNegativesRankingLoss(encoder, guide=labelled)
    assert take(labelled)[0].shape[1] == loss.guide.take(np.asarray(labelled[ROW_KEY]), 1)[0][0].shape[1] == 24


def test_a_clustering_labels_with_the_vectors_of_a_guide(
    pairs: Dataset, encoder: Any, guide: Any, tmp_path: Path
) -> None:
    options = AttachOptions(ClusterOptions(n_clusters=3), guide_model=guide, cache_dir=tmp_path / "cache")
    labelled, clustering = cluster_dataset(pairs, encoder, options)
    found = inspect(labelled, clustering=clustering, batch_size=8, cache_dir=tmp_path / "cache")
    assert found.strength["all"].ndcg_at_10 == clustering.manifest["guide"]["all"]["ndcg_at_10"]
    assert f"the guide is {clustering.manifest['guide_model']}" in "\n".join(found.describe_lines())
    assert "Vectors that mask are of" in "\n".join(describe_clustering(clustering.manifest))
    clustering.save(tmp_path / "topics")
    loaded = Clustering.load(tmp_path / "topics", encoder=encoder)
    again = loaded.attach(pairs, guide_model=guide, cache_dir=tmp_path / "cache")
    assert again[ROW_KEY] == labelled[ROW_KEY] and again["cluster"] == labelled["cluster"]


def test_a_choice_that_masks_by_a_guide_asks_for_it(
    pairs: Dataset, encoder: Any, guide: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    choice = choose(encoder, guide)
    with pytest.raises(ValueError, match=r"masks false negatives of all by 'strong'.*guide_model='strong'"):
        attach_clusters(pairs, encoder, tuned=choice, cache_dir=tmp_path)
    attach_clusters(pairs, encoder, tuned=choice, guide_model=guide, cache_dir=tmp_path)
    assert "was tuned with a mask by" not in caplog.text
    attach_clusters(pairs, encoder, tuned=choice, guide_model=encoder, cache_dir=tmp_path)
    assert "was tuned with a mask by strong, and" in caplog.text
    caplog.clear()
    attach_clusters(pairs, encoder, tuned=replace(choice, about={}), guide_model=guide, cache_dir=tmp_path)
    assert "was tuned with a mask by weak, and" in caplog.text
    plain = replace(choice, sources={"all": Candidate(20)})
    assert ROW_KEY not in attach_clusters(pairs, encoder, tuned=plain, cache_dir=tmp_path).column_names


def test_the_command_line_takes_a_guide(pairs: Dataset, encoder: Any, guide: Any, tmp_path: Path) -> None:
    pairs.to_parquet(str(tmp_path / "pairs.parquet"))
    for name, model in (("encoder", encoder), ("guide", guide)):
        model.save(str(tmp_path / name))
    words = ["attach", str(tmp_path / "pairs.parquet"), str(tmp_path / "out"), "--encoder", str(tmp_path / "encoder")]
    assert main([*words, "--n_clusters", "3", "--guide_model", str(tmp_path / "guide")]) == 0
    assert GuideVectors.open(tmp_path / "out").encoder == "guide"
