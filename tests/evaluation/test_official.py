from __future__ import annotations

import pytest
from examples import make_static_model

from st_cluster_batches.evaluation.retrieval import evaluate
from st_cluster_batches.evaluation.tasks import load_tasks


def test_an_official_task_without_its_data_is_one_clear_error() -> None:
    with pytest.raises(ConnectionError, match="data of SciFact is not here and the Hub does not give it"):
        evaluate(make_static_model(), ["SciFact"], show_progress_bar=False)


def test_a_benchmark_stands_for_its_retrieval_tasks() -> None:
    tasks = load_tasks(["MTEB(eng, v2)", "SciFact"])
    assert len(tasks) == 11 and {"ArguAna", "FiQA2018", "SciFact"} <= set(tasks)
    with pytest.raises(ValueError, match="Two tasks are called 'FiQA2018'"):
        load_tasks(["FiQA2018", "MTEB(eng, v2)"])
