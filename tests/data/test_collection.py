from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.json
import pyarrow.parquet as pq
import pytest

from st_cluster_batches.data.collection import Collection, read_collection

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
