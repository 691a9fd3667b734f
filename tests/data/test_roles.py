"""Which column is what: what the loss receives of data as people have it, compared with what it should."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, load_from_disk
from examples import make_pairs, make_static_model
from trainers import make_trainer, record_texts

from st_cluster_batches import Clustering, attach_clusters, export_batches, fit_clusters, inspect
from st_cluster_batches.__main__ import main
from st_cluster_batches.clusters.description import describe_clustering
from st_cluster_batches.data.holdout import hold_out
from st_cluster_batches.data.pairs import PairOptions, prepare_parts
from st_cluster_batches.data.roles import find_roles

N = 60
PAIRS = make_pairs(N, seed=77)  # of their own: vectors are shared between tests by the default cache
QUERIES, PASSAGES = PAIRS["query"][:], PAIRS["passage"][:]
NEGATIVES = [f"keel {at}" for at in range(N)]


def make(**columns: Any) -> Dataset:
    return Dataset.from_dict({name: columns[name] for name in columns})


def attach(dataset: Any, tmp_path: Path, **options: Any) -> Any:
    defaults = {"n_clusters": 3, "cache_dir": tmp_path / "cache", "show_progress_bar": False}
    return attach_clusters(dataset, make_static_model(), **{**defaults, **options})


def train(dataset: Any, tmp_path: Path, **options: Any) -> list[dict[str, Any]]:
    """Return the rows that reach the loss, in the order of their texts."""
    trainer = make_trainer(tmp_path, dataset, **options)
    seen = record_texts(trainer)
    trainer.train()
    return sorted((row for batch in seen for row in batch), key=str)


def expected(*columns: list[str], names: tuple[str, ...]) -> list[dict[str, str]]:
    return sorted((dict(zip(names, texts, strict=True)) for texts in zip(*columns, strict=True)), key=str)


def roles_in(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(one.levelname, one.getMessage()) for one in caplog.records if one.getMessage().startswith("Columns: ")]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, "st_cluster_batches"):
        yield caplog


def test_a_name_that_a_list_had_is_told_to_have_become_another() -> None:
    spread = Dataset.from_dict({"query": ["a", "b"], "positive": ["c", "d"], "negative_1": ["e", "f"]})
    for name, now in (("pos", "positive"), ("negatives", "negative_1")):
        with pytest.raises(ValueError, match=f"columns of their own: {name!r} is {now}"):
            find_roles(spread, ("query", name))
    with pytest.raises(ValueError, match=r"columns= names those with texts$"):
        find_roles(spread, ("query", "title"))


def test_named_columns_are_what_the_loss_gets_in_their_order(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    rows = make(
        url=["https://a"] * N,
        answer=PASSAGES,
        n=NEGATIVES,
        weight=[[0.5]] * N,
        question=QUERIES,
        query_id=list(range(N)),
    )
    columns = ("question", "answer", "n")
    labelled = attach(rows, tmp_path, columns=columns)
    assert labelled.column_names == [*columns, "cluster", "false_negative_keys"]
    assert [list(row) for row in train(labelled, tmp_path)] == [list(columns)] * N
    assert train(labelled, tmp_path) == expected(QUERIES, PASSAGES, NEGATIVES, names=columns)
    assert roles_in(log) == [("INFO", "Columns: query 'question', positive 'answer', negative 'n'")]
    assert "These columns are left out: 'url', 'weight', 'query_id'" in log.text


def test_training_labels_and_sources_stay_beside_named_columns(tmp_path: Path) -> None:
    rows = make(score=[at / N for at in range(N)], p=PASSAGES, source=["a", "b"] * 30, q=QUERIES, other=NEGATIVES)
    labelled = attach(rows, tmp_path, columns=["q", "p"])
    assert labelled.column_names == ["q", "p", "score", "source", "cluster"]
    assert labelled["score"][:] == rows["score"][:]


def test_without_names_the_order_is_that_of_the_collator(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    rows = make(b=PASSAGES, a=QUERIES, z=NEGATIVES)
    assert [list(row) for row in train(attach(rows, tmp_path), tmp_path)] == [["b", "a", "z"]] * N
    ((level, line),) = roles_in(log)
    assert line.startswith("Columns: query 'b', positive 'a', negative 'z'")
    assert level == "WARNING" and "'z' is no name for a negative" in line and "say columns=('b', 'a', 'z')" in line


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (("answer", "question"), ("question", "answer")),
        (("positive", "negative", "anchor"), ("anchor", "positive", "negative")),
        (("hard_negative_1", "query", "document"), ("query", "document", "hard_negative_1")),
        (("sentence2", "sentence1"), ("sentence1", "sentence2")),
        (("pos", "neg_1", "query"), ("query", "pos", "neg_1")),
    ],
)
def test_known_names_in_another_order_are_put_right_with_a_warning(
    tmp_path: Path, log: pytest.LogCaptureFixture, given: tuple[str, ...], wanted: tuple[str, ...]
) -> None:
    texts = dict(zip(wanted, (QUERIES, PASSAGES, NEGATIVES), strict=False))
    labelled = attach(make(**{name: texts[name] for name in given}), tmp_path)
    assert train(labelled, tmp_path) == expected(*texts.values(), names=wanted)
    ((level, line),) = roles_in(log)
    assert level == "WARNING" and f"columns={given!r}" in line and f"query {wanted[0]!r}" in line
    log.clear()
    kept = attach(make(**{name: texts[name] for name in given}), tmp_path, columns=given)
    assert kept.column_names[: len(given)] == list(given) and roles_in(log)[0][0] == "INFO"


def test_a_known_name_in_a_place_of_another_role_is_warned_of(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    labelled = attach(make(title=NEGATIVES, query=QUERIES), tmp_path)
    assert labelled.column_names[:2] == ["title", "query"]
    assert roles_in(log)[0][0] == "WARNING" and "'query' is a name for a query" in log.text


def bad_columns() -> dict[str, tuple[Any, str]]:
    return {
        "weights": ([[0.5, 1.0]] * N, "lists of values of type float64"),
        "pos": ([["x", "y"]] * N, "Give each text of the list a row"),
        "meta": ([{"a": "x"}] * N, "holds structs"),
        "number": (list(range(N)), "values of type int64"),
        "rate": ([0.5] * N, "values of type float64"),
        "flag": ([True, False] * (N // 2), "values of type bool"),
        "blob": ([b"x"] * N, "values of type binary"),
        "nothing": ([None] * N, "values of type null"),
        "query_id": ([f"doc x{at}" for at in range(N)], "holds ids by its name"),
        "doc_ids": (NEGATIVES, "holds ids by its name"),
        "text_idx": (NEGATIVES, "holds ids by its name"),
        "id": (NEGATIVES, "holds ids by its name"),
        "__index_level_0__": (NEGATIVES, "holds ids by its name"),
        "language": (["en"] * N, "holds 'en' in all rows"),
        "lang": (["en", "de"] * (N // 2), "2 different words"),
        "date": ([f"2020-01-{at:02}" for at in range(N)], "no letter in any row"),
        "day": ([f"2020-01-{at:02}T00:00Z" for at in range(N)], "ids or dates by its looks"),
        "msmarco": ([str(100_000 + at) for at in range(N)], "no letter in any row"),
    }


@pytest.mark.parametrize("name", bad_columns())
@pytest.mark.parametrize("place", ["front", "back"])
def test_what_cannot_be_text_stops_before_anything_is_embedded(
    tmp_path: Path, name: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, message = bad_columns()[name]
    texts = {"query": QUERIES, "passage": PASSAGES}
    rows = make(**({name: values, **texts} if place == "front" else {**texts, name: values}))

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("embedded")

    with monkeypatch.context() as patched:
        patched.setattr("sentence_transformers.SentenceTransformer.encode", refuse)
        with pytest.raises(ValueError) as error:
            attach(rows, tmp_path)
    assert repr(name) in str(error.value) and message in str(error.value)
    assert "columns=('query', 'passage')" in str(error.value)
    assert f"dataset.remove_columns([{name!r}])" in str(error.value)
    for mended in (attach(rows, tmp_path, columns=("query", "passage")), attach(rows.remove_columns(name), tmp_path)):
        assert train(mended, tmp_path) == expected(QUERIES, PASSAGES, names=("query", "passage"))


def test_codes_are_offered_as_sources_and_an_index_of_pandas_is_to_be_dropped(tmp_path: Path) -> None:
    texts = {"frage": QUERIES, "antwort": PASSAGES, "lang": ["en", "de"] * (N // 2), "site": ["a", "b"] * (N // 2)}
    with pytest.raises(ValueError, match="'lang', which holds codes by its looks") as refused:
        attach(make(**texts), tmp_path)
    offered = "source_column='lang', on the command line --source_column lang, in a recipe source_column: lang. "
    assert offered in str(refused.value)
    assert "columns=('frage', 'antwort')" in str(refused.value)
    assert attach(make(**texts), tmp_path, source_column="lang", columns=("frage", "antwort"))["source"][0] == "en"
    for name, values in {"__index_level_0__": NEGATIVES, "Unnamed: 0": list(range(N))}.items():
        with pytest.raises(ValueError, match=f"{name!r}, which holds .* index of a pandas table: drop it") as refused:
            attach(make(**texts, **{name: values}), tmp_path)
        assert "index=False" in str(refused.value) and "preserve_index=False" in str(refused.value)
        assert "columns=('frage', 'antwort')" in str(refused.value)


def test_classes_are_no_text_and_structs_stop_a_stream_too(tmp_path: Path) -> None:
    rows = make(query=QUERIES, passage=PASSAGES, kind=[0, 1] * 30).cast_column("kind", ClassLabel(names=["x", "y"]))
    with pytest.raises(ValueError, match="'kind', which holds classes"):
        attach(rows, tmp_path)
    clustering = fit_clusters(
        rows, make_static_model(), n_clusters=2, columns=("query", "passage"), cache_dir=tmp_path / "cache"
    )
    with pytest.raises(ValueError, match="The stream shows the column 'kind'"):
        clustering.attach(rows.to_iterable_dataset())
    streamed = list(clustering.attach(rows.to_iterable_dataset(), columns=("query", "passage")))
    assert list(streamed[0]) == ["query", "passage", "cluster", "false_negative_keys"]
    assert [row["passage"] for row in streamed] == PASSAGES


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_every_kind_of_string_is_text(tmp_path: Path, kind: pa.DataType) -> None:
    rows = Dataset(pa.table({"query": pa.array(QUERIES, pa.string()).cast(kind), "passage": pa.array(PASSAGES)}))
    assert train(attach(rows, tmp_path), tmp_path) == expected(QUERIES, PASSAGES, names=("query", "passage"))


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ("query", TypeError, r"must be names of columns, such as columns=\('query', 'passage'\)"),
        ((), ValueError, "each once"),
        (("query", "query"), ValueError, "each once"),
        (("query", "answer"), ValueError, "no column 'answer', only"),
        (("query", "label"), ValueError, "'label' is a label and no text"),
        (("query", "list"), ValueError, "Give each text of the list a row"),
    ],
)
def test_columns_that_make_no_sense_are_refused(
    tmp_path: Path, columns: Any, error: type[Exception], message: str
) -> None:
    rows = make(query=QUERIES, passage=PASSAGES, label=[0, 1] * 30, list=[["x"]] * N)
    with pytest.raises(error, match=message):
        attach(rows, tmp_path, columns=columns)


@pytest.mark.parametrize("options", [{"source_column": None}, {"columns": ("source", "target", "negative")}])
def test_translations_keep_their_source_as_query(tmp_path: Path, options: dict[str, Any]) -> None:
    rows = make(source=QUERIES, target=PASSAGES, negative=NEGATIVES)
    with pytest.raises(ValueError, match="source_column=None"):
        attach(rows, tmp_path)
    labelled = attach(rows, tmp_path, **options)
    assert labelled.column_names[:3] == ["source", "target", "negative"]
    wanted = expected(QUERIES, PASSAGES, NEGATIVES, names=("source", "target", "negative"))
    assert train(labelled, tmp_path) == wanted
    labelled.to_parquet(str(tmp_path / "x.parquet"))
    again = Dataset.from_parquet(str(tmp_path / "x.parquet"), cache_dir=str(tmp_path / "hf"))
    assert train(again, tmp_path) == wanted
    assert export_batches(labelled, tmp_path / "exported", 16, show_progress_bar=False) == N // 16
    found = inspect(labelled, make_static_model(), batch_size=8, show_progress_bar=False)
    assert found.columns == ["source", "target", "negative"] and [one.name for one in found.sources] == ["all"]


def test_another_column_of_sources_takes_the_place_of_a_column_source(tmp_path: Path) -> None:
    rows = make(source=QUERIES, query=QUERIES, passage=PASSAGES, site=["a", "b"] * 30)
    with pytest.raises(ValueError, match="rename the text first"):
        attach(rows, tmp_path, source_column="site")
    labelled = attach(rows, tmp_path, source_column="site", columns=("query", "passage"))
    assert labelled["source"][:] == rows["site"][:]
    with pytest.raises(ValueError, match="can be only one"):
        attach(rows, tmp_path, source_column="site", columns=("query", "site"))


def test_few_sources_are_no_text_without_a_word(tmp_path: Path) -> None:
    rows = make(query=QUERIES, passage=PASSAGES, source=["some site", "another site"] * 30)
    with pytest.raises(ValueError, match="'source', which holds few different values, as sources are"):
        attach(rows, tmp_path, source_column=None)
    labelled = attach(rows, tmp_path, source_column=None, columns=("query", "passage"))
    assert labelled.column_names == ["query", "passage", "cluster", "false_negative_keys"]


def test_roles_stand_in_manifest_inspection_and_cards(tmp_path: Path) -> None:
    rows = make(a=PASSAGES, q=QUERIES, x=NEGATIVES, y=NEGATIVES)
    columns = ("q", "a", "x")
    clustering = fit_clusters(rows, make_static_model(), n_clusters=2, columns=columns, cache_dir=tmp_path / "cache")
    assert clustering.manifest["columns"] == ["q", "a", "x"]
    assert "Columns: query `q`, positive `a`, negatives `x`." in describe_clustering(clustering.manifest)
    labelled = clustering.attach(rows, columns=columns, cache_dir=tmp_path / "cache", show_progress_bar=False)
    assert labelled.column_names[:3] == list(columns)
    found = inspect(labelled, clustering=clustering, columns=("q", "a"), batch_size=8, show_progress_bar=False)
    assert json.loads(json.dumps(found.describe()))["columns"] == ["q", "a"]


def test_roles_are_told_once_for_datasets_that_are_alike(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        log.clear()
        attach({"a": make_pairs(40, 1), "b": make_pairs(50, 2)}, tmp_path)
        assert roles_in(log) == [("INFO", "Columns: query 'query', positive 'passage'")]


def resolve(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    assert list(batch) == ["query_id", "passage_id"], "a transform sees its own columns alone"
    return {
        "query": [QUERIES[at] for at in batch["query_id"]],
        "passage": [PASSAGES[at] for at in batch["passage_id"]],
    }


def shout(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    assert set(batch) <= {"query", "passage", "site"}
    return {name: [text.upper() for text in texts] for name, texts in batch.items()}


def test_a_transform_over_all_columns_sees_what_it_saw(tmp_path: Path) -> None:
    labelled = attach(make(query=QUERIES, passage=PASSAGES).with_transform(shout), tmp_path)
    assert list(labelled[0]) == ["query", "passage", "cluster", "false_negative_keys"]
    upper = expected([one.upper() for one in QUERIES], [one.upper() for one in PASSAGES], names=("query", "passage"))
    assert train(labelled, tmp_path) == upper
    parts = DatasetDict(
        {name: attach(make_pairs(40, seed).with_transform(shout), tmp_path) for seed, name in enumerate("ab")}
    )
    model = make_static_model()
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    losses = {name: MultipleNegativesRankingLoss(model) for name in "ab"}
    rows = train(parts, tmp_path, model=model, loss=losses)
    assert all(list(row) == ["query", "passage", "dataset_name"] and row["query"].isupper() for row in rows)


def tell_sides_apart(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Make texts of which none is in the data, under the names that are."""
    return {name: [f"{name} of {text}" for text in texts] for name, texts in batch.items()}


