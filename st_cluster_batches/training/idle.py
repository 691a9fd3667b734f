"""What a recipe says of clusters and of near-duplicates where its batches read none of it."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

from st_cluster_batches.columns import CLUSTER
from st_cluster_batches.training.recipe import Recipe

logger = logging.getLogger(__name__)

_THRESHOLD = "false_negative_threshold"
# Of a recipe's `ClusterArguments`, what tells how to embed and what to keep, also where batches are of no cluster.
_READ_BY_ALL = {"encoder", _THRESHOLD, "truncate_dim", "encoder_batch_size", "cache_dir", "guide"}


def tell_of_idle_clusters(recipe: Recipe, names: Collection[str] | None = None, variant: str = "") -> None:
    """Warn of what a recipe says of clusters and of near-duplicates where batches read none of it.

    Args:
        recipe: All parameters.
        names: What is told of, if it is idle; all that was given by default.
        variant: Of which variant of a comparison this is told, if of one.
    """
    idle = [name for name in find_idle_clusters(recipe) if names is None or name in names]
    where, strategy = f"Variant {variant!r}: " if variant else "", recipe.training.strategy
    if clusters := [name for name in idle if name != _THRESHOLD]:
        logger.warning(
            "%sbatch_sampler: %s takes no clusters, so nothing here is decided by %s",
            where,
            strategy,
            ", ".join(clusters),
        )
    if _THRESHOLD in idle:
        logger.warning(
            "%sfalse_negative_threshold: %g decides nothing here, for %s keeps no false negatives apart; leave one of "
            "them out",
            where,
            recipe.clusters.false_negative_threshold,
            "batch_sampler: stock" if strategy == "stock" else "keep_false_negatives_apart: false",
        )


def tell_of_idle_variants(recipes: Mapping[str, Recipe], own: Mapping[str, Mapping[str, Any]]) -> None:
    """Warn of what a variant says in vain, and of what is said for all of them and read by none.

    Args:
        recipes: The variants by name.
        own: What each says itself; what is said for all may well be meant for others.
    """
    by_none = set.intersection(*(set(find_idle_clusters(recipe)) for recipe in recipes.values()))
    for name, recipe in recipes.items():
        said = {key for key, value in own.get(name, {}).items() if value is not None}
        tell_of_idle_clusters(recipe, said | by_none, name)
        by_none = set()  # once


def find_idle_clusters(recipe: Recipe) -> list[str]:
    """Return what a recipe says of clusters and of near-duplicates, and its batches do not read."""
    strategy, clusters = recipe.training.strategy, recipe.clusters
    keeps_apart = strategy != "stock" and recipe.training.keep_false_negatives_apart
    has_threshold = clusters.false_negative_threshold is not None
    idle = []
    # Near-duplicates are searched within clusters, also where batches are of random rows.
    if strategy != CLUSTER and not (keeps_apart and has_threshold):
        read = _READ_BY_ALL | ({"tuned"} if recipe.model.is_guided else set())
        idle = [one.name for one in fields(clusters) if one.name in recipe.given and one.name not in read]
    return [*idle, *([_THRESHOLD] if has_threshold and not keeps_apart else [])]
