from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from st_cluster_batches.batches.labels import Labels
from st_cluster_batches.batches.plan import MIXED, POOLED, PURE, BatchPlan, EpochPlan


def make_labels(sources: list[int], clusters: list[int], groups: list[int] | None) -> Labels:
    pairs = np.stack([sources, clusters], axis=1)
    distinct, strata = np.unique(pairs, axis=0, return_inverse=True)
    source_of_stratum = np.unique(distinct[:, 0], return_inverse=True)[1]
    return Labels(strata.ravel(), source_of_stratum, None if groups is None else np.array(groups, dtype=np.uint32))


@st.composite
def plans(draw: st.DrawFn) -> BatchPlan:
    n_rows = draw(st.integers(1, 150))
    sources = draw(st.lists(st.integers(0, 2), min_size=n_rows, max_size=n_rows))
    clusters = draw(st.lists(st.integers(0, draw(st.integers(0, 8))), min_size=n_rows, max_size=n_rows))
    most = draw(st.sampled_from([3, 20, 200, 10**9]))
    groups = draw(st.none() | st.lists(st.integers(0, most), min_size=n_rows, max_size=n_rows))
    labels = make_labels(sources, clusters, groups)
    sizes = {"batch_size": draw(st.integers(1, 9)), "world_size": draw(st.integers(1, 4))}
    try:
        return BatchPlan(
            labels,
            **sizes,
            drop_last=draw(st.booleans()),
            seed=draw(st.integers(0, 5)),
            random_fraction=draw(st.sampled_from([0.0, 0.0, 0.3, 0.9])),
        )
    except ValueError as error:
        assert "make no global batch" in str(error)
        return BatchPlan(labels, 1, seed=0)


def global_batches(plan: BatchPlan, epoch: EpochPlan) -> list[list[int]]:
    batches = list(epoch.batches(plan.batch_size))
    full = len(epoch.rows) * plan.world_size
    joined = [list(chain(*batches[at : at + plan.world_size])) for at in range(0, full, plan.world_size)]
    return joined + batches[full:]


@settings(deadline=None, max_examples=300)
@given(plans(), st.integers(0, 3))
def test_every_batch_keeps_the_promises(plan: BatchPlan, number: int) -> None:
    epoch = plan.plan_epoch(number)
    labels = plan.labels
    batches = list(epoch.batches(plan.batch_size))
    assert len(batches) == len(plan), "length is exact"
    assert len(batches) % plan.world_size == 0 or plan.world_size == 1
    assert all(len(batch) == plan.batch_size for batch in batches[:-1]), "no short batch mid-stream"
    if plan.world_size > 1:
        assert len(batches[-1]) == plan.batch_size

    rows = [row for batch in batches for row in batch]
    assert len(rows) == len(set(rows)), "a row appears once at most"
    assert epoch.counts.dropped == len(labels) - len(rows)

    for batch, kind in zip(global_batches(plan, epoch), epoch.kinds[epoch.order], strict=False):
        strata = set(labels.strata[batch].tolist())
        sources = set(labels.source_of_stratum[list(strata)].tolist())
        assert kind != PURE or len(strata) == 1
        assert kind != POOLED or len(sources) == 1
    if labels.groups is not None:
        for batch in global_batches(plan, epoch):
            assert len(set(labels.groups[batch].tolist())) == len(batch), "no false negatives"


@settings(deadline=None, max_examples=200)
@given(plans(), st.integers(0, 3))
def test_rows_are_dropped_only_where_no_batch_could_hold_them(plan: BatchPlan, number: int) -> None:
    labels, size = plan.labels, plan.global_size
    groups = np.arange(len(labels)) if labels.groups is None else labels.groups
    multiplicity = np.unique(groups, return_counts=True)[1]
    n_full = len(plan.plan_epoch(number).rows)
    n_rows = sum(map(len, plan.plan_epoch(number).batches(plan.batch_size)))
    if plan._keeps_rest and multiplicity.max() <= n_full:
        assert n_rows == len(labels), "one device drops no row that could be placed"
    # One batch more could not be filled: this is the best that any arrangement can do.
    assert np.minimum(multiplicity, n_full + 1).sum() < (n_full + 1) * size
    assert np.minimum(multiplicity, n_full).sum() >= n_full * size


