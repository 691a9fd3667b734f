"""A variant of a comparison that is ready to run: its labelled pairs, its steps, and a hash of what affects it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from st_cluster_batches.batches.callback import find_samplers
from st_cluster_batches.batches.run_length import count_updates
from st_cluster_batches.clusters.fingerprint import fingerprint_model
from st_cluster_batches.columns import CLUSTER
from st_cluster_batches.evaluation.runs import identify_guide
from st_cluster_batches.evaluation.variant_labels import Labelled, hash_marks
from st_cluster_batches.storage.cache import hash_values
from st_cluster_batches.training.recipe import Recipe
from st_cluster_batches.training.run import build_run

# How the names of training arguments begin that affect no result: they say where files lie and what is shown.
_WITHOUT_EFFECT = ("output_dir", "run_name", "report_to", "disable_tqdm", "resume_from", "logging_", "save_")


@dataclass(frozen=True)
class Variant:
    """One batch strategy, with the pairs labelled for it.

    Args:
        recipe: Its parameters.
        labelled: The pairs, labelled for it, and how long that took. Variants that need the same embeddings share
            them, and their time is that of the first one; labels from an earlier call cost nothing.
        tune_seconds: Wall time of tuning, for `tuned: auto`.
        steps: Optimiser steps of the whole training.
        fingerprint: Hash of model, labels, loss and training arguments, but for the seed.
    """

    recipe: Recipe
    labelled: Labelled
    tune_seconds: float
    steps: int
    fingerprint: str


def choose_starts(recipes: dict[str, Recipe]) -> set[str]:
    """Return one variant of all that start with the same choice and the same guide: warnings of them are the same."""
    chosen: dict[tuple[Any, ...], str] = {}
    for name in sorted(recipes, key=lambda name: recipes[name].training.strategy != CLUSTER):  # tells more
        clusters, model = recipes[name].clusters, recipes[name].model
        chosen.setdefault((clusters.tuned, clusters.encoder, model.is_guided, model.guide_model), name)
    return {*chosen.values()}


def prepare_variant(
    recipe: Recipe, labelled: Labelled, tune_seconds: float, inputs: dict[str, Any], is_looked_at: bool
) -> Variant:
    """Take the fingerprint of all that affects the results of a variant.

    Args:
        recipe: The variant.
        labelled: The training pairs, labelled for it.
        tune_seconds: How long tuning took.
        inputs: What affects the results of all variants.
        is_looked_at: Whether to warn of a start that its batches were not tuned for, as `train` does.
    """
    run = build_run(recipe, labelled.dataset, labelled.clustering)
    if is_looked_at:
        run.look_at_start(labelled.dataset)
    arguments = {key: value for key, value in recipe.training.to_dict().items() if not key.startswith(_WITHOUT_EFFECT)}
    loader = run.trainer.get_train_dataloader()
    steps = recipe.training.max_steps
    if steps <= 0:
        steps = math.ceil(count_updates(len(loader), recipe.training) * recipe.training.num_train_epochs)
    model = {key: value for key, value in asdict(recipe.model).items() if key != "model_name_or_path"}
    fingerprint = hash_values(
        inputs,
        fingerprint_model(run.trainer.model),
        model,
        {**arguments, "strategy": recipe.training.strategy},
        [sampler.describe() for sampler in find_samplers(loader)[1]],
        identify_guide(run.trainer.loss),
        *hash_marks(labelled.dataset),
    )
    return Variant(recipe, labelled, tune_seconds, steps, fingerprint)