def test_what_a_transform_makes_of_texts_is_what_is_embedded_measured_and_held_out(tmp_path: Path) -> None:
    raw = make(query=[f"{text} {at}" for at, text in enumerate(QUERIES)], passage=PASSAGES)
    changed, applied = raw.with_transform(tell_sides_apart), raw.map(tell_sides_apart, batched=True)
    ours, theirs = (attach(one, tmp_path, guide=True).with_format(None) for one in (changed, applied))
    assert all(ours[name][:] == theirs[name][:] for name in ("cluster", "false_negative_keys", "label"))
    assert ours["label"][:] != attach(raw, tmp_path, guide=True)["label"][:]
    read = inspect(attach(changed, tmp_path), make_static_model(), batch_size=8, show_progress_bar=False).sample.pairs
    assert read.dataset["query"][:] == applied["query"][:]
    left, collections = hold_out(changed, 5, 20)
    assert left[0]["query"].startswith("query of")
    (collection,) = collections.values()
    assert set(collection.queries.values()) <= set(applied["query"])
    assert {text for _, text in collection.corpus.values()} <= set(applied["passage"])
    # `tune` reads pairs as `attach` does.
    (part,) = prepare_parts(changed, PairOptions(overwrite=True), False)
    assert part.dataset["passage"][:] == applied["passage"][:]


