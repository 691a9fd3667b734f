"""Clusters of the model that is being trained: made at the start of epochs, exact on resume, and without a trace."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from examples import label_pairs, make_pairs, make_static_model, make_tiny_bert
from sentence_transformers import (
    SentenceTransformer,
    SparseEncoder,
    SparseEncoderTrainer,
    SparseEncoderTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss
from sentence_transformers.sentence_transformer.modules import Pooling, Router, Transformer
from sentence_transformers.sparse_encoder.losses import SparseMultipleNegativesRankingLoss, SpladeLoss
from trainers import make_trainer, record_texts
from transformers import TrainerCallback

from st_cluster_batches import (
    ClusterBatchSampler,
    ClusterMultiDatasetBatchSampler,
    GuidedMultipleNegativesRankingLoss,
    Refresh,
    attach_clusters,
)
from st_cluster_batches.batches.callback import find_samplers
from st_cluster_batches.refresh.folder import FOLDER, RefreshFolder
from st_cluster_batches.refresh.refresher import Refresher
from st_cluster_batches.refresh.trained_encoder import TrainedColumn, TrainedEncoder
from st_cluster_batches.row_keys import certify_keys


class Watch(TrainerCallback):
    """Notes the batches and the clusters of every epoch, as the loader is about to ask for them."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.epochs: list[tuple[int | None, list[list[int]], Any, Any]] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **_: Any) -> None:
        outer, samplers = find_samplers(train_dataloader)
        if outer.epoch not in self.seen:
            self.seen.add(outer.epoch)
            first = samplers[0]
            self.epochs.append((first.refreshed_at, list(first), first.clusters, first.counts))


def train(tmp_path: Path, rows: Any, refresh: Refresh | None, *, resume: bool = False, **options: Any) -> Watch:
    watch = Watch()
    sampler = options.pop("sampler", {})
    defaults: dict[str, Any] = {"num_train_epochs": 4, "learning_rate": 1e-2}
    trainer = make_trainer(
        tmp_path,
        rows,
        batch_sampler=ClusterBatchSampler.configure(**({} if refresh is None else {"refresh": refresh}), **sampler),
        **{**defaults, **options},
    )
    trainer.add_callback(watch)
    watch.trainer = trainer
    trainer.train(resume_from_checkpoint=resume or None)
    return watch


@pytest.fixture
def bert(tmp_path: Path) -> SentenceTransformer:
    transformer = Transformer(str(make_tiny_bert(tmp_path / "bert", 0.1)))
    return SentenceTransformer(modules=[transformer, Pooling(16)], device="cpu")


@pytest.mark.parametrize("is_labelled", [False, True])
def test_epochs_from_the_first_on_are_of_clusters_of_the_model(tmp_path: Path, is_labelled: bool) -> None:
    rows = label_pairs(make_pairs(300)) if is_labelled else make_pairs(300)
    watch = train(tmp_path, rows, Refresh(first=1, every=2, cluster_size=50))
    assert [one[0] for one in watch.epochs] == [None, 1, 1, 3]
    assert {len(batches) for _, batches, _, _ in watch.epochs} == {19}
    for at, batches, clusters, counts in watch.epochs:
        assert sorted(row for batch in batches for row in batch) == list(range(300))
        if at is not None:
            pure = sum(len(np.unique(clusters[batch])) == 1 for batch in batches)
            assert pure >= counts.pure > 9
    assert watch.epochs[0][3].pure == (17 if is_labelled else 0) or is_labelled
    plan = json.loads((tmp_path / "out" / "batch_plan.json").read_text())[0]
    assert [one["epoch"] for one in plan["refreshes"]] == [1, 3]
    assert plan["refreshes"][1].keys() >= {
        "seconds",
        "moved",
        "hardness_before",
        "hardness_after",
    }


