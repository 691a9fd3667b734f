from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from examples import label_pairs, make_pairs
from torch.utils.data import ConcatDataset
from trainers import make_trainer
from transformers import TrainerCallback

from st_cluster_batches import ClusterBatchSampler, ClusterMultiDatasetBatchSampler, Refresh, export_batches
from st_cluster_batches.batches.card_block import TAG

STAGES = {0: ("source",), 3: ("source", "cluster")}


def train(tmp_path: Path, rows: Any, *, multi: Any = "proportional", **options: Any) -> None:
    run = {name: options.pop(name) for name in ("num_train_epochs", "max_steps") if name in options}
    sampler = ClusterBatchSampler.configure(**options)
    make_trainer(tmp_path, rows, batch_sampler=sampler, multi_dataset_batch_sampler=multi, **run).train()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if "never reached" in one.getMessage()]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"strata": STAGES}, r"strata=\{3: \('source', 'cluster'\)\} is never reached"),
        ({"refresh": Refresh(first=5)}, r"refresh=Refresh\(first=5\) is never reached"),
        ({"refresh": Refresh(), "num_train_epochs": 1}, r"refresh=Refresh\(first=1\)"),
        ({"strata": STAGES, "num_train_epochs": 2.5}, r"strata=\{3: .* num_train_epochs=2\.5"),
    ],
)
def test_what_no_epoch_reaches_is_refused_before_the_first_step(
    tmp_path: Path, labelled: Dataset, options: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        train(tmp_path, labelled, **{"num_train_epochs": 3, **options})
    assert not (tmp_path / "out" / "batch_plan.json").exists()


def test_part_of_an_epoch_reaches_it(tmp_path: Path, labelled: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    train(tmp_path, labelled, strata=STAGES, num_train_epochs=3.05)
    train(tmp_path, labelled, strata=STAGES, max_steps=3 * 19 + 1)
    assert not warnings(caplog)


def test_steps_that_end_before_it_are_warned_of(
    tmp_path: Path, labelled: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    train(tmp_path, labelled, refresh=Refresh(first=2), max_steps=2 * 19)
    (warning,) = warnings(caplog)
    assert "refresh=Refresh(first=2) is never" in warning
    assert "max_steps=38 ends the run in epoch 1" in warning and "max_steps of more than 38" in warning


def test_datasets_that_are_not_passed_through_often_enough_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = DatasetDict({"large": label_pairs(make_pairs(300)), "small": label_pairs(make_pairs(64, seed=3))})
    strata = {0: (), 2: ("cluster",)}
    mixed = ClusterMultiDatasetBatchSampler.configure(alpha=0)
    train(tmp_path / "few", rows, multi=mixed, strata=strata, num_train_epochs=3)
    # Of each about 12 batches an epoch, where the large dataset has 19 and the small one 4.
    (warning,) = warnings(caplog)
    assert "in 1 of 2 datasets" in warning and "number 0 2 times" in warning
    with pytest.raises(ValueError, match=r"strata=\{9: .* never reached"):
        train(tmp_path / "none", rows, multi=mixed, strata={0: (), 9: ("cluster",)}, num_train_epochs=1)
    caplog.clear()
    train(tmp_path / "all", rows, multi=ClusterMultiDatasetBatchSampler, strata=strata, num_train_epochs=3)
    assert not warnings(caplog)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_passes_are_those_that_the_sampler_makes(alpha: float) -> None:
    parts = [label_pairs(make_pairs(size, seed=size)) for size in (300, 100, 50)]
    samplers: list[Any] = [ClusterBatchSampler(one, 8) for one in parts]
    mixed = ClusterMultiDatasetBatchSampler(ConcatDataset(parts), samplers, alpha=alpha)
    reached = [0] * 3
    for epoch in range(4):
        mixed.set_epoch(epoch)
        for batch in mixed:
            at = int(np.searchsorted(mixed.dataset.cumulative_sizes, batch[0], side="right"))
            reached[at] = max(reached[at], samplers[at].epoch + 1)
    assert mixed.count_passes(4) == reached


@pytest.mark.parametrize("strata", [{0: ("source",), 2: ("source", "cluster")}, {0: ("source", "cluster"), 1: ()}])
def test_first_clusters_that_no_batch_shares_are_refused(labelled: Dataset, strata: Any) -> None:
    with pytest.raises(ValueError, match=r"makes clusters that no batch shares.*names 'cluster'"):
        ClusterBatchSampler(labelled, 8, strata=strata, refresh=Refresh(first=1))
    ClusterBatchSampler(labelled, 8, strata=strata, refresh=Refresh(first=1, guide=True))
    ClusterBatchSampler(labelled, 8, strata={0: ("source",), 2: "cluster"}, refresh=Refresh(first=1, every=2))


def test_an_export_that_ends_before_a_stage_is_refused(tmp_path: Path, labelled: Dataset) -> None:
    with pytest.raises(ValueError, match=r"strata=\{2: \('cluster',\)\} is never reached: epochs=2"):
        export_batches(labelled, tmp_path / "out", 8, epochs=2, strata={0: (), 2: "cluster"})
    assert not (tmp_path / "out").exists()


def test_a_run_that_goes_on_with_another_length_is_told_what_becomes_of_its_rates(
    tmp_path: Path, labelled: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 4}
    make_trainer(tmp_path, labelled, max_steps=8, **options).train()
    shutil.rmtree(tmp_path / "out" / "checkpoint-8")
    make_trainer(tmp_path, labelled, max_steps=8, **options).train(resume_from_checkpoint=True)
    assert "learning rates" not in caplog.text
    make_trainer(tmp_path / "longer", labelled, max_steps=4, **options).train()
    make_trainer(tmp_path / "longer", labelled, max_steps=6, **options).train(resume_from_checkpoint=True)
    assert "had 4 steps and now has 6: the schedule of learning rates (lr_scheduler_type=linear)" in caplog.text
    assert "from step 4 on" in caplog.text
    caplog.clear()
    constant = {**options, "lr_scheduler_type": "constant"}
    make_trainer(tmp_path / "constant", labelled, max_steps=4, **constant).train()
    make_trainer(tmp_path / "constant", labelled, max_steps=6, **constant).train(resume_from_checkpoint=True)
    assert "learning rates" not in caplog.text


@pytest.mark.parametrize("multi", [None, ClusterMultiDatasetBatchSampler, "proportional", "round_robin"])
def test_a_finished_run_that_is_resumed_takes_no_step_more(tmp_path: Path, labelled: Dataset, multi: Any) -> None:
    data = labelled if multi is None else DatasetDict({"one": labelled, "two": labelled.select(range(200))})
    options: dict[str, Any] = {"max_steps": 5, "save_strategy": "steps", "save_steps": 5, "learning_rate": 0.05}
    options |= {"lr_scheduler_type": "constant", "gradient_accumulation_steps": 2}
    options |= {} if multi is None else {"multi_dataset_batch_sampler": multi}
    finished = make_trainer(tmp_path, data, **options)
    finished.train()
    for _ in range(2):
        resumed = make_trainer(tmp_path, data, **options)
        assert len(resumed.get_train_dataloader()) > 10
        resumed.train(resume_from_checkpoint=True)
        assert resumed.state.global_step == 5
        for name, weights in finished.model.state_dict().items():
            assert torch.equal(weights, resumed.model.state_dict()[name])
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-5"]


def test_a_finished_run_needs_no_refreshed_clusters(tmp_path: Path, labelled: Dataset) -> None:
    options: dict[str, Any] = {"max_steps": 30, "save_strategy": "steps", "save_steps": 30}
    options["batch_sampler"] = ClusterBatchSampler.configure(refresh=Refresh(cluster_size=50))
    make_trainer(tmp_path, labelled, **options).train()
    shutil.rmtree(tmp_path / "out" / "_refreshed_clusters")
    resumed = make_trainer(tmp_path, labelled, **options)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 30


class _Stop(TrainerCallback):  # type: ignore[misc]  # the host library has no types
    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        control.should_training_stop = True
        return control


def test_a_run_that_is_ended_early_claims_no_stage_that_it_did_not_reach(tmp_path: Path, labelled: Dataset) -> None:
    sampler = ClusterBatchSampler.configure(strata={0: (), 1: ("source", "cluster")})
    whole, ended = (
        make_trainer(tmp_path / name, labelled, num_train_epochs=2, batch_sampler=sampler) for name in ("whole", "cut")
    )
    ended.add_callback(_Stop())
    for trainer, name, n_epochs in ((whole, "whole", 2), (ended, "cut", 1)):
        trainer.train()
        plan = json.loads((tmp_path / name / "out" / "batch_plan.json").read_text())[0]
        assert plan["epochs"] == n_epochs
        trainer.model.save(str(tmp_path / name / "model"))
        card = (tmp_path / name / "model" / "README.md").read_text()
        assert (f"- {TAG}\n" in card) == (n_epochs == 2)
