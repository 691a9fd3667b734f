"""A recipe: all parameters of one run, from one YAML file and the words of a command line."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser

from st_cluster_batches.clusters.choice import Choice
from st_cluster_batches.plans.options import check_chunks, check_own_chunks
from st_cluster_batches.training.arguments import DataArguments, ModelArguments
from st_cluster_batches.training.cluster_arguments import AUTO, ClusterArguments
from st_cluster_batches.training.trainer_arguments import TrainingArguments

logger = logging.getLogger(__name__)

VARIANTS = "variants"  # the key for what `compare` compares
# Names that other tools have for a key, of which the nearest by spelling would be another one.
_MEANT = {
    "model": "model_name_or_path",
    "batch_size": "per_device_train_batch_size",
    "epochs": "num_train_epochs",
    "lr": "learning_rate",
    "train_dataset": "train_data",
}
_SWITCH = ()  # the value of a `--key` that stands without one
_NULL = "null"  # as YAML has it: what a recipe says of the key counts no more


@dataclass
class Recipe:
    """All parameters of one run, and the values of file and command line that set them."""

    data: DataArguments
    model: ModelArguments
    clusters: ClusterArguments
    training: TrainingArguments
    given: dict[str, Any]

    def __post_init__(self) -> None:
        # A plan and a sampler would say so too, but only after all texts have been embedded.
        if self.training.refresh_guide and not self.model.is_guided:
            raise ValueError(
                f"refresh_guide: true renews the vectors of a guide, and loss: {self.model.loss} has none; take loss: "
                "guided, or leave refresh_guide out"
            )
        check_chunks(self.training.rows_per_stratum, self.global_batch_size, self.training.random_fraction)
        if self.training.world_size > 1 and not self.model.gather_across_devices:
            check_own_chunks(self.training.rows_per_stratum, self.training.train_batch_size, self.global_batch_size)

    @property
    def global_batch_size(self) -> int:
        """The rows of a step, on all devices."""
        return int(self.training.train_batch_size * self.training.world_size)

    @property
    def rows_compared(self) -> int:
        """The rows among which the loss takes negatives: those of a global batch if it gathers, else of one device."""
        return self.global_batch_size if self.model.gather_across_devices else int(self.training.train_batch_size)


class _Parser(HfArgumentParser):  # type: ignore[misc]  # the host library has no types
    def error(self, message: str) -> NoReturn:
        # argparse names a key in both spellings, the one with dashes too.
        raise ValueError(re.sub(r"(--\w+)/--[\w-]+", r"\1", message))


class _Loader(yaml.SafeLoader):
    """Reads YAML, and refuses a key that stands twice: of two values one would be idle."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            line = key.start_mark.line + 1
            if key.value in lines:
                raise yaml.YAMLError(f"the key {key.value!r} stands twice, in lines {lines[key.value]} and {line}")
            lines[key.value] = line
        return dict(super().construct_mapping(node, deep))


def read_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe; later values win: file, then `--key value` overrides.

    Args:
        path: YAML file of flat `key: value` lines; its `variants`, if any, are for `compare`.
        overrides: Words of the command line after the file.

    Returns:
        The checked parameters.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a key is unknown or missing, or a value is of the wrong kind.
    """
    values = read_values(path)
    values.pop(VARIANTS, None)
    return parse_values({**values, **read_words(overrides)})


def read_values(path: str | Path) -> dict[str, Any]:
    """Read the `key: value` lines of a recipe, unchecked.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no recipe {path}")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # a safe one
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold `key: value` lines, not a {type(values).__name__}")
    return values


def read_words(words: Sequence[str]) -> dict[str, Any]:
    """Return what `--key value` words of a command line say, as the values of a recipe.

    Raises:
        ValueError: If the first word is no `--key`.
    """
    given: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            key, sign, value = word[2:].partition("=")
            name = key.replace("-", "_")
            if name in given:
                logger.warning("--%s stands twice: the last one counts, %s decides nothing", name, given[name])
            own = given[name] = [value] if sign else []
        elif given:
            own.append(word)
        else:
            raise ValueError(f"{word!r} stands alone; say --key {word}")
    one_or_all = {key: own[0] if len(own) == 1 else own or _SWITCH for key, own in given.items()}
    return {key: None if own == _NULL else own for key, own in one_or_all.items()}


def parse_values(values: dict[str, Any]) -> Recipe:
    """Check the keys and values of a recipe.

    Raises:
        ValueError: If a key is unknown or missing, or a value is of the wrong kind.
    """
    groups = (DataArguments, ModelArguments, ClusterArguments, TrainingArguments)
    known = {one.name for group in groups for one in fields(group) if one.init}
    for key in values:
        if key not in known:
            near = [_MEANT[key]] if key in _MEANT else get_close_matches(str(key), known, n=1)
            raise ValueError(f"Unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    values = {key: _expand_home(one) for key, one in values.items()}
    spelled = {**_read_chunks(values), **values}
    several = {one.name for group in groups for one in fields(group) if "list" in str(one.type).lower()}
    for key, value in spelled.items():
        if key not in several and isinstance(value, list | tuple) and len(value) > 1:
            raise ValueError(f"{key} takes one value, and not {', '.join(map(str, value))}")
    words = [word for key, value in spelled.items() for word in to_words(key, value)]
    # Abbreviations would let a typing error through as another key.
    data, model, clusters, training = _Parser(groups, allow_abbrev=False).parse_args_into_dataclasses(words)
    # Also those that say what holds by default.
    said = [key for key, one in values.items() if one is not None]
    training.refuse_idle_refresh([key for key in said if key.startswith("refresh_")])
    # A key without a value passed, so it is a switch.
    given = {key: True if one == _SWITCH else one for key, one in values.items()}
    return Recipe(data, model, clusters, training, given)


def _expand_home(value: Any) -> Any:
    """Return a value, with `~/` as the home folder, which no shell has replaced in a file."""
    if isinstance(value, list | tuple):
        return type(value)(map(_expand_home, value))
    return str(Path(value).expanduser()) if isinstance(value, str) and value.startswith("~/") else value


def _read_chunks(values: dict[str, Any]) -> dict[str, Any]:
    """Return how many rows of a cluster a batch has, as the choice says that cluster batches are to follow."""
    tuned, strategy = values.get("tuned"), values.get("batch_sampler", "cluster")
    if tuned in (None, AUTO) or strategy != "cluster":
        return {}
    return {"rows_per_stratum": Choice.load(str(tuned)).rows_per_stratum}


def to_words(key: str, value: Any) -> list[str]:
    """Spell a YAML value as the words of a command line, so that one parser checks both."""
    if value is None or value == []:
        return []
    values = [*value] if isinstance(value, list | tuple) else [value]
    words = [json.dumps(one) if isinstance(one, dict) else str(one) for one in values]
    if len(words) == 1 and words[0].startswith("-"):
        return [f"--{key}={words[0]}"]  # argparse takes -1e-05 for a key of its own
    return [f"--{key}", *words]
