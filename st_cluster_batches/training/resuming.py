"""The checkpoint that a run goes on from, checked before any work."""

from __future__ import annotations

import json
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from st_cluster_batches.batches.callback import PlanCallback
from st_cluster_batches.training.trainer_arguments import TrainingArguments


def find_resumed(arguments: TrainingArguments) -> bool | str | None:
    """Return what a trainer is to resume from.

    Args:
        arguments: The trainer's arguments, as a recipe gives them.

    Raises:
        ValueError: If it is not there, or was trained on planned batches that are to be taken no more.
    """
    given = arguments.resume_from_checkpoint  # a folder, or what YAML and a flag make of a switch
    resumed: bool | str | None = {"True": True, "False": None}.get(str(given).title(), given)
    output = Path(arguments.output_dir)
    found = get_last_checkpoint(str(output)) if resumed is True and output.is_dir() else resumed
    if found in (None, True) and resumed is True:
        raise ValueError(
            f"resume_from_checkpoint: true, but there is no checkpoint in {output}; give the output_dir of the run "
            "that is to go on, or leave resume_from_checkpoint out to start anew"
        )
    if isinstance(found, str) and not Path(found).is_dir():
        raise ValueError(f"resume_from_checkpoint: there is no folder {found}; give true, or one of {output}")
    if isinstance(found, str) and arguments.strategy == "stock":
        _refuse_planned(Path(found))
    return resumed


def _refuse_planned(checkpoint: Path) -> None:
    """Refuse to go on in the stock order from a checkpoint of planned batches: no callback of ours sees it."""
    path = checkpoint / TRAINER_STATE_NAME
    callbacks = json.loads(path.read_text(encoding="utf-8")).get("stateful_callbacks", {}) if path.is_file() else {}
    if callbacks.get(PlanCallback.__name__, {}).get("attributes", {}).get("plans"):
        raise ValueError(
            f"{checkpoint} was trained on planned batches, and batch_sampler: stock takes another order. Resume with "
            "what it was trained with, or start anew without resume_from_checkpoint"
        )