def test_a_transform_that_reads_the_source_by_its_name_goes_on_to(tmp_path: Path) -> None:
    rows = make(query=QUERIES, passage=PASSAGES, site=["a", "b"] * 30).with_transform(shout)
    labelled = attach(rows, tmp_path, source_column="site")
    assert list(labelled[0]) == ["query", "passage", "source", "cluster", "false_negative_keys"]
    assert [list(row) for row in train(labelled, tmp_path)] == [["query", "passage"]] * N


def test_lazily_resolved_ids_are_embedded_as_texts_and_resolved_as_before(tmp_path: Path) -> None:
    rows = make(query_id=list(range(N)), passage_id=list(range(N))).with_transform(resolve)
    labelled = attach(rows, tmp_path)
    plain = attach(make(query=QUERIES, passage=PASSAGES), tmp_path)
    assert labelled["cluster"][:] == plain["cluster"][:]
    assert train(labelled, tmp_path) == expected(QUERIES, PASSAGES, names=("query", "passage"))
    assert train(attach(rows, tmp_path, columns=("passage", "query")), tmp_path) == expected(
        PASSAGES, QUERIES, names=("passage", "query")
    )
    found = inspect(labelled, make_static_model(), batch_size=8, show_progress_bar=False)
    assert found.columns == ["query", "passage"]


