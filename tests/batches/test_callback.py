from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict
from examples import label_pairs, make_pairs
from trainers import make_trainer, record_texts

from st_cluster_batches import ClusterBatchSampler, ClusterMultiDatasetBatchSampler
from st_cluster_batches.batches.callback import PlanCallback, find_samplers


def queries(seen: list[list[dict[str, Any]]]) -> list[list[str]]:
    return [[row["query"] for row in batch] for batch in seen]


def train(tmp_path: Path, data: Dataset, *, resume: bool = False, **options: Any) -> list[list[str]]:
    """Train for three epochs of 19 steps with a checkpoint every 8, and return what was trained on."""
    trainer = make_trainer(
        tmp_path, data, num_train_epochs=3, save_strategy="steps", save_steps=8, save_total_limit=1, **options
    )
    seen = record_texts(trainer)
    trainer.train(resume_from_checkpoint=resume or None)
    return queries(seen)


def test_a_resumed_run_goes_on_with_the_batches_that_would_have_followed(tmp_path: Path, labelled: Dataset) -> None:
    whole = train(tmp_path / "whole", labelled)
    # Another schedule of learning rates, which is no part of the plan, lets the first half stop early.
    train(tmp_path / "half", labelled, max_steps=30)
    assert train(tmp_path / "half", labelled, resume=True, max_steps=57) == whole[24 + 6 :]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"per_device_train_batch_size": 8}, "batch_size was 16 and is 8"),
        ({"seed": 1}, "seed was 42 and is 1"),
        ({"batch_sampler": ClusterBatchSampler.configure(strata=("source",))}, "strata was "),
        ({"batch_sampler": ClusterBatchSampler.configure(random_fraction=0.5)}, "random_fraction was 0.0 and is 0.5"),
        ({"batch_sampler": ClusterBatchSampler.configure(distinct=None)}, "the labels have changed"),
        ({"data": label_pairs(make_pairs(300, seed=4))}, "the labels have changed"),
        ({"data": label_pairs(make_pairs(299))}, "rows was 300 and is 299"),
    ],
)
def test_another_plan_than_the_checkpoints_is_refused_and_named(
    tmp_path: Path, labelled: Dataset, change: dict[str, Any], message: str
) -> None:
    train(tmp_path, labelled, max_steps=8)
    with pytest.raises(ValueError, match=f"trained on other batches: .*{message}") as refused:
        train(tmp_path, change.pop("data", labelled), resume=True, **change)
    assert "start anew with resume_from_checkpoint=None" in str(refused.value)


def test_relabelling_to_the_same_labels_may_be_resumed(tmp_path: Path, labelled: Dataset) -> None:
    train(tmp_path, labelled, max_steps=8)
    train(tmp_path, label_pairs(make_pairs(300)), resume=True, max_steps=9)


def test_a_checkpoint_of_random_batches_may_be_resumed_with_cluster_batches(tmp_path: Path, labelled: Dataset) -> None:
    unlabelled = labelled.select_columns(["query", "passage"])
    train(tmp_path, unlabelled, max_steps=8, batch_sampler="batch_sampler")
    assert len(train(tmp_path, labelled, resume=True, max_steps=9)) >= 1


def test_the_plan_is_written_beside_the_checkpoints_and_logged_once(
    tmp_path: Path, labelled: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    configured = ClusterBatchSampler.configure(random_fraction=0.2, strata={0: "source", 1: ("source", "cluster")})
    with caplog.at_level(logging.INFO, "st_cluster_batches"):
        train(tmp_path, labelled, batch_sampler=configured)
    (plan,) = json.loads((tmp_path / "out" / "batch_plan.json").read_text())
    # The trainer's own record of its arguments leaves the sampler out.
    assert plan["random_fraction"] == 0.2 and plan["strata"] == {"0": ["source"], "1": ["source", "cluster"]}
    assert (plan["batch_size"], plan["world_size"], plan["rows"], plan["distinct"]) == (
        16,
        1,
        300,
        "false_negative_group",
    )
    assert plan["counts"]["random"] == 4 and plan["counts"]["pure"] >= 13
    assert (plan["counts"]["last"], plan["counts"]["dropped"]) == (12, 0)
    logged = [record.message for record in caplog.records if "global batches of 16 rows" in record.message]
    assert len(logged) == 1 and "4 random" in logged[0] and "0 rows dropped" in logged[0]


def test_what_could_not_be_placed_is_counted_and_logged(
    tmp_path: Path, labelled: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    crowded = labelled.remove_columns("false_negative_group").add_column(
        "false_negative_group", [0] * 40 + list(range(40, 300))
    )
    with caplog.at_level(logging.INFO, "st_cluster_batches"):
        seen = record_rows(tmp_path, crowded)
    (plan,) = json.loads((tmp_path / "out" / "batch_plan.json").read_text())
    assert plan["counts"]["unplaced_groups"] == 1
    assert plan["counts"]["dropped"] == 300 - seen > 0
    assert any("dropped, some from 1 false-negative groups" in record.message for record in caplog.records)


def record_rows(tmp_path: Path, data: Dataset) -> int:
    trainer = make_trainer(tmp_path, data)
    seen = record_texts(trainer)
    trainer.train()
    return sum(map(len, seen))


def test_a_trainer_gets_one_callback_however_often_it_builds_its_loader(tmp_path: Path, labelled: Dataset) -> None:
    trainer = make_trainer(tmp_path, labelled, eval_dataset=label_pairs(make_pairs(60, 3)), eval_strategy="epoch")
    for _ in range(3):
        trainer.get_train_dataloader()
    trainer.train()
    assert sum(isinstance(one, PlanCallback) for one in trainer.callback_handler.callbacks) == 1


def test_the_innermost_samplers_are_found_behind_wrappers(tmp_path: Path, labelled: Dataset) -> None:
    plain = make_trainer(tmp_path, labelled).get_train_dataloader()
    outer, samplers = find_samplers(plain)
    assert isinstance(outer, ClusterBatchSampler) and samplers == [outer]
    many = DatasetDict({"a": labelled, "b": label_pairs(make_pairs(100, 5))})
    loader = make_trainer(
        tmp_path, many, multi_dataset_batch_sampler=ClusterMultiDatasetBatchSampler
    ).get_train_dataloader()
    outer, samplers = find_samplers(loader)
    assert isinstance(outer, ClusterMultiDatasetBatchSampler) and len(samplers) == 2
