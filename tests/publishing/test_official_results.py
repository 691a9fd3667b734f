from __future__ import annotations

from typing import Any

import mteb
import pytest

from st_cluster_batches.publishing.official_results import describe_official_result


def describe(task: str = "SciFact", queries: int = 300, **changes: Any) -> Any:
    """Describe a result on all 300 queries of SciFact's only subset, but for what is changed."""
    raw = {
        "dataset_revision": mteb.get_task("SciFact").metadata.dataset["revision"],
        "scores": {"test": [{"hf_subset": "default"}]},
        "date": "2026-01-02T03:04:05",
        "mteb_version": "2.26.24",
    }
    return describe_official_result(task, {**raw, **changes}, {"ndcg_at_10": 0.5, "queries": queries})


def test_a_result_on_a_complete_official_task_is_said_as_the_hub_reads_it() -> None:
    entry = describe()
    assert (entry.dataset_id, entry.task_id) == ("mteb/scifact", "SciFact")
    assert entry.value == 50.0 and entry.date == "2026-01-02" and "300 queries" in entry.notes


@pytest.mark.parametrize(
    "change",
    [
        {"task": "my_folder"},
        {"queries": 299},
        {"dataset_revision": "of my own"},
        {"scores": {"train": [{"hf_subset": "default"}]}},
        {"scores": {"test": [{"hf_subset": "another"}]}},
    ],
)
def test_what_is_not_the_official_task_as_a_whole_is_no_official_result(change: dict[str, Any]) -> None:
    assert describe(**change) is None