def test_a_format_with_columns_says_what_is_visible(tmp_path: Path) -> None:
    rows = make(query=QUERIES, passage=PASSAGES, row=list(range(N))).with_format("torch", columns=["query", "passage"])
    labelled = attach(rows, tmp_path)
    assert labelled.format["type"] == "torch"
    assert train(labelled, tmp_path) == expected(QUERIES, PASSAGES, names=("query", "passage"))


@pytest.mark.parametrize(
    ("values", "feature", "names"),
    [
        ([0, 1] * 30, ClassLabel(names=["news", "wiki"]), ["news", "wiki"]),
        ([7, 12] * 30, Value("int64"), ["12", "7"]),
        ([True, False] * 30, Value("bool"), ["False", "True"]),
        ([date(1970, 1, 2), date(1970, 1, 3)] * 30, Value("date32"), ["1970-01-02", "1970-01-03"]),
        (["a|b", "\n$x$_" + "long " * 100] * 30, Value("string"), None),
        (["c/d", "../e"] * 30, Value("large_string"), ["../e", "c/d"]),
    ],
)
def test_sources_are_named_by_their_printed_form(
    tmp_path: Path, values: list[Any], feature: Any, names: list[str] | None
) -> None:
    features = Features({"query": Value("string"), "passage": Value("string"), "source": feature})
    rows = Dataset.from_dict({"query": QUERIES, "passage": PASSAGES, "source": values}, features=features)
    clustering = fit_clusters(rows, make_static_model(), n_clusters=2, cache_dir=tmp_path / "cache")
    assert sorted(clustering.manifest["statistics"]) == (names or sorted(set(values)))
    labelled = clustering.attach(rows, cache_dir=tmp_path / "cache", show_progress_bar=False)
    assert train(labelled, tmp_path) == expected(QUERIES, PASSAGES, names=("query", "passage"))
    found = inspect(labelled, make_static_model(), batch_size=8, show_progress_bar=False)
    assert [one.name for one in found.sources] == (names or sorted(set(values)))
    streamed = [row["cluster"] for row in clustering.attach(rows.to_iterable_dataset())]
    assert streamed == labelled["cluster"][:]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a", None] * 30, "no value in row 1; every row needs a source"),
        ([["a"], ["b"]] * 30, "holds list"),
        ([{"a": 1}, {"a": 2}] * 30, "holds struct"),
        ([0.5, 1.5] * 30, "needed for a source are texts, integers, booleans or dates"),
    ],
)
def test_what_names_no_source_is_refused_before_work(tmp_path: Path, values: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attach(make(query=QUERIES, passage=PASSAGES, source=values), tmp_path)


def test_the_command_line_takes_columns_and_no_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], saved_model: Path
) -> None:
    rows = make(id=list(range(N)), target=PASSAGES, source=QUERIES, negative=NEGATIVES)
    rows.to_parquet(str(tmp_path / "rows.parquet"))
    words = [str(tmp_path / "rows.parquet"), str(tmp_path / "out"), "--encoder", str(saved_model), "--n_clusters", "3"]
    cache = ["--cache_dir", str(tmp_path / "cache"), "--json"]
    assert main(["attach", *words, *cache]) == 2
    assert "remove_columns(['id'])" in capsys.readouterr().err
    assert main(["attach", *words, *cache, "--columns", "source", "target", "negative"]) == 0
    assert json.loads(capsys.readouterr().out)["columns"] == ["source", "target", "negative"]
    labelled = load_from_disk(str(tmp_path / "out"))
    assert train(labelled, tmp_path) == expected(QUERIES, PASSAGES, NEGATIVES, names=("source", "target", "negative"))
    capsys.readouterr()
    report = str(tmp_path / "report.html")
    inspected = ["inspect", str(tmp_path / "out"), "--batch_size", "8", "--output", report, "--json"]
    inspected += ["--encoder", str(saved_model)]
    assert main([*inspected, "--columns", "source", "target"]) == 0
    assert json.loads(capsys.readouterr().out)["columns"] == ["source", "target"]
    assert '"columns": ["source", "target"]' in Path(report).read_text()
    make(source=QUERIES, target=PASSAGES).to_parquet(str(tmp_path / "rows.parquet"))
    assert main(["attach", *words, *cache, "--source_column", "none"]) == 0
    assert load_from_disk(str(tmp_path / "out")).column_names[:2] == ["source", "target"]


