"""The plan's promises in real processes, started as users start them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parent
LAUNCHERS = {
    "torchrun": "torch.distributed.run --standalone --nproc_per_node",
    # With `--cpu` and without MPI, accelerate would start one process and say nothing.
    "accelerate": "accelerate.commands.launch --multi_gpu --mixed_precision no --num_machines 1 --dynamo_backend no "
    "--main_process_port 0 --num_processes",
}


def launch(tmp_path: Path, *runs: dict[str, Any], world_size: int = 1, launcher: str = "torchrun") -> tuple[int, str]:
    """Start the training script on real processes; return its exit code and what it said."""
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps(list(runs)))
    command = [sys.executable, str(TESTS / "launched.py"), str(spec)]
    if world_size > 1:
        command[1:1] = ["-m", *LAUNCHERS[launcher].split(), str(world_size)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=90)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, output


def read_rows(output: Path, rank: int = 0, record: str = "rows") -> list[tuple[int, list[int]]]:
    """Return (completed steps, rows) of every forward pass of a rank."""
    lines = [json.loads(line) for line in (output / f"{record}-{rank}.jsonl").read_text().splitlines()]
    return [(line["step"], line["rows"]) for line in lines]


def read_losses(output: Path, rank: int = 0) -> list[float]:
    return [json.loads(line)["loss"] for line in (output / f"rows-{rank}.jsonl").read_text().splitlines()]


def check_resumed(whole: Path, killed: Path, world_size: int) -> None:
    """Check that a run that was killed and resumed used the rows of the one that was not, from its checkpoint on."""
    first = read_rows(killed, record="resumed")[0][0]
    assert first > 0, "it did not start anew"
    for rank in range(world_size):
        expected = [(step, rows) for step, rows in read_rows(whole, rank) if step >= first]
        assert read_rows(killed, rank, "resumed") == expected


def test_two_processes_resumed_in_the_second_epoch_go_on_as_if_never_killed(tmp_path: Path) -> None:
    # 203 rows in batches of 2 x 8: 12 steps an epoch.
    whole = {"output_dir": str(tmp_path / "whole")}
    killed = {"output_dir": str(tmp_path / "killed"), "save_strategy": "steps", "save_steps": 5}
    code, output = launch(tmp_path, whole, {**killed, "kill_at": 18}, world_size=2)
    assert code != 0 and "SIGKILL" in output
    code, output = launch(tmp_path, {**killed, "resume": True, "record": "resumed"}, world_size=2)
    assert code == 0, output
    check_resumed(tmp_path / "whole", tmp_path / "killed", 2)
    assert read_rows(tmp_path / "killed", record="resumed")[0][0] == 15


RESUMED: dict[str, dict[str, Any]] = {
    "epoch 0": {"kill_at": 8},
    "epoch 1, accumulated": {"kill_at": 11, "gradient_accumulation_steps": 3, "num_train_epochs": 3, "save_steps": 3},
    "epoch 0, accumulated": {"kill_at": 4, "gradient_accumulation_steps": 3, "num_train_epochs": 3, "save_steps": 3},
    "end of epoch 0": {"kill_at": 14, "save_steps": 6},
    "workers": {"kill_at": 19, "dataloader_num_workers": 2},
    "persistent workers": {"kill_at": 19, "dataloader_num_workers": 2, "dataloader_persistent_workers": True},
    "curriculum": {"kill_at": 18, "sampler": {"strata": {"0": ["source"], "1": ["source", "cluster"]}}},
    "random fraction": {"kill_at": 18, "sampler": {"random_fraction": 0.3}},
    "many datasets": {"kill_at": 22, "sizes": {"a": 90, "b": 203}, "alpha": 0.3, "dict_of_losses": True},
    "many datasets, stock": {"kill_at": 19, "sizes": {"a": 90, "b": 90}, "multi_dataset_batch_sampler": "round_robin"},
}


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 2])
def test_any_run_goes_on_as_if_never_killed(tmp_path: Path, world_size: int) -> None:
    runs = [
        {"output_dir": str(tmp_path / name), "save_strategy": "steps", "save_steps": 5, **options}
        for name, options in RESUMED.items()
    ]
    unkilled = [
        {**run, "output_dir": run["output_dir"] + " whole", "kill_at": None, "save_strategy": "no"} for run in runs
    ]
    code, output = launch(tmp_path, *unkilled, world_size=world_size)
    assert code == 0, output
    for run in runs:
        code, output = launch(tmp_path, run, world_size=world_size)
        assert code == -signal.SIGKILL or "SIGKILL" in output, output
    resumed = [{**run, "kill_at": None, "resume": True, "record": "resumed"} for run in runs]
    code, output = launch(tmp_path, *resumed, world_size=world_size)
    assert code == 0, output
    for name in RESUMED:
        check_resumed(tmp_path / f"{name} whole", tmp_path / name, world_size)
