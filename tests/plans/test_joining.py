from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from examples import make_static_model
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import count_repeats, global_batches, group_keys, make_keys, make_labels
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from st_cluster_batches import ClusterBatchSampler
from st_cluster_batches.plans.batch_plan import BatchPlan
from st_cluster_batches.plans.filling import MIXED, POOLED, PURE
from st_cluster_batches.plans.keys import Keys
from st_cluster_batches.plans.labels import Labels


@st.composite
def joined_plans(draw: st.DrawFn) -> BatchPlan:
    n_rows = draw(st.integers(1, 150))
    sources = draw(st.lists(st.integers(0, 2), min_size=n_rows, max_size=n_rows))
    clusters = draw(st.lists(st.integers(0, draw(st.integers(0, 8))), min_size=n_rows, max_size=n_rows))
    most = draw(st.sampled_from([0, 3, 20, 200]))
    held = draw(st.dictionaries(st.integers(0, n_rows - 1), st.lists(st.integers(-most - 1, most), max_size=4)))
    chunk, n_chunks = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    # The slices of devices may cut through chunks.
    world_size = draw(st.sampled_from([one for one in range(1, 7) if chunk * n_chunks % one == 0]))
    if n_rows < chunk * n_chunks:
        world_size = 1
    drop_last = draw(st.booleans()) and n_rows >= chunk * n_chunks
    labels = make_labels(sources, clusters, make_keys(held))
    size = chunk * n_chunks // world_size
    return BatchPlan(labels, size, world_size, drop_last, draw(st.integers(0, 5)), rows_per_stratum=chunk)


@settings(deadline=None, max_examples=150)
@given(joined_plans(), st.integers(0, 3))
def test_every_joined_batch_keeps_the_promises(plan: BatchPlan, number: int) -> None:
    epoch = plan.plan_epoch(number)
    labels, n_rows, chunk = plan.labels, len(plan.labels), plan.rows_per_stratum or 1
    batches = list(epoch.batches(plan.batch_size))
    assert len(batches) == len(plan) and all(len(batch) == plan.batch_size for batch in batches[:-1])
    rows = [row for batch in batches for row in batch]
    assert len(rows) == len(set(rows)) and epoch.counts.dropped == n_rows - len(rows)
    assert n_rows - len(rows) < (1 if plan._keeps_rest else plan.global_size)
    joined = global_batches(plan, epoch)
    for batch, kind in zip(joined, epoch.kinds[epoch.order], strict=False):
        if kind in (PURE, POOLED):
            assert len(set(labels.source_of_stratum[labels.strata[batch]].tolist())) == 1
        if kind == PURE:
            assert (np.ptp(labels.strata[batch].reshape(-1, chunk), axis=1) == 0).all()
    assert epoch.counts.repeats == count_repeats(labels, joined)
    again = BatchPlan(
        labels,
        plan.batch_size,
        plan.world_size,
        not plan._keeps_rest,
        plan.seed,
        rows_per_stratum=plan.rows_per_stratum,
    )
    assert list(again.plan_epoch(number).batches(plan.batch_size)) == batches


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(joined_plans(), st.integers(0, 3))
def test_joined_global_batches_are_the_same_on_any_number_of_devices(plan: BatchPlan, number: int) -> None:
    def joined(world_size: int) -> list[list[int]]:
        size = plan.global_size // world_size
        made = BatchPlan(plan.labels, size, world_size, True, plan.seed, rows_per_stratum=plan.rows_per_stratum)
        return global_batches(made, made.plan_epoch(number))

    if len(plan.labels) >= plan.global_size:
        divisors = [one for one in range(1, plan.global_size + 1) if plan.global_size % one == 0]
        assert all(joined(one) == joined(1) for one in divisors)


def test_chunks_of_a_stratum_meet_others_at_random_within_their_source() -> None:
    strata = np.repeat(np.arange(200), 40)
    labels = Labels(strata, np.repeat([0, 1], 100))
    plan = BatchPlan(labels, 32, rows_per_stratum=4)
    epochs = [plan.plan_epoch(number) for number in range(2)]
    for epoch in epochs:
        assert (epoch.kinds == PURE).all() and epoch.counts.pure == 250
        chunks = strata[epoch.rows].reshape(len(epoch.rows), 8, 4)
        assert (np.ptp(chunks, axis=2) == 0).all()
        assert np.mean([np.ptp(one) for one in chunks[:, :, 0]]) > 50, "not only neighbours"
        assert np.mean([len(set(one)) for one in chunks[:, :, 0].tolist()]) > 7
    assert {frozenset(one) for one in epochs[0].rows.tolist()}.isdisjoint(map(frozenset, epochs[1].rows.tolist()))


