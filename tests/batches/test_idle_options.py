"""What decides nothing where batches are planned is told of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict, List, Value
from examples import label_pairs, make_pairs, make_static_model
from trainers import make_trainer

from st_cluster_batches import ClusterBatchSampler, ClusterMultiDatasetBatchSampler, Refresh, attach_clusters
from st_cluster_batches.plans.labels import read_labels


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data_seed": 7}, "data_seed=7 decides nothing: trainers of sentence-transformers give samplers seed=42"),
        ({"train_sampling_strategy": "sequential"}, "train_sampling_strategy=sequential decides nothing"),
        ({"train_sampling_strategy": "group_by_length"}, "train_sampling_strategy=group_by_length decides nothing"),
        (
            {"multi_dataset_batch_sampler": ClusterMultiDatasetBatchSampler.configure(alpha=0.5)},
            "alpha=0.5 is for several datasets, and there is one",
        ),
    ],
)
def test_arguments_that_decide_nothing_are_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, arguments: dict[str, Any], message: str
) -> None:
    make_trainer(tmp_path, label_pairs(make_pairs(48)), max_steps=1, **arguments).train()
    assert message in caplog.text and caplog.text.count(message.split("=")[0] + "=") == 1
    caplog.clear()
    make_trainer(tmp_path, label_pairs(make_pairs(48)), max_steps=1).train()
    assert message.split("=")[0] not in caplog.text


def test_several_datasets_take_alpha_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train = DatasetDict(a=label_pairs(make_pairs(48)), b=label_pairs(make_pairs(48, seed=1)))
    sampler = ClusterMultiDatasetBatchSampler.configure(alpha=0.5)
    make_trainer(tmp_path, train, max_steps=1, multi_dataset_batch_sampler=sampler).train()
    assert "alpha=" not in caplog.text


@pytest.fixture(scope="module")
def fine() -> Dataset:
    return attach_clusters(make_pairs(640), make_static_model(), cluster_size=32)


def test_chunks_that_clusters_do_not_fill_are_told_of(
    fine: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    several = {"batch_sampler": ClusterBatchSampler.configure(rows_per_stratum=8), "per_device_train_batch_size": 16}
    make_trainer(tmp_path, fine, max_steps=1, **several).train()
    assert "chunks of 8 rows" not in caplog.text
    part = fine.shuffle(seed=0).select(range(64))
    make_trainer(tmp_path, part, max_steps=1, **several).train()
    assert "of 8 chunks of 8 rows are of one cluster: most of these hold fewer rows" in caplog.text


def test_chunks_that_refreshed_clusters_do_not_fill_want_larger_ones_of_the_model(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sampler = ClusterBatchSampler.configure(refresh=Refresh(first=1, cluster_size=4), rows_per_stratum=8)
    make_trainer(tmp_path, make_pairs(160), batch_sampler=sampler, num_train_epochs=2).train()
    (warning,) = [one for one in caplog.messages if "chunks of 8 rows" in one]
    assert "Make larger clusters of the model: Refresh(cluster_size=...)" in warning and "labelled" not in warning


def test_large_batches_of_which_most_chunks_are_of_one_cluster_are_not_told_of(
    fine: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sampler = ClusterBatchSampler.configure(rows_per_stratum=8)
    trainer = make_trainer(tmp_path, fine, max_steps=1, batch_sampler=sampler, per_device_train_batch_size=128)
    trainer.train()
    counts = ClusterBatchSampler(fine, 128, rows_per_stratum=8).counts
    assert counts.pure < counts.planned / 2, "nearly every batch has a chunk of leftovers"
    assert counts.pure_chunks > 0.7 * counts.chunks
    assert "rows of each" not in caplog.text and "hold fewer rows" not in caplog.text


def test_a_batch_of_all_rows_is_told_of(fine: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_trainer(tmp_path, fine.select(range(64)), max_steps=1, per_device_train_batch_size=64).train()
    assert "one batch of 64 rows holds them all, so that clusters decide nothing" in caplog.text


@pytest.mark.parametrize(("size", "is_told"), [(48, False), (63, False), (65, True), (512, True)])
def test_a_short_batch_of_all_rows_is_told_of_and_a_rest_is_not(
    fine: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture, size: int, is_told: bool
) -> None:
    make_trainer(tmp_path, fine.select(range(64)), max_steps=1, per_device_train_batch_size=size).train()
    assert ("one batch of 64 rows holds them all" in caplog.text) == is_told


def test_keys_that_became_text_are_refused() -> None:
    rows = label_pairs(make_pairs(12)).cast_column("false_negative_keys", List(Value("string")))
    with pytest.raises(ValueError, match="holds text such as"):
        read_labels(rows)
