"""The output folder of `train`: the names of its files, and its recipe as a card may show it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml

from st_cluster_batches.clusters.encoder import STATIC_PREFIX

MODEL_FOLDER = "model"
RECIPE_FILE = "recipe.yaml"
CLUSTERING_FOLDER = "clustering"
EVALUATION_FOLDER = "evaluation"

# Keys with folders of one machine, or with tokens.
_PRIVATE_KEYS = {"data_dir", "output_dir", "cache_dir", "logging_dir", "hub_token", "push_to_hub_token", "run_name"}
_PLACE = re.compile(r"(/|~|\./|\.\./|[A-Za-z]:[\\/])")
_TRAIN_AGAIN = """```bash
st-cluster-batches train results/recipe.yaml --data_dir DATA --output_dir RUN
```

DATA is the folder of training data and collections; names without a slash may have been paths."""


def describe_recipe(recipe: dict[str, Any]) -> list[str]:
    """Return lines of Markdown that say how to train a model again; none for an empty recipe.

    Args:
        recipe: What `train` was given, free of paths and tokens.
    """
    if not recipe:
        return []
    lines = ["### How to train it again", "", "`results/recipe.yaml`:", "", "```yaml"]
    lines += [yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True).rstrip(), "```", ""]
    return [*lines, _TRAIN_AGAIN, ""]


def hide_places(value: Any) -> Any:
    """Replace paths by names, and leave out the keys that hold folders or tokens, in JSON values of any depth."""
    if isinstance(value, dict):
        return {key: hide_places(one) for key, one in value.items() if key not in _PRIVATE_KEYS}
    if isinstance(value, list):
        return [hide_places(one) for one in _drop_private_words(value)]
    if not isinstance(value, str):
        return value
    flag = re.match(r"--[\w-]+=", value)
    prefix = flag[0] if flag else STATIC_PREFIX if value.startswith(STATIC_PREFIX) else ""
    if prefix.startswith("--"):
        return prefix + hide_places(value.removeprefix(prefix))
    rest = value.removeprefix(prefix)
    return prefix + re.split(r"[\\/]", rest.rstrip("\\/"))[-1] if _PLACE.match(rest) and " " not in rest else value


def _drop_private_words(values: Sequence[Any]) -> list[Any]:
    """Leave out `--output_dir DIR` and its like from words of a command line."""
    kept: list[Any] = []
    skipping = False
    for value in values:
        is_flag = isinstance(value, str) and value.startswith("--")
        if is_flag:
            name = value[2:].split("=")[0].replace("-", "_")
            skipping = name in _PRIVATE_KEYS and "=" not in value
            if name in _PRIVATE_KEYS:
                continue
        elif skipping:
            continue
        kept.append(value)
    return kept
