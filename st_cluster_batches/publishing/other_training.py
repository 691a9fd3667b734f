"""What a comparison trains otherwise than the model whose card it is to stand in."""

from __future__ import annotations

from typing import Any

from st_cluster_batches.training.recipe import read_words

# Keys of a recipe, with their defaults, by which a comparison is one of this model's training, or of another.
_OF_ALL = {
    "model_name_or_path": None,
    "static_dim": None,
    "num_hidden_layers": None,
    "train_data": None,
    "loss": "mnrl",
    "per_device_train_batch_size": 8,
    "learning_rate": None,
    "max_steps": -1,
    "num_train_epochs": 3,
}
# And those that make a variant, where the model was trained in batches of clusters.
_OF_VARIANT = {
    "batch_sampler": "cluster",
    "n_clusters": None,
    "cluster_size": None,
    "rows_per_stratum": None,
    "random_fraction": 0,
    "cluster_first": 0,
    "tuned": None,
    "refresh_every": None,
    "refresh_first": 1,
    "refresh_cluster_size": 100,
    "refresh_key": "query",
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
    found = _compare(recipe, variants, _OF_ALL)
    is_cluster = _spell(recipe.get("batch_sampler", "cluster")) == "cluster"
    own = _OF_VARIANT if is_cluster else {"batch_sampler": "cluster"}
    # Each value may be there, yet not together in one variant: then the nearest variant says what differs.
    of_each = [_compare(recipe, [one], own) for one in variants]
    return found + min(of_each, key=lambda one: (any(text.startswith("batch_sampler ") for text in one), len(one)))


def _compare(recipe: dict[str, Any], variants: list[dict[str, Any]], keys: dict[str, Any]) -> list[str]:
    found = []
    for key, default in keys.items():
        own = _spell(recipe.get(key, default))
        theirs = sorted({_spell(one.get(key, default)) for one in variants})
        if own not in theirs:
            # Of a path the last part alone is kept, and one model may lie in folders of two names.
            word = "is called" if key in ("model_name_or_path", "train_data") else "is"
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
