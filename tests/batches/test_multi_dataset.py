from __future__ import annotations

import logging
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, DatasetDict
from examples import label_pairs, make_pairs
from sentence_transformers.base.sampler import NoDuplicatesBatchSampler
from torch.utils.data import BatchSampler, ConcatDataset, SequentialSampler
from trainers import make_trainer

from st_cluster_batches import ClusterBatchSampler, ClusterMultiDatasetBatchSampler


def make_sampler(
    *sizes: int, alpha: float = 1.0, world_size: int = 1, batch_size: int = 8, drop_last: bool = True
) -> ClusterMultiDatasetBatchSampler:
    parts: list[Dataset] = [label_pairs(make_pairs(size, seed=at)) for at, size in enumerate(sizes)]
    samplers: list[Any] = [
        ClusterBatchSampler(part, batch_size, drop_last=drop_last, world_size=world_size) for part in parts
    ]
    return ClusterMultiDatasetBatchSampler(ConcatDataset(parts), samplers, seed=7, alpha=alpha)


def iterate(sampler: ClusterMultiDatasetBatchSampler, epoch: int) -> list[list[int]]:
    sampler.set_epoch(epoch)
    return list(sampler)


def count_batches(sampler: ClusterMultiDatasetBatchSampler, epoch: int) -> list[int]:
    """Count the batches of each dataset, and check that none crosses a border."""
    ends = sampler.dataset.cumulative_sizes
    owners = []
    for batch in iterate(sampler, epoch):
        owner = {next(at for at, end in enumerate(ends) if row < end) for row in batch}
        assert len(owner) == 1
        owners.append(owner.pop())
    counts = Counter(owners)
    return [counts[at] for at in range(len(ends))]


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0, 2.0])
def test_len_matches_iteration_in_every_epoch(world_size: int, alpha: float) -> None:
    sampler = make_sampler(300, 100, 50, alpha=alpha, world_size=world_size)
    for epoch in range(3):
        batches = iterate(sampler, epoch)
        assert len(batches) == len(sampler)
        assert len(batches) % world_size == 0 and all(len(batch) == 8 for batch in batches)


def test_shares_follow_the_sizes_to_the_power_of_alpha() -> None:
    # 37, 12 and 6 batches of their own.
    assert count_batches(make_sampler(300, 100, 50, alpha=1), 0) == [37, 12, 6]
    assert count_batches(make_sampler(300, 100, 50, alpha=0), 0) == [19, 18, 18]
    weights = [37**0.5, 12**0.5, 6**0.5]
    shares = count_batches(make_sampler(300, 100, 50, alpha=0.5), 1)
    assert sum(shares) == 55
    assert all(abs(share - 55 * weight / sum(weights)) < 1 for share, weight in zip(shares, weights, strict=True))


def test_consecutive_batches_of_one_step_are_of_one_dataset() -> None:
    sampler = make_sampler(300, 100, alpha=0.5, world_size=3)
    batches = iterate(sampler, 1)
    for at in range(0, len(batches), 3):
        assert len({row < 300 for batch in batches[at : at + 3] for row in batch}) == 1


def test_with_alpha_1_every_row_is_seen_once_an_epoch() -> None:
    rows = [row for batch in iterate(make_sampler(299, 101, drop_last=False), 2) for row in batch]
    assert sorted(rows) == list(range(400))


def test_a_lifted_dataset_is_passed_through_in_another_order_and_a_lowered_one_goes_on() -> None:
    sampler = make_sampler(1600, 80, alpha=0)
    seen: Counter[int] = Counter()
    orders = []
    for epoch in range(2):
        batches = iterate(sampler, epoch)
        seen.update(row for batch in batches for row in batch)
        orders.append([batch for batch in batches if batch[0] >= 1600])
    # 105 of its 200 batches an epoch: it went on in the second epoch where it stopped, and began anew after the end.
    assert Counter(seen[row] for row in range(1600)) == {1: 1600 - 80, 2: 80}
    small = [seen[row] for row in range(1600, 1680)]
    assert max(small) - min(small) <= 1
    assert orders[0] != orders[1]
    passes = [orders[0][at : at + 10] for at in range(0, 100, 10)]
    assert len({str(sorted(map(sorted, one))) for one in passes}) == len(passes), "every pass has batches of its own"


def test_two_datasets_with_the_same_labels_get_different_permutations() -> None:
    part = label_pairs(make_pairs(100))
    other = part.select(range(100))
    samplers: list[Any] = [ClusterBatchSampler(one, 8) for one in (part, other)]
    sampler = ClusterMultiDatasetBatchSampler(ConcatDataset([part, other]), samplers)
    batches = iterate(sampler, 0)
    first = [batch for batch in batches if batch[0] < 100]
    second = [[row - 100 for row in batch] for batch in batches if batch[0] >= 100]
    assert first != second


def test_epochs_differ_and_come_back() -> None:
    sampler = make_sampler(300, 100, alpha=0.5)
    first, second = iterate(sampler, 0), iterate(sampler, 1)
    assert first != second and iterate(sampler, 0) == first


def test_stock_samplers_may_be_beneath_it() -> None:
    part = label_pairs(make_pairs(40))
    samplers = [BatchSampler(SequentialSampler(part), 8, drop_last=True) for _ in range(2)]
    batches = iterate(ClusterMultiDatasetBatchSampler(ConcatDataset([part, part]), samplers), 0)
    assert len(batches) == 10


