from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict, concatenate_datasets
from examples import label_pairs, make_pairs
from trainers import make_trainer, record_texts

from st_cluster_batches import ClusterBatchSampler, ClusterMultiDatasetBatchSampler
from st_cluster_batches.batches.callback import PlanCallback, find_samplers
from st_cluster_batches.batches.repeats import find_largest_key
from st_cluster_batches.plans.labels import read_labels


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
        ({"batch_sampler": ClusterBatchSampler.configure(distinct=None)}, "distinct was 'false_negative_keys'"),
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


def test_a_stream_beside_a_planned_evaluation_is_resumed_as_it_was(tmp_path: Path, labelled: Dataset) -> None:
    options: dict[str, Any] = {"eval_dataset": labelled, "save_strategy": "steps", "save_steps": 2}
    options["accelerator_config"] = {"dispatch_batches": False}
    stream = labelled.select_columns(["query", "passage"]).to_iterable_dataset()
    for max_steps in (2, 4):
        trainer = make_trainer(tmp_path, stream, max_steps=max_steps, **options)
        trainer.evaluate()
        trainer.train(resume_from_checkpoint=True if max_steps == 4 else None)
        assert trainer.state.global_step == max_steps


def test_a_checkpoint_of_a_release_that_fills_other_batches_is_refused(
    tmp_path: Path, labelled: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path, labelled, max_steps=8)
    monkeypatch.setattr("st_cluster_batches.batches.sampler.PLAN_VERSION", 99)
    with pytest.raises(ValueError, match=r"plan_version was \d+ and is 99"):
        train(tmp_path, labelled, resume=True)


def test_relabelling_to_the_same_labels_may_be_resumed(tmp_path: Path, labelled: Dataset) -> None:
    train(tmp_path, labelled, max_steps=8)
    train(tmp_path, label_pairs(make_pairs(300)), resume=True, max_steps=9)


def test_a_checkpoint_of_random_batches_is_no_start_for_cluster_batches(tmp_path: Path, labelled: Dataset) -> None:
    unlabelled = labelled.select_columns(["query", "passage"])
    train(tmp_path, unlabelled, max_steps=8, batch_sampler="batch_sampler")
    with pytest.raises(ValueError, match="batch_sampler was another one and is ClusterBatchSampler"):
        train(tmp_path, labelled, resume=True, max_steps=9)


def test_other_steps_or_another_mix_of_datasets_is_refused(tmp_path: Path, labelled: Dataset) -> None:
    train(tmp_path, labelled, max_steps=8)
    with pytest.raises(ValueError, match="gradient_accumulation_steps was 1 and is 2"):
        train(tmp_path, labelled, resume=True, max_steps=9, gradient_accumulation_steps=2)
    many = DatasetDict({"a": labelled, "b": label_pairs(make_pairs(100, 5))})

    def mix(sampler: Any, **options: Any) -> None:
        train(tmp_path / "many", many, multi_dataset_batch_sampler=sampler, max_steps=8, **options)

    mix(ClusterMultiDatasetBatchSampler)
    with pytest.raises(ValueError, match=r"alpha was 1\.0 and is 0"):
        mix(ClusterMultiDatasetBatchSampler.configure(alpha=0), resume=True)
    with pytest.raises(ValueError, match="was 'ClusterMultiDatasetBatchSampler' and is 'ProportionalBatchSampler'"):
        mix("proportional", resume=True)


@pytest.mark.parametrize(("epochs", "is_warned"), [(1, True), (2, False)])
def test_datasets_that_alpha_cuts_short_are_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, epochs: int, is_warned: bool
) -> None:
    many = DatasetDict({"big": label_pairs(make_pairs(320)), "small": label_pairs(make_pairs(160, 5))})
    mixed = ClusterMultiDatasetBatchSampler.configure(alpha=0)
    with caplog.at_level(logging.INFO, "st_cluster_batches"):
        train(tmp_path, many, multi_dataset_batch_sampler=mixed, max_steps=30 * epochs)
    assert "Dataset 'big': 15 of the 30 global batches of an epoch, 0.75 times its own 20, by alpha=0" in caplog.text
    warned = [one.getMessage() for one in caplog.records if "are in no step of this run" in one.getMessage()]
    assert len(warned) == is_warned
    assert all(one.startswith("Dataset 'big': 5 of its 20") and "train for 2 epochs" in one for one in warned)
    plans = json.loads((tmp_path / "out" / "batch_plan.json").read_text())
    assert [one["alpha"] for one in plans] == [0, 0]


