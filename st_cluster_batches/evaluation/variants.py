"""The variants of a recipe: several recipes in one file, which differ in their batch strategy alone."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from st_cluster_batches.evaluation.runs import measure_tuning
from st_cluster_batches.evaluation.tuning import tune
from st_cluster_batches.training.cluster_arguments import AUTO, ClusterArguments
from st_cluster_batches.training.pairs import find_source
from st_cluster_batches.training.recipe import VARIANTS, Recipe, parse_values, read_values, read_words
from st_cluster_batches.training.trainer_arguments import TrainingArguments

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

logger = logging.getLogger(__name__)

_DEFAULT: dict[str, dict[str, Any]] = {
    # What is said of the strata of all variants is not said of batches that have none.
    "random": {"batch_sampler": "random", "random_fraction": 0.0, "rows_per_stratum": None, "cluster_first": 0},
    "source": {"batch_sampler": "source", "rows_per_stratum": None, "cluster_first": 0},
    "cluster": {"batch_sampler": "cluster"},
}

ALLOWED = {
    "batch_sampler",
    "cluster_first",
    "random_fraction",
    "rows_per_stratum",
    "keep_false_negatives_apart",
    *(one.name for one in fields(ClusterArguments)),
    *(one.name for one in fields(TrainingArguments) if one.name.startswith("refresh_")),
}


def read_variants(
    path: str | Path, overrides: Sequence[str] = (), common: Mapping[str, Any] | None = None
) -> dict[str, Recipe]:
    """Read the recipes that are to be compared: one file, with several batch strategies.

    The key `variants` of the file names them, the baseline first: `{random: {batch_sampler: random}, fine:
    {n_clusters: 500}}`. Without it they are the three strategies.

    Args:
        path: YAML file as for `read_recipe`.
        overrides: Words of the command line, for all variants; a variant's own values win.
        common: Values for all variants that win over all others.

    Returns:
        The checked parameters by name of variant.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a variant changes more than its batch strategy or would be pushed, or a key or value is wrong.
    """
    values, words = read_values(path), read_words(overrides)
    variants = values.pop(VARIANTS, _DEFAULT)
    if not isinstance(variants, dict) or len(variants) < 2 or not all(isinstance(v, dict) for v in variants.values()):
        raise ValueError(f"{VARIANTS} must map two names or more to `key: value` lines, not {variants!r}")
    _tell_of_overridden(words, variants, common or {})
    recipes = {}
    for name, own in variants.items():
        if not re.fullmatch(r"[\w.-]+", str(name)):
            raise ValueError(f"{name!r} cannot name a variant: files are called after it; use letters and digits")
        if others := sorted(set(own) - ALLOWED):
            raise ValueError(
                f"Variant {name!r} sets {others[0]!r}; variants may differ only in their batch strategy: "
                f"{', '.join(sorted(ALLOWED))}"
            )
        try:
            recipes[str(name)] = parse_values({**values, **words, **own, **(common or {})})
        except ValueError as error:
            raise ValueError(f"Variant {name!r}: {error}") from error
    if any(recipe.training.push_to_hub for recipe in recipes.values()):
        raise ValueError(
            "push_to_hub: true would push the models of all variants and seeds to one repository. Add "
            "--push_to_hub false, and publish the model that is chosen (st-cluster-batches publish)"
        )
    return recipes


def _tell_of_overridden(
    words: Mapping[str, Any], variants: Mapping[str, dict[str, Any]], common: Mapping[str, Any]
) -> None:
    """Refuse words of a command line that decide nothing, and warn of those that some variants do not follow.

    Raises:
        ValueError: If one is for no variant.
    """
    for word in words:
        if word in common:
            raise ValueError(
                f"--{word} decides nothing in a comparison, which gives each run a folder below --output and the "
                "seeds 0, 1, ... (--seeds says how many); leave it out"
            )
        own = [str(name) for name, one in variants.items() if word in one]
        if len(own) == len(variants):
            raise ValueError(
                f"--{word} decides nothing: the variants {', '.join(own)} each have their own {word}; name other "
                f"{VARIANTS} in the recipe, or leave it out"
            )
        if own and variants is not _DEFAULT:
            logger.warning("--%s is not for the variants %s, which have their own %s", word, ", ".join(own), word)


def derive_recipe(recipe: Recipe, **values: Any) -> Recipe:
    """Return a recipe with some values changed, from the values that it was parsed from.

    `dataclasses.replace` would not do: its arguments are no longer what was given once they have been checked.
    """
    return parse_values({**recipe.given, **values})


def tune_recipe(recipe: Recipe, pairs: Dataset | DatasetDict, folder: Path) -> tuple[Recipe, float]:
    """Tune the clusters of a recipe that says `tuned: auto` on its own training pairs, and let it follow the choice.

    Args:
        recipe: All parameters; one that says anything else is returned as it is.
        pairs: What it trains on, without the queries that it is evaluated on.
        folder: Folder of the choice.

    Returns:
        The recipe, and the seconds that tuning took: zero where there was nothing to tune.
    """
    clusters, model, training = recipe.clusters, recipe.model, recipe.training
    if clusters.tuned != AUTO:
        return recipe, 0.0
    if training.random_fraction:
        raise ValueError(
            "tuned: auto may choose batches of several clusters, and "
            f"random_fraction={training.random_fraction} means nothing beside them; leave it out"
        )
    run = partial(
        tune,
        pairs,
        clusters.encoder or model.model_name_or_path,
        batch_size=recipe.rows_compared,
        model=model.model_name_or_path,
        key=clusters.key or "query",
        columns=recipe.data.columns,
        source_column=find_source(pairs, recipe.data),
        guide=model.is_guided,
        guide_model=model.guide_model if model.is_guided else None,
        margin=model.margin if model.is_guided and model.margin_strategy == "absolute" else 0.0,
        communities=clusters.communities,
        output_dir=folder,
        truncate_dim=clusters.truncate_dim,
        trust_remote_code=model.trust_remote_code,
        cache_dir=clusters.cache_dir,
        show_progress_bar=not training.disable_tqdm,
    )
    seconds = measure_tuning(run, folder)[1]
    return derive_recipe(recipe, tuned=str(folder), communities=False), seconds
