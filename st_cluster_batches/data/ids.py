"""Training data that names its texts by ids, as MS MARCO's triples do, and the files that hold them."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from st_cluster_batches.data.files import find_dialect, find_kind, open_text, read_file
from st_cluster_batches.data.records import (
    CORPUS,
    QUERIES,
    TRIPLES,
    Table,
    find_columns,
    fold_name,
    is_header,
    read_records,
)
from st_cluster_batches.data.role_names import has_role_name
from st_cluster_batches.storage.cache import hash_values

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


def read_ids(path: Path, cache_dir: str | None = None) -> Dataset:
    """Read a file of ids, with the names of its columns in its first line or without."""
    kind = find_kind(path)
    if kind not in (".csv", ".tsv"):
        return read_file(path, cache_dir)
    with open_text(path) as file:
        first = next(csv.reader(file, delimiter=find_dialect(path, kind)["sep"]), [])
    if is_header(first, TRIPLES) or len(first) not in TRIPLES.positions:
        return read_file(path, cache_dir)
    return read_file(path, cache_dir, column_names=list(TRIPLES.positions[len(first)]))


def join_texts(ids: Dataset, queries: Mapping[str, str], corpus: Mapping[str, str], where: str) -> Dataset:
    """Put texts in the place of ids, as MS MARCO's triples have them.

    Args:
        ids: Rows of a query id, the id of a positive and perhaps that of a negative.
        queries: Text by id.
        corpus: Text by id.
        where: Whatever holds the ids, as messages name it.

    Raises:
        ValueError: If an id has no text; the message names the first ones.
    """
    columns = find_columns(dict.fromkeys(ids.column_names), TRIPLES, where)
    texts = {column: queries if field == "query_id" else corpus for column, field in columns.items()}
    for column, known in texts.items():
        missing = dict.fromkeys(
            key for batch in ids.iter(10_000) for key in map(str, batch[column]) if key not in known
        )
        if missing:
            raise ValueError(
                f"{where}: {len(missing)} ids of the column {column!r} have no text, such as "
                f"{', '.join(list(missing)[:5])}; give the files that hold them: --queries FILE --corpus FILE"
            )
    named = {field.removesuffix("_id"): column for column, field in columns.items()}

    def join(batch: dict[str, list[Any]]) -> dict[str, list[str]]:
        return {name: [texts[column][str(key)] for key in batch[column]] for name, column in named.items()}

    # Named by hand: `datasets` would hash all texts to name it.
    sizes = [(len(one), sum(map(len, one.values()))) for one in (queries, corpus)]
    return ids.map(
        join,
        batched=True,
        remove_columns=ids.column_names,
        new_fingerprint=hash_values(ids._fingerprint, sizes, sorted(named.items()))[:16],
        load_from_cache_file=False,
        desc="Joining texts",
    )


def refuse_ids(rows: Dataset, where: str) -> None:
    """Raise a ValueError if rows hold ids in the place of texts."""
    names = {fold_name(name) for name in rows.column_names}
    # Some of the names that stand for ids in triples are those of texts elsewhere: `pos`, `positive`.
    named = {name for name in names if has_role_name(name) or name in CORPUS.aliases["text"]}
    texts = {name for name in named if not name.endswith("id")}
    queries, positives = ({field, *TRIPLES.aliases[field]} & names - texts for field in ("query_id", "positive_id"))
    if queries and positives and not texts:
        raise ValueError(
            f"{where} holds ids, {rows.column_names}, and no texts; give the files that do: --queries FILE "
            "--corpus FILE (in a recipe `queries:` and `corpus:`)"
        )


def read_texts(place: str, table: Table, load: Callable[[str], Any]) -> dict[str, str]:
    """Read texts by id from a file, or from a configuration on the Hub.

    Args:
        place: The file, or the name of the configuration.
        table: What it holds.
        load: Loads a configuration.
    """
    if Path(place).is_file():
        texts: dict[str, str] = {}
        for record in read_records(Path(place), table):
            title = record.read_text("title") if "title" in record.fields else ""
            texts[record.read_id("_id")] = f"{title} {record.read_text('text')}".strip()
        return texts
    if find_kind(Path(place)) or Path(place).exists():
        raise FileNotFoundError(f"There is no file {place} with the {table.name}")
    loaded = load(place)
    rows = next(iter(loaded.values())) if isinstance(loaded, dict) else loaded
    columns = {field: column for column, field in find_columns(dict.fromkeys(rows.column_names), table, place).items()}
    return {
        str(key): text
        for batch in rows.iter(10_000)
        for key, text in zip(batch[columns["_id"]], batch[columns["text"]], strict=True)
    }


def join_ids(ids: Dataset, queries: str | None, corpus: str | None, load: Callable[[str], Any], where: str) -> Dataset:
    """Put the texts of two files in the place of ids; see `join_texts` and `read_texts`."""
    if queries is None or corpus is None:
        raise ValueError(f"--queries {queries} and --corpus {corpus} go together; give both")
    joined = join_texts(ids, read_texts(queries, QUERIES, load), read_texts(corpus, CORPUS, load), where)
    logger.info("%s: %d rows of ids have got their texts", where, len(joined))
    return joined
