from __future__ import annotations

import numpy as np
import pytest

from st_cluster_batches.batches.hardness import BatchHardness, measure_batches

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