def test_a_refresh_leaves_no_trace_in_a_run_that_keeps_its_labels(
    tmp_path: Path, bert: SentenceTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = []
    start = {name: value.clone() for name, value in bert.state_dict().items()}
    for refresh in (None, Refresh(cluster_size=20)):
        bert.load_state_dict(start)
        rows = label_pairs(make_pairs(64))
        with monkeypatch.context() as patch:
            patch.setattr(ClusterBatchSampler, "relabel", lambda self, epoch, clusters: None)
            train(tmp_path / str(refresh is None), rows, refresh, model=bert, num_train_epochs=3, learning_rate=1e-3)
        weights.append({name: value.clone() for name, value in bert.state_dict().items()})
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(next(iter(start.values())), next(iter(weights[0].values())))


def test_a_run_that_is_resumed_reads_the_clusters_of_its_epoch(tmp_path: Path) -> None:
    refresh = Refresh(cluster_size=40)
    options = {"save_strategy": "steps", "save_steps": 30}
    whole = train(tmp_path / "whole", make_pairs(300), refresh, **options)
    shutil.rmtree(tmp_path / "whole" / "out" / "checkpoint-76")
    again = train(tmp_path / "whole", make_pairs(300), refresh, **options, resume=True)
    shutil.rmtree(tmp_path / "whole" / "out" / "checkpoint-76")
    # 19 steps an epoch: the last checkpoint, of step 60, lies within epoch 3.
    assert [one[:2] for one in again.epochs] == [whole.epochs[3][:2]]
    missing = tmp_path / "whole" / "out" / FOLDER / "epoch-3-0"
    damaged = next(missing.glob("*.npy"))
    damaged.write_bytes(damaged.read_bytes()[:-4] + b"abcd")
    with pytest.raises(ValueError, match="are damaged"):
        train(tmp_path / "whole", make_pairs(300), refresh, **options, resume=True)
    shutil.rmtree(missing)
    with pytest.raises(ValueError, match=r"clusters of epoch 3 .* resume from a checkpoint at the end of an epoch"):
        train(tmp_path / "whole", make_pairs(300), refresh, **options, resume=True)
    with pytest.raises(ValueError, match=r"refresh was .* and is"):
        train(tmp_path / "whole", make_pairs(300), Refresh(cluster_size=41), **options, resume=True)


def test_a_finished_run_that_is_resumed_keeps_what_it_says_of_its_refreshes(tmp_path: Path) -> None:
    def read() -> list[dict[str, Any]]:
        (plan,) = json.loads((tmp_path / "out" / "batch_plan.json").read_text())
        refreshes: list[dict[str, Any]] = plan.get("refreshes", [])
        return refreshes

    options = {"num_train_epochs": 2, "save_strategy": "epoch", "save_total_limit": 1}
    train(tmp_path, label_pairs(make_pairs(200)), Refresh(cluster_size=40), **options)
    before = read()
    assert [one["epoch"] for one in before] == [1]
    train(tmp_path, label_pairs(make_pairs(200)), Refresh(cluster_size=40), **options, resume=True)
    assert read() == before


def test_a_refresh_after_a_resume_is_compared_with_the_one_before_the_checkpoint(tmp_path: Path) -> None:
    refresh, options = Refresh(cluster_size=40), {"save_strategy": "epoch", "num_train_epochs": 3}

    def read() -> list[dict[str, Any]]:
        (plan,) = json.loads((tmp_path / "out" / "batch_plan.json").read_text())
        return [{name: one for name, one in record.items() if name != "seconds"} for record in plan["refreshes"]]

    train(tmp_path, label_pairs(make_pairs(300)), refresh, **options)
    whole = read()
    for made_later in ("checkpoint-57", f"{FOLDER}/epoch-2-0"):
        shutil.rmtree(tmp_path / "out" / made_later)
    train(tmp_path, label_pairs(make_pairs(300)), refresh, **options, resume=True)
    assert [one["epoch"] for one in whole] == [1, 2]
    assert read() == whole


@pytest.mark.parametrize("refresh", [None, Refresh(cluster_size=40)])
def test_a_run_goes_on_alike_where_the_trainer_makes_its_callbacks_anew(
    tmp_path: Path, refresh: Refresh | None
) -> None:
    pairs, ends = make_pairs(300), []
    for restores in (False, True):
        rows = attach_clusters(pairs, make_static_model(seed=5), n_clusters=3, guide=True)
        for resume in (False, True):
            model = make_static_model(seed=1)
            loss = GuidedMultipleNegativesRankingLoss(model, guide=rows)
            options = {"save_strategy": "steps", "save_steps": 30, "num_train_epochs": 3, "model": model, "loss": loss}
            options["restore_callback_states_from_checkpoint"] = restores
            watch = train(tmp_path / str(restores), rows, refresh, resume=resume, **options)
            shutil.rmtree(tmp_path / str(restores) / "out" / "checkpoint-57")
        assert set(rows[0]) == {"query", "passage", "cluster", "false_negative_keys", "label"}
        batches = [one[:2] for one in watch.epochs]
        ends.append((batches, loss.mask_counts.values, model.encode(["soup", "mast"]).tolist()))
    assert ends[0] == ends[1]
    assert ends[0][1][3] == 3 * 300, "rows of the whole run have been counted"


@pytest.mark.parametrize("is_refreshed", [False, True])
def test_batches_that_come_twice_after_a_resume_are_told_of_or_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, is_refreshed: bool
) -> None:
    rows, refresh = label_pairs(make_pairs(300)), Refresh(first=2, cluster_size=40) if is_refreshed else None
    options = {"save_strategy": "steps", "save_steps": 25, "num_train_epochs": 3}
    train(tmp_path, rows, refresh, **options)
    for last in (50, 57):
        shutil.rmtree(tmp_path / "out" / f"checkpoint-{last}")
    told = "ignore_data_skip=True: the checkpoint is 6 steps into an epoch"
    if is_refreshed:
        with pytest.raises(ValueError, match=told):
            train(tmp_path, rows, refresh, **options, ignore_data_skip=True, resume=True)
        return
    train(tmp_path, rows, refresh, **options, ignore_data_skip=True, resume=True)
    assert told in caplog.text


