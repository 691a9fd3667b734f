"""The plan's promises in real processes, started as users start them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import concatenate_datasets
from examples import make_tiny_bert
from launched import FIRST_EVALUATED, make_rows
from sentence_transformers import SentenceTransformer

from st_cluster_batches import ClusterBatchSampler, export_batches

ROOT = Path(__file__).parents[2]
SUPPORT = ROOT / "tests" / "support"
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
    command = [sys.executable, str(SUPPORT / "launched.py"), str(spec)]
    if world_size > 1:
        command[1:1] = ["-m", *LAUNCHERS[launcher].split(), str(world_size)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(SUPPORT), str(ROOT), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=300)
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


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("kill_at", [18, 30])
def test_refreshed_clusters_are_those_of_the_run_that_was_not_killed(
    tmp_path: Path, world_size: int, kill_at: int
) -> None:
    # 203 rows in batches of 8: 26 steps an epoch on one process, 12 on two.
    sampler = {"refresh": {"cluster_size": 30, "first": 1}, "distinct": None}
    common = {"sampler": sampler, "num_train_epochs": 4, "learning_rate": 1e-2}
    whole = {"output_dir": str(tmp_path / "whole"), **common}
    killed = {"output_dir": str(tmp_path / "killed"), "save_strategy": "steps", "save_steps": 5, **common}
    kill_at *= 3 - world_size
    code, output = launch(tmp_path, whole, {**killed, "kill_at": kill_at}, world_size=world_size)
    assert code != 0
    code, output = launch(tmp_path, {**killed, "resume": True, "record": "resumed"}, world_size=world_size)
    assert code == 0, output
    check_resumed(tmp_path / "whole", tmp_path / "killed", world_size)


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 2])
def test_negatives_mined_by_a_run_that_was_killed_are_those_of_the_whole_run(tmp_path: Path, world_size: int) -> None:
    sampler = {"refresh": {"cluster_size": 30, "first": 1, "mine": 2}, "distinct": None}
    common = {"sampler": sampler, "num_train_epochs": 4, "learning_rate": 1e-2, "records": False}
    whole = {"output_dir": str(tmp_path / "whole"), **common}
    killed = {"output_dir": str(tmp_path / "killed"), "save_strategy": "steps", "save_steps": 5, **common}
    code, output = launch(tmp_path, whole, {**killed, "kill_at": 36 // world_size}, world_size=world_size)
    assert code != 0 and (tmp_path / "whole" / "weights.pt").is_file(), output
    code, output = launch(tmp_path, {**killed, "resume": True}, world_size=world_size)
    assert code == 0, output
    mined = sorted(path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("train.parquet"))
    assert len(mined) == 3
    for path in mined:
        ours, theirs = (pq.read_table(tmp_path / name / path) for name in ("killed", "whole"))
        assert ours.equals(theirs) and ours.num_rows > 195


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


@pytest.mark.slow
def test_a_changed_plan_stops_a_resumed_run_with_what_has_changed(tmp_path: Path) -> None:
    run = {"output_dir": str(tmp_path / "run"), "save_strategy": "steps", "save_steps": 5, "max_steps": 6}
    code, output = launch(tmp_path, run, world_size=2)
    assert code == 0, output
    for change, world_size, message in (
        ({"first_row": 1}, 2, "the labels have changed"),
        ({"per_device_train_batch_size": 4}, 2, "batch_size was 8 and is 4"),
        ({}, 1, "world_size was 2 and is 1"),
        ({"sampler": {"random_fraction": 0.5}}, 2, "random_fraction was 0.0 and is 0.5"),
        ({"sizes": {"a": 100, "b": 103}}, 2, "the number of datasets was 1 and is 2"),
    ):
        code, output = launch(tmp_path, {**run, **change, "resume": True}, world_size=world_size)
        assert code != 0
        assert "The checkpoint was trained on other batches" in output and message in output


EVERY_STEP: dict[str, dict[str, Any]] = {
    "plain": {},
    "no drop_last": {"dataloader_drop_last": False},
    "one batch": {"sizes": {"": 40}, "num_train_epochs": 3},
    "odd batch": {"per_device_train_batch_size": 5},
    "by source": {"sampler": {"strata": ["source"]}},
    "no groups": {"sampler": {"distinct": None}},
    "random fraction": {"sampler": {"random_fraction": 0.4}},
    "strata smaller than a batch": {"per_device_train_batch_size": 20},
    "many datasets": {"sizes": {"a": 203, "b": 77}, "alpha": 1},
    "many datasets, losses": {"sizes": {"a": 203, "b": 77}, "alpha": 0.5, "dict_of_losses": True},
    "many datasets, uniform": {"sizes": {"a": 150, "b": 150}, "alpha": 0, "dict_of_losses": True},
}
STOCK: dict[str, dict[str, Any]] = {
    "proportional": {"sizes": {"a": 203, "b": 77}},
    "round robin": {"sizes": {"a": 203, "b": 77}, "multi_dataset_batch_sampler": "round_robin"},
}


@pytest.mark.slow
@pytest.mark.parametrize(("world_size", "launcher"), [(2, "accelerate"), (4, "torchrun")])
def test_every_step_is_one_global_batch_on_all_processes(tmp_path: Path, world_size: int, launcher: str) -> None:
    runs = [{"output_dir": str(tmp_path / name), **options} for name, options in {**EVERY_STEP, **STOCK}.items()]
    code, output = launch(tmp_path, *runs, world_size=world_size, launcher=launcher)
    assert code == 0, output
    assert output.count("ClusterMultiDatasetBatchSampler keeps a step within one dataset") == len(STOCK)
    for name, options in EVERY_STEP.items():
        planned = json.loads((tmp_path / name / "batch_plan.json").read_text())
        assert all(plan["world_size"] == world_size for plan in planned), "accelerate did start so many"
        check_steps(tmp_path / name, options, world_size, planned)
    for name in STOCK:
        assert len({len(read_rows(tmp_path / name, rank)) for rank in range(world_size)}) == 1


def check_steps(output: Path, options: dict[str, Any], world_size: int, planned: list[dict[str, Any]]) -> None:
    """Check purity, distinctness and coverage of what was really trained on, all processes together."""
    sizes = options.get("sizes", {"": 203})
    labels = concatenate_datasets(
        [make_rows(size, sum(list(sizes.values())[:at])) for at, size in enumerate(sizes.values())]
    ).with_format("numpy")
    group, cluster = np.asarray(labels["false_negative_keys"][:]).ravel(), np.asarray(labels["cluster"][:])
    source = np.repeat(np.arange(len(sizes)), list(sizes.values()))
    by_rank = [[rows for _, rows in read_rows(output, rank)] for rank in range(world_size)]
    assert len({len(rows) for rows in by_rank}) == 1, "all processes do the same number of steps"
    steps = [np.concatenate(one) for one in zip(*by_rank, strict=True)]
    epochs = options.get("num_train_epochs", 2)
    per_epoch = len(steps) // epochs
    global_size = planned[0]["batch_size"] * world_size
    counts = [plan["counts"] for plan in planned]
    assert per_epoch == sum(one["pure"] + one["pooled"] + one["mixed"] + one["random"] for one in counts)
    for epoch in range(epochs):
        own = steps[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert all(len(rows) == global_size for rows in own)
        rows = np.concatenate(own)
        if options.get("alpha", 1) == 1:
            assert len(set(rows.tolist())) == len(rows), "no row twice"
            assert sum(sizes.values()) - len(rows) == sum(one["dropped"] for one in counts)
        if options.get("sampler", {}).get("distinct", "") is not None:
            assert all(len(set(group[rows].tolist())) == len(rows) for rows in own), "no false negatives"
        assert all(len(set(source[rows].tolist())) == 1 for rows in own), "one dataset in a step"
        pure = sum(len(set(cluster[rows].tolist())) == 1 for rows in own)
        if epoch == 0 and options.get("alpha", 1) == 1 and "strata" not in options.get("sampler", {}):
            assert pure >= sum(one["pure"] for one in counts)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["MultipleNegativesRankingLoss", "CachedMultipleNegativesRankingLoss"])
def test_gathered_negatives_of_two_processes_give_the_loss_and_weights_of_one(tmp_path: Path, loss: str) -> None:
    # Plain gradient steps without dropout, so that the weights after some of them tell the gradients apart.
    model = make_tiny_bert(tmp_path / "bert", dropout=0)
    common = {"model": str(model), "loss": loss, "max_steps": 12, "optim": "sgd", "learning_rate": 0.1}
    two = {"output_dir": str(tmp_path / "two"), "loss_options": {"gather_across_devices": True}, **common}
    one = {
        "output_dir": str(tmp_path / "one"),
        "per_device_train_batch_size": 16,
        "dataloader_drop_last": True,
        **common,
    }
    for run, world_size in ((two, 2), (one, 1)):
        code, output = launch(tmp_path, run, world_size=world_size)
        assert code == 0, output
    ranks = [read_rows(tmp_path / "two", rank) for rank in (0, 1)]
    joined = [first + second for (_, first), (_, second) in zip(*ranks, strict=True)]
    assert joined == [rows for _, rows in read_rows(tmp_path / "one")]
    losses = np.mean([read_losses(tmp_path / "two", rank) for rank in (0, 1)], axis=0)
    np.testing.assert_allclose(losses, read_losses(tmp_path / "one"), rtol=1e-4)
    before = SentenceTransformer(str(model)).state_dict()
    weights = [torch.load(tmp_path / name / "weights.pt") for name in ("two", "one")]
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-4)
    assert any(not torch.allclose(weights[0][name], before[name], atol=1e-2) for name in before), "it did learn"


@pytest.mark.slow
@pytest.mark.parametrize("kill_at", [None, 24])
def test_chunks_that_the_slices_of_two_processes_cut_through_make_the_batches_of_one(
    tmp_path: Path, kill_at: int | None
) -> None:
    # Global batches of 12 rows in three chunks; 203 rows give 16 an epoch.
    common = {
        "per_device_train_batch_size": 6,
        "sampler": {"rows_per_stratum": 4},
        "loss_options": {"gather_across_devices": True},
    }
    run = {"output_dir": str(tmp_path / "out"), "save_strategy": "steps", "save_steps": 5, **common}
    code, output = launch(tmp_path, {**run, "kill_at": kill_at}, world_size=2)
    assert (code == 0) == (kill_at is None), output
    if kill_at is not None:
        code, output = launch(tmp_path, {**run, "resume": True, "record": "resumed"}, world_size=2)
        assert code == 0, output
    record, first = ("rows", 0) if kill_at is None else ("resumed", 20)
    ranks = [read_rows(tmp_path / "out", rank, record) for rank in (0, 1)]
    joined = [one + other for (_, one), (_, other) in zip(*ranks, strict=True)]
    alone = ClusterBatchSampler(make_rows(203, 0), 12, drop_last=True, seed=42, rows_per_stratum=4)
    expected = []
    for epoch in (0, 1):
        alone.set_epoch(epoch)
        expected += list(alone)
    assert joined == expected[first:]
    cluster = np.array(make_rows(203, 0).with_format(None)["cluster"])
    chunks = [cluster[batch].reshape(3, 4) for batch in joined]
    assert sum(bool((np.ptp(one, axis=1) == 0).all()) for one in chunks) > len(joined) / 2


@pytest.mark.slow
def test_chunks_are_whole_on_every_device_where_the_loss_does_not_gather(tmp_path: Path) -> None:
    run = {"output_dir": str(tmp_path / "out"), "per_device_train_batch_size": 6, "sampler": {"rows_per_stratum": 4}}
    split = {**run, "per_device_train_batch_size": 12, "accelerator_config": {"split_batches": True}}
    losses = {"sizes": {"a": 100, "b": 103}, "dict_of_losses": True, **run}
    for one in (run, split, losses):
        code, output = launch(tmp_path, one, world_size=2)
        assert code != 0
        assert "rows_per_stratum=4 must divide the 6 rows of one device" in output, output
        assert "gather_across_devices=True, or rows_per_stratum=3" in output


@pytest.mark.slow
def test_split_batches_are_slices_of_a_global_batch_and_dispatched_ones_are_refused(tmp_path: Path) -> None:
    split = {"output_dir": str(tmp_path / "split"), "accelerator_config": {"split_batches": True}}
    code, output = launch(tmp_path, {**split, "per_device_train_batch_size": 16}, world_size=2)
    assert code == 0, output
    planned = json.loads((tmp_path / "split" / "batch_plan.json").read_text())
    assert (planned[0]["batch_size"], planned[0]["world_size"]) == (16, 1)
    check_steps(tmp_path / "split", {}, 2, [{**planned[0], "batch_size": 8}])
    dispatched = {"output_dir": str(tmp_path / "no"), "accelerator_config": {"dispatch_batches": True}}
    code, output = launch(tmp_path, dispatched, world_size=2)
    assert code != 0 and "pass accelerator_config={'dispatch_batches': False}" in output


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 2])
def test_a_stream_of_exported_batches_trains_on_the_batches_of_the_sampler(tmp_path: Path, world_size: int) -> None:
    steps = export_batches(
        make_rows(203, 0), tmp_path / "batches", 8, world_size, epochs=2, seed=42, rows_per_shard=40
    )
    stream = {
        "output_dir": str(tmp_path / "stream"),
        "stream": str(tmp_path / "batches" / "*.parquet"),
        "max_steps": steps,
        "accelerator_config": {"dispatch_batches": False},
    }
    sampled = {"output_dir": str(tmp_path / "sampled"), "dataloader_drop_last": True}
    code, output = launch(tmp_path, stream, sampled, world_size=world_size)
    assert code == 0, output
    for rank in range(world_size):
        rows = read_rows(tmp_path / "stream", rank)
        assert len(rows) == steps
        assert rows == read_rows(tmp_path / "sampled", rank)


@pytest.mark.slow
@pytest.mark.parametrize(("world_size", "n_rows"), [(2, 5), (2, 21), (4, 3)])
def test_a_labelled_evaluation_set_loses_no_row_on_several_processes(
    tmp_path: Path, world_size: int, n_rows: int
) -> None:
    run = {"output_dir": str(tmp_path / "run"), "eval_size": n_rows, "eval_strategy": "epoch", "num_train_epochs": 1}
    code, output = launch(tmp_path, run, world_size=world_size)
    assert code == 0, output
    seen = {row for rank in range(world_size) for _, rows in read_rows(tmp_path / "run", rank) for row in rows}
    assert {row for row in seen if row >= FIRST_EVALUATED} == set(range(FIRST_EVALUATED, FIRST_EVALUATED + n_rows))
