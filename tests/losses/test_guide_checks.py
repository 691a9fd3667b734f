"""A guide judges the texts that its vectors were made of, or says which it cannot judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict, concatenate_datasets
from examples import make_pairs, make_static_model
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from trainers import make_trainer

from st_cluster_batches import ClusterBatchSampler, GuidedMultipleNegativesRankingLoss, attach_clusters


@pytest.fixture
def rows() -> Dataset:
    return attach_clusters(make_pairs(240), make_static_model(), n_clusters=3, guide=True)


def make_loss(guide: Any) -> GuidedMultipleNegativesRankingLoss:
    return GuidedMultipleNegativesRankingLoss(make_static_model(seed=1), guide=guide)


def test_texts_that_were_changed_anywhere_are_refused(rows: Dataset) -> None:
    changed = rows.map(lambda row, at: {"passage": f"soup {at}" if at > 200 else row["passage"]}, with_indices=True)
    with pytest.raises(ValueError, match="are others than those that the vectors were made of"):
        make_loss(changed)


def test_rows_of_another_dataset_are_told_of_before_the_first_step(
    rows: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = attach_clusters(make_pairs(240, seed=5), make_static_model(), n_clusters=3, guide=True)
    loss = make_loss(rows)
    joined = concatenate_datasets([rows, other])
    trainer = make_trainer(tmp_path, joined, model=loss.model, loss=loss)
    trainer.get_train_dataloader()
    assert "has no vectors of 50 of 100 rows that were looked up" in caplog.text


@pytest.mark.parametrize("label", [None, 1])
def test_a_dataset_without_row_keys_is_named_before_the_first_step(
    rows: Dataset, tmp_path: Path, label: int | None
) -> None:
    unguided = attach_clusters(make_pairs(32, seed=5), make_static_model(), n_clusters=2)
    missing = "is missing" if label is None else "holds none"
    if label is not None:
        unguided = unguided.add_column("label", [label] * 32)
    loss, parts = make_loss(rows), DatasetDict(big=rows, small=unguided)
    trainer = make_trainer(tmp_path, parts, model=loss.model, loss=loss)
    with pytest.raises(ValueError, match=f"'small': its column 'label' {missing}.*guide=True.*loss={{name") as refused:
        trainer.train()
    assert trainer.state.global_step == 0 and "'big'" not in str(refused.value)
    mixed = {"big": loss, "small": MultipleNegativesRankingLoss(loss.model)}
    if label is None:
        make_trainer(tmp_path, parts, model=loss.model, loss=mixed).train()


@pytest.mark.parametrize("kind", ["strings", "numbers", "lists"])
def test_strata_of_ones_own_are_no_texts_of_a_guide(rows: Dataset, tmp_path: Path, kind: str) -> None:
    values: Any = {"strings": ["en", "de"], "numbers": [0, 1], "lists": [[1, 2], [3]]}[kind] * 120
    rows = rows.add_column("language", values)
    loss = make_loss(rows)
    strata = ("cluster",) if kind == "lists" else ("language", "cluster")
    distinct = ("language", "false_negative_keys") if kind == "lists" else "false_negative_keys"
    sampler = ClusterBatchSampler.configure(strata=strata, distinct=distinct)
    make_trainer(tmp_path, rows, model=loss.model, loss=loss, batch_sampler=sampler, max_steps=2).train()
    assert loss.masked_share > 0


def test_a_label_that_a_stock_sampler_shows_is_refused_with_the_call_that_hides_it(
    rows: Dataset, tmp_path: Path
) -> None:
    shown = rows.remove_columns(["cluster", "false_negative_keys"]).add_column("source", ["web"] * 240)
    loss = make_loss(shown)
    trainer = make_trainer(tmp_path, shown, model=loss.model, loss=loss, batch_sampler="batch_sampler", max_steps=2)
    with pytest.raises(ValueError, match=r"shows 3 columns of texts, .* of 2: .*select_columns\(\['query', 'passage'"):
        trainer.train()
    again = make_trainer(
        tmp_path,
        shown.select_columns(["query", "passage", "label"]),
        model=loss.model,
        loss=loss,
        batch_sampler="batch_sampler",
        max_steps=2,
    )
    again.train()
    assert loss.masked_share > 0
