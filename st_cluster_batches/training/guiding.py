"""What was measured before a run: the margin that was tuned, and whether a guide is weaker than the model."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sentence_transformers import SentenceTransformer

from st_cluster_batches.clusters.choice import Choice
from st_cluster_batches.clusters.encoder import Encoder
from st_cluster_batches.clusters.strength import Strength, measure_parts, warn_of_weak_guide
from st_cluster_batches.data.pairs import PairOptions, prepare_parts
from st_cluster_batches.storage.shared_cache import SharedCache
from st_cluster_batches.training.arguments import AUTO, ModelArguments
from st_cluster_batches.training.recipe import Recipe

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

    from st_cluster_batches.clusters.clustering import Clustering


logger = logging.getLogger(__name__)


def follow_choice(recipe: Recipe) -> ModelArguments:
    """Return the model and the loss of a recipe, with the margin that was tuned; warn of what was not tuned.

    Args:
        recipe: All parameters; a margin of its own stays.
    """
    model, tuned = recipe.model, recipe.clusters.tuned
    if tuned in (None, AUTO):
        return model
    choice = Choice.load(str(tuned))
    _tell_of_other_batches(recipe, choice, str(tuned))
    if not model.is_guided:
        return model  # `attach_clusters` warns of a mask that needs a guided loss
    sources = choice.sources
    margins = {name: one.margin for name, one in sources.items() if one.masked}
    if not margins:
        logger.warning(
            "loss: %s masks false negatives of %s, where the choice in %s is without a mask; take loss: mnrl",
            model.loss,
            ", ".join(sources),
            tuned,
        )
        return model
    margin = max(margins.values())
    if {"margin", "margin_strategy"} & set(recipe.given):
        if (model.margin, model.margin_strategy) != (margin, "absolute"):
            logger.warning(
                "margin: %g (%s) is not the margin: %g (absolute) that the choice in %s was tuned with; leave margin "
                "out",
                model.margin,
                model.margin_strategy,
                margin,
                tuned,
            )
        return model
    logger.info("margin: %g, as the choice in %s has it", margin, tuned)
    return replace(model, margin=margin)


def _tell_of_other_batches(recipe: Recipe, choice: Choice, tuned: str) -> None:
    """Warn of batches of another size, or with other chunks of clusters, than those that were tuned."""
    training, n_rows = recipe.training, recipe.rows_compared
    if n_rows != choice.batch_size:
        logger.warning(
            "The choice in %s was tuned for batches of %d rows, this loss takes negatives among %d: larger batches "
            "want coarser clusters; tune with --batch_size %d",
            tuned,
            choice.batch_size,
            n_rows,
            n_rows,
        )
    if training.strategy == "cluster" and training.rows_per_stratum != choice.rows_per_stratum:
        logger.warning(
            "rows_per_stratum: %s is not the %s that the choice in %s was tuned with; leave rows_per_stratum out",
            training.rows_per_stratum,
            choice.rows_per_stratum,
            tuned,
        )


def measure_start(model: Any, dataset: Dataset | DatasetDict, clustering: Clustering | None, recipe: Recipe) -> None:
    """Measure the model before training as its guide was measured, and warn where the guide is the weaker one.

    Args:
        model: The model to be trained.
        dataset: The labelled training pairs.
        clustering: What labelled them; its manifest has the figures of the guide.
        recipe: All parameters.
    """
    guide = {} if clustering is None else clustering.manifest.get("guide", {})
    if not (recipe.model.is_guided and guide and isinstance(model, SentenceTransformer)):
        return
    was_training, bar = model.training, not recipe.training.disable_tqdm
    with SharedCache.open(recipe.clusters.cache_dir, bar, "train") as cache:
        encoder = Encoder(model, cache.folder)
        options = PairOptions(
            overwrite=True, columns=None if recipe.data.columns is None else tuple(recipe.data.columns)
        )
        parts = prepare_parts(dataset, options, cache.show_progress_bar)
        found = measure_parts(parts, encoder, cache)
    model.train(was_training)
    warn_of_weak_guide({name: Strength(**one) for name, one in guide.items()}, found)
