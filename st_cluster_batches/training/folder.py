"""The output folder of `train`: the names of its files, and its recipe as anyone may read it."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import yaml

from st_cluster_batches.clusters.encoder import STATIC_PREFIX
from st_cluster_batches.training.recipe import Recipe, read_words, to_words

MODEL_FOLDER = "model"
RECIPE_FILE = "recipe.yaml"
HUB_IDS_FILE = "hub_ids.json"
ATTACHED_FILE = "attached.json"  # manifests of the clusterings that had labelled the pairs before
GUIDED_FILE = "guided.json"  # lines of Markdown on what the guide did, where the loss had one
STARTED_FILE = "_started.json"  # what a run has begun with; what begins so is not pushed with it
CLUSTERING_FOLDER = "clustering"
EVALUATION_FOLDER = "evaluation"

# Keys with folders of one machine, with tokens, or of one start of a run.
_PRIVATE_KEYS = {
    *("data_dir", "output_dir", "cache_dir", "logging_dir", "hub_token", "push_to_hub_token", "run_name"),
    "resume_from_checkpoint",
}
# Keys whose values are names and texts by their meaning, and are said whole.
_SPOKEN_KEYS = {"columns", "source_column", "prompts"}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_TRAIN_AGAIN = """```bash
st-cluster-batches train results/recipe.yaml --data_dir DATA --output_dir RUN
```

DATA is the folder of training data and collections. Of a path the recipe keeps its last part: where files lie deeper
in DATA, say where, such as `--train_data train/pairs.parquet --eval_tasks eval/collection`."""


def is_run(folder: Path) -> bool:
    """Return whether `train` has worked in a folder: a recipe alone is what people keep beside other models, too."""
    return any((folder / file).is_file() for file in (HUB_IDS_FILE, STARTED_FILE))


def describe_recipe(recipe: dict[str, Any]) -> list[str]:
    """Return lines of Markdown that say how to train a model again; none for an empty recipe.

    Args:
        recipe: What `train` was given, from `publish_values`.
    """
    if not recipe:
        return []
    lines = ["### How to train it again", "", "`results/recipe.yaml`:", "", "```yaml"]
    lines += [yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True).rstrip(), "```", ""]
    return [*lines, _TRAIN_AGAIN, ""]


def find_hub_ids(recipe: Recipe) -> list[str]:
    """Return the names in a recipe that are loaded from the Hub: such as are no file or folder here.

    Only the machine that loads them can tell `data/pairs` of the Hub from a folder of its own.

    Args:
        recipe: All parameters.
    """
    data, model = recipe.data, recipe.model
    names = [model.model_name_or_path, model.guide_model, recipe.clusters.encoder]
    given = [*(str(name or "").removeprefix(STATIC_PREFIX) for name in names), *data.train_data, *data.eval_tasks]
    return sorted({name for name in given if HUB_ID.fullmatch(name) and not Path(data.find(name)).exists()})


def publish_values(values: dict[str, Any], hub_ids: Collection[str]) -> dict[str, Any]:
    """Return the values of a recipe as anyone may read them: what may be said is said, and nothing else.

    Numbers, Hub ids that were loaded as such, names of columns and prompts are said whole; of any other text the last
    part alone, as if it were a path: the name of a file.

    Args:
        values: The keys and values of a recipe.
        hub_ids: From `find_hub_ids`.
    """
    return {
        key: one if key in _SPOKEN_KEYS else _publish(one, hub_ids)
        for key, one in values.items()
        if key not in _PRIVATE_KEYS
    }


def publish_words(words: Sequence[str], hub_ids: Collection[str]) -> list[str]:
    """Return `--key value` words of a command line as anyone may read them."""
    values = publish_values(read_words(words), hub_ids)
    return [word for key, one in values.items() for word in to_words(key, one)]


def _publish(value: Any, hub_ids: Collection[str]) -> Any:
    if isinstance(value, dict):
        return publish_values(value, hub_ids)
    if isinstance(value, list):
        return [_publish(one, hub_ids) for one in value]
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("{"):  # as a command line spells a dict
        try:
            return json.dumps(publish_values(json.loads(value), hub_ids))
        except ValueError:
            pass
    prefix = STATIC_PREFIX if value.startswith(STATIC_PREFIX) else ""
    rest = value.removeprefix(prefix)
    return value if rest in hub_ids else prefix + re.split(r"[\\/]", rest.rstrip("\\/"))[-1]
