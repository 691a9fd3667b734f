"""Prompts that a model has and its training does not use, or has not: a trainer reads those of its arguments alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer, SparseEncoder

    from st_cluster_batches.training.recipe import Recipe

logger = logging.getLogger(__name__)

OF_SIDES = {"query": ("query",), "document": ("document", "passage", "corpus")}  # as `encode_query` and its like do


def find_prompts(model: SentenceTransformer | SparseEncoder) -> list[str]:
    """Return the prompts of a model by which it embeds queries and documents, empty where there is none."""
    prompts = model.prompts
    chosen = (
        next((name for name in names if name in prompts), model.default_prompt_name) for names in OF_SIDES.values()
    )
    return [prompts.get(name or "") or "" for name in chosen]


def warn_of_unused_prompts(model: SentenceTransformer | SparseEncoder, columns: Sequence[str], recipe: Recipe) -> None:
    """Warn where texts get prompts in clustering and evaluation, and none in training, or the other way round.

    Args:
        model: The model to be trained.
        columns: Query, positive, negatives.
        recipe: All parameters; an empty `prompts` is what is wanted.
    """
    found = find_prompts(model)
    given = recipe.training.prompts
    if given:
        _warn_of_prompts_of_training_alone(given, columns, found)
    if not any(found) or given is not None:
        return
    meant = {name: found[min(at, 1)] for at, name in enumerate(columns)}
    logger.warning(
        "The model embeds queries and documents with the prompts %r and %r, in clustering and evaluation too, but "
        "training takes texts without: say so in the recipe, prompts: %r, or prompts: {} for none",
        *found,
        {name: prompt for name, prompt in meant.items() if prompt},
    )


def _warn_of_prompts_of_training_alone(
    given: str | Mapping[str, Any], columns: Sequence[str], found: Sequence[str]
) -> None:
    """Warn where training gives other prompts than the model that is saved will; `given` may be by dataset."""
    parts: list[Any] = [one for one in given.values() if isinstance(one, dict)] if isinstance(given, dict) else []
    for part in parts or [given]:
        trained = [part if isinstance(part, str) else part.get(name) or "" for name in columns[:2]]
        if trained != list(found):
            logger.warning(
                "Training gives queries and documents the prompts %r and %r, and the model has %r and %r, which it is "
                "clustered, evaluated and used with. Save it with those of the training, and train that: "
                "model.prompts = {'query': ..., 'document': ...}; model.save(FOLDER)",
                *trained,
                *found,
            )
            return


def warn_of_trials_without_prompts(model: SentenceTransformer) -> None:
    """Warn where trials are evaluated with prompts, and trained without."""
    if any(found := find_prompts(model)):
        logger.warning(
            "The model embeds queries and documents with the prompts %r and %r, and trials train it on texts without: "
            "what is chosen is for a training without prompts. To choose for one without any, save the model with "
            "model.prompts = {}",
            *found,
        )
