from __future__ import annotations

from pathlib import Path

import pytest
from examples import make_pairs, make_static_model

from st_cluster_batches.evaluation.tuning import tune
from st_cluster_batches.training.recipe import read_recipe
from st_cluster_batches.training.run import prepare_run


def test_a_choice_that_was_made_for_another_model_is_not_followed_in_silence(
    workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoder, tuned, recipe = workspace / "encoder", workspace / "tuned", workspace / "recipe.yaml"
    options = {"batch_size": 8, "n_seeds": 2, "n_workers": 1, "show_progress_bar": False}
    choice = tune(make_pairs(120), encoder, output_dir=tuned, cache_dir=workspace / "cache", **options)
    assert choice.about["model"] == "encoder" and choice.about["guide"] is False
    recipe.write_text(recipe.read_text().replace("n_clusters: 3", f"tuned: {tuned}\nencoder: {encoder}"))
    # Of the same name: the weights count, unless the recipe says that it changes them.
    other = workspace / "other" / "encoder"
    make_static_model(seed=1).save(str(other))
    for model, words, n_warnings in ((encoder, [], 0), (other, [], 1), (encoder, ["--static_dim", "4"], 0)):
        caplog.clear()
        prepare_run(read_recipe(recipe, ["--model_name_or_path", str(model), *words]))
        told = [one for one in caplog.messages if "is of trials with encoder (hash" in one]
        assert len(told) == n_warnings and all(f"--model {model}" in one for one in told)
