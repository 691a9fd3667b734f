"""What was measured before a run: what was tuned, by which models, and whether a guide knows more than the model."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from st_cluster_batches.clusters.choice import ASK_THE_MODEL, FOR_TRANSFORMERS, Choice, find_tuned
from st_cluster_batches.clusters.encoder import Encoder, name_model
from st_cluster_batches.clusters.fingerprint import fingerprint_model
from st_cluster_batches.clusters.strength import Strength, measure_parts, warn_of_weak_guide
from st_cluster_batches.data.pairs import PairOptions, prepare_parts
from st_cluster_batches.storage.shared_cache import SharedCache
from st_cluster_batches.training.arguments import ModelArguments
from st_cluster_batches.training.cluster_arguments import AUTO
from st_cluster_batches.training.pairs import find_manifests, find_source, list_manifests
from st_cluster_batches.training.recipe import Recipe

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

    from st_cluster_batches.clusters.clustering import Clustering


logger = logging.getLogger(__name__)


def follow_choice(recipe: Recipe) -> ModelArguments:
    """Return the model and the loss of a recipe, with the margin that was tuned; warn of what was not tuned.

    Pairs that were attached with a choice bring it along: with `tuned:` or without, a run that differs from what its
    clusters were tuned for says so.

    Args:
        recipe: All parameters; a margin of its own stays.
    """
    model, tuned, choices = recipe.model, recipe.clusters.tuned, _find_choices(recipe)
    for place, choice in choices.items():
        _tell_of_other_batches(recipe, choice, place)
        _tell_of_other_mask(recipe, choice, place)
    if tuned in (None, AUTO) or not model.is_guided or _has_own_margin(recipe):
        return model
    choice = choices[str(tuned)]
    margin = choice.margin
    if margin is None:
        return model
    alone = " alone" if choice.unmasked_sources else ""
    where = f"{', '.join(choice.masked_sources)}{alone}"
    logger.info("margin: %g for false negatives of %s, as the choice in %s has it", margin, where, tuned)
    return replace(model, margin=margin)


def _find_choices(recipe: Recipe) -> dict[str, Choice]:
    """Return the choice that a recipe names, or those that its pairs were attached with, by place."""
    tuned = recipe.clusters.tuned
    if tuned not in (None, AUTO):
        return {str(tuned): Choice.load(str(tuned))}
    reads_labels = recipe.training.strategy == "cluster" or recipe.model.is_guided
    attached = find_manifests(recipe) if reads_labels else {}
    return {place: one for place, manifest in attached.items() if (one := find_tuned(manifest)) is not None}


def warn_of_other_trials(model: Any, recipe: Recipe) -> None:
    """Warn of clusters that were chosen by trials with another model, or by static ones for a transformer.

    Args:
        model: The model to be trained.
        recipe: All parameters.
    """
    choices = _find_choices(recipe) if recipe.training.strategy == "cluster" else {}
    for place, choice in choices.items():
        _tell_of_static_trials(choice, place, model)
    if named := {
        place: one for place, one in choices.items() if "model" in one.about
    }:  # those of before do not say it
        fingerprint = fingerprint_model(model)
        for place, choice in named.items():
            _tell_of_other_model(choice, place, model, fingerprint, recipe.model)


def _tell_of_static_trials(choice: Choice, place: str, model: Any) -> None:
    """Warn of a transformer whose clusters static models have chosen: the two want different ones."""
    # By itself, or within a router.
    has_static = any(isinstance(module, StaticEmbedding) for module in model.modules())
    if not has_static and choice.about.get("proxy") == "static" and choice.rows_per_stratum is None:
        logger.warning(
            "The choice in %s is of static models, and the model to be trained is none. %s. Take these, or ask the "
            "model itself: %s",
            place,
            FOR_TRANSFORMERS,
            ASK_THE_MODEL,
        )


def _tell_of_other_model(choice: Choice, place: str, model: Any, fingerprint: str, arguments: ModelArguments) -> None:
    """Warn of clusters that were chosen by trials with another model."""
    name = name_model(arguments.model_name_or_path)
    if fingerprint == choice.about["model_hash"] or _is_changed_model_of(choice, model, name, arguments):
        return
    logger.warning(
        "The choice in %s is of trials with %s (hash %s), and the model to be trained is %s (hash %s): its "
        "clusters need not be the best for another model; tune with it: tune DATA --encoder E --model %s",
        place,
        choice.about["model"],
        choice.about["model_hash"][:16],
        name,
        fingerprint[:16],
        arguments.model_name_or_path,
    )


def _is_changed_model_of(choice: Choice, model: Any, name: str, arguments: ModelArguments) -> bool:
    """Return whether a model is the one that was tried, by its name, as a recipe or the kind of trials changes it."""
    changes = ("static_dim", "num_hidden_layers", "pooling", "max_seq_length", "attn_implementation")
    is_changed = any(getattr(arguments, one) is not None for one in changes)
    is_static = isinstance(model, SentenceTransformer) and isinstance(model[0], StaticEmbedding)
    is_other_kind = is_static != (choice.about["proxy"] == "static") or not isinstance(model, SentenceTransformer)
    return (is_changed or is_other_kind) and name == choice.about["model"]


def _has_own_margin(recipe: Recipe) -> bool:
    return bool({"margin", "margin_strategy"} & set(recipe.given))


def _tell_of_other_mask(recipe: Recipe, choice: Choice, place: str) -> None:
    """Warn of a loss that masks what was not tuned to be masked, with another margin, or not at all."""
    model, margin, is_followed = recipe.model, choice.margin, place == str(recipe.clusters.tuned)
    if margin is None and model.is_guided:
        logger.warning(
            "loss: %s masks false negatives of %s, where the choice in %s is without a mask; take loss: mnrl",
            model.loss,
            ", ".join(choice.sources),
            place,
        )
    elif margin is not None and not model.is_guided and model.guide_model is None:
        logger.warning(
            "loss: %s masks nothing, and the choice in %s is of a loss that masks false negatives of %s, as part of "
            "its gain; take loss: guided with margin: %g",
            model.loss,
            place,
            ", ".join(choice.masked_sources),
            margin,
        )
    elif model.is_guided and (model.margin, model.margin_strategy) != (margin, "absolute"):
        if is_followed and not _has_own_margin(recipe):
            return  # it will be
        logger.warning(
            "margin: %g (%s) is not the margin: %g (absolute) that the choice in %s was tuned with; %s",
            model.margin,
            model.margin_strategy,
            margin,
            place,
            "leave margin out" if is_followed else f"give the recipe margin: {margin:g}, or `tuned:`",
        )


def _tell_of_other_batches(recipe: Recipe, choice: Choice, place: str) -> None:
    """Warn of batches of another size, or with other chunks of clusters, than those that were tuned."""
    training, n_rows, is_followed = recipe.training, recipe.rows_compared, place == str(recipe.clusters.tuned)
    if n_rows != choice.batch_size:
        logger.warning(
            "The choice in %s was tuned for batches of %d rows, this loss takes negatives among %d: larger batches "
            "want coarser clusters; tune with --batch_size %d",
            place,
            choice.batch_size,
            n_rows,
            n_rows,
        )
    if training.strategy == "cluster" and training.rows_per_stratum != choice.rows_per_stratum:
        logger.warning(
            "rows_per_stratum: %s is not the %s that the choice in %s was tuned with; %s",
            training.rows_per_stratum,
            choice.rows_per_stratum,
            place,
            "leave rows_per_stratum out" if is_followed else "give the recipe that, or `tuned:`",
        )


def measure_start(model: Any, dataset: Dataset | DatasetDict, clustering: Clustering | None, recipe: Recipe) -> None:
    """Measure the model before training as its guide was measured, and warn where the guide is the weaker one.

    Args:
        model: The model to be trained.
        dataset: The labelled training pairs.
        clustering: What labelled them, if it was made for this run; its manifest, or that of the places that the pairs
            were read from, has the figures of the guide.
        recipe: All parameters.
    """
    made = list_manifests(recipe, clustering)
    unmasked = {name for one in _find_choices(recipe).values() for name in one.unmasked_sources}
    guide = {name: figures for one in made for name, figures in one.get("guide", {}).items() if name not in unmasked}
    if not (recipe.model.is_guided and guide and isinstance(model, SentenceTransformer)):
        return
    was_training, bar = model.training, not recipe.training.disable_tqdm
    with SharedCache.open(recipe.clusters.cache_dir, bar, "train") as cache:
        encoder = Encoder(model, cache.folder)
        source = find_source(dataset, recipe.data)
        options = PairOptions(source, overwrite=True, columns=recipe.data.columns)
        parts = prepare_parts(dataset, options, cache.show_progress_bar)
        found = measure_parts(parts, encoder, cache)
    model.train(was_training)
    warn_of_weak_guide({name: Strength(**one) for name, one in guide.items()}, found)
