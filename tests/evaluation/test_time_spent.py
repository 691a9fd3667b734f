from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from st_cluster_batches.evaluation.time_spent import Spent
from st_cluster_batches.training.recipe import read_recipe
from st_cluster_batches.training.run import prepare_run


class SlowAndKilled(TrainerCallback):
    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 2:
            time.sleep(1)
        if state.global_step == 6:
            raise KeyboardInterrupt


def train(workspace: Path, *words: str, checkpoint: Path | None = None, kills: bool = False) -> tuple[float, float]:
    recipe = read_recipe(workspace / "recipe.yaml", ["--loss", "guided", *words])
    trainer = prepare_run(recipe)[0].trainer
    trainer.add_callback(spent := Spent(trainer.loss, checkpoint))
    if kills:
        trainer.add_callback(SlowAndKilled())
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return spent.seconds, trainer.loss.masked_share


def test_a_run_that_was_killed_tells_the_time_and_the_masks_of_all_of_it(workspace: Path) -> None:
    words = ["--output_dir", str(workspace / "killed")]
    with pytest.raises(KeyboardInterrupt):
        train(workspace, *words, kills=True)
    checkpoint = workspace / "killed" / "checkpoint-4"
    seconds, share = train(workspace, *words, "--resume_from_checkpoint", "true", checkpoint=checkpoint)
    assert seconds > 1 and share == train(workspace)[1] > 0