def test_texts_take_the_routes_that_training_sends_them_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = SentenceTransformer(
        modules=[Router.for_query_document([make_static_model()[0]], [make_static_model()[0]])]
    )
    seen = set()
    encode = SentenceTransformer.encode

    def spy(self: SentenceTransformer, texts: Any, **options: Any) -> Any:
        seen.add(options["task"])
        return encode(self, texts, **options)

    monkeypatch.setattr(SentenceTransformer, "encode", spy)
    mapping = {"query": "document", "passage": "document"}
    train(tmp_path, make_pairs(64), Refresh(cluster_size=30), num_train_epochs=2, model=model, router_mapping=mapping)
    assert seen == {"document"}
    assert (
        TrainedColumn.of(SimpleNamespace(prompts=None, router_mapping={"a": mapping}), "a", "query").task == "document"
    )
    assert TrainedColumn.of(SimpleNamespace(prompts=None, router_mapping={"a": mapping}), "b", "query").task is None
    limited = SimpleNamespace(prompts=None, router_mapping=mapping, max_length={"document": 9, "query": 3})
    assert TrainedColumn.of(limited, None, "query").max_length == 9


def test_a_refresh_that_is_killed_goes_on_from_its_last_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("st_cluster_batches.storage.chunks.CHUNK", 50)
    refresh, options = Refresh(cluster_size=40), {"save_strategy": "epoch", "num_train_epochs": 3}
    whole = train(tmp_path / "whole", make_pairs(300), refresh, **options)
    seen: list[int] = []
    encode = TrainedEncoder._encode

    def count(self: TrainedEncoder, side: Any, texts: Any) -> Any:
        seen.append(len(texts))
        if len(seen) == 12:  # in the refresh of epoch 2
            raise KeyboardInterrupt
        return encode(self, side, texts)

    monkeypatch.setattr(TrainedEncoder, "_encode", count)
    # Six chunks, and 2 x 2 batches whose hardness is measured: ten calls a refresh.
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", make_pairs(300), refresh, **options)
    before = len(seen)
    again = train(tmp_path / "killed", make_pairs(300), refresh, **options, resume=True)
    assert len(seen) - before < 10
    assert [one[:2] for one in again.epochs][-1] == whole.epochs[2][:2]


def test_clusters_of_another_run_are_not_taken_for_those_of_the_checkpoint(tmp_path: Path) -> None:
    refresh, options = Refresh(cluster_size=40), {"save_strategy": "steps", "save_steps": 15, "num_train_epochs": 2}
    train(tmp_path / "one", make_pairs(200), refresh, **options)
    train(tmp_path / "other", make_pairs(200), refresh, **options, seed=1, data_seed=0)
    # 13 steps an epoch. The folder of the second run has clusters of epoch 1 too, of its own model.
    for name in ("checkpoint-15", "checkpoint-26"):
        shutil.rmtree(tmp_path / "other" / "out" / name)
    shutil.rmtree(tmp_path / "one" / "out" / "checkpoint-26")
    shutil.copytree(tmp_path / "one" / "out" / "checkpoint-15", tmp_path / "other" / "out" / "checkpoint-15")
    with pytest.raises(ValueError, match=r"not those that the checkpoint .* \(dataset 0, epoch 1\)"):
        train(tmp_path / "other", make_pairs(200), refresh, **options, resume=True)
    train(tmp_path / "one", make_pairs(200), refresh, **options, resume=True)


