from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.json
import pyarrow.parquet as pq
import pytest

from st_cluster_batches.data.collection import Collection, Judging, read_collection

CLEAN = Collection(
    {"q1": "soup with salt", "q2": "mast\u2028and\x85sail"},
    {"d1": ("Soup", "salt onion"), "d2": ("", "mast rope"), "d3": ("", "")},
    {"q1": {"d1": 2, "d2": 0}, "q2": {"d2": 1}},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    CLEAN.write(tmp_path)
    return tmp_path


def append(path: Path, **row: object) -> None:
    path.write_text(path.read_text() + json.dumps(row) + "\n")


def test_a_collection_is_read_as_it_was_written(folder: Path) -> None:
    assert read_collection(folder) == CLEAN


def test_parquet_and_the_tsv_of_beir_read_the_same(folder: Path) -> None:
    for name in ("corpus", "queries"):
        pq.write_table(pyarrow.json.read_json(folder / f"{name}.jsonl"), folder / f"{name}.parquet")
        (folder / f"{name}.jsonl").unlink()
    (folder / "qrels.jsonl").unlink()
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td2\t1\n")
    assert read_collection(folder) == CLEAN


def test_numeric_ids_are_strings(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text('{"_id": 7, "text": "a"}\n')
    (tmp_path / "queries.jsonl").write_text('{"id": 3, "text": "b"}\n')
    (tmp_path / "qrels.jsonl").write_text('{"query-id": 3, "corpus-id": 7, "score": 1}\n')
    assert read_collection(tmp_path) == Collection({"3": "b"}, {"7": ("", "a")}, {"3": {"7": 1}})


def test_documents_without_text_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for corpus in (CLEAN.corpus, {**CLEAN.corpus, "d2": (" ", "")}, {**CLEAN.corpus, "d3": ("Soup", "")}):
        Collection(CLEAN.queries, corpus, CLEAN.qrels).write(tmp_path)
        read_collection(tmp_path)
    first, second = (one.partition(": ")[2] for one in caplog.messages)
    assert first.startswith("1 of 3 documents have neither title nor text, such as d3; 0 of them are relevant")
    assert second.startswith("2 of 3 documents have neither title nor text, such as d2; 1 of them are relevant")


def test_queries_without_a_relevant_document_are_left_out(folder: Path) -> None:
    append(folder / "queries.jsonl", _id="unjudged", text="x")
    append(folder / "queries.jsonl", _id="zero", text="y")
    append(folder / "qrels.jsonl", **{"query-id": "zero", "corpus-id": "d1", "score": 0})
    assert read_collection(folder) == CLEAN


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda at: append(at / "qrels.jsonl", **{"query-id": "q1", "corpus-id": "d9", "score": 1}),
            "1 judged documents",
        ),
        (
            lambda at: append(at / "qrels.jsonl", **{"query-id": "q9", "corpus-id": "d1", "score": 1}),
            "1 judged queries",
        ),
        (lambda at: append(at / "corpus.jsonl", _id="d1", text="again"), "1 ids appear twice in corpus, such as d1"),
        (lambda at: append(at / "corpus.jsonl", _id="d7"), "no column 'text'"),
        (lambda at: append(at / "queries.jsonl", _id="q2", text="again"), "1 ids appear twice in queries, such as q2"),
        (lambda at: (at / "queries.jsonl").write_text(""), "has no rows"),
        (
            lambda at: (at / "qrels.jsonl").write_text('{"query-id": "q1", "corpus-id": "d1", "score": 0}'),
            "no query has",
        ),
        (lambda at: (at / "corpus.jsonl").unlink(), "has no corpus.parquet or corpus.jsonl"),
        (
            lambda at: CLEAN.__class__({**CLEAN.queries, "q1": " "}, CLEAN.corpus, CLEAN.qrels).write(at),
            "no text, such as q1",
        ),
    ],
)
def test_dirty_collections_are_refused(folder: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_collection(folder)


def write_beir(folder: Path, *, qrels: str, name: str = "test") -> Path:
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    lines = [{"_id": f"d{at}", "text": f"passage {at}", "metadata": {"url": "x"}} for at in range(3)]
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(one) + "\n" for one in lines).encode()))
    (folder / "queries.jsonl").write_text(
        '{"_id": "1", "text": "où"}\n{"_id": "2", "text": "什么"}\n', encoding="utf-8"
    )
    (folder / "qrels" / f"{name}.tsv").write_text(qrels, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "qrels",
    [
        "query-id\tcorpus-id\tscore\n1\td0\t1\n2\td1\t2\n",
        "1\td0\t1\n2\td1\t2\n",
        "1\t0\td0\t1\n2\t0\td1\t2\n",
        "1\tQ0\td0\t1\r\n2\tQ0\td1\t2\r\n",
        "query_id\titer\tdocid\trelevance\n1\t0\td0\t1\n2\t0\td1\t2\n",
        "1\td0\t0.5\n2\td1\t1\n",
    ],
)
def test_judgements_are_read_as_they_are_downloaded(tmp_path: Path, qrels: str) -> None:
    assert read_collection(write_beir(tmp_path, qrels=qrels)).qrels == {"1": {"d0": 1}, "2": {"d1": 2}}


