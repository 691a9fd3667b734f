"""What a comparison trains otherwise than the model whose card it is to stand in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any

from st_cluster_batches.evaluation.variants import ALLOWED
from st_cluster_batches.training.arguments import DataArguments, ModelArguments
from st_cluster_batches.training.cluster_arguments import ClusterArguments
from st_cluster_batches.training.recipe import read_words
from st_cluster_batches.training.resuming import OPTIMIZED
from st_cluster_batches.training.trainer_arguments import TrainingArguments

_GROUPS = (DataArguments, ModelArguments, ClusterArguments, TrainingArguments)
_PATHS = ("model_name_or_path", "train_data", "encoder", "guide_model", "tuned", "queries", "corpus")
# Keys that change no weights, and seeds, of which a comparison has several.
_IDLE = {"data_dir", "eval_tasks", "qrels", "missing", "held_out_queries", "held_out_documents", "cache_dir", "seed"}
_IDLE |= {"attn_implementation", "trust_remote_code", "encoder_batch_size", "cluster_seed", "guide", "refresh_mine"}
# The trainer's own that decide what is learned.
_STEPS = (
    *("per_device_train_batch_size", "gradient_accumulation_steps", "max_steps", "num_train_epochs", "prompts"),
    *("source_alpha", "multi_dataset_batch_sampler"),
)


def _read_defaults() -> dict[str, Any]:
    """Return the defaults of all keys of a recipe; None where there is none."""
    return {
        one.name: one.default_factory()
        if one.default_factory is not MISSING
        else (None if one.default is MISSING else one.default)
        for group in _GROUPS
        for one in fields(group)
    }


def list_differences(recipe: dict[str, Any], comparison: dict[str, Any] | None) -> list[str]:
    """List what a comparison trains otherwise than a recipe, nothing unless both recipes are known.

    Args:
        recipe: Of the model.
        comparison: `results.json` of `compare`.
    """
    given = {} if comparison is None else comparison.get("recipe", {})
    if comparison is None or not (recipe and given):
        return []
    shared = {**given, **read_words(comparison.get("overrides", []))}
    variants = [{**shared, **(one or {})} for one in given.get("variants", {}).values()] or [shared]
    of_data = [one.name for group in (DataArguments, ModelArguments) for one in fields(group)]
    found = _compare(recipe, variants, [*of_data, *OPTIMIZED, *_STEPS])
    is_cluster = _spell(recipe.get("batch_sampler", "cluster")) == "cluster"
    own = sorted(ALLOWED) if is_cluster else ["batch_sampler"]
    # Each value may be there, yet not together in one variant: then the nearest variant says what differs.
    of_each = [_compare(recipe, [one], own) for one in variants]
    return found + min(of_each, key=lambda one: (any(text.startswith("batch_sampler ") for text in one), len(one)))


def _compare(recipe: dict[str, Any], variants: list[dict[str, Any]], keys: Sequence[str]) -> list[str]:
    found, defaults = [], _read_defaults()
    for key in keys:
        if key in _IDLE:
            continue
        default = defaults[key]
        own = _spell(recipe.get(key, default))
        theirs = sorted({_spell(one.get(key, default)) for one in variants})
        if own not in theirs:
            # Of a path the last part alone is kept, and one model may lie in folders of two names.
            word = "is called" if key in _PATHS else "is"
            found.append(f"{key} {word} {', '.join(theirs)} there and {own} here")
    return found


def _spell(value: Any) -> str:
    """Spell a value in one way, be it of a file or of a command line, where all is text."""
    if value is None or value == []:
        return "not given"
    if isinstance(value, list | tuple):
        return " ".join(map(_spell, value))
    try:
        return f"{float(value):g}"
    except (TypeError, ValueError):
        return str(value)
