from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import count_repeats, global_batches, group_keys, make_keys, make_labels, one_stratum
from references import search_restarts

from st_cluster_batches.plans.batch_plan import MIXED, POOLED, PURE, BatchPlan
from st_cluster_batches.plans.keys import Keys
from st_cluster_batches.plans.labels import Labels


@st.composite
def plans(draw: st.DrawFn) -> BatchPlan:
    n_rows = draw(st.integers(1, 150))
    sources = draw(st.lists(st.integers(0, 2), min_size=n_rows, max_size=n_rows))
    clusters = draw(st.lists(st.integers(0, draw(st.integers(0, 8))), min_size=n_rows, max_size=n_rows))
    most = draw(st.sampled_from([0, 3, 20, 200]))
    held = draw(st.dictionaries(st.integers(0, n_rows - 1), st.lists(st.integers(-most - 1, most), max_size=5)))
    if draw(st.booleans()):  # plain groups: a key for every row
        held = {row: [draw(st.integers(0, most))] for row in range(n_rows)}
    arguments: dict[str, Any] = {
        "labels": make_labels(sources, clusters, make_keys(held)),
        "batch_size": draw(st.integers(1, 9)),
        "world_size": draw(st.integers(1, 4)),
        "drop_last": draw(st.booleans()),
        "seed": draw(st.integers(0, 5)),
        "random_fraction": draw(st.sampled_from([0.0, 0.0, 0.3, 0.9])),
    }
    if n_rows < arguments["batch_size"] * arguments["world_size"]:
        arguments |= {"world_size": 1, "drop_last": False}
    return BatchPlan(**arguments)


