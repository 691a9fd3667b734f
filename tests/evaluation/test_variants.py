from __future__ import annotations

from pathlib import Path

import pytest
from planted import make_planted_model, make_planted_pairs

from st_cluster_batches.clusters.choice import Choice
from st_cluster_batches.evaluation.variants import read_variants, tune_recipe
from st_cluster_batches.training.recipe import read_recipe


@pytest.mark.slow
def test_a_guided_variant_is_tuned_with_masks_and_in_its_own_batches(workspace: Path) -> None:
    make_planted_model(True).save(str(workspace / "planted"))
    recipe = workspace / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("n_clusters: 3", "tuned: auto"))
    words = ["--model_name_or_path", str(workspace / "planted"), "--loss", "guided", "--margin", "-0.05"]
    words += ["--communities", "true"]
    tuned, seconds = tune_recipe(read_recipe(recipe, words), make_planted_pairs(400), workspace / "tuned")
    choice = Choice.load(str(tuned.clusters.tuned))
    assert choice.batch_size == 8
    tried = choice.evidence["all"]["differences"]
    assert {one["margin"] for one in tried if one["masked"]} == {-0.05}
    assert any(one["method"] == "communities" for one in tried)
    # What it cost is known to a rerun too, which finds it done.
    again = tune_recipe(read_recipe(recipe, words), make_planted_pairs(400), workspace / "tuned")
    assert again[1] == seconds > 0


def test_what_is_said_of_strata_is_for_the_variants_that_have_some(workspace: Path) -> None:
    words = ["--rows_per_stratum", "4"]
    recipes = read_variants(workspace / "recipe.yaml", words)
    assert {name: one.training.rows_per_stratum for name, one in recipes.items()} == {
        "random": None,
        "source": None,
        "cluster": 4,
    }
    later = read_variants(workspace / "recipe.yaml", ["--cluster_first", "1"])
    assert [one.training.cluster_first for one in later.values()] == [0, 0, 1]
    with (workspace / "recipe.yaml").open("a") as file:
        file.write("variants: {plain: {batch_sampler: random}, fine: {cluster_size: 20, n_clusters: null}}\n")
    with pytest.raises(ValueError, match="Variant 'plain': rows_per_stratum=4 means nothing"):
        read_variants(workspace / "recipe.yaml", words)


def test_a_variant_that_does_not_follow_a_word_of_the_command_line_is_told_of(
    workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (workspace / "recipe.yaml").open("a") as recipe:
        recipe.write("variants: {coarse: {}, fine: {n_clusters: 9}}\n")
    read = read_variants(workspace / "recipe.yaml", ["--n_clusters", "5", "--max_steps", "2"])
    assert [one.clusters.n_clusters for one in read.values()] == ["5", "9"]
    assert [one for one in caplog.messages if "not for" in one] == [
        "--n_clusters is not for the variants fine, which have their own n_clusters"
    ]


def test_what_tuning_may_choose_is_refused_beside_random_batches_before_it_starts(workspace: Path) -> None:
    recipe = workspace / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("n_clusters: 3", "tuned: auto"))
    with pytest.raises(ValueError, match=r"random_fraction=0\.2 means nothing beside them"):
        tune_recipe(read_recipe(recipe, ["--random_fraction", "0.2"]), make_planted_pairs(400), workspace / "tuned")
    assert not (workspace / "tuned").exists()
