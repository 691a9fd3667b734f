"""Rows of files with ids in them, one by one, and the place of each for whoever has to mend it."""

from __future__ import annotations

import csv
import gzip
import json
import math
from collections.abc import Iterator, KeysView, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from st_cluster_batches.data.files import (
    explain_encoding,
    find_dialect,
    find_kind,
    lift_field_limit,
    open_text,
    strip_ending,
)

_DOCUMENT_IDS = ("corpus_id", "docid", "doc_id", "document_id", "docno", "pid", "passage_id")
_QUERY_IDS = ("query_id", "qid", "queryid", "topic", "topic_id")
_TEXTS = ("text", "contents", "content", "passage", "document", "body")


@dataclass(frozen=True)
class Table:
    """What a file holds, by the names that it goes by in BEIR and elsewhere; in order where there is no header.

    Args:
        name: What it is called.
        aliases: For each field the names of its column.
        positions: Which fields are there if there is no header, by number of columns.
        optional: Fields that may be missing.
    """

    name: str
    aliases: dict[str, tuple[str, ...]]
    positions: dict[int, tuple[str, ...]]
    optional: tuple[str, ...] = ()


CORPUS = Table(
    "corpus",
    {"_id": ("_id", "id", *_DOCUMENT_IDS), "title": ("title",), "text": _TEXTS},
    {2: ("_id", "text"), 3: ("_id", "title", "text")},
    ("title",),
)
QUERIES = Table(
    "queries",
    {"_id": ("_id", "id", *_QUERY_IDS), "text": ("text", "query", "question", "contents")},
    {2: ("_id", "text")},
)
QRELS = Table(
    "qrels",
    {
        "query-id": _QUERY_IDS,
        "corpus-id": _DOCUMENT_IDS,
        "score": ("score", "relevance", "rel", "label", "judgement", "judgment", "grade"),
    },
    {3: ("query-id", "corpus-id", "score"), 4: ("query-id", "", "corpus-id", "score")},
)
TRIPLES = Table(
    "triples",
    {
        "query_id": _QUERY_IDS,
        "positive_id": ("positive_id", "positive", "pos_id", "pos", *_DOCUMENT_IDS),
        "negative_id": ("negative_id", "negative", "neg_id", "neg"),
    },
    {3: ("query_id", "positive_id", "negative_id"), 2: ("query_id", "positive_id")},
    ("negative_id",),
)


@dataclass(frozen=True)
class Record:
    """A row: its fields, and where it is."""

    fields: dict[str, Any]
    place: str

    def read_id(self, field: str) -> str:
        """Return an id as text, whether it is written as text or number."""
        value = self.fields[field]
        if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
            raise ValueError(f"{self.place}: {field!r} is {value!r}; an id is a text or a whole number")
        return self._check(str(value), field)

    def read_text(self, field: str) -> str:
        """Return a text; empty where there is none."""
        value = self.fields.get(field)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return ""
        if not isinstance(value, str):
            raise ValueError(
                f"{self.place}: {field!r} is of type {type(value).__name__}, {str(value)[:60]!r}; a text is needed, "
                "so join lists and quote numbers"
            )
        return self._check(value, field)

    def read_score(self, field: str) -> Fraction:
        """Return a number exactly as it is written."""
        value = self.fields[field]
        try:
            return Fraction(str(value).strip())
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"{self.place}: {field!r} is {value!r}; a number is needed") from None

    def _check(self, text: str, field: str) -> str:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{self.place}: {field!r} holds half a surrogate pair, {text[error.start]!a}, which is no "
                "character; remove it"
            ) from None
        return text


def read_records(path: Path, table: Table) -> Iterator[Record]:
    """Read a file row by row.

    Args:
        path: Parquet, JSON lines, a JSON array, CSV or TSV; all but the first gzipped or not.
        table: What it holds.

    Yields:
        Its rows, with the fields of the table.

    Raises:
        ValueError: If the file is damaged or a column is missing; with its line.
    """
    kind = find_kind(path)
    if kind is None:
        raise ValueError(f"{path} is no file of rows that is known here")
    columns: dict[str, str] = {}
    known: KeysView[str] = columns.keys()
    count = 0
    with _explaining(path):
        for place, row in _iterate(path, kind, table):
            count += 1
            if row.keys() != known:
                columns, known = find_columns(row, table, place), row.keys()
            yield Record({field: row[column] for column, field in columns.items()}, place)
    if not count:
        raise ValueError(f"{path} has no rows")


