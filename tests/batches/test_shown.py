"""What batches and evaluation sets show beside what the loss is about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from examples import label_pairs, make_pairs, make_static_model
from sentence_transformers.sentence_transformer import losses
from trainers import make_trainer

from st_cluster_batches import ClusterBatchSampler, attach_clusters

ADVICE = "Take what training shows: eval_dataset.select_columns(['query', 'passage'])"


@pytest.fixture
def pairs() -> Dataset:
    return make_pairs(64)


@pytest.mark.parametrize("name", ["n_words", "classes", "lists"])
def test_numbers_that_joined_after_the_labels_are_refused_by_name(name: str, pairs: Dataset, tmp_path: Path) -> None:
    values: dict[str, Any] = {"n_words": [3] * 64, "classes": [True] * 64, "lists": [[0.5]] * 64}
    train = label_pairs(pairs).add_column(name, values[name])
    with pytest.raises(ValueError, match=rf"The dataset shows the column '{name}'.*remove_columns\('{name}'\)"):
        make_trainer(tmp_path, train, max_steps=1).train()
    make_trainer(tmp_path, train.remove_columns(name), max_steps=1).train()


def test_two_targets_are_refused(pairs: Dataset, tmp_path: Path) -> None:
    train = label_pairs(pairs).add_column("score", [0.5] * 64).add_column("label", [1] * 64)
    with pytest.raises(ValueError, match=r"the targets 'label' and 'score'.*remove_columns\('score'\)"):
        make_trainer(tmp_path, train, max_steps=1).train()
    with pytest.raises(ValueError, match=r"the targets 'label' and 'score'"):
        attach_clusters(pairs.add_column("score", [0.5] * 64).add_column("label", [1] * 64), make_static_model())


def test_a_text_that_joined_after_the_labels_is_told_of(
    pairs: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train = attach_clusters(pairs, make_static_model(), n_clusters=2)
    make_trainer(tmp_path, train, max_steps=1).train()
    assert "joined after the labels" not in caplog.text
    late = train.add_column("negative", pairs["passage"][1:] + pairs["passage"][:1])
    make_trainer(tmp_path, late, max_steps=1).train()
    assert "shows the text 'negative', which joined after the labels: it is text 3 of 3" in caplog.text
    caplog.clear()
    make_trainer(
        tmp_path, attach_clusters(late, make_static_model(), n_clusters=2, overwrite=True), max_steps=1
    ).train()
    assert "joined after the labels" not in caplog.text


def test_an_evaluation_set_with_numbers_is_refused_before_the_first_step(pairs: Dataset, tmp_path: Path) -> None:
    numbered = pairs.add_column("row", list(range(64)))
    train = attach_clusters(numbered, make_static_model(), n_clusters=2, columns=("query", "passage"))
    trainer = make_trainer(tmp_path, train, eval_dataset=numbered, eval_strategy="steps", eval_steps=2, max_steps=2)
    with pytest.raises(
        ValueError, match=r"The evaluation set shows the column 'row'.*select_columns\(\['query', 'pas"
    ):
        trainer.train()
    assert trainer.state.global_step == 0


@pytest.mark.parametrize("several", [False, True])
def test_an_evaluation_set_that_shows_more_is_told_of(
    several: bool, pairs: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    titled = pairs.add_column("title", [f"title of {row}" for row in range(64)])
    train = attach_clusters(titled, make_static_model(), n_clusters=2, columns=("query", "passage"))
    held_out = DatasetDict(own=titled) if several else titled
    make_trainer(tmp_path, train, eval_dataset=held_out, max_steps=1).train()
    assert f"evaluation set{' ' * several}{chr(39) * several}{'own' * several}" in caplog.text
    assert "shows query, passage, title, training shows query, passage" in caplog.text and ADVICE in caplog.text


def test_an_evaluation_set_in_another_order_is_told_of(
    pairs: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_trainer(
        tmp_path, label_pairs(pairs), eval_dataset=pairs.select_columns(["passage", "query"]), max_steps=1
    ).train()
    assert "The evaluation set shows passage, query, training shows query, passage" in caplog.text
    assert ADVICE in caplog.text


@pytest.mark.parametrize("change", ["labelled", "fewer", "renamed"])
def test_an_evaluation_set_that_shows_the_same_passes_without_a_word(
    change: str, pairs: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train = attach_clusters(pairs.add_column("negative", pairs["passage"][::-1]), make_static_model(), n_clusters=2)
    held_out = {"labelled": train, "fewer": pairs, "renamed": pairs.rename_column("passage", "answer")}[change]
    make_trainer(tmp_path, train, eval_dataset=held_out, max_steps=1).train()
    assert "evaluation set" not in caplog.text.replace("The evaluation set is taken in the stock order", "")


@pytest.mark.parametrize("rows_per_stratum", [None, 8])
def test_coarse_strata_of_any_name_are_kept_apart_as_sources_are(rows_per_stratum: int | None) -> None:
    rng = np.random.default_rng(0)
    languages = np.sort(rng.integers(4, size=1000))
    topics = languages * 100 + rng.integers(30, size=1000)  # of some eight rows each, that fill no batch

    def plan(name: str) -> tuple[list[list[int]], Any]:
        data = Dataset.from_dict({"query": ["a"] * 1000, name: languages.tolist(), "topic": topics.tolist()})
        sampler = ClusterBatchSampler(data, 16, strata=(name, "topic"), rows_per_stratum=rows_per_stratum)
        return list(sampler), sampler.counts

    batches, counts = plan("language")
    assert (batches, counts) == plan("source")
    assert sum(np.ptp(languages[batch]) > 0 for batch in batches[: counts.planned]) == counts.mixed <= 3


def test_batches_of_one_label_are_told_of_where_the_loss_compares_labels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = make_pairs(96).select_columns(["query"]).add_column("label", np.repeat(np.arange(3), 32).tolist())
    train = texts.add_column("cluster", np.repeat(np.arange(3), 32).tolist())

    def run(sampler: Any) -> None:
        make_trainer(tmp_path, train, loss=losses.BatchAllTripletLoss, max_steps=1, batch_sampler=sampler).train()

    run(ClusterBatchSampler)
    assert "6 of 6 batches hold one value of 'label' each, and BatchAllTripletLoss compares" in caplog.text
    caplog.clear()
    run(ClusterBatchSampler.configure(strata=()))
    assert "hold one value" not in caplog.text
