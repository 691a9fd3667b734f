from __future__ import annotations

import numpy as np
import pytest
from runs import ABOUT, make_records

from st_cluster_batches.evaluation.summary import summarise_runs


def test_means_differences_and_spread_are_those_of_the_runs() -> None:
    records = make_records()
    results = summarise_runs(records, ABOUT)
    means = {
        name: [np.mean(list(one["ndcg_at_10"].values())) for one in records if one["variant"] == name]
        for name in ("random", "better")
    }
    assert results["baseline"] == "random" and results["seeds"] == 3
    assert results["results"]["better"]["mean"] == pytest.approx(np.mean(means["better"]))
    difference = results["results"]["better"]["difference"]
    assert difference["mean"] == pytest.approx(np.mean(means["better"]) - np.mean(means["random"]))
    assert difference["low"] < 0.025 < difference["high"] and difference["low"] > 0
    assert results["spread"]["mean"] == pytest.approx(np.std(means["random"], ddof=1))
    assert results["results"]["better"]["train_seconds"] == 11


def test_queries_are_paired_by_id_and_not_by_order() -> None:
    records = make_records()
    expected = summarise_runs(records, ABOUT)["results"]["better"]["difference"]
    for record in records:
        if record["variant"] == "better":
            record["per_query"] = {task: dict(reversed(one.items())) for task, one in record["per_query"].items()}
    assert summarise_runs(records, ABOUT)["results"]["better"]["difference"] == expected