@settings(deadline=None, max_examples=100)
@given(plans())
def test_without_repeats_every_stratum_fills_as_many_pure_batches_as_it_can(plan: BatchPlan) -> None:
    plan = BatchPlan(Labels(plan.labels.strata, plan.labels.source_of_stratum), 2, 1)
    epoch = plan.plan_epoch(0)
    assert (epoch.kinds == PURE).sum() == (np.bincount(plan.labels.strata) // 2).sum()
    assert epoch.counts.dropped == 0


@settings(deadline=None, max_examples=50)
@given(plans(), st.integers(0, 3))
def test_the_plan_is_a_function_of_its_arguments(plan: BatchPlan, number: int) -> None:
    labels = Labels(plan.labels.strata.copy(), plan.labels.source_of_stratum.copy(), plan.labels.groups)
    again = BatchPlan(labels, plan.batch_size, plan.world_size, not plan._keeps_rest, plan.seed, plan.random_fraction)
    first, second = plan.plan_epoch(number), again.plan_epoch(number)
    assert list(first.batches(plan.batch_size)) == list(second.batches(plan.batch_size))


def labels_of(n_rows: int, n_strata: int = 7, *, seed: int = 0) -> Labels:
    rng = np.random.default_rng(seed)
    strata = np.sort(rng.integers(0, n_strata, n_rows))
    return Labels(strata, np.zeros(n_strata, dtype=int), np.arange(n_rows, dtype=np.uint32))


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
    labels = make_labels([0] * 30 + [1] * 30, list(range(60)), None)
    epoch = BatchPlan(labels, 8).plan_epoch(0)
    assert np.bincount(epoch.kinds, minlength=3).tolist() == [0, 6, 1]
    assert len(epoch.last) == 4


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_passage_that_answers_a_hundred_queries_is_kept(world_size: int) -> None:
    rng = np.random.default_rng(0)
    groups = np.arange(20_000, dtype=np.uint32)
    groups[:100] = 0  # one passage, all of its queries in one stratum of 300 rows
    for start in range(200, 3200, 10):
        groups[start : start + 10] = start
    strata = np.concatenate([np.zeros(300, dtype=int), rng.integers(1, 200, 19_700)])
    plan = BatchPlan(Labels(strata, np.zeros(200, dtype=int), groups), 16, world_size)
    epoch = plan.plan_epoch(0)
    assert epoch.counts.dropped == (0 if world_size == 1 else 20_000 % 32)
    assert epoch.counts.pure > 0.7 * len(epoch.rows)
    kept = np.concatenate([np.concatenate(list(map(np.array, epoch.batches(16))))])
    assert np.isin(np.arange(100), kept).sum() >= 100 - 20_000 % 32


def test_a_batch_larger_than_the_data_is_refused_or_is_the_only_one() -> None:
    labels = labels_of(10)
    assert [len(batch) for batch in BatchPlan(labels, 64).plan_epoch(0).batches(64)] == [10]
    with pytest.raises(ValueError, match=r"10 rows make no global batch of 64 = 64 rows x 1 devices"):
        BatchPlan(labels, 64, drop_last=True)
    with pytest.raises(ValueError, match=r"64 = 32 rows x 2 devices"):
        BatchPlan(labels, 32, world_size=2)


def test_the_last_batch_is_named_for_what_it_holds() -> None:
    one_source = BatchPlan(make_labels([0] * 10, [0] * 5 + [1] * 5, None), 8).plan_epoch(0)
    assert one_source.counts.mixed == one_source.counts.dropped == 0
    two_sources = BatchPlan(make_labels([0] * 5 + [1] * 5, [0] * 10, None), 8).plan_epoch(0)
    assert (two_sources.kinds == MIXED).all()


def test_strata_larger_than_a_chunk_are_shuffled_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("st_cluster_batches.batches.filling.CHUNK", 64)
    monkeypatch.setattr("st_cluster_batches.batches.sorting.CHUNK", 64)
    monkeypatch.setattr("st_cluster_batches.batches.plan.CHUNK", 64)
    plan = BatchPlan(labels_of(1000, 3), 10)
    epoch = plan.plan_epoch(0)
    assert sorted(row for batch in epoch.batches(10) for row in batch) == list(range(1000))
    spans = [int(np.ptp(rows)) for rows, kind in zip(epoch.rows, epoch.kinds, strict=True) if kind == PURE]
    assert np.mean(spans) > 200, "rows of a batch come from the whole stratum, not from one chunk of it"