def test_leftovers_of_sources_are_mixed_and_named_so() -> None:
    labels = make_labels([0] * 20 + [1] * 20, [0] * 40)
    epoch = BatchPlan(labels, 16, rows_per_stratum=4).plan_epoch(0)
    assert Counter(epoch.kinds.tolist()) == {PURE: 2} and len(epoch.last) == 8
    epoch = BatchPlan(make_labels([0] * 24 + [1] * 24, [0] * 48), 16, rows_per_stratum=4).plan_epoch(0)
    assert Counter(epoch.kinds.tolist()) == {PURE: 2, MIXED: 1}


@pytest.mark.parametrize("n_rows", [2000, 20_000])
def test_false_negatives_are_kept_apart_across_chunks(n_rows: int) -> None:
    rng = np.random.default_rng(0)
    strata = np.sort(rng.integers(n_rows // 40, size=n_rows))
    groups = np.unique(rng.integers(n_rows // 3, size=n_rows), return_inverse=True)[1]
    keys = Keys(np.arange(n_rows), groups.astype(np.uint32))
    labels = Labels(strata, np.zeros(strata.max() + 1, dtype=int), keys)
    random = sum(len(one) - len(set(one)) for one in groups[rng.permutation(n_rows)].reshape(-1, 40).tolist())
    epoch = BatchPlan(labels, 40, rows_per_stratum=4).plan_epoch(0)
    assert random > 20 and epoch.counts.repeats <= random / 20


def test_a_chunk_must_divide_the_global_batch() -> None:
    labels = make_labels([0] * 64, [0] * 64)
    with pytest.raises(ValueError, match=r"rows_per_stratum=3 must divide the 8 rows of a global .*nearest is 2"):
        BatchPlan(labels, 8, rows_per_stratum=3)
    with pytest.raises(ValueError, match=r"rows_per_stratum=16 must divide the 24 rows .*nearest is 12"):
        BatchPlan(labels, 8, 3, rows_per_stratum=16)
    with pytest.raises(ValueError, match="exclude each other"):
        ClusterBatchSampler.configure(rows_per_stratum=4, random_fraction=0.5)
    with pytest.raises(ValueError, match="rows_per_stratum"):
        ClusterBatchSampler.configure(rows_per_stratum=0)


def test_a_trainer_takes_several_strata_and_does_not_resume_with_others(labelled: Dataset, tmp_path: Path) -> None:
    def train(rows_per_stratum: int | None, **resume: Any) -> None:
        arguments = SentenceTransformerTrainingArguments(
            str(tmp_path / "out"),
            per_device_train_batch_size=8,
            max_steps=6,
            save_steps=3,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            batch_sampler=ClusterBatchSampler.configure(rows_per_stratum=rows_per_stratum),
        )
        model = make_static_model()
        trainer = SentenceTransformerTrainer(model, arguments, labelled, loss=MultipleNegativesRankingLoss(model))
        trainer.train(**resume)

    train(4)
    (plan,) = json.loads((tmp_path / "out" / "batch_plan.json").read_text())
    assert plan["rows_per_stratum"] == 4 and plan["counts"]["pure"] > 30
    assert "rows of each stratum in a batch | 4" in (tmp_path / "out" / "checkpoint-6" / "README.md").read_text()
    with pytest.raises(ValueError, match="rows_per_stratum was 4 and is None"):
        train(None, resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3"))
    train(4, resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3"))


def test_chunks_stay_pure_where_giving_it_up_would_part_no_false_negatives() -> None:
    # Each of four strata has three texts, 20 times each: a batch of 32 rows has 12 texts at most, whatever its chunks.
    strata = np.arange(240) % 4
    texts = np.arange(240) // 4 % 3 + 3 * strata
    labels = make_labels([0] * 240, strata.tolist(), group_keys(texts))
    counts = BatchPlan(labels, 32, rows_per_stratum=8).plan_epoch(0).counts
    assert (counts.pure, counts.given_up, counts.repeats) == (7, 0, 144)


@pytest.mark.parametrize("n_rows", [600, 12_000])  # the larger is parted by exchanges alone
def test_one_chunk_that_is_the_whole_batch_is_one_stratum_a_batch(n_rows: int) -> None:
    rng = np.random.default_rng(0)
    keys = group_keys(rng.integers(0, n_rows // 3, n_rows))
    labels = make_labels([0] * n_rows, rng.integers(0, n_rows // 60, n_rows).tolist(), keys)
    whole, chunked = (BatchPlan(labels, 32, rows_per_stratum=number).plan_epoch(0) for number in (None, 32))
    assert (whole.rows == chunked.rows).all() and whole.counts == chunked.counts
    assert whole.counts.repeats == 0
