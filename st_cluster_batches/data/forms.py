"""Other forms of training data than columns of text: lists of positives, judgements, labelled pairs."""

from __future__ import annotations

import logging
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from st_cluster_batches.columns import SOURCE
from st_cluster_batches.data.collection import Judging, read_collection
from st_cluster_batches.data.role_names import find_rank
from st_cluster_batches.data.roles import TEXT, describe_feature, list_texts
from st_cluster_batches.row_keys import TARGET_COLUMNS
from st_cluster_batches.target_values import read_targets

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

_QUERY = ("query", "question", "anchor")
# As FlagEmbedding, Tevatron and DPR call them; those of the last two hold title and text.
_POSITIVES = ("pos", "positive", "positives", "positive_passages", "positive_ctxs")
_NEGATIVES = ("neg", "negative", "negatives", "negative_passages", "hard_negative_ctxs", "negative_ctxs")
_LABELS = (*TARGET_COLUMNS, "is_duplicate", "duplicate", "target", "relevance", "relevant", "is_relevant")


def read_judged_pairs(folder: Path, split: str) -> Dataset:
    """Read a collection in the layout of BEIR as pairs: every query with each document that is relevant to it.

    Args:
        folder: The collection.
        split: Which judgements of `qrels/`.

    Returns:
        Pairs with the columns query and passage; title and text of a document are joined by a space.
    """
    from datasets import Dataset

    collection = read_collection(folder, Judging(split, "drop"))
    rows = [
        {"query": collection.queries[query], "passage": " ".join(collection.corpus[document]).strip()}
        for query, judged in collection.qrels.items()
        for document, score in judged.items()
        if score > 0
    ]
    kept = [row for row in rows if row["passage"]]
    if len(kept) < len(rows):
        logger.warning(
            "%s: %d of %d judged documents are empty and left out", folder, len(rows) - len(kept), len(rows)
        )
    logger.info("%s: %d pairs of the judgements %r", folder, len(kept), split)
    return Dataset.from_list(kept)


def spread_lists(rows: Dataset, max_negatives: int | None, where: str) -> Dataset:
    """Turn lists of positives and negatives, as FlagEmbedding, Tevatron and DPR have them, into columns.

    Each positive gets a row. Title and text of a passage are joined by a space.

    Args:
        rows: Rows with a query and a list of positives; others are returned as they are.
        max_negatives: Columns of negatives. A row with fewer repeats its own, as FlagEmbedding does, and one without
            any is left out. By default as many as the row with the fewest has.
        where: Whatever holds the rows, as messages name it.
    """
    query, positive, negative = _find_lists(rows)
    if query is None or positive is None or not any(_is_list(rows, one) for one in (positive, negative)):
        if max_negatives is not None:
            logger.warning(
                "%s: max_negatives=%d decides nothing, for no column holds lists of negatives; there are %s. Leave it "
                "out, or choose among columns of text: --columns QUERY POSITIVE NEGATIVE",
                where,
                max_negatives,
                ", ".join(rows.column_names),
            )
        return rows
    counts = [0] if negative is None else [len(_listed(one)) for one in rows[negative]]
    n_negatives = min(counts) if max_negatives is None else min(max_negatives, max(counts))
    _tell_of_lists([len(_listed(one)) for one in rows[positive]], counts, n_negatives, max_negatives, where)
    if aside := [name for name in rows.column_names if name not in (query, positive, negative, SOURCE)]:
        logger.warning("%s: the columns %s are set aside; texts alone are trained on", where, ", ".join(aside))
    names = ["negative"] if n_negatives == 1 else [f"negative_{at}" for at in range(1, n_negatives + 1)]
    shaped = rows.map(
        _spread,
        with_indices=True,
        batched=True,
        remove_columns=rows.column_names,
        fn_kwargs={"query": query, "positive": positive, "negative": negative, "names": names, "where": where},
        desc="Spreading lists to columns",
    )
    if not len(shaped):
        raise ValueError(f"{where}: no row has a positive in {positive!r}")
    logger.info("%s: %d rows with lists of texts give %d pairs", where, len(rows), len(shaped))
    # Columns that were there before keep their places in a map.
    return shaped.select_columns(["query", "positive", *names, *([SOURCE] if SOURCE in shaped.column_names else [])])


def _find_lists(rows: Dataset) -> tuple[str | None, str | None, str | None]:
    """Return the columns of queries, positives and negatives, where some hold lists."""
    query, positive, negative = (
        next((name for name in names if name in rows.column_names), None) for names in (_QUERY, _POSITIVES, _NEGATIVES)
    )
    if negative is None:
        negative = next((name for name in rows.column_names if find_rank(name) == 2 and _is_list(rows, name)), None)
    if positive is None and _is_list(rows, negative):  # one answer of a name that says nothing of lists
        positive = next((name for name in list_texts(rows.features) if find_rank(name) == 1), None)
    return query, positive, negative


