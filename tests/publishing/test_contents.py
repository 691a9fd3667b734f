from __future__ import annotations

from pathlib import Path

import pytest
from builds import build
from huggingface_hub import ModelCard

from st_cluster_batches.__main__ import main
from st_cluster_batches.publishing.contents import read_contents


def test_a_model_beside_a_recipe_or_a_run_was_not_trained_by_it(workspace: Path) -> None:
    words = ["train", str(workspace / "recipe.yaml"), "--resume_from_checkpoint", "false"]
    for _ in ("a recipe alone", "a run in the very folder of all"):
        contents = read_contents(workspace / "encoder")
        assert not contents.recipe and not contents.plans and contents.strategy is None
        card = ModelCard.load(build(workspace / "encoder") / "README.md")
        assert "cluster-batches" not in card.data.tags and "## Cluster batches" not in card.text
        assert main([*words, "--output_dir", str(workspace)]) == 0
    assert read_contents(workspace / "model").recipe and read_contents(workspace / "checkpoint-8").plans


def test_the_trainers_own_order_is_called_so(workspace: Path) -> None:
    text = (workspace / "recipe.yaml").read_text().replace("n_clusters: 3", "batch_sampler: stock")
    (workspace / "recipe.yaml").write_text(text)
    assert main(["train", str(workspace / "recipe.yaml")]) == 0
    for folder in (workspace / "run" / "model", build(workspace / "run")):
        card = ModelCard.load(folder / "README.md")
        assert "in the trainer's **own random order**, not cluster batches" in card.text
        assert "share `stock`" not in card.text and "cluster-batches" not in card.data.tags


def test_a_checkpoint_says_of_which_step_it_is(trained: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_contents(trained / "checkpoint-8").steps is None
    build(trained / "checkpoint-4")
    card = (trained / "stage" / "README.md").read_text()
    assert "nDCG@10 of this very model" not in card, "of the last weights, not of these"
    assert "weights after 4 of the 8 steps of the training" in card and "is of step 4 of 8" in caplog.text