def test_a_new_run_takes_no_clusters_of_an_earlier_one(tmp_path: Path) -> None:
    first = train(tmp_path, make_pairs(200), Refresh(cluster_size=40), num_train_epochs=2)
    again = train(tmp_path, make_pairs(200, seed=5), Refresh(cluster_size=40), num_train_epochs=2)
    assert first.epochs[1][1] != again.epochs[1][1]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each call has embedded, as it grows; few are embedded to measure batches."""
    sizes: list[int] = []
    encode = TrainedEncoder._encode

    def count(self: TrainedEncoder, side: Any, texts: Any) -> Any:
        sizes.append(len(texts))
        return encode(self, side, texts)

    monkeypatch.setattr(TrainedEncoder, "_encode", count)
    monkeypatch.setattr("st_cluster_batches.refresh.refresher._MEASURED_ROWS", 16)
    return sizes


def test_a_sample_embeds_a_part_and_assigns_the_rest(tmp_path: Path, seen: list[int]) -> None:
    watch = train(tmp_path, make_pairs(400), Refresh(cluster_size=50, sample=0.25))
    embedded = [size for size in seen if size > 32]
    assert embedded[0] == 400 and len(embedded) == 3
    assert all(70 < size < 130 for size in embedded[1:])
    assert [one[0] for one in watch.epochs] == [None, 1, 2, 3]


def test_a_source_that_a_sample_would_hardly_touch_is_embedded_whole(tmp_path: Path, seen: list[int]) -> None:
    rows = make_pairs(120).add_column("source", ["large"] * 100 + ["small"] * 20)
    refresh = Refresh(first=1, cluster_size=10, sample=0.15, seed=20)
    train(tmp_path, rows, refresh, sampler={"strata": ("source", "cluster")}, num_train_epochs=3)
    fresh = np.random.default_rng([20, 2]).random(120) < 0.15
    assert fresh[:100].sum() == 18 and fresh[100:].sum() == 1, "one row makes no two clusters"
    assert [size for size in seen if size > 32] == [120, 18 + 20]


def test_a_sample_of_each_dataset_takes_over_what_the_others_vectors_leave(tmp_path: Path, seen: list[int]) -> None:
    rows = DatasetDict({"a": make_pairs(300), "b": make_pairs(260, seed=3)})
    options = {"multi_dataset_batch_sampler": ClusterMultiDatasetBatchSampler, "num_train_epochs": 3}
    train(tmp_path, rows, Refresh(cluster_size=40, sample=0.25), **options)
    embedded = [size for size in seen if size > 32]
    assert embedded[:2] == [300, 260] and all(size < 110 for size in embedded[2:]) and len(embedded) == 4


def test_a_sampled_run_goes_on_exactly_from_an_earlier_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    refresh, options = Refresh(cluster_size=40, sample=0.25), {"save_strategy": "steps", "save_steps": 15}
    whole = train(tmp_path, make_pairs(200), refresh, **options)
    for step in (30, 45, 52):  # 13 steps an epoch: the last one left is of epoch 1
        shutil.rmtree(tmp_path / "out" / f"checkpoint-{step}")
    again = train(tmp_path, make_pairs(200), refresh, **options, resume=True)
    assert [one[:2] for one in again.epochs] == [one[:2] for one in whole.epochs[1:]]
    assert "no more in" not in caplog.text


def test_refreshed_clusters_are_not_pushed_with_the_output_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub.utils import filter_repo_objects

    pushed: list[str] = []

    def upload(folder_path: str, ignore_patterns: list[str], **_: Any) -> None:
        files = [str(path.relative_to(folder_path)) for path in Path(folder_path).rglob("*") if path.is_file()]
        pushed.extend(filter_repo_objects(files, ignore_patterns=ignore_patterns))

    monkeypatch.setattr("transformers.trainer.hf_api", lambda: SimpleNamespace(upload_folder=upload))
    watch = train(tmp_path, make_pairs(64), Refresh(cluster_size=20), num_train_epochs=2)
    watch.trainer.hub_model_id = "someone/model"
    watch.trainer.push_to_hub()
    assert any((tmp_path / "out" / FOLDER).rglob("*.npy"))
    assert "batch_plan.json" in pushed and not [name for name in pushed if "clusters" in name or ".npy" in name]


def test_a_refresh_that_no_batch_follows_is_refused(tmp_path: Path) -> None:
    rows = label_pairs(make_pairs(64))
    for strata in (("source",), (), {0: ("source",), 1: ()}):
        with pytest.raises(ValueError, match=r"refresh= makes clusters, but strata="):
            train(tmp_path, rows, Refresh(cluster_size=20), sampler={"strata": strata})


def test_many_datasets_and_a_curriculum(tmp_path: Path) -> None:
    sizes = {"a": 160, "b": 96}
    rows = DatasetDict({name: make_pairs(size, seed=size) for name, size in sizes.items()})
    options = {"multi_dataset_batch_sampler": ClusterMultiDatasetBatchSampler, "num_train_epochs": 3}
    watch = train(tmp_path / "many", rows, Refresh(cluster_size=40), **options)
    assert [one[0] for one in watch.epochs] == [None, 1, 2]
    plans = json.loads((tmp_path / "many" / "out" / "batch_plan.json").read_text())
    assert [len(plan["refreshes"]) for plan in plans] == [2, 2]
    options["multi_dataset_batch_sampler"] = ClusterMultiDatasetBatchSampler.configure(alpha=0.5)
    with pytest.raises(ValueError, match=r"alpha=0.5 .* rows would come twice"):
        train(tmp_path / "alpha", rows, Refresh(cluster_size=40), **options)
    sources = make_pairs(200).add_column("source", ["x", "y"] * 100)
    strata = {0: ("source",), 2: ("source", "cluster")}
    watch = train(tmp_path / "stages", sources, Refresh(first=2, cluster_size=40), sampler={"strata": strata})
    for at, batches, clusters, counts in watch.epochs:
        assert counts.pure > 0
        if at is not None:
            by_source = [set(clusters[first::2].tolist()) for first in (0, 1)]
            assert not by_source[0] & by_source[1]
            assert at in (2, 3) and len(batches) == 13


def test_sources_stay_labels_where_clusters_are_still_to_be_made(tmp_path: Path) -> None:
    sources = make_pairs(200).add_column("source", ["x", "y"] * 100)
    trainer = make_trainer(
        tmp_path,
        sources,
        batch_sampler=ClusterBatchSampler.configure(refresh=Refresh(first=1, cluster_size=40)),
        num_train_epochs=2,
    )
    seen = record_texts(trainer)
    trainer.train()
    assert {name for batch in seen for row in batch for name in row} == {"query", "passage"}


def test_a_source_of_one_cluster_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(tmp_path, make_pairs(80), Refresh(), num_train_epochs=2)
    assert "Refresh(cluster_size=100) makes one cluster of a whole source" in caplog.text
    assert "'all' with 80 rows" in caplog.text
    caplog.clear()
    several = DatasetDict(small=make_pairs(80), large=make_pairs(400, 1))
    train(tmp_path / "several", several, Refresh(), num_train_epochs=2)
    assert "1 of 1 sources of 'small', 'all' with 80 rows" in caplog.text


@pytest.mark.parametrize(("every", "made"), [(1, [1, 3]), (2, [1, 3])])
def test_epochs_that_share_no_clusters_make_none(tmp_path: Path, every: int, made: list[int]) -> None:
    rows = make_pairs(160).add_column("source", ["x", "y"] * 80)
    shared = ("source", "cluster")
    strata = {0: ("source",), 1: shared, 2: ("source",), 3: shared, 4: ("source",)}
    options: dict[str, Any] = {"sampler": {"strata": strata}, "num_train_epochs": 6}
    watch = train(tmp_path, rows, Refresh(first=1, every=every, cluster_size=40), **options)
    plan = json.loads((tmp_path / "out" / "batch_plan.json").read_text())[0]
    assert [one["epoch"] for one in plan["refreshes"]] == made
    assert [one[0] for one in watch.epochs] == [None, 1, 1, 3, 3, 3]


@pytest.mark.parametrize("refreshes_guide", [False, True])
def test_a_guide_stays_or_is_refreshed(tmp_path: Path, refreshes_guide: bool) -> None:
    rows = attach_clusters(make_pairs(200), make_static_model(seed=5), n_clusters=3, guide=True)
    model = make_static_model(seed=1)
    loss = GuidedMultipleNegativesRankingLoss(model, guide=rows)
    before = loss.guide.digest
    train(tmp_path, rows, Refresh(cluster_size=40, guide=refreshes_guide), model=model, loss=loss, num_train_epochs=3)
    assert (loss.guide.digest != before) == refreshes_guide
    assert loss.guide.take(np.array(rows["label"]), 2)[1].all()


def take_guided(rows: Any, one_loss: bool, around: bool) -> tuple[Any, list[Any], SentenceTransformer]:
    """Return a loss, or one for each dataset, and the guided ones in it."""
    model = make_static_model(seed=1)
    parts = [GuidedMultipleNegativesRankingLoss(model, guide=rows if one_loss else part) for part in rows.values()]
    losses = [MatryoshkaLoss(model, one, matryoshka_dims=[16, 8]) if around else one for one in parts]
    return losses[0] if one_loss else dict(zip(rows, losses, strict=True)), parts[:1] if one_loss else parts, model


@pytest.mark.parametrize(("one_loss", "around"), [(True, False), (False, False), (True, True)])
def test_the_guide_of_every_dataset_and_every_loss_is_refreshed(tmp_path: Path, one_loss: bool, around: bool) -> None:
    pairs = DatasetDict({"a": make_pairs(100), "b": make_pairs(96, seed=3)})
    rows = attach_clusters(pairs, make_static_model(seed=5), n_clusters=2, guide=True)
    loss, guided, model = take_guided(rows, one_loss, around)
    before = [one.guide.digest for one in guided]
    options = {"multi_dataset_batch_sampler": ClusterMultiDatasetBatchSampler, "num_train_epochs": 2}
    train(tmp_path, rows, Refresh(cluster_size=30, guide=True), model=model, loss=loss, **options)
    keys = np.concatenate([part.with_format(None)["label"][:] for part in rows.values()])
    for one, digest in zip(guided, before, strict=True):
        assert one.guide.digest != digest
        assert one.guide.take(keys, 2)[1].all()


KEYS = certify_keys(np.arange(1, 41, dtype=np.uint64) << np.uint64(8))


@pytest.mark.parametrize(
    ("rows", "refresh", "message"),
    [
        (make_pairs(40), Refresh(guide=True), "needs row keys"),
        (make_pairs(40).select_columns(["query"]), Refresh(key="passage"), r"one column of text.*key='passage'"),
        (make_pairs(40).add_column("label", list(range(40))), Refresh(guide=True), "needs row keys"),
        (make_pairs(40).add_column("label", KEYS), Refresh(guide=True), "has no guide"),
    ],
)
def test_what_a_refresh_lacks_is_said_before_the_first_step(
    tmp_path: Path, rows: Dataset, refresh: Refresh, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train(tmp_path, rows, refresh, loss=_NoStep)


@pytest.mark.parametrize(
    ("part", "refresh", "message"),
    [
        (make_pairs(40, 1), Refresh(guide=True), "needs row keys, which the dataset 'lacking' does not have"),
        (
            make_pairs(40, 1).add_column("label", [0, 1] * 20),
            Refresh(mine=1),
            r"\['label'\] of 'lacking' say what each",
        ),
    ],
)
def test_what_one_of_several_datasets_lacks_for_a_refresh_is_said_by_its_name(
    tmp_path: Path, part: Dataset, refresh: Refresh, message: str
) -> None:
    model = make_static_model(seed=1)
    whole = attach_clusters(make_pairs(40), model, n_clusters=2, guide=True)
    losses = {"whole": GuidedMultipleNegativesRankingLoss(model, guide=whole), "lacking": _NoStep(model)}
    with pytest.raises(ValueError, match=message):
        train(tmp_path, DatasetDict(whole=whole, lacking=part), refresh, model=model, loss=losses)


class _NoStep(torch.nn.Module):
    """A loss that no batch may reach."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, *_: Any) -> torch.Tensor:
        raise AssertionError("a step was done")


