"""A run goes on with the pairs that its checkpoint was trained on, or not at all; its card tells of no one start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from builds import build, read_files
from datasets import Dataset
from examples import label_pairs, make_pairs
from trainers import make_trainer

from st_cluster_batches import Choice
from st_cluster_batches.clusters.choice import Candidate
from st_cluster_batches.column_values import hash_sample
from st_cluster_batches.training.recipe import read_recipe
from st_cluster_batches.training.run import prepare_run


def change(rows: Dataset, at: int) -> Dataset:
    return rows.map(lambda row, number: {"passage": "soup" if number == at else row["passage"]}, with_indices=True)


def train(workspace: Path, *words: str) -> Any:
    run, _ = prepare_run(read_recipe(workspace / "recipe.yaml", [*words, "--save_strategy", "steps"]))
    run.train()
    return run


@pytest.mark.parametrize("strategy", ["random", "stock", "cluster"])
def test_a_recipe_does_not_go_on_with_other_pairs(workspace: Path, strategy: str) -> None:
    words = ["--batch_sampler", strategy, "--save_steps", "4"]
    train(workspace, *words)
    change(make_pairs(120), 77).to_parquet(str(workspace / "pairs.parquet"))
    with pytest.raises(ValueError, match="was trained on other pairs than these"):
        train(workspace, *words, "--resume_from_checkpoint", "true")


def test_a_stock_trainer_does_not_go_on_with_other_texts(tmp_path: Path) -> None:
    rows = label_pairs(make_pairs(96))
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2}
    make_trainer(tmp_path, rows, max_steps=4, **options).train()
    with pytest.raises(ValueError, match="on other batches: the texts have changed"):
        make_trainer(tmp_path, change(rows, 77), max_steps=6, **options).train(resume_from_checkpoint=True)
    make_trainer(tmp_path, rows, max_steps=6, **options).train(resume_from_checkpoint=True)


def test_a_hash_tells_texts_rows_and_columns_apart() -> None:
    rows = make_pairs(40)
    hashes = [
        hash_sample(rows, ["query", "passage"]),
        hash_sample(rows, ["query"]),
        hash_sample(rows.select(range(39)), ["query", "passage"]),
        hash_sample(change(rows, 3), ["query", "passage"]),
        hash_sample(rows.rename_column("passage", "answer"), ["query", "answer"]),
    ]
    assert len(set(hashes)) == len(hashes)
    assert hash_sample(rows.with_transform(dict), ["query", "passage", "topic"]) == hashes[0]


def test_a_card_of_a_resumed_run_says_so_and_how_to_start_it(workspace: Path) -> None:
    train(workspace, "--save_steps", "4")
    train(workspace, "--save_steps", "4", "--resume_from_checkpoint", "true")
    files = read_files(build(workspace / "run"))
    card = files["README.md"].decode()
    assert "The training was resumed, last from step 8" in card
    assert "resume_from_checkpoint" not in card
    assert "resume_from_checkpoint" not in yaml.safe_load(files["results/recipe.yaml"])


def test_a_choice_is_published_where_the_recipe_names_it(workspace: Path) -> None:
    about = {"model": "x", "model_hash": "0", "proxy": "static"}
    choice = Choice({"all": Candidate()}, 8, "encoder", "0" * 64, evidence={"all": {"why": "tried"}}, about=about)
    choice.save(workspace / "tuned")
    recipe = workspace / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("n_clusters: 3", f"tuned: {workspace / 'tuned'}"))
    train(workspace)
    stage = build(workspace / "run")
    published = yaml.safe_load((stage / "results" / "recipe.yaml").read_text())
    assert published["tuned"] == "results/choice.json" and Choice.load(stage / published["tuned"]) == choice
    card = (stage / "README.md").read_text()
    assert "tuned: results/choice.json" in card and "**one source**" in card and "**one cluster**" not in card
    assert "- `all`: random rows of the source (tried)" in card


@pytest.mark.parametrize("key", ["per_device_train_batch_size", "gradient_accumulation_steps"])
def test_numbers_that_train_nothing_are_refused_by_name(workspace: Path, key: str) -> None:
    with pytest.raises(ValueError, match=f"{key}=0"):
        read_recipe(workspace / "recipe.yaml", [f"--{key}", "0"])
