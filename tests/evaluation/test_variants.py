from __future__ import annotations

from pathlib import Path

from planted import make_planted_model, make_planted_pairs

from st_cluster_batches.clusters.choice import Choice
from st_cluster_batches.evaluation.variants import tune_recipe
from st_cluster_batches.training.recipe import read_recipe


def test_a_guided_variant_is_tuned_with_masks_and_in_its_own_batches(workspace: Path) -> None:
    make_planted_model(True).save(str(workspace / "planted"))
    recipe = workspace / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("n_clusters: 3", "tuned: auto"))
    words = ["--model_name_or_path", str(workspace / "planted"), "--loss", "guided", "--margin", "-0.05"]
    tuned = tune_recipe(read_recipe(recipe, words), make_planted_pairs(400), workspace / "tuned")
    choice = Choice.load(str(tuned.clusters.tuned))
    assert choice.batch_size == 8
    tried = choice.evidence["all"]["differences"]
    assert {one["margin"] for one in tried if one["masked"]} == {-0.05}
