"""Which columns the loss gets: never a label of ours, never less than the user's texts and training labels."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict
from examples import TOPICS, label_pairs, make_pairs, make_static_model
from sentence_transformers.sentence_transformer.losses import (
    BatchAllTripletLoss,
    CoSENTLoss,
    MultipleNegativesRankingLoss,
    TripletLoss,
)
from trainers import make_trainer, record_texts
from transformers import TrainerCallback

from st_cluster_batches import ClusterBatchSampler, Refresh
from st_cluster_batches.batches.card_columns import forget_labels
from st_cluster_batches.batches.sources import has_source_labels


def make_translations(n_rows: int, seed: int = 0) -> Dataset:
    """Make triplets whose first column of text is called `source`."""
    pairs = make_pairs(n_rows, seed).rename_columns({"query": "source", "passage": "target"})
    return pairs.add_column("negative", [f"keel {at}" for at in range(n_rows)])


def label_topics(texts: list[str]) -> list[int]:
    topic_of = {word: topic for topic, words in enumerate(TOPICS.values()) for word in words}
    return [topic_of[text.split()[0]] for text in texts]


def train_and_record(folder: Path, train: Dataset, **options: Any) -> list[dict[str, Any]]:
    trainer = make_trainer(folder, train, **options)
    seen = record_texts(trainer)
    trainer.train()
    return [row for batch in seen for row in batch]


@pytest.mark.parametrize("options", [{}, {"strata": ("cluster",)}, {"strata": ("topic",)}])
def test_a_text_column_called_source_is_trained_on_in_its_place(tmp_path: Path, options: dict[str, Any]) -> None:
    rows = make_translations(120)
    label = "topic" if options.get("strata") == ("topic",) else "cluster"
    labelled = rows.add_column(label, label_topics(rows["source"][:]))
    seen = train_and_record(tmp_path, labelled, batch_sampler=ClusterBatchSampler.configure(**options))
    assert all(list(row) == ["source", "target", "negative"] for row in seen)
    assert sorted(map(str, seen)) == sorted(map(str, rows.to_list()))


@pytest.mark.parametrize("clusters", [range(120), [at // 2 for at in range(120)], [0] * 120])
@pytest.mark.parametrize("rows_of_a_text", [1, 4])
def test_a_text_column_called_source_is_text_whatever_the_clusters(
    tmp_path: Path, clusters: Any, rows_of_a_text: int
) -> None:
    rows = make_translations(120)
    texts = [rows["source"][at // rows_of_a_text] for at in range(120)]
    rows = rows.remove_columns("source").add_column("source", texts).select_columns(["source", "target", "negative"])
    labelled = rows.add_column("cluster", list(clusters))
    assert not has_source_labels(labelled)
    assert list(train_and_record(tmp_path, labelled)[0]) == ["source", "target", "negative"]


def test_a_source_that_clusters_are_nested_in_is_a_label_of_whatever_type() -> None:
    pairs = make_pairs(90)
    for values in (["a", "b", "c"] * 30, [0, 1, 2] * 30, [True, False, True] * 30):
        labelled = pairs.add_column("source", values)
        assert not has_source_labels(labelled), "without clusters nothing says so"
        nested = [2 * values.index(value) + at % 2 for at, value in enumerate(values)]
        assert has_source_labels(labelled.add_column("cluster", nested))
        assert not has_source_labels(labelled.add_column("cluster", [0] * 90))


def test_few_rows_are_told_by_the_place_of_the_column() -> None:
    for n_rows in (1, 2, 10):
        labelled = make_translations(n_rows).add_column("cluster", list(range(n_rows)))
        assert not has_source_labels(labelled)
    assert has_source_labels(label_pairs(make_pairs(1))) and has_source_labels(label_pairs(make_pairs(2)))
    first = label_pairs(make_pairs(90)).select_columns(["source", "query", "passage", "cluster"])
    assert has_source_labels(first)


def test_an_evaluation_set_shows_what_the_training_data_shows(tmp_path: Path) -> None:
    rows = make_translations(64)
    labelled = rows.add_column("cluster", label_topics(rows["source"][:]))
    trainer = make_trainer(tmp_path, labelled, eval_dataset=make_translations(20, seed=1), max_steps=1)
    seen = record_texts(trainer)
    trainer.evaluate()
    assert [list(row) for batch in seen for row in batch] == [["source", "target", "negative"]] * 20
    held_out = make_pairs(20, seed=2).add_column("source", ["all"] * 20)
    trainer = make_trainer(tmp_path, label_pairs(make_pairs(64)), eval_dataset=held_out, max_steps=1)
    seen = record_texts(trainer)
    trainer.evaluate()
    assert [list(row) for batch in seen for row in batch] == [["query", "passage"]] * 20


@pytest.mark.parametrize("options", [{"strata": ("label",)}, {"strata": ("cluster",), "distinct": "label"}])
@pytest.mark.parametrize("is_pair", [False, True])
def test_training_labels_stay_visible_whatever_options_name_them(
    tmp_path: Path, options: dict[str, Any], is_pair: bool
) -> None:
    labelled = label_pairs(make_pairs(96)).remove_columns("source").add_column("label", [0, 1, 2, 0, 1, 2] * 16)
    labelled = labelled if is_pair else labelled.remove_columns("passage")
    seen = train_and_record(
        tmp_path,
        labelled,
        batch_sampler=ClusterBatchSampler.configure(**options),
        loss=CoSENTLoss if is_pair else BatchAllTripletLoss,
    )
    texts = ["query", "passage"] if is_pair else ["query"]
    assert all(sorted(row) == sorted([*texts, "label"]) for row in seen) and len(seen) == 96


def test_after_training_and_after_evaluation_labels_can_be_read_again(tmp_path: Path) -> None:
    train, held_out = label_pairs(make_pairs(64)), label_pairs(make_pairs(20, seed=1)).with_format("torch")
    trainer = make_trainer(tmp_path, train, eval_dataset=held_out, eval_strategy="epoch")
    seen = record_texts(trainer)
    for _ in range(2):
        trainer.train()
        assert len(train["cluster"]) == 64 and len(held_out["cluster"]) == 20
        assert held_out.format["type"] == "torch" and train.format["type"] is None
        trainer.evaluate()
        assert set(held_out[0]) == {"query", "passage", "source", "cluster", "false_negative_keys"}
    assert all(list(row) == ["query", "passage"] for batch in seen for row in batch)


class EvaluateFirst(TrainerCallback):
    """Evaluates before the first step, as a user does who wants the figures of the start."""

    trainer: Any

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.trainer.evaluate()


@pytest.mark.parametrize("is_trained_on", [False, True])
def test_an_evaluation_shows_no_labels_of_what_is_being_trained_on(tmp_path: Path, is_trained_on: bool) -> None:
    train = label_pairs(make_pairs(64))
    held_out = train if is_trained_on else label_pairs(make_pairs(20, seed=1))
    trainer, evaluate = make_trainer(tmp_path, train, eval_dataset=held_out), EvaluateFirst()
    seen = record_texts(trainer)
    loader = trainer.get_train_dataloader()
    trainer.evaluate()
    trainer.predict(held_out)
    assert len(list(loader)) == 4 and ("cluster" in held_out[0]) is not is_trained_on
    evaluate.trainer = trainer
    trainer.add_callback(evaluate)
    trainer.train()
    assert all(list(row) == ["query", "passage"] for batch in seen for row in batch)
    assert "cluster" in train[0] and "cluster" in held_out[0]


def test_a_format_that_is_set_while_labels_are_hidden_is_left_alone(tmp_path: Path) -> None:
    train = label_pairs(make_pairs(64))
    trainer = make_trainer(tmp_path, train)
    trainer.get_train_dataloader()
    assert train.column_names != train.format["columns"]
    train.set_format("numpy", columns=["query"])
    trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)
    assert train.format["type"] == "numpy" and train.format["columns"] == ["query"]


def test_the_order_of_texts_survives_a_transform_of_one_column(tmp_path: Path) -> None:
    def shout(batch: dict[str, list[str]]) -> dict[str, list[str]]:
        assert list(batch) == ["query"]
        return {"query": [text.upper() for text in batch["query"]]}

    labelled = label_pairs(make_pairs(64)).with_transform(shout, columns=["query"], output_all_columns=True)
    assert all(list(row) == ["query", "passage"] for row in train_and_record(tmp_path, labelled))


def test_a_dict_of_losses_hides_labels_and_gives_them_back(tmp_path: Path) -> None:
    train = DatasetDict({name: label_pairs(make_pairs(64, seed)) for seed, name in enumerate("ab")})
    model = make_static_model()
    losses = {name: MultipleNegativesRankingLoss(model) for name in "ab"}
    trainer = make_trainer(tmp_path, train, model=model, loss=losses)
    seen = record_texts(trainer)
    trainer.train()
    assert all(list(row) == ["query", "passage", "dataset_name"] for batch in seen for row in batch)
    assert all("cluster" in part[0] for part in train.values())


@pytest.mark.parametrize("kind", ["dataset", "transform", "dict", "text called source"])
def test_the_trainers_card_tells_of_texts_alone(tmp_path: Path, kind: str) -> None:
    names = [f"site of {topic}" for topic in sorted(TOPICS)]
    pairs = label_pairs(make_pairs(64))
    sources = [names[one] for one in pairs["cluster"]]
    train: Any = pairs.remove_columns("source").add_column("source", sources).add_column("topic", sources)
    train = train.select_columns(["source", "query", "topic", "passage", "cluster", "false_negative_keys"])
    texts = ["query", "passage"]
    if kind == "transform":
        train = train.with_transform(dict)
    elif kind == "dict":
        train = DatasetDict({"a": train, "b": train})
    elif kind == "text called source":
        train, texts = (
            make_translations(64).add_column("cluster", pairs["cluster"][:]),
            ["source", "target", "negative"],
        )
    configured = ClusterBatchSampler.configure(strata=None if kind == "text called source" else ("topic", "cluster"))
    trainer = make_trainer(tmp_path, train, eval_dataset=train, batch_sampler=configured, max_steps=2)
    trainer.model.model_card_data.language = ["en"]
    before = random.getstate()
    forget_labels(trainer.model.model_card_data, trainer, ["topic"])
    assert random.getstate() == before
    trainer.train()
    trainer.model.save(str(tmp_path / "model"))
    card = (tmp_path / "model" / "README.md").read_text()
    columns = [f"<code>{name}</code>" for name in texts]
    listed = " and ".join(columns) if len(columns) == 2 else f"{', '.join(columns[:-1])}, and {columns[-1]}"
    assert card.count(f"Columns: {listed}\n") >= 2
    assert "site of" not in card and "<code>cluster</code>" not in card and "false_negative_keys |" not in card
    assert trainer.model.model_card_data.widget and trainer.model.model_card_data.usage_examples


@pytest.mark.parametrize("named", [{"distinct": "positive"}, {"strata": "negative"}, {"strata": ("positive", "id")}])
def test_a_text_that_options_name_is_trained_on_in_its_place(tmp_path: Path, named: dict[str, Any]) -> None:
    rows = make_pairs(48).add_column("negative", ["keel x", "soup y"] * 24)
    labelled = label_pairs(rows).rename_column("passage", "positive")
    if "id" in named.get("strata", ()):
        labelled = labelled.add_column("id", ["a", "b"] * 24)
    seen = train_and_record(tmp_path, labelled, batch_sampler=ClusterBatchSampler.configure(**named))
    assert all(list(row) == ["query", "positive", "negative"] for row in seen)


def test_a_third_text_that_is_named_for_keys_alone_is_hidden(tmp_path: Path) -> None:
    rows = label_pairs(make_pairs(48)).rename_columns({"query": "question", "passage": "answer"})
    rows = rows.add_column("context", [f"soup {at // 2}" for at in range(48)])
    seen = train_and_record(tmp_path, rows, batch_sampler=ClusterBatchSampler.configure(distinct="context"))
    assert all(list(row) == ["question", "answer"] for row in seen)


@pytest.mark.parametrize(
    ("names", "options"),
    [
        (("title", "abstract", "wrong"), {"distinct": ("title", "false_negative_keys")}),
        (("title", "abstract", "wrong"), {"distinct": "abstract"}),
        (("premise", "hypothesis", "wrong"), {"distinct": ("premise", "hypothesis")}),
        (("query", "document_text", "negative"), {"distinct": "document_text"}),
        (("title", "abstract", "wrong"), {"strata": ("topic", "cluster"), "distinct": "title"}),
    ],
)
def test_texts_that_no_name_tells_are_trained_on_in_their_order(
    tmp_path: Path, names: tuple[str, ...], options: dict[str, Any]
) -> None:
    rows = label_pairs(make_pairs(48))
    texts = (rows["query"][:], rows["passage"][:], [f"keel {at}" for at in range(48)])
    columns: dict[str, Any] = {"topic": ["a", "b"] * 24} if "strata" in options else {}
    columns |= dict(zip(names, texts, strict=True)) | {name: rows[name][:] for name in rows.column_names[2:]}
    rows = Dataset.from_dict(columns)
    seen = train_and_record(tmp_path, rows, batch_sampler=ClusterBatchSampler.configure(**options))
    assert all(list(row) == list(names) for row in seen)


def test_a_text_that_may_be_a_negative_is_not_hidden_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = label_pairs(make_pairs(48).add_column("wrong", [f"keel {at}" for at in range(48)]))
    sampler = ClusterBatchSampler.configure(distinct=("wrong", "false_negative_keys"))
    seen = train_and_record(tmp_path, rows, batch_sampler=sampler)
    assert all(list(row) == ["query", "passage"] for row in seen)
    assert "takes the text 'wrong' for keys alone" in caplog.text


@pytest.mark.parametrize("refresh", [None, Refresh(cluster_size=20)])
def test_a_stratum_that_is_not_there_is_refused(tmp_path: Path, refresh: Refresh | None) -> None:
    rows = label_pairs(make_pairs(48)).add_column("topic", ["a", "b"] * 24)
    sampler = ClusterBatchSampler.configure(strata=("topc", "cluster"), refresh=refresh)
    for one in (rows, rows.remove_columns("cluster")) if refresh else (rows,):
        with pytest.raises(ValueError, match=r"no column 'topc'.*add the column"):
            make_trainer(tmp_path, one, batch_sampler=sampler, num_train_epochs=3).train()


def test_a_loss_to_which_batches_make_no_difference_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = label_pairs(make_pairs(48)).add_column("negative", [f"keel {at}" for at in range(48)])
    rows = rows.select_columns(["query", "passage", "negative", "cluster", "false_negative_keys"])
    for loss, is_told in ((TripletLoss, True), (MultipleNegativesRankingLoss, False)):
        caplog.clear()
        make_trainer(tmp_path / loss.__name__, rows, batch_sampler=ClusterBatchSampler, loss=loss).train()
        assert ("TripletLoss looks at each row by itself" in caplog.text) is is_told


def test_labels_that_the_loss_does_not_read_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = label_pairs(make_pairs(48)).add_column("label", [0, 1] * 24)
    make_trainer(tmp_path / "in_batch", rows, batch_sampler=ClusterBatchSampler).train()
    assert "'label' (0 in 24 rows, 1 in 24 rows). MultipleNegativesRankingLoss does not read it" in caplog.text
    caplog.clear()
    model = make_static_model()
    make_trainer(
        tmp_path / "labelled", rows, batch_sampler=ClusterBatchSampler, model=model, loss=CoSENTLoss(model)
    ).train()
    assert "does not read it" not in caplog.text
