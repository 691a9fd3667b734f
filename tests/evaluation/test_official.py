from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from examples import make_pairs, make_static_model

from st_cluster_batches.data.collection import Collection
from st_cluster_batches.evaluation.retrieval import evaluate
from st_cluster_batches.evaluation.scores import describe_scores
from st_cluster_batches.evaluation.tasks import load_tasks


def test_an_official_task_without_its_data_is_one_clear_error() -> None:
    with pytest.raises(ConnectionError, match="data of SciFact is not here and the Hub does not give it"):
        evaluate(make_static_model(), ["SciFact"], show_progress_bar=False)


def test_a_benchmark_stands_for_its_retrieval_tasks() -> None:
    tasks = load_tasks(["MTEB(eng, v2)", "SciFact"])
    assert len(tasks) == 11 and {"ArguAna", "FiQA2018", "SciFact"} <= set(tasks)
    with pytest.raises(ValueError, match="Two tasks are called 'FiQA2018'"):
        load_tasks(["FiQA2018", "MTEB(eng, v2)"])


@pytest.mark.parametrize(("name", "meant"), [("SciFcat", "SciFact"), ("scifact", "SciFact"), ("BIER", "BEIR")])
def test_a_misspelt_name_gets_a_suggestion(name: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"did you mean .*{meant}"):
        load_tasks([name])


def test_an_aggregate_comes_after_its_parts_whether_these_are_named_or_not() -> None:
    named = ["CQADupstackRetrieval", "CQADupstackWordpressRetrieval"]
    for order in (named, named[::-1]):
        names = list(load_tasks(order))
        assert len(names) == 13 and names[-1] == "CQADupstackRetrieval"
    assert {"CQADupstackRetrieval", "CQADupstackTexRetrieval", "SciFact"} <= set(load_tasks(["BEIR"]))


def make_aggregate(tmp_path: Path) -> dict[str, Any]:
    """Make an aggregate of two folders."""
    from mteb.abstasks.aggregate_task_metadata import AggregateTaskMetadata
    from mteb.abstasks.aggregated_task import AbsTaskAggregate

    for at, name in enumerate(("first", "second")):
        pairs = make_pairs(10 + at, seed=at)
        Collection(
            {f"q{row}": text for row, text in enumerate(pairs["query"])},
            {f"d{row}": ("", text) for row, text in enumerate(pairs["passage"])},
            {f"q{row}": {f"d{row}": 1} for row in range(10 + at)},
        ).write(tmp_path / name)
    parts = load_tasks([tmp_path / "first", tmp_path / "second"])

    class Both(AbsTaskAggregate):  # type: ignore[misc]
        metadata = AggregateTaskMetadata(
            name="both",
            description="Both",
            tasks=list(parts.values()),
            main_score="ndcg_at_10",
            type="Retrieval",
            eval_splits=["test"],
        )

    return {**parts, "both": Both()}


def test_parts_and_aggregate_are_in_the_summary_and_a_rerun_goes_on_part_by_part(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "st_cluster_batches")
    tasks = make_aggregate(tmp_path)
    scores = evaluate(make_static_model(), tasks, tmp_path / "scores", show_progress_bar=False)
    mean = (scores["first"].ndcg_at_10 + scores["second"].ndcg_at_10) / 2
    summary = json.loads((tmp_path / "scores" / "summary.json").read_text(encoding="utf-8"))
    assert summary["both"] == {"ndcg_at_10": pytest.approx(mean), "queries": 21, "parts": ["first", "second"]}
    raw = json.loads((tmp_path / "scores" / "mteb" / "both.json").read_text(encoding="utf-8"))
    assert raw["scores"]["test"][0]["ndcg_at_10"] == pytest.approx(mean, abs=1e-4)
    assert evaluate(make_static_model(), tasks, tmp_path / "scores", show_progress_bar=False) == scores
    assert caplog.text.count("has been evaluated with this model before") == 2
    assert f"{mean:.4f}" in describe_scores(summary).splitlines()[-1]
