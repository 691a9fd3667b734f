from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from st_cluster_batches.data.loading import Selection, load_data
from st_cluster_batches.data.roles import find_roles


def write_lines(path: Path, *rows: dict[str, object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def flag(tmp_path: Path) -> Path:
    """Rows as FlagEmbedding has them."""
    return write_lines(
        tmp_path / "flag.jsonl",
        {"query": "a", "pos": ["p1", "p2"], "neg": ["n1", "n2"], "pos_scores": [0.9, 0.8], "prompt": "P", "type": "t"},
        {"query": "b", "pos": ["p3"], "neg": ["n3"], "pos_scores": [0.7], "prompt": "P", "type": "t"},
    )


def test_each_positive_is_a_row_and_the_fewest_negatives_are_columns(
    flag: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert load_data(flag).to_list() == [
        {"query": "a", "positive": "p1", "negative": "n1"},
        {"query": "a", "positive": "p2", "negative": "n1"},
        {"query": "b", "positive": "p3", "negative": "n3"},
    ]
    assert "columns pos_scores, prompt, type are set aside" in caplog.text
    assert "1 to 2 negatives; 1 become columns" in caplog.text


@pytest.mark.parametrize(
    ("query", "positives", "negatives"),
    [("query", "positive_passages", "negative_passages"), ("question", "positive_ctxs", "hard_negative_ctxs")],
)
def test_passages_with_titles_are_joined_as_in_collections(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, query: str, positives: str, negatives: str
) -> None:
    def make_passage(name: str, title: str = "") -> dict[str, str]:
        return {"docid": name, "title": title, "text": f"text of {name}"}

    rows = [
        {"query_id": "1", query: "a", positives: [make_passage("p1", "One"), make_passage("p2")], negatives: []},
        {"query_id": "2", query: "b", positives: [make_passage("p3")], negatives: [make_passage("n1", "No")]},
    ]
    path = write_lines(tmp_path / "rows.jsonl", *reversed(rows))
    assert load_data(path).to_list() == [
        {"query": "b", "positive": "text of p3"},
        {"query": "a", "positive": "One text of p1"},
        {"query": "a", "positive": "text of p2"},
    ]
    assert "query_id" in caplog.text and "set aside" in caplog.text
    with_negatives = [{"query": "b", "positive": "text of p3", "negative": "No text of n1"}]
    assert load_data(path, Selection(max_negatives=1)).to_list() == with_negatives


def test_max_negatives_chooses_the_columns_of_negatives(flag: Path) -> None:
    assert load_data(flag, Selection(max_negatives=2)).to_list()[1:] == [
        {"query": "a", "positive": "p2", "negative_1": "n1", "negative_2": "n2"},
        {"query": "b", "positive": "p3", "negative_1": "n3", "negative_2": "n3"},
    ]
    assert load_data(flag, Selection(max_negatives=0)).column_names == ["query", "positive"]


def test_more_negatives_than_there_are_or_none_to_choose_from_are_told_of(
    flag: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_data(flag, Selection(max_negatives=50))
    assert "and not the max_negatives=50 that were asked for" in caplog.text
    load_data(write_lines(tmp_path / "pairs.jsonl", {"query": "a", "passage": "b"}), Selection(max_negatives=2))
    assert "max_negatives=2 decides nothing" in caplog.text and "there are query, passage" in caplog.text


def test_rows_without_a_negative_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_lines(
        tmp_path / "flag.jsonl", {"query": "a", "pos": ["p"], "neg": ["n"]}, {"query": "b", "pos": ["q"], "neg": []}
    )
    assert load_data(path).column_names == ["query", "positive"]
    assert len(load_data(path, Selection(max_negatives=1))) == 1
    assert "1 of 2 rows have no negative and are left out" in caplog.text


def test_rows_without_a_positive_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"query": "a", "pos": ["p", "q"]}, {"query": "b", "pos": []}, {"query": "c", "pos": ["r"]}]
    assert load_data(write_lines(tmp_path / "flag.jsonl", *rows))["query"][:] == ["a", "a", "c"]
    assert "1 of 3 rows have no positive and are left out" in caplog.text


def write_ids(folder: Path, triples: str, queries: str, collection: str) -> Selection:
    """Write triples of ids into a folder, and the files that hold their texts, which the selection names."""
    for name, text in (("triples", triples), ("queries", queries), ("collection", collection)):
        (folder / f"{name}.tsv").write_text(text, encoding="utf-8")
    return Selection(queries=str(folder / "queries.tsv"), corpus=str(folder / "collection.tsv"))


@pytest.mark.parametrize("header", ["", "query_id\tpositive_id\tnegative_id\n"])
def test_ids_get_their_texts(tmp_path: Path, header: str) -> None:
    choice = write_ids(tmp_path, f"{header}1\t10\t11\n2\t11\t10\n", '1\twhat is "x\n2\toù\n', "10\tten\n11\televen\n")
    assert load_data(tmp_path / "triples.tsv", choice).to_list() == [
        {"query": 'what is "x', "positive": "ten", "negative": "eleven"},
        {"query": "où", "positive": "eleven", "negative": "ten"},
    ]


def test_ids_without_a_text_are_named(tmp_path: Path) -> None:
    choice = write_ids(tmp_path, "1\t10\t11\n2\t12\t10\n", "1\tx\n2\ty\n", "10\tten\n11\televen\n")
    with pytest.raises(ValueError, match="1 ids of the column 'positive_id' have no text, such as 12"):
        load_data(tmp_path / "triples.tsv", choice)


@pytest.mark.parametrize("header", ["", "query_id\tpositive_id\tnegative_id\n"])
def test_an_id_with_leading_zeros_is_another_than_one_without(tmp_path: Path, header: str) -> None:
    choice = write_ids(
        tmp_path, f"{header}01\t007\t7\n02\t7\t007\n", "01\tx\n1\tother\n02\ty\n2\tother\n", "7\tseven\n007\tagent\n"
    )
    assert load_data(tmp_path / "triples.tsv", choice).to_list() == [
        {"query": "x", "positive": "agent", "negative": "seven"},
        {"query": "y", "positive": "seven", "negative": "agent"},
    ]
    (tmp_path / "queries.tsv").write_text("1\tx\n2\ty\n", encoding="utf-8")
    with pytest.raises(ValueError, match="2 ids of the column 'query_id' have no text, such as 01, 02"):
        load_data(tmp_path / "triples.tsv", choice)


@pytest.mark.parametrize(
    "names",
    [("query_id", "positive_id", "negative_id"), ("qid", "docno"), ("query-id", "document_id"), ("queryid", "pid")],
)
def test_ids_alone_are_refused_with_the_flags_that_help(tmp_path: Path, names: tuple[str, ...]) -> None:
    path = write_lines(tmp_path / "t.jsonl", dict(zip(names, range(3), strict=False)))
    with pytest.raises(ValueError, match="--queries FILE --corpus FILE"):
        load_data(path)


def test_a_collection_gives_the_pairs_that_its_train_judgements_call_relevant(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "corpus.jsonl", {"_id": "d1", "title": "T", "text": "x"}, {"_id": "d2", "title": "", "text": "y"}
    )
    write_lines(tmp_path / "queries.jsonl", {"_id": "q1", "text": "a"}, {"_id": "q2", "text": "b"})
    (tmp_path / "qrels").mkdir()
    lines = "query-id\tcorpus-id\tscore\n"
    (tmp_path / "qrels" / "test.tsv").write_text(f"{lines}q2\td2\t1\n", encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=r"no judgements 'train', only qrels/test\.tsv"):
        load_data(tmp_path)
    (tmp_path / "qrels" / "train.tsv").write_text(f"{lines}q1\td1\t1\nq1\td2\t0\n", encoding="utf-8")
    assert load_data(tmp_path).to_list() == [{"query": "a", "passage": "T x"}]


@pytest.mark.parametrize("column", ["label", "is_duplicate"])
def test_pairs_with_the_positive_label_are_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture, column: str) -> None:
    rows = [{"question1": f"a{at}", "question2": f"b{at}", column: at % 2} for at in range(5)]
    path = write_lines(tmp_path / "quora.jsonl", *rows)
    kept = load_data(path, Selection(positive_label="1"))
    assert kept.column_names == ["question1", "question2"] and kept["question1"][:] == ["a1", "a3"]
    assert "2 of 5 pairs have the label 1" in caplog.text
    with pytest.raises(ValueError, match=rf"no row has the label 'yes' in '{column}' \(0 in 3 rows, 1 in 2 rows\)"):
        load_data(path, Selection(positive_label="yes"))


def test_texts_in_the_place_of_a_header_are_refused(tmp_path: Path) -> None:
    (tmp_path / "triples.tsv").write_text(f"what\t{'long text ' * 20}\n", encoding="utf-8")
    with pytest.raises(ValueError, match="holds no names of columns"):
        load_data(tmp_path / "triples.tsv")


@pytest.mark.parametrize(
    ("query", "positive", "negatives"),
    [
        ("anchor", "positive", "negative"),
        ("question", "answer", "hard_negatives"),
        ("query", "passage", "hard_negs"),
        ("anchor", ["positive"], "negative"),
    ],
)
def test_lists_of_negatives_are_spread_whatever_the_texts_beside_them_are_called(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, query: str, positive: str | list[str], negatives: str
) -> None:
    name, wraps = (positive, False) if isinstance(positive, str) else (positive[0], True)
    path = write_lines(
        tmp_path / "rows.jsonl",
        *({negatives: [f"n{at}", f"m{at}"], name: [f"p{at}"] if wraps else f"p{at}", query: f"q{at}"} for at in "ab"),
    )
    rows = load_data(path)
    assert rows.column_names == ["query", "positive", "negative_1", "negative_2"]
    assert rows.to_list()[1] == {"query": "qb", "positive": "pb", "negative_1": "nb", "negative_2": "mb"}
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


@pytest.mark.parametrize(("name", "texts"), [("pos", ["p", None]), ("neg", ["", "n"])])
def test_an_empty_text_in_a_list_is_named_by_its_row_in_the_file(
    tmp_path: Path, name: str, texts: list[str | None]
) -> None:
    rows = [{"query": "a", "pos": ["p"], "neg": ["n", "m"]}, {"query": "b", "pos": ["p"], "neg": ["n", "m"]}]
    path = write_lines(tmp_path / "rows.jsonl", *rows, {**rows[0], name: texts})
    with pytest.raises(ValueError, match=rf"rows\.jsonl: the list '{name}' of row 2 holds an empty text"):
        load_data(path)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_lists_of_any_type_of_text_are_spread(tmp_path: Path, kind: pa.DataType) -> None:
    table = pa.table({"query": ["a"], "positive": ["p"], "negatives": pa.array([["n", "m"]], pa.list_(kind))})
    pq.write_table(table, tmp_path / "rows.parquet")
    assert load_data(tmp_path / "rows.parquet").column_names == ["query", "positive", "negative_1", "negative_2"]


@pytest.mark.parametrize("name", ["relevance", "is_relevant", "label", "fits"])
@pytest.mark.parametrize("values", [[1, 0], [True, False]])
def test_what_says_which_pairs_belong_together_is_kept_by(tmp_path: Path, name: str, values: list[object]) -> None:
    """The refusal of a number says so, and following it trains on no pair that does not fit."""
    rows = [{"query": f"q{at}", "passage": f"p{at}", name: values[at % 2]} for at in range(6)]
    path = write_lines(tmp_path / "rows.jsonl", *rows)
    if name != "label":
        call = rf"keep those: (dataset\.filter\(.* == LABEL\)\.remove_columns\('{name}'\)), on the command line"
        with pytest.raises(ValueError, match=call) as refused:
            find_roles(dataset := load_data(path))
        code = re.search(call, str(refused.value))[1].replace("LABEL", "1")
        assert eval(code, {"dataset": dataset})["query"][:] == ["q0", "q2", "q4"]
    if name == "fits":
        renamed = ({"label" if key == "fits" else key: one for key, one in row.items()} for row in rows)
        path = write_lines(tmp_path / "rows.jsonl", *renamed)
    kept = load_data(path, Selection(positive_label="1"))
    assert kept["query"][:] == ["q0", "q2", "q4"] and kept.column_names == ["query", "passage"]


@pytest.mark.parametrize(("kind", "separator"), [("csv", ","), ("csv", ";"), ("tsv", "\t")])
def test_a_line_of_names_that_is_asked_for_mends_a_table(tmp_path: Path, kind: str, separator: str) -> None:
    lines = [f"How does one cook the soup number {at}?{separator}One takes water and {at} carrots." for at in range(9)]
    path = tmp_path / f"rows.{kind}"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"such as query.{1,5}passage") as refused:
        load_data(path)
    named = re.search(r"such as query(.{1,5})passage", str(refused.value))
    assert named is not None
    path.write_text("\n".join([f"query{named[1].replace('<TAB>', chr(9))}passage", *lines]) + "\n")
    assert load_data(path).column_names == ["query", "passage"] and len(load_data(path)) == 9