def test_qrels_chooses_the_judgements(tmp_path: Path) -> None:
    write_beir(tmp_path, qrels="1\td0\t1\n")
    write_beir(tmp_path, qrels="2\td1\t1\n", name="dev")
    assert set(read_collection(tmp_path, Judging("dev")).queries) == {"2"}
    with pytest.raises(FileNotFoundError, match=r"no judgements 'train', only qrels/dev\.tsv, qrels/test\.tsv"):
        read_collection(tmp_path, Judging("train"))


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        ("corpus.csv", "corpus.jsonl", "corpus"),
        ("queries.jsonl", "queries/part.parquet", "queries"),
        ("qrels.jsonl", "qrels/test.tsv", "judgements 'test'"),
    ],
)
def test_two_files_of_one_part_are_refused_and_named(folder: Path, first: str, second: str, what: str) -> None:
    for name in (first, second):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    with pytest.raises(ValueError, match=f"several files for its {what}: {first} and {second}. One is needed: keep"):
        read_collection(folder)


def test_judgements_between_spaces_are_refused_with_the_way_to_tabs(folder: Path) -> None:
    (folder / "qrels.jsonl").unlink()
    (folder / "qrels.tsv").write_text("q1 0 d1 1\n")
    with pytest.raises(ValueError, match=r"qrels.tsv, line 1 .* need tabs between them, not spaces: sed"):
        read_collection(folder)


def test_judgements_of_missing_texts_are_dropped_and_counted_on_demand(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_beir(tmp_path, qrels="1\td0\t1\n1\tgone\t1\n2\tgone\t1\n3\td0\t1\n")
    with pytest.raises(ValueError, match="1 judged queries are not among the queries, such as 3; --missing drop"):
        read_collection(tmp_path)
    assert read_collection(tmp_path, Judging(missing="drop")).qrels == {"1": {"d0": 1}}
    assert "1 judged queries that are missing, and 1 missing documents" in caplog.text
    assert "1 queries have no relevant document left" in caplog.text


def test_a_missing_text_that_is_judged_irrelevant_is_no_error(tmp_path: Path) -> None:
    write_beir(tmp_path, qrels="1\td0\t1\n1\tgone\t0\n9\td0\t0\n")
    assert read_collection(tmp_path).qrels == {"1": {"d0": 1}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"_id": "d0", "text": ["a", "b"]}\n', r"corpus\.jsonl, line 1: 'text' is of type list"),
        (b'{"_id": "d0", "text": 7}\n', r"corpus\.jsonl, line 1: 'text' is of type int"),
        (b'{"_id": "d0", "text": "a"}\n{"_id": "d1", "text": "x \\ud83d"}\n', "line 2: 'text' holds half a surrogate"),
        (b'{"_id": "d0", "text": "a"}\n{"_id": "d1", "te', "line 2 is no JSON .*is it cut"),
        ('{"_id": "d0", "text": "a"}\n{"_id": "d1", "text": "é"}\n'.encode("latin-1"), "line 2 is not UTF-8"),
        (b'{"number": "d0", "text": "a"}\n', r"corpus\.jsonl, line 1 has no column '_id', only \['number', 'text'\]"),
    ],
)
def test_a_fault_is_one_sentence_with_file_and_line(tmp_path: Path, content: bytes, message: str) -> None:
    write_beir(tmp_path, qrels="1\td0\t1\n")
    (tmp_path / "corpus.jsonl.gz").unlink()
    (tmp_path / "corpus.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_collection(tmp_path)


def test_fields_of_any_length_and_titles_that_come_late_are_read(tmp_path: Path) -> None:
    write_beir(tmp_path, qrels="1\td0\t1\n")
    (tmp_path / "corpus.jsonl.gz").unlink()
    (tmp_path / "corpus.tsv").write_text(f"d0\t{'long ' * 40_000}\n", encoding="utf-8")
    assert len(read_collection(tmp_path).corpus["d0"][1]) == 200_000
    (tmp_path / "corpus.tsv").unlink()
    (tmp_path / "corpus.jsonl").write_text(
        '{"docid": 0, "contents": ""}\n{"docid": "d0", "title": "T", "contents": "x"}\n', encoding="utf-8"
    )
    assert read_collection(tmp_path).corpus == {"0": ("", ""), "d0": ("T", "x")}