@pytest.mark.parametrize("strategy", ["random", "cluster"])
def test_a_recipe_trains_on_the_columns_that_it_names(tmp_path: Path, workspace: Path, strategy: str) -> None:
    make(id=list(range(N)), target=PASSAGES, source=QUERIES).to_parquet(str(workspace / "pairs.parquet"))
    words = ["train", str(workspace / "recipe.yaml"), "--batch_sampler", strategy]
    assert main(words) == 2
    assert main([*words, "--columns", "source", "target"]) == 0
    card = (workspace / "run" / "model" / "README.md").read_text()
    assert "<code>source</code> and <code>target</code>" in card


def test_a_saved_clustering_knows_its_columns(tmp_path: Path) -> None:
    clustering = fit_clusters(make_pairs(N), make_static_model(), n_clusters=2, cache_dir=tmp_path / "cache")
    clustering.save(tmp_path / "saved")
    assert Clustering.load(tmp_path / "saved").manifest["columns"] == ["query", "passage"]


def test_texts_that_are_called_as_labels_are_not_lost_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = make_pairs(20).rename_column("query", "cluster").add_column("question", ["what"] * 20)
    with pytest.raises(
        ValueError, match=r"where they are yours, rename them: dataset.rename_column\('cluster', \.\.\.\)"
    ):
        prepare_parts(rows, PairOptions(), False)
    prepare_parts(rows, PairOptions(overwrite=True, columns=("question", "passage")), False)
    assert "the columns ['cluster'] hold texts, and are replaced by labels; to keep them, rename them" in caplog.text
    caplog.clear()
    prepare_parts(make_pairs(20).add_column("cluster", [0] * 20), PairOptions(overwrite=True), False)
    assert "hold texts" not in caplog.text
