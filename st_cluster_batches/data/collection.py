"""A judged test collection: queries, corpus and relevance judgements, in the layout of BEIR."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from st_cluster_batches.storage.cache import write_atomically

logger = logging.getLogger(__name__)

_COLUMNS = {"corpus": ("_id", "text"), "queries": ("_id", "text"), "qrels": ("query-id", "corpus-id", "score")}


@dataclass(frozen=True)
class Collection:
    """A judged test collection.

    Args:
        queries: Text by query id.
        corpus: Title and text by document id.
        qrels: Score by document id by query id; a score above 0 means relevant.
    """

    queries: dict[str, str]
    corpus: dict[str, tuple[str, str]]
    qrels: dict[str, dict[str, int]]

    @property
    def content_hash(self) -> str:
        """Hash of all texts and judgements, whatever files hold them."""
        state = xxhash.xxh3_128()
        for part in (self.queries, self.corpus, self.qrels):
            for item in part.items():
                state.update(json.dumps(item).encode())
            state.update(b"\0")
        return state.hexdigest()

    def write(self, folder: Path) -> None:
        """Write the collection as JSON lines."""
        folder.mkdir(parents=True, exist_ok=True)
        _write_lines(folder / "queries.jsonl", ({"_id": key, "text": text} for key, text in self.queries.items()))
        corpus = ({"_id": key, "title": title, "text": text} for key, (title, text) in self.corpus.items())
        _write_lines(folder / "corpus.jsonl", corpus)
        judgements = (
            {"query-id": query, "corpus-id": document, "score": score}
            for query, judged in self.qrels.items()
            for document, score in judged.items()
        )
        _write_lines(folder / "qrels.jsonl", judgements)


def read_collection(folder: Path) -> Collection:
    """Read and check a folder with `corpus`, `queries` and `qrels`, each as .parquet or .jsonl.

    mteb scores a judged document that is missing as never found and drops a judged query that is missing; both would
    pass for a bad model. Here they are errors.

    Args:
        folder: The collection; qrels may also be a .tsv file, or `qrels/test.*` as BEIR ships them.

    Returns:
        The collection with the queries that have a relevant document; the others cannot be scored.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If columns or ids do not fit; the message names the first ids.
    """
    rows = {name: _read_rows(folder, name, columns) for name, columns in _COLUMNS.items()}
    for name in ("corpus", "queries"):
        _refuse(_find_repeats(row["_id"] for row in rows[name]), folder, f"ids appear twice in {name}")
    corpus = {row["_id"]: (row.get("title") or "", row["text"] or "") for row in rows["corpus"]}
    queries = {row["_id"]: row["text"] or "" for row in rows["queries"]}
    qrels: dict[str, dict[str, int]] = {}
    for row in rows["qrels"]:
        qrels.setdefault(str(row["query-id"]), {})[str(row["corpus-id"])] = int(row["score"])
    _refuse([query for query in qrels if query not in queries], folder, "judged queries are not among the queries")
    documents = dict.fromkeys(document for judged in qrels.values() for document in judged)
    _refuse(
        [document for document in documents if document not in corpus],
        folder,
        "judged documents are not in the corpus",
    )
    qrels = {query: judged for query, judged in qrels.items() if any(score > 0 for score in judged.values())}
    if not qrels:
        raise ValueError(f"{folder}: no query has a relevant document, that is one with a score above 0")
    _refuse([query for query in qrels if not queries[query].strip()], folder, "judged queries have no text")
    if len(qrels) < len(queries):
        logger.info("%s: %d of %d queries have a relevant document", folder.name, len(qrels), len(queries))
    return Collection({query: queries[query] for query in queries if query in qrels}, corpus, qrels)


def _read_rows(folder: Path, name: str, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    places = [folder / f"{name}{suffix}" for suffix in (".parquet", ".jsonl", ".tsv")]
    if name == "qrels":
        places += [folder / "qrels" / f"test{suffix}" for suffix in (".parquet", ".jsonl", ".tsv")]
    rows: list[dict[str, Any]]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise FileNotFoundError(f"{folder} has no {name}.parquet or {name}.jsonl; BEIR layout needs {list(_COLUMNS)}")
    if found.suffix == ".parquet":
        rows = pq.read_table(found).to_pylist()
    elif found.suffix == ".tsv":
        lines = found.read_text(encoding="utf-8").split("\n")
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    else:
        rows = [json.loads(line) for line in found.read_text(encoding="utf-8").split("\n") if line.strip()]
    if not rows:
        raise ValueError(f"{found} has no rows")
    if "_id" in columns:
        rows = [{**row, "_id": str(row["_id"] if "_id" in row else row.get("id"))} for row in rows]
    if missing := [column for column in columns if any(column not in row for row in rows)]:
        raise ValueError(f"{found} has no column {missing[0]!r} in every row; its first row has {list(rows[0])}")
    return rows


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _find_repeats(ids: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    return [one for one in ids if one in seen or seen.add(one)]  # type: ignore[func-returns-value]


def _refuse(ids: list[str], folder: Path, fault: str) -> None:
    if ids:
        raise ValueError(f"{folder}: {len(ids)} {fault}, such as {', '.join(ids[:5])}")