def test_batches_of_one_row_are_refreshed_too(tmp_path: Path) -> None:
    rows = make_pairs(12).add_column("negative", make_pairs(12, seed=2)["passage"])
    watch = train(tmp_path, rows, Refresh(cluster_size=4), per_device_train_batch_size=1, num_train_epochs=2)
    assert [one[0] for one in watch.epochs] == [None, 1]


@pytest.mark.parametrize("prompts", [{"a": {"query": "A: "}, "b": "B: "}, {"a": "A: ", "b": "B: "}])
def test_prompts_of_a_dataset_are_put_before_its_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prompts: Any
) -> None:
    seen = set()
    encode = SentenceTransformer.encode

    rows = DatasetDict({"a": make_pairs(64), "b": make_pairs(48, seed=3)})
    queries = {*rows["a"]["query"], *rows["b"]["query"]}

    def spy(self: SentenceTransformer, texts: Any, **options: Any) -> Any:
        if queries.issuperset(texts):
            seen.add((len(texts), options["prompt"]))
        return encode(self, texts, **options)

    monkeypatch.setattr(SentenceTransformer, "encode", spy)
    options = {"multi_dataset_batch_sampler": ClusterMultiDatasetBatchSampler, "num_train_epochs": 2}
    train(tmp_path, rows, Refresh(cluster_size=30), prompts=prompts, **options)
    assert {(64, "A: "), (48, "B: ")} <= seen and "" not in {prompt for _, prompt in seen}


