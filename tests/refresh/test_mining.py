"""Explicit negatives of the model as it is now: the nearest passages that do not answer, written for a next run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, load_dataset
from examples import label_pairs, make_pairs, make_static_model
from trainers import make_trainer

from st_cluster_batches import ClusterBatchSampler, Refresh, attach_clusters
from st_cluster_batches.clusters.encoder import Encoder
from st_cluster_batches.clusters.vectors import PairVectors
from st_cluster_batches.data.pairs import PairOptions, Pairs
from st_cluster_batches.plans.keys import Keys
from st_cluster_batches.refresh import mining
from st_cluster_batches.refresh.folder import FOLDER
from st_cluster_batches.refresh.mining import NEGATIVES_FOLDER, find_negatives
from st_cluster_batches.storage.shared_cache import SharedCache

MINED = Refresh(cluster_size=40, mine=3, mine_margin=0.02)


def make_repeated(n_rows: int) -> Dataset:
    """Make pairs of which some share a query, some a positive, and all have an explicit negative."""
    pairs = make_pairs(n_rows)
    queries, passages = pairs["query"][:], pairs["passage"][:]
    queries[1::5] = queries[0::5]
    passages[3::7] = passages[2::7]
    return Dataset.from_dict({"query": queries, "passage": passages, "negative": passages[::-1]})


def train(tmp_path: Path, rows: Any, refresh: Refresh, **options: Any) -> Path:
    sampler = ClusterBatchSampler.configure(refresh=refresh)
    trainer = make_trainer(tmp_path, rows, batch_sampler=sampler, **{"num_train_epochs": 2, **options})
    trainer.train(
        resume_from_checkpoint=options.get("save_strategy") and list((tmp_path / "out").glob("check*")) != []
    )
    return tmp_path / "out" / FOLDER


@pytest.mark.parametrize(("margin", "count"), [(0.013, 4), (0.3, 4), (0.013, 300)])
def test_the_nearest_passages_outside_the_margin_that_answer_neither_query_nor_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, margin: float, count: int
) -> None:
    monkeypatch.setattr("st_cluster_batches.storage.chunks.CHUNK", 64)
    monkeypatch.setattr(mining, "_PASSAGES", 50)
    rows = make_repeated(210)
    pairs = Pairs.prepare("", rows, PairOptions(), False)
    vectors = PairVectors(
        pairs, Encoder(make_static_model(), tmp_path), SharedCache(tmp_path, show_progress_bar=False)
    )
    keys = Keys(np.array([7, 20, 20, 90]), np.array([0, 0, 1, 1], np.uint32), np.array([False, False, False, True]))
    mined = find_negatives(vectors, keys, count, margin).slice(0, 210)
    every = np.arange(210)
    near = vectors.take("query", every) @ vectors.take("passage", every).T
    queries, passages, negatives = (np.array(rows[name]) for name in ("query", "passage", "negative"))
    for row in range(210):
        known = {*passages[queries == queries[row]], *passages[passages == passages[row]], negatives[row]}
        known |= {passages[other] for one, other in ((7, 20), (20, 7), (90, 20)) if one == row}
        # The key of row 20 is one of row 90's explicit negatives: 90 does not get it again, 20 may get 90's positive.
        most = near[row, row] - margin * abs(near[row, row])
        wanted = {passages[at]: near[row, at] for at in every if passages[at] not in known and near[row, at] <= most}
        found = mined[row][mined[row] >= 0]
        assert len(found) == min(count, len(wanted)) and set(passages[found]) <= set(wanted)
        assert len(set(passages[found])) == len(found)
        np.testing.assert_allclose(near[row, found], sorted(wanted.values(), reverse=True)[: len(found)], atol=1e-5)
    assert count == 4 or (mined < 0).any()


def test_negatives_are_written_and_the_next_run_trains_on_them(tmp_path: Path) -> None:
    rows = attach_clusters(make_repeated(200), make_static_model(seed=5), n_clusters=3, guide=True)
    folder = train(tmp_path, rows, MINED)
    (file,) = folder.glob(f"epoch-1-0/{NEGATIVES_FOLDER}/*.parquet")
    mined = load_dataset(str(file.parent), split="train", cache_dir=str(tmp_path / "datasets"))
    texts = ["query", "passage", "negative", "negative_1", "negative_2", "negative_3"]
    assert mined.column_names == [*texts, "cluster", "false_negative_keys"] and 190 < len(mined) <= 200
    places = {row: at for at, row in enumerate(zip(*(rows[name] for name in texts[:3]), strict=True))}
    kept = [places[row] for row in zip(*(mined[name] for name in texts[:3]), strict=True)]
    assert kept == sorted(set(kept)) and mined["cluster"][:] == rows.with_format(None).select(kept)["cluster"][:]
    again = attach_clusters(mined, make_static_model(seed=5), n_clusters=3, overwrite=True)
    for ours, theirs in zip(mined["false_negative_keys"], again.with_format(None)["false_negative_keys"], strict=True):
        assert set(ours) == set(theirs) and sum(key < 0 for key in ours) == 4
    trainer = make_trainer(tmp_path / "next", mined)
    trainer.train()
    assert trainer.state.global_step == 13


def test_rows_with_too_few_negatives_are_left_out_and_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = make_pairs(100).add_column("negative_1", make_pairs(100, seed=3)["passage"][:])
    folder = train(tmp_path, rows, Refresh(cluster_size=40, mine=60, mine_margin=0.5))
    mined = Dataset.from_parquet(str(folder / "epoch-1-0" / NEGATIVES_FOLDER / "train.parquet"))
    assert mined.column_names[:4] == ["query", "passage", "negative_1", "negative_2"] and len(mined.column_names) == 63
    assert 0 < len(mined) < 100
    assert f"{100 - len(mined)} of 100 rows have fewer than mine=60 negatives" in caplog.text
    plan = (tmp_path / "out" / "batch_plan.json").read_text()
    assert f'"left_out": {100 - len(mined)}' in plan


def test_mining_that_is_killed_goes_on_and_writes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("st_cluster_batches.storage.chunks.CHUNK", 50)
    options = {"save_strategy": "epoch", "learning_rate": 1e-2}
    whole = train(tmp_path / "whole", make_pairs(200), MINED, **options)
    search, calls = mining._search, []

    def stop(*arguments: Any) -> Any:
        calls.append(arguments[1])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return search(*arguments)

    monkeypatch.setattr(mining, "_search", stop)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", make_pairs(200), MINED, **options)
    killed = train(tmp_path / "killed", make_pairs(200), MINED, **options)
    assert calls == [0, 50, 100, 100, 150]
    file = f"epoch-1-0/{NEGATIVES_FOLDER}/train.parquet"
    assert Dataset.from_parquet(str(whole / file)).to_dict() == Dataset.from_parquet(str(killed / file)).to_dict()
    assert not list((killed / "work").glob("mined-*"))


def test_mining_changes_no_batch_and_what_it_cannot_do_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert MINED.describe() == Refresh(cluster_size=40).describe()
    with pytest.raises(ValueError, match="needs the vectors of all rows"):
        Refresh(mine=2, sample=0.5)
    with pytest.raises(ValueError, match=r"mine_margin=0.1 must be in \[0, 1\), beside .* mine=0"):
        Refresh(mine_margin=0.1)
    scored = make_pairs(64).add_column("score", [0.5] * 64)
    with pytest.raises(ValueError, match=r"\['score'\] say what each pair is"):
        train(tmp_path, label_pairs(scored), MINED)
    with pytest.raises(ValueError, match=r"refresh=Refresh\(mine=3\) needs a passage"):
        train(tmp_path, label_pairs(make_pairs(64)).remove_columns("passage"), MINED)
