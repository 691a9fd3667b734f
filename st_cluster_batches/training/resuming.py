"""The checkpoint that a run goes on from, checked before any work, and what the run before it was."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.trainer import TRAINER_STATE_NAME

from st_cluster_batches.batches.callback import PlanCallback
from st_cluster_batches.column_values import hash_sample
from st_cluster_batches.columns import list_parts
from st_cluster_batches.refresh.folder import list_checkpoints
from st_cluster_batches.storage.cache import read_json, write_atomically
from st_cluster_batches.training.folder import MODEL_FOLDER, RECIPE_FILE, STARTED_FILE
from st_cluster_batches.training.recipe import Recipe

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

logger = logging.getLogger(__name__)

_ELSEWHERE = {"data_dir", "eval_tasks", "qrels", "missing"}  # of the data, but not what is trained on
# A resumed optimizer and schedule keep what they were made with, so another value would decide nothing.
OPTIMIZED = (
    *("learning_rate", "learning_rate_mapping", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps"),
    *("optim", "optim_args", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "seed"),
)


def find_resumed(recipe: Recipe) -> str | None:
    """Return the checkpoint that a run is to go on from; None if it starts anew.

    Args:
        recipe: All parameters.

    Raises:
        ValueError: If it is not there, is of other training, or nothing says what to do with the checkpoints of an
            earlier run.
    """
    given = recipe.training.resume_from_checkpoint  # a folder, or what YAML and a flag make of a switch
    switch = {"true": True, "false": False}.get(str(given).lower())
    output = Path(recipe.training.output_dir)
    if switch is None and str(given).lower() not in ("none", "null"):
        found = Path(str(given))
        if not found.is_dir():
            raise ValueError(f"resume_from_checkpoint: there is no folder {given}; give true, or one of {output}")
        if not _is_whole(found):
            raise ValueError(
                f"resume_from_checkpoint: {given} has no whole {TRAINER_STATE_NAME}: the run was killed while it was "
                "written; give true for the last whole one"
            )
    elif switch:
        last = find_last_checkpoint(output)
        if last is None:
            raise ValueError(
                f"resume_from_checkpoint: true, but there is no checkpoint in {output}; give the output_dir of the "
                "run that is to go on, or leave resume_from_checkpoint out to start anew"
            )
        found = last
    else:
        if switch is None and (there := list_checkpoints(output)):
            raise ValueError(
                f"{output} holds {there[max(there)].name} of an earlier run. resume_from_checkpoint: true goes on "
                "from it, resume_from_checkpoint: false removes it and starts anew; or give another output_dir"
            )
        if switch is None and (output / RECIPE_FILE).is_file() and (output / MODEL_FOLDER).is_dir():
            _tell_of_replaced(output, recipe)
        return None
    _refuse_other_training(found, recipe)
    return str(found)


def find_last_checkpoint(output: Path) -> Path | None:
    """Return the last checkpoint in a folder that is whole: a kill may have cut off the one that was being written."""
    for path in reversed(list_checkpoints(output).values()):
        if _is_whole(path):
            return path
        logger.warning("%s was cut off while it was written; the checkpoint before it is taken", path)
    return None


def hash_pairs(dataset: Dataset | DatasetDict) -> list[str]:
    """Return a hash of the texts of each dataset; see `hash_sample`."""
    return [hash_sample(part, part.column_names) for part in list_parts(dataset)]


def refuse_other_pairs(checkpoint: str | None, texts: list[str]) -> None:
    """Refuse to go on from a checkpoint with other pairs than it was trained on.

    Args:
        checkpoint: From `find_resumed`.
        texts: From `hash_pairs`.

    Raises:
        ValueError: If the pairs are others.
    """
    started = None if checkpoint is None else Path(checkpoint).parent / STARTED_FILE
    if started is None or not started.is_file() or read_json(started).get("texts", texts) == texts:
        return
    raise ValueError(
        f"{checkpoint} was trained on other pairs than these: a text has changed, or the number of rows. Resume with "
        "the train_data and data_dir of then, or start anew: resume_from_checkpoint: false, in another output_dir if "
        "this checkpoint is to stay"
    )


def begin(recipe: Recipe, checkpoint: str | None, texts: list[str]) -> None:
    """Write down what a run begins with, and remove the checkpoints of an earlier one if this does not go on from it.

    Args:
        recipe: All parameters.
        checkpoint: From `find_resumed`.
        texts: From `hash_pairs`.
    """
    output = Path(recipe.training.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    if checkpoint is None:
        for path in list_checkpoints(output).values():
            shutil.rmtree(path)
    step = None if checkpoint is None else read_json(Path(checkpoint) / TRAINER_STATE_NAME)["global_step"]
    content = {**_describe(recipe), "texts": texts, "resumed_from": step}
    write_atomically(output / STARTED_FILE, json.dumps(content, indent=1) + "\n")


def _is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint has its state, which the trainer writes last."""
    try:
        read_json(checkpoint / TRAINER_STATE_NAME)
    except (OSError, ValueError):
        return False
    return True


def _describe(recipe: Recipe) -> dict[str, Any]:
    """Return the parameters that a run cannot change on the way, as JSON values."""
    data = {name: value for name, value in asdict(recipe.data).items() if name not in _ELSEWHERE}
    training = {name: getattr(recipe.training, name) for name in (*OPTIMIZED, "prompts")}
    described: dict[str, Any] = json.loads(json.dumps({**data, **asdict(recipe.model), **training}, default=str))
    return described


def _list_changes(output: Path, recipe: Recipe) -> list[str]:
    """Say which parameters have changed since the run in a folder began; an older version wrote down fewer."""
    now = _describe(recipe)
    before = read_json(output / STARTED_FILE) if (output / STARTED_FILE).is_file() else {}
    changed = [name for name in now if before.get(name, now[name]) != now[name]]
    return [f"{name} was {before[name]!r} and is {now[name]!r}" for name in changed]


def _tell_of_replaced(output: Path, recipe: Recipe) -> None:
    """Warn of a finished model, of which no checkpoint is left, that is to be replaced."""
    logger.warning(
        "%s holds the finished model of an earlier run, which this run replaces%s. To keep it, give another "
        "output_dir; resume_from_checkpoint: false says that it may go",
        output,
        "".join(f"; {change}" for change in _list_changes(output, recipe)),
    )


def _refuse_other_training(checkpoint: Path, recipe: Recipe) -> None:
    """Refuse to go on from a checkpoint with other parameters than it was trained with.

    Planned batches are compared when training starts: what is compared here is what no callback of ours sees.
    """
    path = checkpoint / TRAINER_STATE_NAME
    callbacks = read_json(path).get("stateful_callbacks", {})
    plans = callbacks.get(PlanCallback.__name__, {}).get("attributes", {}).get("plans")
    if recipe.training.strategy == "stock" and plans:
        raise ValueError(
            f"{checkpoint} was trained on planned batches, and batch_sampler: stock takes another order. Resume with "
            "what it was trained with, or start anew: resume_from_checkpoint: false"
        )
    if changes := _list_changes(checkpoint.parent, recipe):
        raise ValueError(
            f"{checkpoint} is of other training: {'; '.join(changes)}. Resume with what it was trained with, or start "
            "anew: resume_from_checkpoint: false, in another output_dir if this checkpoint is to stay"
        )