def test_prompts_of_training_are_put_before_the_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    encode = SentenceTransformer.encode

    rows = make_pairs(64)
    queries = set(rows["query"])

    def spy(self: SentenceTransformer, texts: Any, **options: Any) -> Any:
        if queries.issuperset(texts):
            seen.add(options["prompt"])
        return encode(self, texts, **options)

    monkeypatch.setattr(SentenceTransformer, "encode", spy)
    train(tmp_path, rows, Refresh(cluster_size=30), num_train_epochs=2, prompts={"query": "find: "})
    assert seen == {"find: "}


def test_sparse_encoders_are_clustered_too(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForMaskedLM

    make_tiny_bert(tmp_path / "bert", 0.0)
    BertForMaskedLM(BertConfig.from_pretrained(tmp_path / "bert")).save_pretrained(tmp_path / "bert")
    model = SparseEncoder(str(tmp_path / "bert"), device="cpu")
    loss = SpladeLoss(
        model, SparseMultipleNegativesRankingLoss(model), document_regularizer_weight=0.0, query_regularizer_weight=0.0
    )
    arguments = SparseEncoderTrainingArguments(
        str(tmp_path / "out"),
        per_device_train_batch_size=16,
        num_train_epochs=2,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        batch_sampler=ClusterBatchSampler.configure(refresh=Refresh(cluster_size=30)),
    )
    rows: Dataset = make_pairs(96)
    SparseEncoderTrainer(model=model, args=arguments, train_dataset=rows, loss=loss).train()
    plan = json.loads((tmp_path / "out" / "batch_plan.json").read_text())[0]
    assert [one["epoch"] for one in plan["refreshes"]] == [1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first": -1}, "first"),
        ({"every": 0}, "every"),
        ({"key": "title"}, "key='title' is none of"),
        ({"sample": 0.0}, "sample=0.0 must be in"),
        ({"guide": True, "sample": 0.5}, "needs the vectors of all rows"),
    ],
)
def test_options_without_a_meaning_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Refresh(**options)


