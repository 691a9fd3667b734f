"""A judged test collection: queries, corpus and relevance judgements, in the layout of BEIR."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import xxhash

from st_cluster_batches.data.files import find_kind, strip_ending
from st_cluster_batches.data.records import CORPUS, QRELS, QUERIES, Record, Table, read_records
from st_cluster_batches.storage.cache import write_atomically

logger = logging.getLogger(__name__)

Missing = Literal["error", "drop"]
MISSING: tuple[Missing, ...] = ("error", "drop")
Judgements = dict[str, dict[str, Fraction]]

_NAME_FILE = "name.txt"
_FINEST = 1000  # fractions of a judgement that are told apart


@dataclass(frozen=True)
class Judging:
    """How the judgements of folders are taken; official tasks have their own way.

    Args:
        qrels: Which judgements of `qrels/`, such as `dev`.
        missing: Whether judgements of texts that are not there are an `error`, or are to `drop` out.
    """

    qrels: str = "test"
    missing: Missing = "error"

    def __post_init__(self) -> None:
        if self.missing not in MISSING:
            raise ValueError(f"missing={self.missing!r} is none of {', '.join(map(repr, MISSING))}")


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

    def write(self, folder: Path, name: str | None = None) -> None:
        """Write the collection as JSON lines.

        Args:
            folder: Where to.
            name: What the collection is called, if not as the folder.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if name is not None and name != folder.name:
            write_atomically(folder / _NAME_FILE, name)
        _write_lines(folder / "queries.jsonl", ({"_id": key, "text": text} for key, text in self.queries.items()))
        corpus = ({"_id": key, "title": title, "text": text} for key, (title, text) in self.corpus.items())
        _write_lines(folder / "corpus.jsonl", corpus)
        judgements = (
            {"query-id": query, "corpus-id": document, "score": score}
            for query, judged in self.qrels.items()
            for document, score in judged.items()
        )
        _write_lines(folder / "qrels.jsonl", judgements)


def name_collection(folder: Path) -> str:
    """Return what a collection is called: as its folder, unless that could not be named so."""
    path = folder / _NAME_FILE
    return path.read_text(encoding="utf-8") if path.is_file() else folder.resolve().name


def is_collection(folder: Path) -> bool:
    """Return whether a folder holds queries, a corpus and judgements."""
    return all(any(_list_files(folder, name)) for name in ("corpus", "queries", "qrels"))


def read_collection(folder: Path, judging: Judging | None = None) -> Collection:
    """Read and check a folder in the layout of BEIR: `corpus`, `queries` and `qrels`.

    Each is parquet, JSON lines, a JSON array, TSV or CSV, gzipped or not. mteb scores a judged document that is
    missing as never found and drops a judged query that is missing; both would pass for a bad model. Here they are
    errors.

    Args:
        folder: The collection; its judgements are `qrels.*`, or several files in `qrels/`.
        judging: Which of these, and whether judgements of texts that are not there are left out.

    Returns:
        The collection with the queries that have a relevant document; the others cannot be scored.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If columns or ids do not fit, or several files hold one part; with the file and line, or first ids.
    """
    judging = judging or Judging()
    for table in (CORPUS, QUERIES):
        if not _find_files(folder, table.name):
            raise FileNotFoundError(
                f"{folder} has no {table.name}.parquet or {table.name}.jsonl; BEIR layout needs corpus, queries and "
                "qrels"
            )
    judgements = _find_qrels(folder, judging.qrels)
    queries = {key: record.read_text("text") for key, record in _read_texts(folder, QUERIES)}
    corpus = {
        key: (record.read_text("title"), record.read_text("text")) for key, record in _read_texts(folder, CORPUS)
    }
    judged = _read_qrels(judgements)
    judged = _check_ids(judged, queries, corpus, folder, judging.missing)
    kept = {query: own for query, own in judged.items() if any(score > 0 for score in own.values())}
    if not kept:
        raise ValueError(f"{judgements}: no query has a relevant document, that is one with a score above 0")
    _refuse(
        [query for query in kept if not queries[query].strip()],
        folder,
        "judged queries have no text",
        "; remove them and their judgements",
    )
    if len(kept) < len(queries):
        logger.info("%s: %d of %d queries have a relevant document", folder.name, len(kept), len(queries))
    _tell_of_empty(folder, corpus, kept)
    scale = math.lcm(*(score.denominator for own in kept.values() for score in own.values()))
    if scale > 1:
        # mteb takes whole numbers; nDCG is the same for all multiples.
        scale = min(scale, _FINEST)
        logger.info("%s: judgements have fractions, and count %d times over as whole numbers", folder.name, scale)
    return Collection(
        {query: queries[query] for query in queries if query in kept},
        corpus,
        {query: {document: _scale(score, scale) for document, score in own.items()} for query, own in kept.items()},
    )


def _tell_of_empty(folder: Path, corpus: dict[str, tuple[str, str]], judged: Judgements) -> None:
    """Warn of documents without a text: a model gives all of these one vector, which says nothing of them."""
    empty = [key for key, (title, text) in corpus.items() if not (title.strip() or text.strip())]
    if empty:
        relevant = {key for own in judged.values() for key, score in own.items() if score > 0}
        logger.warning(
            "%s: %d of %d documents have neither title nor text, such as %s; %d of them are relevant to a query. They "
            "are ranked like all others, by the vector of an empty text: give them texts, or remove them from the "
            "corpus",
            folder,
            len(empty),
            len(corpus),
            empty[0],
            len(relevant & {*empty}),
        )


