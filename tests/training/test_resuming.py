"""A run goes on from its own last whole checkpoint, or starts anew when it is told to: never from another run's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file
from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME

from st_cluster_batches.publishing.staging import build_model
from st_cluster_batches.training.recipe import read_recipe
from st_cluster_batches.training.resuming import find_last_checkpoint, find_resumed
from st_cluster_batches.training.run import prepare_run

_KEPT = ["--save_strategy", "steps", "--save_steps", "2", "--max_steps", "6"]


def train(workspace: Path, *words: str) -> Path:
    run, _ = prepare_run(read_recipe(workspace / "recipe.yaml", [*_KEPT, *words]))
    return run.train()


@pytest.fixture
def output(workspace: Path) -> Path:
    train(workspace)
    return workspace / "run"


def test_a_run_beside_earlier_checkpoints_is_told_to_say_what_becomes_of_them(workspace: Path, output: Path) -> None:
    with pytest.raises(ValueError, match=r"holds checkpoint-6 of an earlier run.*true goes on.*false removes"):
        train(workspace)
    train(workspace, "--resume_from_checkpoint", "false", "--max_steps", "2")
    assert [path.name for path in output.glob("checkpoint-*")] == ["checkpoint-2"]


def test_a_checkpoint_that_a_kill_cut_off_is_passed_over(
    workspace: Path, output: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = load_file(output / "model" / "model.safetensors")
    (output / "checkpoint-6" / TRAINER_STATE_NAME).unlink()
    state = output / "checkpoint-4" / TRAINER_STATE_NAME
    half = state.read_text()[:100]
    (output / "checkpoint-best").mkdir()
    assert find_last_checkpoint(output) == output / "checkpoint-4"
    assert "checkpoint-6 was cut off while it was written" in caplog.text
    with pytest.raises(ValueError, match="killed while it was written"):
        train(workspace, "--resume_from_checkpoint", str(output / "checkpoint-6"))
    train(workspace, "--resume_from_checkpoint", "true")
    for name, weights in load_file(output / "model" / "model.safetensors").items():
        assert (weights == whole[name]).all()
    state.write_text(half)
    (output / "checkpoint-6" / TRAINER_STATE_NAME).unlink()
    assert find_last_checkpoint(output) == output / "checkpoint-2"


@pytest.mark.parametrize(
    ("words", "change"),
    [
        (["--loss_scale", "10"], "loss_scale was None and is 10.0"),
        (["--loss", "cached_mnrl"], "loss was 'mnrl' and is 'cached_mnrl'"),
        (["--learning_rate", "1e-5"], "learning_rate was .* and is 1e-05"),
        (["--max_seq_length", "5"], "max_seq_length was None and is 5"),
        (["--columns", "passage", "query"], r"columns was None and is \['passage', 'query'\]"),
    ],
)
def test_a_run_does_not_go_on_with_other_parameters(
    workspace: Path, output: Path, words: list[str], change: str
) -> None:
    recipe = read_recipe(workspace / "recipe.yaml", [*_KEPT, *words, "--resume_from_checkpoint", "true"])
    with pytest.raises(ValueError, match=f"checkpoint-6 is of other training: .*{change}"):
        find_resumed(recipe)
    longer = ["--resume_from_checkpoint", "true", "--max_steps", "9", "--data_dir", str(workspace)]
    assert find_resumed(read_recipe(workspace / "recipe.yaml", [*_KEPT, *longer])) == str(output / "checkpoint-6")


def test_a_run_is_not_made_shorter_than_its_checkpoint(workspace: Path, output: Path) -> None:
    with pytest.raises(ValueError, match="The checkpoint has 6 steps, and this run is to have 3"):
        train(workspace, "--resume_from_checkpoint", "true", "--max_steps", "3")


def test_none_is_no_checkpoint_by_that_name(workspace: Path, output: Path) -> None:
    for word in ("None", "null"):
        with pytest.raises(ValueError, match=r"holds checkpoint-6 of an earlier run. .*resume_from_checkpoint: false"):
            find_resumed(read_recipe(workspace / "recipe.yaml", [*_KEPT, "--resume_from_checkpoint", word]))


def test_a_run_that_is_started_anew_is_not_taken_for_the_one_before_it(workspace: Path, output: Path) -> None:
    """As when it is killed before its first checkpoint, and resumed."""
    train(workspace, "--resume_from_checkpoint", "false", "--loss_scale", "10", "--save_strategy", "no")
    assert json.loads((output / "_started.json").read_text())["loss_scale"] == 10
    with pytest.raises(ValueError, match="there is no checkpoint in"):
        train(workspace, "--resume_from_checkpoint", "true", "--loss_scale", "10")


def test_a_finished_model_is_not_replaced_in_silence(
    workspace: Path, output: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in output.glob("checkpoint-*"):
        shutil.rmtree(path)
    find_resumed(read_recipe(workspace / "recipe.yaml", [*_KEPT, "--learning_rate", "1e-05"]))
    assert "holds the finished model of an earlier run, which this run replaces; learning_rate was" in caplog.text
    caplog.clear()
    find_resumed(read_recipe(workspace / "recipe.yaml", [*_KEPT, "--resume_from_checkpoint", "false"]))
    assert not caplog.text


def test_checkpoints_of_other_programs_are_resumed_from(workspace: Path, output: Path, tmp_path: Path) -> None:
    shutil.move(output, tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "_started.json").unlink()
    train(workspace, "--resume_from_checkpoint", str(tmp_path / "elsewhere" / "checkpoint-4"), "--loss_scale", "10")


def test_what_cannot_change_is_a_parameter_of_the_trainer() -> None:
    from st_cluster_batches.training.resuming import OPTIMIZED
    from st_cluster_batches.training.trainer_arguments import TrainingArguments

    assert set(OPTIMIZED) <= set(TrainingArguments.__dataclass_fields__)


class _Kill(TrainerCallback):  # type: ignore[misc]  # the host library has no types
    def on_step_begin(self, *_: Any, **__: Any) -> None:
        pytest.fail("killed")


def test_a_model_is_not_published_as_that_of_a_run_that_was_cut_off(workspace: Path, output: Path) -> None:
    run, _ = prepare_run(read_recipe(workspace / "recipe.yaml", [*_KEPT, "--resume_from_checkpoint", "false"]))
    run.trainer.add_callback(_Kill())
    with pytest.raises(pytest.fail.Exception, match="killed"):
        run.train()
    with pytest.raises(ValueError, match=r"The last run in .*run is not finished.*--resume_from_checkpoint true"):
        build_model(output, workspace / "staged")