def _iterate(path: Path, kind: str, table: Table) -> Iterator[tuple[str, dict[str, Any]]]:
    if kind in (".parquet", ".pq"):
        import pyarrow.parquet as pq

        rows = (row for batch in pq.ParquetFile(path).iter_batches() for row in batch.to_pylist())
        yield from ((f"{path}, row {number}", row) for number, row in enumerate(rows, 1))
    elif kind in (".csv", ".tsv"):
        yield from _iterate_table(path, kind, table)
    elif kind in (".jsonl", ".ndjson", ".json"):
        with open_text(path) as file:
            is_array = file.read(64).lstrip().startswith("[")
            file.seek(0)
            lines = enumerate([file.read()] if is_array else file, 1)
            for number, line in lines:
                if line.strip():
                    found = _parse(line, path, number)
                    for at, row in enumerate(found if is_array else [found], 1):
                        place = f"{path}, row {at}" if is_array else f"{path}, line {number}"
                        if not isinstance(row, dict):
                            raise ValueError(f"{place} holds no object with fields, but {str(row)[:60]!r}")
                        yield place, row
    else:
        raise ValueError(f"{path}: parquet, JSON lines, JSON arrays, CSV and TSV are read here")


def _parse(line: str, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}, line {number + error.lineno - 1} is no JSON ({error.msg}, column {error.colno}); is it cut?"
        ) from error


def _iterate_table(path: Path, kind: str, table: Table) -> Iterator[tuple[str, dict[str, Any]]]:
    lift_field_limit()
    dialect = find_dialect(path, kind)
    with open_text(path) as file:
        rows = csv.reader(file, delimiter=dialect["sep"], quoting=dialect.get("quoting", csv.QUOTE_MINIMAL))
        header: Sequence[str] = ()
        for row in rows:
            if not row:
                continue
            place = f"{path}, line {rows.line_num}"
            if not header:
                if is_header(row, table):
                    header = row
                    continue
                if len(row) not in table.positions:
                    raise ValueError(
                        f"{place} has {len(row)} columns, {row[:5]}, and no header; needed are {list(table.aliases)}"
                        f"{_hint_at_spaces(row, table, path)}"
                    )
                header = table.positions[len(row)]
            if len(row) != len(header):
                raise ValueError(f"{place} has {len(row)} columns, and the first line {len(header)}")
            yield place, dict(zip(header, row, strict=True))


def _hint_at_spaces(row: Sequence[str], table: Table, path: Path) -> str:
    """Say how to mend a row whose columns are separated by spaces, as TREC writes judgements."""
    if len(row) != 1 or len(row[0].split()) not in (*table.positions, len(table.aliases)):
        return ""
    name = strip_ending(path.name)
    return f". Columns need tabs between them, not spaces: sed -E 's/ +/\\t/g' {path.name} > {name}-tabs.tsv"


def is_header(row: Sequence[str], table: Table) -> bool:
    """Return whether a row names the columns of a table."""
    names = {name for aliases in table.aliases.values() for name in aliases} | {
        fold_name(name) for name in table.aliases
    }
    return sum(fold_name(cell) in names for cell in row) > len(table.aliases) // 2


def find_columns(row: dict[str, Any], table: Table, place: str) -> dict[str, str]:
    """Find the column of every field."""
    folded = {fold_name(str(column)): column for column in reversed(row)}
    found = {}
    for field, aliases in table.aliases.items():
        column = next((folded[name] for name in (fold_name(field), *aliases) if name in folded), None)
        if column is not None:
            found[column] = field
        elif field not in table.optional:
            raise ValueError(
                f"{place} has no column {field!r}, only {list(row)}; rename the one that is meant. "
                f"{', '.join(aliases)} are understood too"
            )
    return found


def fold_name(name: str) -> str:
    """Return the name of a column as the aliases of a table are written."""
    return name.strip().lower().replace("-", "_").replace(" ", "_")


@contextmanager
def _explaining(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} cannot be read: {explain_encoding(path)}") from error
    except (csv.Error, EOFError, gzip.BadGzipFile, pa.ArrowInvalid) as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
