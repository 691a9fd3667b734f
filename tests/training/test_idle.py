from __future__ import annotations

from pathlib import Path

import pytest

from st_cluster_batches.evaluation.comparison import Comparison


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