def test_clusters_of_a_later_stage_are_compared_too(tmp_path: Path, labelled: Dataset) -> None:
    stages = ClusterBatchSampler.configure(strata={0: ("source",), 5: ("source", "cluster")})
    train(tmp_path, labelled, max_steps=8, batch_sampler=stages)
    other = labelled.remove_columns("cluster").add_column("cluster", [at % 3 for at in range(300)])
    with pytest.raises(ValueError, match="the labels have changed"):
        train(tmp_path, other, resume=True, max_steps=9, batch_sampler=stages)


def test_the_plan_is_written_beside_the_checkpoints_and_each_stage_logged_once(
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
        "false_negative_keys",
    )
    assert plan["counts"]["random"] == 4 and plan["counts"]["pure"] >= 13
    assert (plan["counts"]["last"], plan["counts"]["dropped"]) == (12, 0)
    logged = [record.message for record in caplog.records if "global batches of 16 rows" in record.message]
    assert len(logged) == len(plan["strata"])
    assert all("4 random" in one and "0 rows dropped" in one for one in logged)


def test_rows_that_meet_a_false_negative_are_trained_on_and_warned_of(
    tmp_path: Path, labelled: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    answers = labelled.remove_columns(["passage", "false_negative_keys"]).add_column("passage", ["Yes"] * 300)
    answers = answers.add_column("false_negative_keys", [[1]] * 40 + [[at] for at in range(40, 300)])
    trainer = make_trainer(tmp_path, answers.select_columns(["query", "passage", "cluster", "false_negative_keys"]))
    seen = record_texts(trainer)
    with caplog.at_level(logging.INFO, "st_cluster_batches"):
        trainer.train()
    (plan,) = json.loads((tmp_path / "out" / "batch_plan.json").read_text())
    assert sum(map(len, seen)) == 300 and plan["counts"]["dropped"] == 0
    # 40 rows of one key in 19 batches.
    assert plan["counts"]["repeats"] == 40 - 19
    (warning,) = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert "21 of 300 rows (7.0 %)" in warning and "40 rows share the passage 'Yes'" in warning


def test_pure_batches_that_are_given_up_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = label_pairs(make_pairs(80)).remove_columns("cluster").add_column("cluster", [at // 8 for at in range(80)])
    make_trainer(tmp_path, concatenate_datasets([rows] * 3)).train()
    (warning,) = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert (
        "10 of 15 global batches of 16 rows could be of one cluster each" in warning and "Larger clusters" in warning
    )
    (plan,) = json.loads((tmp_path / "out" / "batch_plan.json").read_text())
    assert plan["counts"]["pooled"] == 15 and plan["counts"]["repeats"] == 0


def test_keys_that_another_column_takes_the_place_of_are_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = label_pairs(make_pairs(60)).remove_columns("false_negative_keys").add_column("answer", [*range(60)])
    rows = rows.add_column("false_negative_keys", [[at // 2] for at in range(60)])
    alone = ClusterBatchSampler.configure(distinct="answer")
    make_trainer(tmp_path / "alone", rows, batch_sampler=alone).train()
    assert "60 of 60 rows share a text by the column 'false_negative_keys', which distinct='answer'" in caplog.text
    assert "Name both: distinct=('false_negative_keys', 'answer')" in caplog.text
    caplog.clear()
    both = ClusterBatchSampler.configure(distinct=("false_negative_keys", "answer"))
    trainer = make_trainer(tmp_path / "both", rows, batch_sampler=both)
    seen = record_texts(trainer)
    trainer.train()
    assert "share a text" not in caplog.text and "meet a false negative" not in caplog.text
    assert all(list(row) == ["query", "passage"] for batch in seen for row in batch)
    (plan,) = json.loads((tmp_path / "both" / "out" / "batch_plan.json").read_text())
    assert plan["distinct"] == ["false_negative_keys", "answer"] and plan["counts"]["repeats"] == 0


def test_each_stage_of_a_curriculum_is_told_of_before_the_first_step(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = label_pairs(make_pairs(80)).remove_columns("cluster").add_column("cluster", [at // 8 for at in range(80)])
    sampler = ClusterBatchSampler.configure(strata={0: (), 2: ("cluster",)})
    trainer = make_trainer(tmp_path, concatenate_datasets([rows] * 3), batch_sampler=sampler, num_train_epochs=3)
    with caplog.at_level(logging.INFO, "st_cluster_batches"):
        trainer.train()
    told = [one.getMessage() for one in caplog.records if "global batches" in one.getMessage()]
    assert len(told) == 3
    assert [one.split(":")[0] for one in told[:2]] == [
        "Batches of epoch 0, by random",
        "Batches of epoch 2, by cluster",
    ]
    assert told[2].startswith("In epoch 2 10 of 15 global batches of 16 rows could be of one cluster each")


def test_a_source_of_too_few_texts_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = label_pairs(make_pairs(200)).remove_columns("source")
    repeated = concatenate_datasets([rows.select([0])] * 18)
    rows = rows.add_column("source", ["many"] * 200)
    repeated = repeated.add_column("source", ["few"] * 18)
    trainer = make_trainer(tmp_path, concatenate_datasets([rows, repeated]))
    trainer.args.batch_sampler = ClusterBatchSampler.configure(strata=("source",))
    trainer.train()
    (warning,) = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert "a source or cluster holds too few different texts: of random batches" in warning
    assert "rows share the query" in warning


@pytest.mark.parametrize("n_negatives", [0, 1])
def test_batches_of_one_pair_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture, n_negatives: int) -> None:
    rows = label_pairs(make_pairs(20))
    if n_negatives:
        rows = rows.add_column("negative", make_pairs(20, seed=1)["passage"][:])
    make_trainer(tmp_path, rows, per_device_train_batch_size=1, max_steps=2).train()
    assert ("learns nothing: its value is 0 in every step" in caplog.text) == (not n_negatives)


def test_equal_texts_without_keys_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = label_pairs(make_pairs(48)).remove_columns("false_negative_keys")
    make_trainer(tmp_path / "different", rows).train()
    assert not [one for one in caplog.records if one.levelname == "WARNING"]
    repeated = concatenate_datasets([rows, rows.select(range(12))])
    make_trainer(tmp_path / "equal", repeated).train()
    (warning,) = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert "12 of 60 rows repeat a query, 12 of 60 rows repeat a passage. attach_keys(dataset) adds it" in warning
    assert warning.startswith("The dataset has no column")
    caplog.clear()
    make_trainer(tmp_path / "several", DatasetDict(first=rows, second=repeated)).train()
    (warning,) = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert warning.startswith("Dataset 'second' has no column")
    caplog.clear()
    make_trainer(tmp_path / "meant", repeated, batch_sampler=ClusterBatchSampler.configure(distinct=None)).train()
    assert not [one for one in caplog.records if one.levelname == "WARNING"]


def test_a_share_of_random_batches_that_is_none_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for n_rows, fraction, told in (
        (96, 0.05, "0.05 of 6 batches is none; give more than 0.083"),
        (96, 0.084, ""),
        (16, 0.4, "0.4 of 1 batches is none; give more than 0.5"),
        (10, 0.4, "0.4 of 0 batches is none; rows fill no whole one; leave it out"),
    ):
        caplog.clear()
        sampler = ClusterBatchSampler.configure(random_fraction=fraction)
        make_trainer(tmp_path, label_pairs(make_pairs(n_rows)), batch_sampler=sampler).train()
        assert [one for one in caplog.messages if "is none" in one] == ([f"random_fraction={told}"] if told else [])


def test_a_batch_size_that_is_to_be_found_is_told_of_as_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for is_sought in (False, True):
        make_trainer(tmp_path, label_pairs(make_pairs(96)), auto_find_batch_size=is_sought, max_steps=1).train()
        assert ("keep per_device_train_batch_size=16" in caplog.text) == is_sought


def test_a_key_that_a_positive_shares_with_a_negative_is_named_by_its_text() -> None:
    texts = {"query": ["a", "b"], "positive": ["one", "two"], "negative": ["three", "One"]}
    rows = Dataset.from_dict({**texts, "false_negative_keys": [[1, 2], [3, 4, -2]]})
    keys = read_labels(rows, ()).keys
    assert keys is not None
    assert find_largest_key(rows, keys) == (2, "the text", "one")


def test_rows_that_meet_by_explicit_negatives_are_told_by_these(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = label_pairs(make_pairs(48, seed=4))
    positive = rows["passage"][0]
    rows = rows.add_column("negative", [f"keel {row}" if row < 8 else positive for row in range(48)])
    keys = [[1]] + [[]] * 7 + [[-1]] * 40
    rows = rows.remove_columns("false_negative_keys").add_column("false_negative_keys", keys)
    rows = rows.select_columns(["query", "passage", "negative", "cluster", "false_negative_keys"])
    make_trainer(tmp_path, rows, per_device_train_batch_size=48).train()
    warnings = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    (warning,) = [one for one in warnings if "meet a false negative" in one]
    assert "rows: explicit negatives of some rows are the positives of others. Smaller batches help" in warning
    assert f"40 rows have another row's positive among their explicit negatives (most often {positive!r}" in warning
    assert "share" not in warning


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


def test_few_values_that_are_trained_on_as_text_are_warned_of(
    tmp_path: Path, labelled: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    # Clusters that are numbered from 0 in each source do not lie within one.
    renumbered = labelled.remove_columns("source").add_column("source", ["web", "wiki"] * 150)
    train(tmp_path, renumbered, max_steps=1)
    (warning,) = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert "'source', of 2 values only, is trained on as text" in warning and "strata=('source', 'cluster')" in warning