def test_weights_that_are_spread_over_processes_are_refused(tmp_path: Path) -> None:
    trainer: Any = SimpleNamespace(is_fsdp_enabled=True, args=SimpleNamespace(output_dir=str(tmp_path)))
    with pytest.raises(ValueError, match="train with DDP"):
        Refresher(trainer).start(0, [])


def freeze(model: SentenceTransformer) -> None:
    model.requires_grad_(False)
    model[0].auto_model.encoder.layer[-1].requires_grad_(True)


def wrap(model: SentenceTransformer) -> None:
    """Add adapters by PEFT itself, of any version; what the host needs a newer one for is the test below."""
    peft = pytest.importorskip("peft")
    model[0].model = peft.get_peft_model(model[0].auto_model, peft.LoraConfig(target_modules=["query", "value"]))


@pytest.mark.parametrize("prepare", [freeze, pytest.param(wrap, marks=pytest.mark.slow)])
def test_every_refresh_embeds_with_the_few_weights_that_are_trained(
    tmp_path: Path, bert: SentenceTransformer, monkeypatch: pytest.MonkeyPatch, prepare: Any
) -> None:
    prepare(bert)
    before = {name: (one.detach().clone(), one.requires_grad) for name, one in bert.named_parameters()}
    made: list[np.ndarray] = []
    encode = TrainedEncoder._encode

    def keep(self: TrainedEncoder, side: Any, texts: Any) -> Any:
        vectors = encode(self, side, texts)
        if len(texts) == 120:  # all of them, not those of the batches that are measured
            made.append(vectors)
        return vectors

    monkeypatch.setattr(TrainedEncoder, "_encode", keep)
    monkeypatch.setattr("st_cluster_batches.refresh.refresher._MEASURED_ROWS", 16)
    watch = train(tmp_path, make_pairs(120), Refresh(cluster_size=20), model=bert, num_train_epochs=3)
    assert [one[0] for one in watch.epochs] == [None, 1, 2]
    assert len(made) == 2 and np.abs(made[0] - made[1]).max() > 1e-4
    assert 0 < sum(trained for _, trained in before.values()) < len(before)
    for name, one in bert.named_parameters():
        assert one.requires_grad == before[name][1]
        assert one.requires_grad or torch.equal(one, before[name][0])


