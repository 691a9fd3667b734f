from __future__ import annotations

from pathlib import Path

import pytest
from examples import make_pairs

from st_cluster_batches import attach_keys
from st_cluster_batches.evaluation.comparison import Comparison
from st_cluster_batches.training.recipe import read_recipe
from st_cluster_batches.training.run import prepare_run


def test_what_train_warns_of_compare_warns_of_too(workspace: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = workspace / "recipe.yaml"
    recipe.write_text(
        f"{recipe.read_text()}loss: guided\nmargin: 0.0\nvariants:\n"
        "  random: {batch_sampler: random, cluster_size: 50, n_clusters: null}\n"
        "  cluster: {}\n  finer: {max_cluster_size: 30}\n"
    )
    Comparison.prepare(recipe, workspace / "out", 1)
    # What is said for all is meant for the others.
    assert [one for one in caplog.messages if "takes no clusters" in one] == [
        "Variant 'random': batch_sampler: random takes no clusters, so nothing here is decided by cluster_size"
    ]
    # Said once, though all variants have the same guide.
    assert len([one for one in caplog.messages if one.startswith("The guide knows no more than")]) == 1


def test_what_no_variant_reads_is_told_of_once(workspace: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (workspace / "recipe.yaml").open("a") as recipe:
        recipe.write("variants: {random: {batch_sampler: random}, stock: {batch_sampler: stock}}\n")
    Comparison.prepare(workspace / "recipe.yaml", workspace / "out", 1)
    assert [one.rpartition(" ")[2] for one in caplog.messages if "takes no clusters" in one] == ["n_clusters"]


def test_a_threshold_is_idle_where_pairs_have_keys_and_not_where_a_comparison_makes_them(
    workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pairs = make_pairs(120).add_column("source", ["web"] * 120)
    pairs.to_parquet(str(workspace / "pairs.parquet"))
    words = ["--false_negative_threshold", "0.99", "--n_clusters", "2"]
    Comparison.prepare(workspace / "recipe.yaml", workspace / "out", 1, words)
    assert "keys of false negatives already" not in caplog.text
    attach_keys(pairs).to_parquet(str(workspace / "pairs.parquet"))
    for strategy in ("random", "source"):
        caplog.clear()
        prepare_run(read_recipe(workspace / "recipe.yaml", ["--batch_sampler", strategy, *words[:2]]))
        assert caplog.text.count("keys of false negatives already, so false_negative_threshold: 0.99") == 1
