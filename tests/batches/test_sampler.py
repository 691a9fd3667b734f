from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from datasets import Dataset, DatasetDict, load_from_disk
from examples import label_pairs, make_pairs, make_static_model
from sentence_transformers import (
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.losses import (
    CoSENTLoss,
    MultipleNegativesRankingLoss,
)
from trainers import make_trainer, record_texts

from st_cluster_batches import ClusterBatchSampler, ClusterMultiDatasetBatchSampler, attach_clusters, attach_keys
from st_cluster_batches.columns import hide_labels
from st_cluster_batches.plans.labels import read_labels


def topic(text: str) -> str:
    from examples import TOPICS

    return next(name for name, words in TOPICS.items() if text.split()[0] in words)


def is_pure(batch: list[dict[str, Any]]) -> bool:
    return len({topic(row["query"]) for row in batch}) == 1


def test_one_argument_makes_the_stock_trainer_train_on_single_topic_batches(tmp_path: Path, labelled: Dataset) -> None:
    trainer = make_trainer(tmp_path, labelled)
    seen = record_texts(trainer)
    before = trainer.model[0].embedding.weight.clone()
    trainer.train()
    assert not torch.equal(before, trainer.model[0].embedding.weight)
    assert all(set(row) == {"query", "passage"} for batch in seen for row in batch)
    assert sum(map(is_pure, seen)) >= len(seen) - 3
    assert sum(len(batch) for batch in seen) == 300, "no row is lost on one process"


def through_parquet(dataset: Dataset, tmp_path: Path) -> Dataset:
    dataset.to_parquet(str(tmp_path / "train.parquet"))
    return Dataset.from_parquet(str(tmp_path / "train.parquet"), cache_dir=str(tmp_path / "cache"))


def through_disk(dataset: Dataset, tmp_path: Path) -> Dataset:
    dataset.save_to_disk(str(tmp_path / "saved"))
    return load_from_disk(str(tmp_path / "saved"))


def shout(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {**batch, "query": [text.upper().lower() for text in batch["query"]]}


def bring_back(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {"query": batch["query"], "passage": batch["passage"], "cluster": [1] * len(batch["query"])}


@pytest.mark.parametrize(
    "prepare",
    [
        pytest.param(through_parquet, id="parquet"),
        pytest.param(through_disk, id="save_to_disk"),
        pytest.param(lambda data, _: data.select(range(0, 300, 2)), id="select"),
        pytest.param(lambda data, _: data.shuffle(seed=1), id="shuffle"),
        pytest.param(lambda data, _: data.train_test_split(0.2, seed=1)["train"], id="train_test_split"),
        pytest.param(lambda data, _: data.with_format("torch"), id="torch format"),
        pytest.param(
            lambda data, _: data.with_format("numpy", columns=["cluster"], output_all_columns=True), id="numpy labels"
        ),
        pytest.param(
            lambda data, _: data.with_format("torch", columns=["cluster"], output_all_columns=True), id="all columns"
        ),
        pytest.param(lambda data, _: data.with_format(None, columns=["query", "passage"]), id="columns"),
        pytest.param(lambda data, _: data.with_transform(shout), id="transform"),
        pytest.param(lambda data, _: data.with_transform(bring_back), id="transform that adds labels"),
        pytest.param(
            lambda data, _: data.with_transform(shout, columns=["query"], output_all_columns=True),
            id="transform and all columns",
        ),
    ],
)
def test_labels_never_reach_the_collator(
    tmp_path: Path, labelled: Dataset, prepare: Callable[[Dataset, Path], Dataset]
) -> None:
    trainer = make_trainer(tmp_path, prepare(labelled, tmp_path))
    seen = record_texts(trainer)
    trainer.train()
    assert all(set(row) == {"query", "passage"} for batch in seen for row in batch)
    assert sum(map(is_pure, seen)) >= len(seen) - 3
    assert sum(len(batch) for batch in seen) == len(trainer.train_dataset)


def test_hiding_twice_and_training_twice_change_nothing(tmp_path: Path, labelled: Dataset) -> None:
    transformed = labelled.with_transform(shout)
    for data in (labelled, transformed):
        for _ in range(2):
            trainer = make_trainer(tmp_path, data)
            seen = record_texts(trainer)
            trainer.train()
            assert all(list(row) == ["query", "passage"] for batch in seen for row in batch)
    assert transformed.format["format_kwargs"]["transform"] is shout


def test_other_label_columns_stay_visible(tmp_path: Path, labelled: Dataset) -> None:
    scored = labelled.add_column("score", np.linspace(0, 1, 300).tolist())
    trainer = make_trainer(tmp_path, scored, loss=CoSENTLoss)
    seen = record_texts(trainer)
    trainer.train()
    assert all(set(row) == {"query", "passage", "score"} for batch in seen for row in batch)


@pytest.mark.parametrize("with_dict_of_losses", [False, True])
@pytest.mark.parametrize("sampler", ["proportional", "round_robin"])
def test_a_dict_of_datasets_trains(tmp_path: Path, with_dict_of_losses: bool, sampler: str) -> None:
    train = DatasetDict({name: label_pairs(make_pairs(size, size)) for name, size in {"a": 200, "b": 120}.items()})
    model = make_static_model()
    losses = {"a": MultipleNegativesRankingLoss(model), "b": MultipleNegativesRankingLoss(model, scale=10)}
    trainer = make_trainer(
        tmp_path,
        train,
        model=model,
        loss=losses if with_dict_of_losses else losses["a"],
        multi_dataset_batch_sampler=sampler,
        eval_dataset=DatasetDict({"a": make_pairs(20, 9), "b": make_pairs(20, 10)}),
        eval_strategy="epoch",
    )
    seen = record_texts(trainer)
    trainer.train()
    names = {"query", "passage", "dataset_name"} if with_dict_of_losses else {"query", "passage"}
    assert all(set(row) == names for batch in seen for row in batch)
    assert sum(map(is_pure, seen)) >= 10


@pytest.mark.parametrize("eval_labels", ["none", "all", "source only"])
def test_evaluation_data_needs_no_labels(tmp_path: Path, labelled: Dataset, eval_labels: str) -> None:
    held_out = make_pairs(50, seed=5)
    if eval_labels == "source only":
        held_out = held_out.add_column("source", ["all"] * 50)
    elif eval_labels == "all":
        held_out = label_pairs(held_out).select(range(5))
    trainer = make_trainer(
        tmp_path, labelled, eval_dataset=held_out, eval_strategy="steps", eval_steps=7, dataloader_drop_last=False
    )
    seen = record_texts(trainer)
    trainer.train()
    assert "eval_loss" in trainer.state.log_history[-2]
    assert {len(held_out)} <= {sum(len(batch) for batch in seen) - 300 - k * len(held_out) for k in range(9)}


@pytest.mark.parametrize("mix", ["proportional", "round_robin", ClusterMultiDatasetBatchSampler])
def test_a_tiny_dataset_does_not_stop_the_others(tmp_path: Path, mix: Any, caplog: pytest.LogCaptureFixture) -> None:
    parts = DatasetDict({"large": label_pairs(make_pairs(100)), "tiny": label_pairs(make_pairs(5, 1))})
    trainer = make_trainer(tmp_path, parts, multi_dataset_batch_sampler=mix, dataloader_drop_last=True)
    seen = record_texts(trainer)
    if mix == "round_robin":
        with pytest.raises(ValueError, match="5 rows fill no batch of 16"):
            trainer.train()
        return
    trainer.train()
    assert sum(map(len, seen)) == 96
    assert "number 1 with 5" in caplog.text or "Dataset 'tiny' is left out: its 5 rows" in caplog.text


@pytest.mark.parametrize("n_rows", [3, 10, 33])
@pytest.mark.parametrize("drop_last", [False, True])
def test_an_evaluation_set_loses_no_row_whatever_its_labels(
    tmp_path: Path, labelled: Dataset, n_rows: int, drop_last: bool
) -> None:
    # All rows are false negatives of one another, and fewer than a batch.
    few = label_pairs(make_pairs(n_rows, 5)).remove_columns("false_negative_keys")
    few = few.add_column("false_negative_keys", [[7]] * n_rows)
    trainer = make_trainer(tmp_path, labelled, eval_dataset=few, dataloader_drop_last=drop_last, max_steps=1)
    seen = record_texts(trainer)
    trainer.evaluate()
    assert sum(map(len, seen)) == n_rows


def test_an_evaluation_set_whose_labels_cannot_be_read_is_taken_in_the_stock_order(
    tmp_path: Path, labelled: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    broken = labelled.select(range(20)).remove_columns("cluster").add_column("cluster", [None, *range(19)])
    trainer = make_trainer(tmp_path, labelled, eval_dataset=broken, max_steps=1)
    seen = record_texts(trainer)
    trainer.evaluate()
    assert sum(map(len, seen)) == 20 and "cluster" not in seen[0][0]
    assert "taken in the stock order" in caplog.text and "nulls" in caplog.text


def test_an_unlabelled_dataset_that_a_trainer_trains_on_is_refused_whichever_it_is(
    tmp_path: Path, labelled: Dataset, pairs: Dataset
) -> None:
    class Other(SentenceTransformerTrainer):
        def get_train_dataloader(self) -> Any:
            kept, self.train_dataset = self.train_dataset, pairs
            try:
                return super().get_train_dataloader()
            finally:
                self.train_dataset = kept

    given = make_trainer(tmp_path, labelled)
    trainer = Other(model=given.model, args=given.args, train_dataset=labelled, loss=given.loss)
    with pytest.raises(ValueError, match="no column 'cluster'"):
        trainer.train()


def test_training_data_without_labels_fails_before_the_first_step(tmp_path: Path, pairs: Dataset) -> None:
    trainer = make_trainer(tmp_path, pairs)
    with pytest.raises(ValueError, match=r"attach_clusters\(dataset, encoder\)"):
        trainer.train()
    assert trainer.state.global_step == 0
    with pytest.raises(ValueError, match="no column 'cluster'"):
        ClusterBatchSampler(pairs, 16)


def test_single_source_batches_need_no_clusters(tmp_path: Path, pairs: Dataset) -> None:
    with_source = pairs.add_column("source", [topic(query) for query in pairs["query"]])
    trainer = make_trainer(tmp_path, with_source, batch_sampler=ClusterBatchSampler.configure(strata="source"))
    seen = record_texts(trainer)
    trainer.train()
    assert sum(map(is_pure, seen)) >= len(seen) - 3
    with pytest.raises(ValueError, match="no column 'source'"):
        ClusterBatchSampler(pairs, 16, strata=("source",))


def test_sparse_encoders_train(tmp_path: Path, labelled: Dataset) -> None:
    from sentence_transformers.sparse_encoder import (
        SparseEncoder,
        SparseEncoderTrainer,
        SparseEncoderTrainingArguments,
        losses,
        modules,
    )

    static = make_static_model()
    sparse = SparseEncoder(modules=[*static, modules.SparseAutoEncoder(input_dim=16, hidden_dim=32, k=8, k_aux=16)])
    arguments = SparseEncoderTrainingArguments(
        str(tmp_path), batch_sampler=ClusterBatchSampler, report_to="none", save_strategy="no", max_steps=3
    )
    loss = losses.CSRLoss(sparse)
    SparseEncoderTrainer(model=sparse, args=arguments, train_dataset=labelled, loss=loss).train()


def test_cross_encoders_train(tmp_path: Path, labelled: Dataset, tiny_bert: Path) -> None:
    from sentence_transformers.cross_encoder import (
        CrossEncoder,
        CrossEncoderTrainer,
        CrossEncoderTrainingArguments,
        losses,
    )

    scored = labelled.add_column("label", [1.0, 0.0] * 150)
    model = CrossEncoder(str(tiny_bert), num_labels=1, device="cpu")
    arguments = CrossEncoderTrainingArguments(
        str(tmp_path / "out"), batch_sampler=ClusterBatchSampler, report_to="none", save_strategy="no", max_steps=3
    )
    trainer = CrossEncoderTrainer(
        model=model, args=arguments, train_dataset=scored, loss=losses.BinaryCrossEntropyLoss(model)
    )
    trainer.train()
    assert trainer.state.global_step == 3


def test_len_matches_iteration_in_every_epoch(labelled: Dataset) -> None:
    sampler = ClusterBatchSampler(labelled, 16, drop_last=False, seed=3)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        assert len(orders[-1]) == len(sampler) == 19
    assert orders[0] != orders[1] != orders[2]
    sampler.set_epoch(0)
    assert list(sampler) == orders[0]


def test_global_generators_are_left_alone(labelled: Dataset) -> None:
    shared = torch.Generator().manual_seed(7)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), shared.get_state()  # noqa: NPY002
    sampler = ClusterBatchSampler(labelled, 16, generator=shared)
    list(sampler)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(before[2], shared.get_state())


def test_a_configured_sampler_is_picklable_with_the_training_arguments(tmp_path: Path) -> None:
    configured = ClusterBatchSampler.configure(strata=("cluster",), distinct=None)
    assert pickle.loads(pickle.dumps(configured)) == configured
    arguments = SentenceTransformerTrainingArguments(str(tmp_path), batch_sampler=configured, report_to="none")
    torch.save(arguments, tmp_path / "training_args.bin")
    assert torch.load(tmp_path / "training_args.bin", weights_only=False).batch_sampler == configured


def test_two_datasets_of_one_size_get_different_orders() -> None:
    first, second = (label_pairs(make_pairs(200, seed)) for seed in (1, 2))
    assert list(ClusterBatchSampler(first, 8)) != list(ClusterBatchSampler(second, 8))


def test_counts_are_available_before_training(labelled: Dataset) -> None:
    counts = ClusterBatchSampler(labelled, 16).counts
    assert (counts.pure + counts.pooled) * 16 + counts.last == 300
    assert counts.pure >= 15 and counts.mixed == counts.random == counts.dropped == 0


@pytest.mark.parametrize(
    ("column", "error", "message"),
    [
        ([0.5] * 4, ValueError, r"holds double, .*lost digits: attach_clusters\("),
        ([1, None, 2, 3], ValueError, "1 nulls, the first in row 1"),
        ([[1], [2], [3], [4]], ValueError, "needed are integers or strings"),
    ],
)
def test_labels_of_the_wrong_type_are_refused(column: list[Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read_labels(Dataset.from_dict({"query": list("abcd"), "cluster": column}))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ([[1], None, [1], []], "1 of 4 rows have no 'false_negative_keys', the first of them row 1"),
        (["[1]", "[]", "[1]", "[]"], r"holds text such as '\[1\]', as after a CSV file"),
    ],
)
def test_keys_that_would_hold_nothing_apart_are_refused(keys: list[Any], message: str) -> None:
    data = Dataset.from_dict({"query": list("abcd"), "false_negative_keys": keys})
    with pytest.raises(ValueError, match=message):
        read_labels(data, strata=())


def test_strata_are_numbered_source_by_source_whatever_the_label_type() -> None:
    data = Dataset.from_dict({"source": ["b", "a", "b", "a"], "cluster": [-5, 10**12, 7, 3]})
    labels = read_labels(data)
    assert labels.strata.tolist() == [2, 1, 3, 0]
    assert labels.source_of_stratum.tolist() == [0, 0, 1, 1]
    assert labels.keys is None


def test_labels_are_read_through_an_indices_mapping_and_behind_a_transform(labelled: Dataset) -> None:
    expected = read_labels(labelled)
    shuffled = labelled.shuffle(seed=0).with_transform(shout)
    hide_labels(shuffled)
    order = labelled.add_column("row", list(range(300))).shuffle(seed=0)["row"][:]
    assert read_labels(shuffled).strata.tolist() == expected.strata[order].tolist()


def test_a_missing_distinct_column_is_an_error_unless_it_is_the_default(labelled: Dataset) -> None:
    assert read_labels(labelled.remove_columns("false_negative_keys")).keys is None
    with pytest.raises(ValueError, match="distinct='passage_id' is no column"):
        read_labels(labelled, distinct=("passage_id",))


def test_a_dataset_of_labels_alone_is_refused(labelled: Dataset) -> None:
    with pytest.raises(ValueError, match="needs columns of text"):
        ClusterBatchSampler(labelled.select_columns(["source", "cluster"]), 8)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_accelerate_deals_every_batch_and_the_batches_of_a_step_make_one_topic(
    labelled: Dataset, world_size: int
) -> None:
    sampler = ClusterBatchSampler(labelled, 9, drop_last=world_size > 1, world_size=world_size)
    topics = labelled.with_format(None)["cluster"][:]
    # As the trainer wraps it: without `even_batches`, a short batch would take its whole group along.
    ranks = [
        list(BatchSamplerShard(sampler, world_size, rank, even_batches=False)) if world_size > 1 else list(sampler)
        for rank in range(world_size)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    assert sum(map(len, ranks)) == len(sampler)
    assert {len(batch) for batches in ranks for batch in batches[:-1]} == {9}
    steps = [[row for batch in batches for row in batch] for batches in zip(*ranks, strict=True)]
    rows = [row for step in steps for row in step]
    assert len(rows) == len(set(rows)) >= 300 - 9 * world_size * (world_size > 1)
    whole = [step for step in steps if len(step) == 9 * world_size]
    assert sum(len({topics[row] for row in step}) == 1 for step in whole) == sampler.counts.pure


def test_a_new_sampler_reads_no_label_and_a_skipped_batch_no_row(
    labelled: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("read")

    with monkeypatch.context() as patched:
        patched.setattr("st_cluster_batches.batches.sampler.read_labels", refuse)
        sampler = ClusterBatchSampler(labelled, 8)
    len(sampler)
    monkeypatch.setattr(Dataset, "__getitem__", refuse)
    monkeypatch.setattr(Dataset, "__getitems__", refuse)
    assert len(list(sampler)) == len(sampler)


def test_other_strata_leave_the_length_as_it_is(labelled: Dataset) -> None:
    lengths = set()
    for clusters in (range(300), [0] * 300, [row % 7 for row in range(300)]):
        relabelled = labelled.remove_columns("cluster").add_column("cluster", list(clusters))
        lengths.add(len(ClusterBatchSampler(relabelled, 16)))
    scheduled = ClusterBatchSampler(labelled, 16, strata={0: "source", 1: ("source", "cluster"), 3: "cluster"})
    for epoch in range(4):
        scheduled.set_epoch(epoch)
        assert len(list(scheduled)) == len(scheduled)
        lengths.add(len(scheduled))
    assert len(lengths) == 1


def test_strata_may_change_by_epoch(labelled: Dataset) -> None:
    clusters = np.array(labelled["cluster"][:])
    sampler = ClusterBatchSampler(labelled, 16, strata={0: ("source",), 2: ("source", "cluster")})
    pure = []
    for epoch in range(4):
        sampler.set_epoch(epoch)
        pure.append(sum(len(set(clusters[batch])) == 1 for batch in sampler))
    assert max(pure[:2]) <= 2 and min(pure[2:]) >= 17


def test_a_random_fraction_crosses_strata_and_loses_no_row(labelled: Dataset) -> None:
    clusters = np.array(labelled["cluster"][:])
    for fraction, expected in ((0.0, 0), (0.25, 4), (0.5, 9), (0.99, 18)):
        sampler = ClusterBatchSampler(labelled, 16, random_fraction=fraction)
        batches = list(sampler)
        assert sampler.counts.random == expected
        assert sorted(row for batch in batches for row in batch) == list(range(300))
        assert sum(len(set(clusters[batch])) > 1 for batch in batches) >= expected * 0.9


def test_without_strata_batches_are_random_and_no_text_meets_itself(labelled: Dataset) -> None:
    pairs = labelled.remove_columns(["cluster", "false_negative_keys"])
    repeated = pairs.map(lambda row, at: {"passage": f"answer {at % 100}"}, with_indices=True)
    keyed = attach_keys(repeated)
    sampler = ClusterBatchSampler(keyed, 50, strata=())
    assert "source" in sampler.hidden_columns and keyed[0].keys() == {"query", "passage"}
    passages = repeated["passage"]
    for epoch in range(3):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert sorted(row for batch in batches for row in batch) == list(range(300))
        assert all(len({passages[row] for row in batch}) == 50 for batch in batches)
        assert (sampler.counts.random, sampler.counts.pure, sampler.counts.repeats) == (6, 0, 0)
    meeting = ClusterBatchSampler(keyed, 50, strata=(), distinct=None)
    assert any(len({passages[row] for row in batch}) < 50 for batch in meeting)
    clusters = np.array(labelled["cluster"])
    assert all(len(set(clusters[batch])) == 3 for batch in sampler)


def test_a_curriculum_may_begin_with_random_batches(labelled: Dataset) -> None:
    sampler = ClusterBatchSampler(labelled, 16, strata={0: (), 1: ("cluster",)})
    assert sampler.counts.random == 18
    sampler.set_epoch(1)
    assert sampler.counts.random == 0 and sampler.counts.pure > 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"random_fraction": 1.0}, r"random_fraction=1.0 must be in \[0, 1\)"),
        ({"random_fraction": -0.1}, "must be in"),
        ({"random_fraction": "0.2"}, "random_fraction='0.2' must be a number, not a str"),
        ({"strata": ("",)}, "must name label columns"),
        ({"strata": {1: ("cluster",)}}, "from epoch 0 on"),
        ({"strata": {0: (), "1": ("cluster",)}}, "first epoch in strata='1' must be a whole number"),
        ({"strata": {0: (), 0.5: ("cluster",)}}, "first epoch in strata=0.5 must be a whole number"),
        ({"strata": {0: (), -1: ("cluster",)}}, "first epoch in strata=-1 must be at least 0"),
        ({"strata": {}}, "must name label columns"),
        ({"strata": (), "random_fraction": 0.5}, "means nothing beside"),
    ],
)
def test_options_without_meaning_are_refused_where_they_are_written(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClusterBatchSampler.configure(**options)


@pytest.mark.parametrize(
    "loss",
    [
        losses.CoSENTLoss,
        losses.CosineSimilarityLoss,
        lambda model: losses.MatryoshkaLoss(model, losses.CoSENTLoss(model), matryoshka_dims=[8]),
    ],
)
def test_row_keys_are_not_learnt_as_scores(tmp_path: Path, loss: Any) -> None:
    rows = attach_clusters(make_pairs(60), make_static_model(), n_clusters=2, guide=True)
    model = make_static_model()
    arguments = {"output_dir": str(tmp_path), "report_to": "none", "batch_sampler": ClusterBatchSampler}
    trainer = SentenceTransformerTrainer(
        model, SentenceTransformerTrainingArguments(**arguments), rows, loss=loss(model)
    )
    with pytest.raises(ValueError, match="learns from the column 'label', which holds the row keys of a guide"):
        trainer.train()


@pytest.mark.parametrize("column", [[0.5] * 40, [[1]] * 40], ids=["float", "list"])
def test_a_trainer_says_that_labels_are_of_the_wrong_type(tmp_path: Path, column: list[Any]) -> None:
    rows = make_pairs(40).add_column("cluster", column)
    with pytest.raises(ValueError, match="Label column 'cluster' holds"):  # a TypeError it would take for no length
        make_trainer(tmp_path, rows, max_steps=-1).train()


def test_a_source_that_is_not_shown_is_not_said_to_be_trained_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = make_pairs(64).add_column("source", ["ab"[at % 2] for at in range(64)])
    rows = rows.add_column("cluster", [at // 2 % 4 for at in range(64)])
    for shown, is_told in (
        (["query", "passage", "source", "cluster"], True),
        (["query", "passage", "cluster"], False),
    ):
        caplog.clear()
        sampler = ClusterBatchSampler.configure(strata=("cluster",), distinct=None)
        make_trainer(tmp_path, rows.with_format(None, columns=shown), batch_sampler=sampler).train()
        assert ("'source', of 2 values only, is trained on as text" in caplog.text) == is_told