@pytest.mark.slow
def test_a_run_with_adapters_of_the_host_is_resumed_exactly(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    folder = str(make_tiny_bert(tmp_path / "bert", 0.1))
    weights = []
    for resume in (False, True):
        torch.manual_seed(0)
        model = SentenceTransformer(modules=[Transformer(folder), Pooling(16)], device="cpu")
        try:
            model.add_adapter(peft.LoraConfig(target_modules=["query", "value"]))
        except ValueError as error:  # transformers asks for a newer PEFT than there may be
            pytest.skip(str(error))
        refresh, options = Refresh(cluster_size=20), {"num_train_epochs": 3, "save_strategy": "epoch"}
        train(tmp_path, make_pairs(120), refresh, model=model, resume=resume, **options)
        weights.append({name: one.detach().clone() for name, one in model.named_parameters()})
        if not resume:  # as killed in epoch 2, before its clusters were there
            shutil.rmtree(tmp_path / "out" / "checkpoint-24")
            shutil.rmtree(tmp_path / "out" / FOLDER / "epoch-2-0")
    assert all(torch.equal(one, weights[1][name]) for name, one in weights[0].items())


def test_a_giant_is_told_of_once_with_what_mends_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    texts = ["soup salt"] * 90 + ["mast rope", "queen king", "oven", "tide hull", "pawn", "deck", "garlic", "check"]
    rows = Dataset.from_dict({"query": texts, "passage": [f"{text} {at}" for at, text in enumerate(texts)]})
    train(tmp_path, rows, Refresh(cluster_size=14))
    told = [line for line in caplog.messages if "of its 98 rows" in line]
    assert len(told) == 1 and told[0].endswith("Refresh(cluster_size=) of fewer than 14 splits it")
    caplog.clear()
    train(tmp_path / "several", DatasetDict(giant=rows, other=make_pairs(98)), Refresh(cluster_size=14))
    (line,) = [line for line in caplog.messages if "of its 98 rows" in line]
    assert "1 of 1 sources of 'giant' have most of their rows in one cluster" in line


def test_vectors_of_guides_that_no_checkpoint_needs_are_removed(tmp_path: Path) -> None:
    rows = attach_clusters(make_pairs(200), make_static_model(seed=5), n_clusters=3, guide=True)
    (tmp_path / "out" / "checkpoint-best").mkdir(parents=True)  # as people keep
    model = make_static_model()
    loss = GuidedMultipleNegativesRankingLoss(model, guide=rows)
    options = {"model": model, "loss": loss, "num_train_epochs": 5, "save_strategy": "epoch", "save_total_limit": 1}
    train(tmp_path, rows, Refresh(cluster_size=40, guide=True), **options)
    work = RefreshFolder.of(tmp_path / "out").work
    # Those of the newest epoch, at whose start the last checkpoint is: an index with its keys, and two sides.
    assert len(list(work.glob("guide-*.json"))) == 1 and len(list(work.glob("vectors-*"))) == 2
    options["save_total_limit"] = 5
    train(tmp_path, rows, Refresh(cluster_size=40, guide=True), **options)
    assert len(list(work.glob("guide-*.json"))) == 4 and len(list(work.glob("vectors-*"))) == 8