def _scale(score: Fraction, scale: int) -> int:
    """Return a score as a whole number; what is above 0 stays so."""
    return max(round(score * scale), 1) if score > 0 else round(score * scale)


def _list_files(folder: Path, name: str) -> tuple[list[Path], list[Path]]:
    """List the files of the name of a part of the collection, and those in a folder of its name."""
    if not folder.is_dir():
        return [], []
    beside = sorted(path for path in folder.iterdir() if strip_ending(path.name) == name and find_kind(path))
    return beside, sorted(path for path in folder.glob(f"{name}/*") if find_kind(path))


def _find_files(folder: Path, name: str) -> list[Path]:
    """Find the file of a part of the collection, or the files in a folder of its name."""
    beside, below = _list_files(folder, name)
    _check_alone([*beside, *below[:1]] if beside else [], folder, name)
    return beside or below


def _check_alone(found: list[Path], folder: Path, what: str) -> None:
    """Refuse a choice between files: they may differ, and a name does not say which of them is meant."""
    if len(found) > 1:
        names = " and ".join(str(path.relative_to(folder)) for path in found)
        raise ValueError(
            f"{folder} has several files for its {what}: {names}. One is needed: keep the one that is meant, and move "
            "the others out of the folder"
        )


def _read_texts(folder: Path, table: Table) -> Iterator[tuple[str, Record]]:
    seen: set[str] = set()
    repeated = []
    for file in _find_files(folder, table.name):
        for record in read_records(file, table):
            key = record.read_id("_id")
            if key in seen:
                repeated.append(key)
            seen.add(key)
            yield key, record
    _refuse(repeated, folder, f"ids appear twice in {table.name}")


def _find_qrels(folder: Path, name: str) -> Path:
    """Find the judgements: one file, or that of the given name in `qrels/`."""
    beside, below = _list_files(folder, "qrels")
    fitting = beside if name == "test" else []
    fitting = [*fitting, *(path for path in below if strip_ending(path.name) == name)]
    _check_alone(fitting, folder, f"judgements {name!r}")
    if fitting:
        return fitting[0]
    there = [str(path.relative_to(folder)) for path in (*beside, *below)]
    if not there:
        raise FileNotFoundError(f"{folder} has no qrels.tsv, qrels.jsonl or qrels/test.tsv, and so no judgements")
    other = strip_ending(below[0].name) if below else "test"
    raise FileNotFoundError(
        f"{folder} has no judgements {name!r}, only {', '.join(there)}; choose some: --split {other} to train on, "
        f"--qrels {other} to evaluate on, in a recipe `split: {other}` and `qrels: {other}`"
    )


def _read_qrels(path: Path) -> Judgements:
    judged: Judgements = {}
    differing = 0
    for record in read_records(path, QRELS):
        own = judged.setdefault(record.read_id("query-id"), {})
        document, score = record.read_id("corpus-id"), record.read_score("score")
        differing += own.get(document, score) != score
        own[document] = score
    if differing:
        logger.warning(
            "%s: %d documents are judged twice for a query, and differently; the last counts", path, differing
        )
    return judged


def _check_ids(
    judged: Judgements,
    queries: Container[str],
    corpus: Container[str],
    folder: Path,
    missing: Missing,
) -> Judgements:
    """Return the judgements of texts that are there, and refuse relevant ones of others, or count them."""
    relevant = {query: [key for key, score in own.items() if score > 0] for query, own in judged.items()}
    lost_queries = [query for query, own in relevant.items() if own and query not in queries]
    lost = dict.fromkeys(
        key for query, own in relevant.items() if query in queries for key in own if key not in corpus
    )
    if missing == "error":
        hint = "; --missing drop leaves them out (in a recipe `missing: drop`)"
        _refuse(lost_queries, folder, "judged queries are not among the queries", hint)
        _refuse(list(lost), folder, "judged documents are not in the corpus", hint)
    kept = {
        query: {key: score for key, score in own.items() if key in corpus}
        for query, own in judged.items()
        if query in queries
    }
    if lost or lost_queries:
        emptied = sum(bool(own) and not any(key in corpus for key in own) for own in relevant.values())
        logger.warning(
            "%s: left out are %d judged queries that are missing, and %d missing documents that are relevant; %d "
            "queries have no relevant document left",
            folder,
            len(lost_queries),
            len(lost),
            emptied,
        )
    others = [score for query, own in judged.items() for key, score in own.items() if key not in kept.get(query, ())]
    if n_harmless := sum(score <= 0 for score in others):
        logger.info(
            "%s: %d judgements of texts that are not there say that these are not relevant, and are left out",
            folder.name,
            n_harmless,
        )
    return kept


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _refuse(ids: list[str], folder: Path, fault: str, hint: str = "") -> None:
    if ids:
        raise ValueError(f"{folder}: {len(ids)} {fault}, such as {', '.join(ids[:5])}{hint}")
