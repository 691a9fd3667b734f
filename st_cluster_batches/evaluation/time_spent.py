"""What a run has spent so far, kept in its checkpoints: one that goes on from there tells of the whole run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState

from st_cluster_batches.losses.guided import Guided
from st_cluster_batches.storage.cache import read_json


class Spent(TrainerCallback, ExportableState):  # type: ignore[misc]  # the host library has no types
    """Counts the seconds of training, and the masks of a guided loss, over all parts of a run.

    Args:
        loss: The loss of the run; what it has masked up to the checkpoint is added to its counts.
        checkpoint: The checkpoint that the run goes on from, if it does.
    """

    def __init__(self, loss: Any, checkpoint: Path | None) -> None:
        self._loss = loss
        self._earlier = 0.0
        if checkpoint is not None:
            state = read_json(checkpoint / TRAINER_STATE_NAME)
            kept = state["stateful_callbacks"].get(type(self).__name__, {}).get("attributes", {})
            self._earlier = kept.get("seconds", 0.0)
            if isinstance(loss, Guided) and kept.get("mask_counts"):
                loss.mask_counts.values = kept["mask_counts"]
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Wall time of training so far, without what a kill has undone."""
        return self._earlier + time.perf_counter() - self._start

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Let a checkpoint that was written without it, and is resumed from, have a place for its state."""
        state.stateful_callbacks.setdefault(type(self).__name__, self.state())

    def state(self) -> dict[str, Any]:
        """Return what the checkpoint keeps, as `ExportableState` asks."""
        counts = self._loss.mask_counts.values if isinstance(self._loss, Guided) else None
        return {"args": {}, "attributes": {"seconds": self.seconds, "mask_counts": counts}}