def _tell_of_lists(
    positives: list[int], negatives: list[int], n_negatives: int, max_negatives: int | None, where: str
) -> None:
    """Warn of rows whose lists are empty, or of different lengths, by their numbers of positives and negatives."""
    if min(negatives) < max(negatives):
        fate = f"{n_negatives} columns, some repeated" if max_negatives else f"{n_negatives} become columns"
        logger.warning(
            "%s: rows have %d to %d negatives; %s (--max_negatives chooses)",
            where,
            min(negatives),
            max(negatives),
            fate,
        )
    if max_negatives is not None and max_negatives > max(negatives):
        logger.warning(
            "%s: rows have %d negatives at most, so there are %d columns of them and not the max_negatives=%d that "
            "were asked for",
            where,
            max(negatives),
            n_negatives,
            max_negatives,
        )
    if n_negatives and (bare := negatives.count(0)):
        logger.warning("%s: %d of %d rows have no negative and are left out", where, bare, len(negatives))
    if empty := positives.count(0):
        logger.warning(
            "%s: %d of %d rows have no positive and are left out; nothing says what answers them",
            where,
            empty,
            len(positives),
        )


def _spread(
    batch: dict[str, list[Any]],
    rows: list[int],
    query: str,
    positive: str,
    negative: str | None,
    names: list[str],
    where: str,
) -> dict[str, list[Any]]:
    """Give each positive of a batch a row.

    Raises:
        ValueError: If a list holds no text in some place, with the row that the user knows.
    """
    columns: dict[str, list[Any]] = {name: [] for name in ("query", "positive", *names)}
    if SOURCE in batch:
        columns[SOURCE] = []
    for at, text in enumerate(batch[query]):
        negatives = _listed(batch[negative][at]) if negative is not None else []
        if names and not negatives:
            continue
        positives = _listed(batch[positive][at])
        for name, texts in ((positive, positives), (negative, negatives[: len(names)])):
            if not all(isinstance(one, str) and one.strip() for one in texts):
                raise ValueError(
                    f"{where}: the list {name!r} of row {rows[at]} holds an empty text; take it out there"
                )
        for one in positives:
            columns["query"].append(text)
            columns["positive"].append(one)
            for name, other in zip(names, islice(cycle(negatives), len(names)), strict=True):
                columns[name].append(other)
            if SOURCE in batch:
                columns[SOURCE].append(batch[SOURCE][at])
    return columns


def _listed(value: Any) -> list[Any]:
    values = [] if value is None else list(value) if isinstance(value, list) else [value]
    return [_join_title(one) if isinstance(one, dict) else one for one in values]


def _join_title(passage: dict[str, Any]) -> str:
    return " ".join(filter(None, (passage.get("title"), passage["text"]))).strip()


def _is_list(rows: Dataset, name: str | None) -> bool:
    """Whether a column holds lists of texts, or of passages with a text and perhaps a title."""
    inner = None if name is None else getattr(rows.features[name], "feature", None)
    if isinstance(inner, dict):
        inner = inner.get("text")
    return describe_feature(inner) == TEXT


def keep_positive(rows: Dataset, label: str, where: str) -> Dataset:
    """Keep the pairs with one label, without the column that holds it.

    Args:
        rows: Pairs with a column such as `label` or `is_duplicate`.
        label: Its value in the pairs that belong together.
        where: Whatever holds the rows, as messages name it.

    Raises:
        ValueError: If there is no such column, or no such pair.
    """
    column = next((name for name in _LABELS if name in rows.column_names), None)
    if column is None:
        raise ValueError(
            f"{where} has no column of labels, only {rows.column_names}; --positive_label {label} needs one that is "
            f"called {', '.join(_LABELS)}"
        )
    values = rows[column][:]
    names = getattr(rows.features[column], "names", ())  # of classes, whose values are their numbers
    wanted = str(names.index(label)) if label in names else label
    kept = [at for at, value in enumerate(values) if _is_label(value, wanted)]
    if not kept:
        raise ValueError(f"{where}: no row has the label {label!r} in {read_targets(rows, [column])[0]}")
    logger.warning(
        "%s: %d of %d pairs have the label %s in %r and are kept; %d are left out",
        where,
        len(kept),
        len(values),
        label,
        column,
        len(values) - len(kept),
    )
    return rows.select(kept).remove_columns(column)


def _is_label(value: Any, label: str) -> bool:
    try:
        return float(value) == float(label)  # "1", 1, 1.0 and True are one label
    except (TypeError, ValueError):
        return str(value) == label
