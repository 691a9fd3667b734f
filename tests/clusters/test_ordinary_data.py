"""Labels of data as people have it, and the batches that they give: no row is lost, whatever the texts share."""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict, concatenate_datasets, interleave_datasets
from examples import make_pairs, make_static_model

from st_cluster_batches import ClusterBatchSampler, attach_clusters, fit_clusters


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    return {"cache_dir": tmp_path / "cache", "show_progress_bar": False}


def mine(n_rows: int, n_negatives: int) -> Dataset:
    """Add negatives that are other rows' positives, as mining does; the common ones are mined often."""
    pairs, rng = make_pairs(n_rows), random.Random(0)
    passages = pairs["passage"][:]
    weights = [1 / (1 + at) for at in range(n_rows)]
    for number in range(n_negatives):
        pairs = pairs.add_column(f"negative_{number}", rng.choices(passages, weights, k=n_rows))
    return pairs


def answers(n_rows: int, texts: Iterable[str]) -> Dataset:
    """Let many questions have few answers."""
    few, rng = list(texts), random.Random(0)
    return make_pairs(n_rows).remove_columns("passage").add_column("passage", rng.choices(few, k=n_rows))


def conflict(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two rows are false negatives of each other, by definition."""
    (query, positive, *negatives), (query_of_other, positive_of_other, *negatives_of_other) = (
        [row[name] for name in row if name in ("query", "passage") or name.startswith("negative_")]
        for row in (one, other)
    )
    return (
        query == query_of_other
        or positive == positive_of_other
        or positive in negatives_of_other
        or positive_of_other in negatives
    )


def count_repeats(dataset: Dataset, batches: list[list[int]]) -> int:
    """Count the rows that conflict with one that stands before them in their batch."""
    rows = dataset.to_list()
    meeting = 0
    for batch in batches:
        hit = {b for a, b in combinations(range(len(batch)), 2) if conflict(rows[batch[a]], rows[batch[b]])}
        meeting += len(hit)
    return meeting


def bound(dataset: Dataset, batch_size: int) -> int:
    """The rows that cannot but repeat a passage, where every passage has more rows than there are batches."""
    n_batches, n_last = divmod(len(dataset), batch_size)
    n_passages = len(set(dataset["passage"]))
    return len(dataset) - n_batches * min(n_passages, batch_size) - min(n_passages, n_last)


@pytest.mark.parametrize(
    ("pairs", "batch_size", "has_few_answers"),
    [
        pytest.param(mine(2000, 1), 32, False, id="triplets"),
        pytest.param(mine(700, 5), 32, False, id="n-tuples"),
        pytest.param(mine(600, 3), 32, False, id="three negatives"),
        pytest.param(answers(3000, [f"intent {at}" for at in range(77)]), 128, True, id="intents"),
        pytest.param(answers(600, ["yes", "no", "maybe"]), 32, True, id="yes no maybe"),
        pytest.param(
            concatenate_datasets([make_pairs(700), answers(300, [f"soup {at}" for at in range(20)])]),
            32,
            False,
            id="many equal passages",
        ),
        pytest.param(make_pairs(2), 32, False, id="two rows"),
    ],
)
def test_every_row_is_trained_on_and_few_meet(
    pairs: Dataset, batch_size: int, has_few_answers: bool, options: dict[str, Any]
) -> None:
    labelled = attach_clusters(pairs, make_static_model(), n_clusters=1, **options)
    sampler = ClusterBatchSampler(labelled, batch_size)
    batches = list(sampler)
    assert sorted(row for batch in batches for row in batch) == list(range(len(pairs)))
    assert len(batches) == len(sampler) == -(-len(pairs) // batch_size)
    assert sampler.counts.repeats <= count_repeats(pairs, batches)
    # Few answers cannot but meet; of mined negatives only those of the commonest passages do.
    assert sampler.counts.repeats == bound(pairs, batch_size) if has_few_answers else sampler.counts.repeats <= 10


def test_candidates_with_labels_have_no_in_batch_negatives(
    options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    queries = [f"soup {at // 8}" for at in range(400)]
    candidates = Dataset.from_dict(
        {
            "query": queries,
            "document": [f"salt {at}" for at in range(400)],
            "label": [at % 8 == 0 for at in range(400)],
        }
    )
    with caplog.at_level("INFO", "st_cluster_batches"):
        labelled = attach_clusters(candidates, make_static_model(), n_clusters=3, **options)
    assert "false_negative_keys" not in labelled.column_names
    assert caplog.text.count("The pairs have label: their losses take no in-batch negatives") == 1
    batches = list(ClusterBatchSampler(labelled, 16))
    assert sorted(row for batch in batches for row in batch) == list(range(400))


def test_scores_beside_the_same_texts_give_other_labels(options: dict[str, Any]) -> None:
    pairs = make_pairs(60)
    scored = pairs.add_column("score", [0.5] * 60)
    columns = [
        attach_clusters(one, make_static_model(), n_clusters=2, **options).column_names for one in (pairs, scored)
    ]
    assert "false_negative_keys" in columns[0] and "false_negative_keys" not in columns[1]


def test_attaching_warns_where_rows_cannot_but_meet(options: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    attach_clusters(make_pairs(300), make_static_model(), n_clusters=10, **options)
    assert not [one for one in caplog.records if one.levelname == "WARNING"]
    for _ in range(2):  # the second time from the cache
        caplog.clear()
        attach_clusters(answers(3000, ["Yes", "no"]), make_static_model(), n_clusters=3, **options)
        (warning,) = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
        assert "2,952 in batches of 128, 2,994 in batches of 1,024" in warning
        assert "The passage 'no' alone stands in" in warning or "The passage 'Yes' alone stands in" in warning


def test_who_gives_no_size_hears_what_ten_clusters_are_worth(
    options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    attach_clusters(make_pairs(300), make_static_model(), **options)
    (warning,) = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert "each source gets 10 clusters" in warning and "-9 % on one source" in warning and "n_clusters=10" in warning
    caplog.clear()
    attach_clusters(make_pairs(300), make_static_model(), cluster_size=30, **options)
    assert not [one for one in caplog.records if one.levelname == "WARNING"]


def label_apart(parts: list[Dataset], options: dict[str, Any]) -> list[Dataset]:
    return [attach_clusters(one, make_static_model(), n_clusters=3, **options) for one in parts]


@pytest.mark.parametrize("join", [concatenate_datasets, interleave_datasets])
def test_labels_that_were_made_apart_come_together(join: Any, options: dict[str, Any]) -> None:
    first, second = make_pairs(300), make_pairs(300, seed=1)
    # Query 7 of the one is query 9 of the other, and a passage of the one a passage of the other.
    second = Dataset.from_list(
        [{**row, **({"query": first[7]["query"]} if at == 9 else {})} for at, row in enumerate(second)]
    )
    joined = join(label_apart([first, second], options))
    assert len(set(joined["cluster"])) == 6
    rows = joined.to_list()
    sampler = ClusterBatchSampler(joined, 10)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        planned = sampler.plan_epoch()
        for batch, kind in zip(planned.rows, planned.kinds, strict=True):
            assert len({rows[row]["query"] for row in batch}) == len(batch), "equal queries never meet"
            assert kind != 0 or len({rows[row]["cluster"] for row in batch}) == 1
    assert sampler.counts.pure >= 50


def test_new_rows_of_a_clustering_join_the_old_ones(options: dict[str, Any]) -> None:
    old, new = make_pairs(300), make_pairs(200, seed=5)
    clustering = fit_clusters(old, make_static_model(), n_clusters=3, **options)
    parts = [clustering.attach(part, **options) for part in (old, new)]
    old_clusters = parts[0]["cluster"][:]
    joined = concatenate_datasets(parts)
    assert {row["cluster"] for row in joined.select(range(300, 500))} <= set(old_clusters)


def test_datasets_of_a_dict_share_no_cluster_and_know_equal_texts_when_joined(options: dict[str, Any]) -> None:
    parts = attach_clusters(
        DatasetDict({"a": make_pairs(100), "b": make_pairs(100)}), make_static_model(), n_clusters=2, **options
    )
    assert not set(parts["a"]["cluster"]) & set(parts["b"]["cluster"])
    joined = concatenate_datasets([parts["a"], parts["b"]])
    batches = list(ClusterBatchSampler(joined, 8))
    assert all(len({row % 100 for row in batch}) == len(batch) for batch in batches)
