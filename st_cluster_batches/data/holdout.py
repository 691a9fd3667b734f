"""Hold pairs out of the training data as small test collections, to tune options on."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from st_cluster_batches.columns import SOURCE
from st_cluster_batches.data.collection import Collection
from st_cluster_batches.data.duplicates import fold_text, group_equal, hash_column
from st_cluster_batches.data.roles import Columns, find_roles, read_as_columns
from st_cluster_batches.data.sources import read_sources
from st_cluster_batches.data.texts import check_texts

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

# A trainer with push_to_hub uploads its whole folder, training texts and all, but for names with an underscore.
HELD_OUT_FOLDER = "_held_out"
_TOO_FEW = 2  # times as many queries that the smallest groups would give
_WORTH_A_WARNING = 0.01  # share of the rows that are left out for their negatives


def hold_out(
    dataset: Dataset,
    n_queries: int,
    n_documents: int,
    seed: int = 0,
    columns: Columns | None = None,
    *,
    warns: bool = True,
) -> tuple[Dataset, dict[str, Collection]]:
    """Hold out some queries of each source, with all that repeats them.

    Rows that share a query or a passage, directly or through others, are held out together: neither a held-out query
    nor its answers are left in the training data, nor are rows that have such an answer as a negative, which would
    teach the model to push it away. The rest of a collection's documents are training passages of the same source,
    which the model sees in training, but never as an answer to these queries.

    Args:
        dataset: Pairs; the source column is called `source`, if there is one.
        n_queries: Queries to hold out of each source. All that repeats them may take a tenth of its rows: a source
            that cannot give so many within that gives fewer, with a warning.
        n_documents: Documents of each collection, or as many as the source has.
        seed: Seed of the choice.
        columns: Query, positive, negatives, in order; by default as `find_roles` finds them.
        warns: Whether to warn of sources that give fewer queries: not where the number is none of the user's.

    Returns:
        The pairs that are left for training, and a collection for each source, by name.

    Raises:
        ValueError: If the dataset has no second column of text, or a text is missing.
    """
    has_sources = SOURCE in dataset.column_names and SOURCE not in (columns or ())
    roles = find_roles(dataset, columns, [SOURCE] if has_sources else [])
    texts, negatives = list(roles.texts[:2]), list(roles.texts[2:])
    if len(texts) < 2:
        raise ValueError(f"Holding out queries needs two columns of text, query and passage, not {texts}")
    read = read_as_columns(dataset, texts, [])
    check_texts(read, texts, show_progress_bar=False)
    names, source_of_row = ["held_out"], np.zeros(len(dataset), dtype=np.int32)
    if has_sources:
        names, source_of_row = read_sources(dataset)
    groups = group_equal(read, texts)
    queries = group_equal(read, texts[:1])
    rng = np.random.default_rng(seed)
    is_held_out = np.zeros(len(dataset), dtype=bool)
    collections = {}
    for at, name in enumerate(names):
        own = rng.permutation(np.flatnonzero(source_of_row == at))
        chosen = _choose_groups(groups[own], queries[own], n_queries)
        if (n_found := len(np.unique(queries[own[np.isin(groups[own], chosen)]]))) < n_queries and warns:
            logger.warning(
                "Source %r gives %d held-out queries of the %d asked for: with all that repeats them they may take a "
                "tenth of its %d rows",
                name,
                n_found,
                n_queries,
                len(own),
            )
        held_out = own[np.isin(groups[own], chosen)]
        is_held_out |= np.isin(groups, chosen)
        if len(held_out):
            others = own[~np.isin(groups[own], chosen)][: max(n_documents - len(held_out), 0)]
            collections[name] = _make_collection(read, texts, held_out, others, n_queries)
    is_left = ~is_held_out
    if negatives and is_held_out.any():
        answers = hash_column(read.select(np.flatnonzero(is_held_out)), texts[1], show_progress_bar=False)
        is_left &= ~_find_as_negatives(answers, dataset, negatives, is_left)
    return dataset.select(np.flatnonzero(is_left)), collections


def _find_as_negatives(
    answers: npt.NDArray[np.uint64], dataset: Dataset, negatives: list[str], among: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Tell which of some rows have a held-out answer among their negatives, and say how many."""
    found = np.zeros(len(dataset), dtype=bool)
    read = read_as_columns(dataset, negatives, [])
    check_texts(read, negatives, show_progress_bar=False)
    for name in negatives:
        found |= among & np.isin(hash_column(read, name, show_progress_bar=False), answers)
    if n_found := int(np.count_nonzero(found)):
        logger.log(
            logging.WARNING if n_found > _WORTH_A_WARNING * len(dataset) else logging.INFO,
            "%d of %d rows are left out beside those held out, since a held-out answer is among their negatives (%s). "
            "With fewer held-out queries, or fewer negatives of a row, fewer are",
            n_found,
            len(dataset),
            ", ".join(negatives),
        )
    return found


def _choose_groups(
    groups: npt.NDArray[np.int32], queries: npt.NDArray[np.int32], n_queries: int
) -> npt.NDArray[np.int32]:
    """Choose whole groups in the order of their first rows, until there are queries enough.

    All of them together take a tenth of the rows at most. Where a few groups take most of it, the smallest ones are
    taken first; elsewhere not, since these are of queries with few answers.

    Args:
        groups: (n,) the group of each row of a source, in random order.
        queries: (n,) numbers of their queries; a query is in one group.
        n_queries: Queries that are wanted.
    """
    distinct, first, rows = np.unique(groups, return_index=True, return_counts=True)
    group_of_query = groups[np.unique(queries, return_index=True)[1]]
    asked = np.bincount(np.searchsorted(distinct, group_of_query), minlength=len(distinct))

    def take(order: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        order = order[rows[order] <= len(groups) // 10]
        is_within = np.cumsum(rows[order]) <= len(groups) // 10
        is_wanted = np.cumsum(asked[order]) - asked[order] < n_queries
        return order[is_within & is_wanted]

    in_order, smallest = take(np.argsort(first)), take(np.lexsort((first, rows)))
    has_too_few = asked[smallest].sum() >= _TOO_FEW * asked[in_order].sum()
    return distinct[smallest if has_too_few else in_order]


def _make_collection(
    dataset: Dataset,
    columns: list[str],
    held_out: npt.NDArray[np.intp],
    others: npt.NDArray[np.intp],
    n_queries: int,
) -> Collection:
    """Make a collection of held-out rows, whose passages answer their queries, and of other passages.

    Texts that count as equal are one query, or one document: else an answer to the one would count against the other.
    """
    query_column, passage_column = columns
    passages: dict[str, tuple[str, str]] = {}
    for text in dataset.select(np.concatenate([held_out, others]))[passage_column]:
        passages.setdefault(fold_text(text), (f"d{len(passages)}", text))
    queries: dict[str, tuple[str, dict[str, int]]] = {}
    for row in dataset.select(held_out):
        _, answers = queries.setdefault(fold_text(row[query_column]), (row[query_column], {}))
        answers[passages[fold_text(row[passage_column])][0]] = 1
    kept = list(queries.values())[:n_queries]
    return Collection(
        {f"q{at}": query for at, (query, _) in enumerate(kept)},
        {document: ("", text) for document, text in passages.values()},
        {f"q{at}": answers for at, (_, answers) in enumerate(kept)},
    )