@settings(deadline=None, max_examples=300)
@given(plans(), st.integers(0, 3))
def test_every_batch_keeps_the_promises(plan: BatchPlan, number: int) -> None:
    epoch = plan.plan_epoch(number)
    labels, n_rows = plan.labels, len(plan.labels)
    batches = list(epoch.batches(plan.batch_size))
    assert len(batches) == len(plan), "length is exact"
    assert all(len(batch) == plan.batch_size for batch in batches[:-1]), "no short batch mid-stream"
    rows = [row for batch in batches for row in batch]
    assert len(rows) == len(set(rows)), "a row appears once at most"
    assert epoch.counts.dropped == n_rows - len(rows)
    if plan._keeps_rest:
        assert len(rows) == n_rows and len(plan) == -(-n_rows // plan.batch_size), "no row is left out"
    else:
        assert n_rows - len(rows) < plan.global_size and len(batches[-1]) == plan.batch_size
        assert len(plan) == n_rows // plan.global_size * plan.world_size
    joined = global_batches(plan, epoch)
    for batch, kind in zip(joined, epoch.kinds[epoch.order], strict=False):
        strata = set(labels.strata[batch].tolist())
        assert kind != PURE or len(strata) == 1
        assert kind != POOLED or len(set(labels.source_of_stratum[list(strata)].tolist())) == 1
    # Order within a batch decides which of two rows comes later; that of the plan is what is counted.
    assert epoch.counts.repeats == count_repeats(labels, joined)


@settings(deadline=None, max_examples=100)
@given(plans(), st.integers(0, 3))
def test_false_negatives_cost_pure_batches_only_where_these_would_hold_them(plan: BatchPlan, number: int) -> None:
    arguments = (plan.batch_size, plan.world_size, not plan._keeps_rest, plan.seed)
    labels, size = plan.labels, plan.global_size
    alone = BatchPlan(Labels(labels.strata, labels.source_of_stratum), *arguments).plan_epoch(number)
    whole = np.bincount(labels.strata) // size
    assert alone.counts.pure == whole.sum()
    epoch = BatchPlan(labels, *arguments).plan_epoch(number)
    pure = np.bincount(labels.strata[epoch.rows[epoch.kinds == PURE, 0]], minlength=len(whole))
    assert (pure <= whole).all()
    for stratum in np.flatnonzero(pure < whole):
        keys = labels.keys
        is_negative = False if keys.is_negative is None else keys.is_negative
        held = np.bincount(keys.keys[(labels.strata[keys.rows] == stratum) & ~np.asarray(is_negative)])
        placed = np.count_nonzero(labels.strata == stratum) - np.maximum(held - whole[stratum], 0).sum()
        assert placed < whole[stratum] * size, "its rows could have filled them without meeting"


def test_rows_that_would_meet_in_a_small_stratum_are_pooled_with_its_neighbours() -> None:
    # 20 clusters of 12 rows, three of each of four texts: no batch of 8 of one cluster has 8 texts.
    labels = Labels(np.arange(240) // 12, np.zeros(20, dtype=int), group_keys(np.arange(240) // 3))
    epoch = BatchPlan(labels, 8).plan_epoch(0)
    assert epoch.counts.repeats == 0 and epoch.counts.pooled == 30
    spans = np.ptp(labels.strata[epoch.rows].astype(int), axis=1)
    assert np.sort(spans)[: len(spans) * 3 // 4].max() <= 5, "neighbours on the path, but where it was cut"


def test_rows_that_random_batches_can_part_cost_no_pure_batch() -> None:
    rng = np.random.default_rng(0)
    strata = np.repeat(np.arange(20), 150)
    labels = Labels(strata, np.zeros(20, dtype=int), group_keys(strata * 20 + rng.integers(12, size=3000)))
    epoch = BatchPlan(labels, 8, random_fraction=0.4).plan_epoch(0)
    assert epoch.counts.given_up == 0 and epoch.counts.repeats <= 30


def test_an_answer_that_most_of_a_source_has_costs_few_pure_batches() -> None:
    rng = np.random.default_rng(0)
    strata = np.arange(4000) // 200
    groups = np.where(rng.random(4000) < 0.6, 0, np.arange(4000))
    epoch = BatchPlan(Labels(strata, np.zeros(20, dtype=int), group_keys(groups)), 16).plan_epoch(0)
    assert epoch.counts.pure >= 0.9 * 240


def least_repeats(groups: np.ndarray, capacities: list[int]) -> int:
    """Count the rows of plain groups that must repeat: filling the emptiest batches first, largest groups first."""
    room = np.array(capacities)
    placed = 0
    for size in np.sort(np.bincount(groups))[::-1]:
        chosen = np.argsort(-room, kind="stable")[:size]
        chosen = chosen[room[chosen] > 0]
        room[chosen] -= 1
        placed += len(chosen)
    return len(groups) - placed


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.sampled_from([0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]), min_size=1, max_size=150),
    st.integers(1, 12),
    st.integers(0, 3),
)
def test_plain_groups_in_one_stratum_repeat_as_little_as_is_possible(
    groups: list[int], batch_size: int, epoch: int
) -> None:
    plan = BatchPlan(one_stratum(len(groups), group_keys(np.array(groups))), batch_size)
    capacities = [batch_size] * (len(groups) // batch_size) + [len(groups) % batch_size]
    assert plan.plan_epoch(epoch).counts.repeats == least_repeats(np.array(groups), capacities)


@settings(deadline=None, max_examples=50)
@given(plans(), st.integers(0, 3))
def test_the_plan_is_a_function_of_its_arguments(plan: BatchPlan, number: int) -> None:
    labels = Labels(plan.labels.strata.copy(), plan.labels.source_of_stratum.copy(), plan.labels.keys)
    again = BatchPlan(labels, plan.batch_size, plan.world_size, not plan._keeps_rest, plan.seed, plan.random_fraction)
    first, second = plan.plan_epoch(number), again.plan_epoch(number)
    assert list(first.batches(plan.batch_size)) == list(second.batches(plan.batch_size))


@pytest.mark.parametrize(
    ("n_rows", "batch_size", "each", "n_keys", "share_of_negatives"),
    [(200, 16, 2, 60, 0.0), (200, 16, 3, 60, 0.5), (150, 8, 2, 20, 0.0), (205, 16, 2, 50, 0.2), (200, 16, 20, 600, 0)],
)
def test_random_keys_repeat_hardly_more_than_in_the_best_of_twenty_searches(
    n_rows: int, batch_size: int, each: int, n_keys: int, share_of_negatives: float
) -> None:
    rng = np.random.default_rng(0)
    held = {row: rng.choice(n_keys, each, replace=False) for row in range(n_rows)}
    signed = {row: np.where(rng.random(each) < share_of_negatives, -keys - 1, keys) for row, keys in held.items()}
    labels = one_stratum(n_rows, make_keys({row: keys.tolist() for row, keys in signed.items()}))
    ours = np.mean([BatchPlan(labels, batch_size, seed=seed).plan_epoch(0).counts.repeats for seed in range(3)])
    assert ours <= 1.1 * search_restarts(labels, batch_size, 20) + 1


def test_triplets_whose_negatives_are_the_positives_of_other_rows_lose_no_row() -> None:
    n_rows = 2000
    other = np.roll(np.random.default_rng(0).permutation(n_rows), 1)
    held = {row: [row, -int(other[row]) - 1] for row in range(n_rows) if other[row] != row}
    epoch = BatchPlan(one_stratum(n_rows, make_keys(held)), 32).plan_epoch(0)
    assert sorted(row for batch in epoch.batches(32) for row in batch) == list(range(n_rows))
    assert len(list(epoch.batches(32))) == 63 and epoch.counts.repeats == 0


@pytest.mark.parametrize(
    ("n_rows", "n_keys", "batch_size"), [(10_000, 77, 128), (10_007, 3, 32), (100, 3, 32), (1000, 1, 32), (5, 2, 64)]
)
def test_few_answers_to_many_questions_repeat_evenly_and_lose_no_row(
    n_rows: int, n_keys: int, batch_size: int
) -> None:
    groups = np.random.default_rng(0).integers(n_keys, size=n_rows)
    epoch = BatchPlan(one_stratum(n_rows, group_keys(groups)), batch_size).plan_epoch(0)
    assert sorted(row for batch in epoch.batches(batch_size) for row in batch) == list(range(n_rows))
    capacities = [batch_size] * (n_rows // batch_size) + [n_rows % batch_size]
    assert epoch.counts.repeats == least_repeats(groups, capacities)
    counts = np.array([np.bincount(groups[rows], minlength=n_keys) for rows in epoch.rows]).reshape(-1, n_keys)
    assert not len(counts) or (np.ptp(counts, axis=0) <= 1).all()
    assert ("meet a false negative" in str(epoch.counts)) == (epoch.counts.repeats > 0)


def test_rows_with_fifty_keys_are_all_kept() -> None:
    rng = np.random.default_rng(0)
    keys = make_keys({row: rng.integers(100_000, size=50).tolist() for row in range(400)})
    epoch = BatchPlan(one_stratum(400, keys), 16).plan_epoch(0)
    assert sum(map(len, epoch.batches(16))) == 400 and epoch.counts.repeats == 0


def test_a_giant_key_in_one_stratum_leaves_nearly_all_batches_pure() -> None:
    strata = np.random.default_rng(0).integers(50, size=20_000)
    giant = np.flatnonzero(strata == 7)
    labels = Labels(strata, np.zeros(50, dtype=int), Keys(giant, np.zeros(len(giant), dtype=np.uint32)))
    epoch = BatchPlan(labels, 32).plan_epoch(0)
    assert epoch.counts.pure >= (np.bincount(strata) // 32).sum() - 1 and epoch.counts.dropped == 0
    pooled = epoch.rows[epoch.kinds != PURE]
    assert (np.isin(pooled, giant).sum(axis=1) <= 2).all(), "what no pure batch can hold is spread"


def test_pure_and_pooled_batches_are_free_of_repeats_where_that_can_be_had() -> None:
    rng = np.random.default_rng(0)
    strata = np.sort(rng.integers(200, size=20_000))
    groups = strata * 1000 + rng.integers(40, size=20_000)  # near-duplicates within a stratum
    keys = Keys(np.arange(20_000), np.unique(groups, return_inverse=True)[1].astype(np.uint32))
    epoch = BatchPlan(Labels(strata, np.zeros(200, dtype=int), keys), 16).plan_epoch(0)
    assert epoch.counts.repeats <= 20 and epoch.counts.dropped == 0


def test_strata_of_one_row_each_are_pooled_with_their_neighbours() -> None:
    labels = Labels(np.arange(2000), np.zeros(2000, dtype=int), group_keys(np.arange(2000) // 4))
    epoch = BatchPlan(labels, 16).plan_epoch(0)
    assert epoch.counts.repeats == 0 and epoch.counts.pooled == 125
    assert np.median([np.ptp(rows) for rows in epoch.rows]) < 200


@pytest.mark.parametrize(("n_rows", "batch_size"), [(1, 1), (1, 8), (7, 1), (5, 8)])
def test_tiny_data_are_planned(n_rows: int, batch_size: int) -> None:
    epoch = BatchPlan(one_stratum(n_rows, group_keys(np.zeros(n_rows))), batch_size).plan_epoch(0)
    assert sorted(row for batch in epoch.batches(batch_size) for row in batch) == list(range(n_rows))
    assert epoch.counts.repeats == n_rows - -(-n_rows // batch_size)


def labels_of(n_rows: int, n_strata: int = 7, *, seed: int = 0) -> Labels:
    rng = np.random.default_rng(seed)
    strata = np.sort(rng.integers(0, n_strata, n_rows))
    return Labels(strata, np.zeros(n_strata, dtype=int), group_keys(rng.integers(n_rows // 3, size=n_rows)))


def test_another_epoch_seed_or_labelling_gives_other_batches() -> None:
    def first_batches(labels: Labels, seed: int, epoch: int) -> set[frozenset[int]]:
        plan = BatchPlan(labels, 8, seed=seed)
        return {frozenset(batch) for batch in plan.plan_epoch(epoch).batches(8)}

    reference = first_batches(labels_of(2000), 0, 0)
    assert not reference & first_batches(labels_of(2000), 0, 1)
    assert not reference & first_batches(labels_of(2000), 1, 0)
    assert not reference & first_batches(labels_of(2000, seed=9), 0, 0)


def test_clusters_smaller_than_a_batch_meet_other_neighbours_in_another_epoch() -> None:
    labels = Labels(np.repeat(np.arange(100), 10), np.zeros(100, dtype=int))
    plan = BatchPlan(labels, 25)

    def neighbourhoods(epoch: int) -> list[set[int]]:
        return [set((np.array(batch) // 10).tolist()) for batch in plan.plan_epoch(epoch).batches(25)]

    assert sorted(map(sorted, neighbourhoods(0))) != sorted(map(sorted, neighbourhoods(1)))
    around_the_end = [max(clusters) - min(clusters) > 4 for clusters in neighbourhoods(0)]
    assert sum(around_the_end) <= 1, "all but the batch over the path's ends hold neighbours in number"


def test_the_remainder_of_one_source_is_not_mixed_with_another_while_it_fills_a_batch() -> None:
    labels = make_labels([0] * 30 + [1] * 30, list(range(60)))
    epoch = BatchPlan(labels, 8).plan_epoch(0)
    assert np.bincount(epoch.kinds, minlength=3).tolist() == [0, 6, 1]
    assert len(epoch.last) == 4


def test_a_batch_larger_than_the_data_is_refused_or_is_the_only_one() -> None:
    labels = labels_of(10)
    assert [len(batch) for batch in BatchPlan(labels, 64).plan_epoch(0).batches(64)] == [10]
    with pytest.raises(ValueError, match=r"10 rows fill no batch of 64, and drop_last=True"):
        BatchPlan(labels, 64, drop_last=True)
    with pytest.raises(ValueError, match=r"no global batch of 64 = 32 rows x 2 devices; lower the batch size"):
        BatchPlan(labels, 32, world_size=2)
    with pytest.raises(ValueError, match=r"16 = 8 rows x 2 devices; use fewer devices"):
        BatchPlan(labels, 8, world_size=2)
    with pytest.raises(ValueError, match="has no rows"):
        BatchPlan(one_stratum(0, None), 8)


def test_the_last_batch_is_named_for_what_it_holds() -> None:
    one_source = BatchPlan(make_labels([0] * 10, [0] * 5 + [1] * 5), 8).plan_epoch(0)
    assert one_source.counts.mixed == one_source.counts.dropped == 0
    two_sources = BatchPlan(make_labels([0] * 5 + [1] * 5, [0] * 10), 8).plan_epoch(0)
    assert (two_sources.kinds == MIXED).all()


def test_strata_larger_than_a_chunk_are_shuffled_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("filling", "sorting", "exchanging", "partners"):
        monkeypatch.setattr(f"st_cluster_batches.plans.{module}.CHUNK", 64)
    labels = labels_of(1000, 3)
    epoch = BatchPlan(Labels(labels.strata, labels.source_of_stratum), 10).plan_epoch(0)
    assert sorted(row for batch in epoch.batches(10) for row in batch) == list(range(1000))
    spans = [int(np.ptp(rows)) for rows, kind in zip(epoch.rows, epoch.kinds, strict=True) if kind == PURE]
    assert np.mean(spans) > 200, "rows of a batch come from the whole stratum, not from one chunk of it"
    assert sum(map(len, BatchPlan(labels, 10).plan_epoch(0).batches(10))) == 1000
