from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from examples import make_pairs, make_static_model
from sentence_transformers import SentenceTransformer

from st_cluster_batches.evaluation.tuning import tune
from st_cluster_batches.training.prompts import warn_of_unused_prompts
from st_cluster_batches.training.recipe import read_recipe
from st_cluster_batches.training.run import prepare_run


@pytest.mark.parametrize(
    ("prompts", "words", "said"),
    [
        ({}, [], None),
        ({"query": "pawn ", "document": "soup "}, [], "prompts: {'query': 'pawn ', 'passage': 'soup '}, or"),
        ({"query": "pawn ", "STS": "soup "}, [], "prompts: {'query': 'pawn '}, or"),
        ({"STS": "soup "}, [], None),
        ({"query": "pawn "}, ["--prompts", json.dumps({"query": "pawn "})], None),
        ({"query": "pawn "}, ["--prompts", "{}"], None),
    ],
)
def test_prompts_of_a_model_that_training_does_not_use_are_told_of(
    workspace: Path, caplog: pytest.LogCaptureFixture, prompts: dict[str, str], words: list[str], said: str | None
) -> None:
    model = make_static_model()
    model.prompts = prompts
    model.save(str(workspace / "encoder"))
    prepare_run(read_recipe(workspace / "recipe.yaml", words))
    told = [one for one in caplog.messages if "training takes texts without" in one]
    assert len(told) == (said is not None) and all(str(said) in one for one in told)


@pytest.mark.parametrize(
    ("given", "is_told"),
    [
        ({"query": "pawn ", "passage": "soup "}, False),
        ({"query": "pawn "}, True),
        ({"all": {"query": "pawn ", "passage": "stew "}}, True),
        ("pawn ", True),
    ],
)
def test_prompts_of_training_that_the_saved_model_will_not_have_are_told_of(
    workspace: Path, caplog: pytest.LogCaptureFixture, given: Any, is_told: bool
) -> None:
    model = make_static_model()
    model.prompts = {"query": "pawn ", "document": "soup "}
    recipe = read_recipe(workspace / "recipe.yaml")
    recipe.training.prompts = given
    warn_of_unused_prompts(model, ["query", "passage"], recipe)
    assert [one.startswith("Training gives") for one in caplog.messages] == [True] * is_told


def test_trials_without_the_prompts_of_their_model_say_so(
    tiny_bert: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = SentenceTransformer(str(tiny_bert), device="cpu", prompts={"query": "pawn "})
    options = {"batch_size": 8, "proxy": "model", "n_steps": 1, "n_workers": 1, "show_progress_bar": False}
    tune(make_pairs(40), model, output_dir=tmp_path / "out", cache_dir=tmp_path / "cache", **options)
    assert "trials train it on texts without" in caplog.text