def test_a_configured_sampler_is_picklable_and_a_negative_alpha_is_refused() -> None:
    configured = ClusterMultiDatasetBatchSampler.configure(alpha=0.3)
    assert pickle.loads(pickle.dumps(configured)) == configured
    with pytest.raises(ValueError, match="alpha=-1 must not be negative"):
        ClusterMultiDatasetBatchSampler.configure(alpha=-1)


@pytest.mark.parametrize("alpha", [0, 1])
def test_a_dataset_without_a_global_batch_is_left_out_and_named(
    alpha: float, caplog: pytest.LogCaptureFixture
) -> None:
    part = label_pairs(make_pairs(100))
    small = part.select(range(10))
    samplers = [ClusterBatchSampler(one, 16, drop_last=True) for one in (part, small)]
    sampler = ClusterMultiDatasetBatchSampler(ConcatDataset([part, small]), samplers, alpha=alpha)
    batches = iterate(sampler, 0)
    assert len(batches) == len(sampler) == 6 and max(row for batch in batches for row in batch) < 100
    assert caplog.text.count("Dataset number 1 is left out: its 10 rows fill no global batch of 16 rows x 1") == 1
    with pytest.raises(ValueError, match="No dataset fills a global batch of 16 rows x 1 devices"):
        len(ClusterMultiDatasetBatchSampler(ConcatDataset([small]), samplers[1:]))


@pytest.mark.parametrize("multi", [ClusterMultiDatasetBatchSampler, "proportional", "round_robin"])
def test_an_empty_dataset_is_left_out_or_refused_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, multi: Any
) -> None:
    parts = DatasetDict(full=label_pairs(make_pairs(40)), empty=label_pairs(make_pairs(20)).select([]))
    trainer = make_trainer(tmp_path, parts, multi_dataset_batch_sampler=multi)
    if multi == "round_robin":
        with pytest.raises(ValueError, match=r"no rows in the dataset 'empty'.*=ClusterMultiDatasetBatchSampler"):
            trainer.train()
        return
    trainer.train()
    assert trainer.state.global_step == 3
    named = "'empty' is left out: its 0 rows" if multi is ClusterMultiDatasetBatchSampler else "number 1 with 0"
    assert named in caplog.text and "none to train on" in caplog.text


def test_a_dataset_whose_sampler_gives_nothing_ends_with_its_name() -> None:
    same = Dataset.from_dict({"query": ["soup"] * 100, "passage": ["salt"] * 100})
    sampler = NoDuplicatesBatchSampler(same, 16, True, [], torch.Generator(), 0)
    many = ClusterMultiDatasetBatchSampler(ConcatDataset([same]), [sampler])
    with pytest.raises(ValueError, match="Dataset number 0: NoDuplicatesBatchSampler promises 6 batches and gives"):
        iterate(many, 0)


def test_an_epoch_that_ends_with_the_shortest_dataset_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parts = DatasetDict({"long": label_pairs(make_pairs(160, seed=0)), "short": label_pairs(make_pairs(48, seed=1))})
    caplog.set_level(logging.WARNING)
    make_trainer(tmp_path, parts, multi_dataset_batch_sampler="round_robin").train()
    assert "RoundRobinBatchSampler ends an epoch with its shortest dataset: 6 of 13 batches are in it" in caplog.text
    caplog.clear()
    make_trainer(tmp_path, parts, multi_dataset_batch_sampler="proportional").train()
    assert "ends an epoch" not in caplog.text


def test_rows_that_alpha_leaves_out_are_told_of_with_stock_samplers_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parts = DatasetDict({"long": make_pairs(160, seed=0), "short": make_pairs(48, seed=1)})
    options = {"batch_sampler": "batch_sampler", "num_train_epochs": 1}
    uniform = ClusterMultiDatasetBatchSampler.configure(alpha=0)
    make_trainer(tmp_path, parts, multi_dataset_batch_sampler=uniform, **options).train()
    assert caplog.text.count("Dataset 'long': 3 of its 10 global batches are in no step of this run") == 1


def test_all_datasets_that_are_left_out_beneath_a_stock_sampler_are_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parts = DatasetDict({name: label_pairs(make_pairs(10, seed=at)) for at, name in enumerate("ab")})
    options = {"multi_dataset_batch_sampler": "proportional", "dataloader_drop_last": True, "max_steps": 1}
    make_trainer(tmp_path, parts, **options).train()
    assert "global batch of 16 are left out: number 0 with 10, number 1 with 10" in caplog.text


@pytest.mark.parametrize("alpha", [-0.1, float("nan"), float("inf")])
def test_an_alpha_without_meaning_is_refused_where_it_is_written(alpha: float) -> None:
    with pytest.raises(ValueError, match="must not be negative: 1 is proportional to size"):
        ClusterMultiDatasetBatchSampler.configure(alpha=alpha)


def test_datasets_that_are_evaluated_on_give_every_row_once(tmp_path: Path) -> None:
    rows = DatasetDict(a=label_pairs(make_pairs(50)), b=label_pairs(make_pairs(5, seed=1)))
    multi = ClusterMultiDatasetBatchSampler.configure(alpha=0.5)
    trainer = make_trainer(tmp_path, rows, multi_dataset_batch_sampler=multi, per_device_eval_batch_size=8)
    sampler = trainer.get_eval_dataloader(rows).batch_sampler
    batches = list(sampler)
    assert sorted(row for batch in batches for row in batch) == list(range(55))
    assert len(batches) == len(sampler)
