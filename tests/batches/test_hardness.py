from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from datasets import DatasetDict
from examples import label_pairs, make_pairs, make_static_model
from trainers import make_trainer

from st_cluster_batches.batches.hardness import BatchHardness, measure_batches, measure_loader
from st_cluster_batches.clusters.encoder import Encoder
from st_cluster_batches.storage.shared_cache import SharedCache

QUERIES = np.array([[1, 0], [1, 0], [0, 1], [0.6, 0.8]], dtype=np.float32)
PASSAGES = np.array([[1, 0], [0.6, 0.8], [0, 1], [0.6, 0.8]], dtype=np.float32)


def test_means_are_those_of_the_definition() -> None:
    # In the first batch, query 1 is nearer to passage 0 than to its own; in the second all are nearest to their own.
    found = measure_batches(QUERIES, PASSAGES, [[0, 1], np.array([2, 3]), [3]])
    assert found == BatchHardness(
        negative=pytest.approx((0.6 + 1 + 0.8 + 0.8) / 4),
        hardest=pytest.approx((0.6 + 1 + 0.8 + 0.8) / 4),
        positive=pytest.approx((1 + 0.6 + 1 + 1) / 4),
        false_negative_rate=pytest.approx(1 / 4),
        near_positive_rate=pytest.approx(1 / 4),
        batches=2,
    )


def test_hardest_is_the_nearest_of_several_negatives() -> None:
    found = measure_batches(QUERIES, PASSAGES, [[0, 2, 3]])
    assert found.hardest == pytest.approx((0.6 + 0.8 + 0.8) / 3)
    assert found.negative == pytest.approx((0.3 + 0.4 + 0.7) / 3)


def test_it_reads_memory_maps_of_half_precision(tmp_path: object) -> None:
    half = measure_batches(QUERIES.astype(np.float16), PASSAGES.astype(np.float16), [[0, 1, 2]])
    assert half.negative == pytest.approx(measure_batches(QUERIES, PASSAGES, [[0, 1, 2]]).negative, abs=1e-3)


def test_without_two_rows_there_is_nothing_to_measure() -> None:
    with pytest.raises(ValueError, match="no in-batch negatives"):
        measure_batches(QUERIES, PASSAGES, [[0], []])


def test_the_first_batches_of_a_trainer_are_measured_though_their_datasets_name_columns_differently(
    tmp_path: Path,
) -> None:
    first, second = label_pairs(make_pairs(40)), label_pairs(make_pairs(40, seed=1))
    datasets = {
        "a": DatasetDict(a=first, b=second.rename_columns({"query": "question", "passage": "answer"})),
        "b": DatasetDict(a=first, b=second),
    }
    found = []
    for name, dataset in datasets.items():
        trainer = make_trainer(tmp_path / name, dataset)
        cache = SharedCache(tmp_path / name / "cache", show_progress_bar=False)
        found.append(measure_loader(trainer.get_train_dataloader(), Encoder(make_static_model(), cache.folder), cache))
    assert found[0] == found[1] and found[0].batches > 1
