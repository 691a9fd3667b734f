"""Whether a column `source` is a label, which hides it from the loss, or a text that happens to have this name."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from st_cluster_batches.batches.callers import Caller
from st_cluster_batches.column_values import FEW_SOURCES, ROWS_OF_A_SOURCE, count_sources_at_most, sample_rows
from st_cluster_batches.columns import CLUSTER, FALSE_NEGATIVE_KEYS, SOURCE
from st_cluster_batches.row_keys import NO_TEXT_COLUMNS

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


def has_source_labels(dataset: Dataset, gets_clusters: bool = False) -> bool:
    """Return whether the column `source` is a label: whether each cluster lies in one source.

    A sample of the rows tells, since samplers are built often. In translation pairs (columns source, target, negative)
    the rows of a cluster have different texts there. Where rows have keys and no clusters, or clusters are still to be
    made, it is a label if there are no more sources than that many rows can have.

    Args:
        dataset: The rows, hidden columns or not; without clusters or keys nothing says that `source` is a label.
        gets_clusters: Whether they will be made while the rows are trained on.
    """
    labels = [name for name in (CLUSTER, FALSE_NEGATIVE_KEYS) if name in dataset.column_names]
    if SOURCE not in dataset.column_names or not (labels or gets_clusters) or not len(dataset):
        return False
    rows = sample_rows(len(dataset))
    table = dataset.with_format("arrow", columns=[SOURCE, *labels[:1]])[rows]
    if labels[:1] != [CLUSTER]:
        table = table.select([SOURCE]).append_column(CLUSTER, table[SOURCE])
    if any(pa.types.is_nested(kind) or pa.types.is_binary(kind) for kind in table.schema.types):
        return False
    sources = pc.rank(table[SOURCE].cast(pa.large_string()), tiebreaker="min")
    numbered = pa.table({SOURCE: sources, CLUSTER: table[CLUSTER].combine_chunks()})
    in_cluster = numbered.group_by(CLUSTER).aggregate([(SOURCE, "count_distinct")])[f"{SOURCE}_count_distinct"]
    n_sources = pc.count_distinct(sources).as_py()
    is_nested = pc.max(in_cluster).as_py() == 1
    return bool(is_nested and n_sources <= _count_sources_at_most(dataset.column_names, len(rows)))


def tell_of_source_texts(dataset: Dataset) -> None:
    """Say that the column `source` is trained on as text; warn where it has as few values as a label."""
    n_values = _count_few_values(dataset)
    reason = "no clusters say that it is none"
    remedy = (
        f"take it away, dataset.remove_columns({SOURCE!r}), or fill batches from it: configure(strata=({SOURCE!r},))"
    )
    if CLUSTER in dataset.column_names:
        reason = "clusters do not lie within its values"
        remedy = f"name it: ClusterBatchSampler.configure(strata=({SOURCE!r}, {CLUSTER!r}))"
    logger.log(
        logging.WARNING if n_values else logging.INFO,
        "The column %r%s is trained on as text, since %s. If it is a label, %s",
        SOURCE,
        f", of {n_values} values only," if n_values else "",
        reason,
        remedy,
    )


def _count_few_values(dataset: Dataset) -> int:
    """Return how many values the column has; 0 if as many as texts have."""
    rows = sample_rows(len(dataset))
    column = dataset.with_format("arrow", columns=[SOURCE])[rows][SOURCE]
    if pa.types.is_nested(column.type) or len(rows) <= 2 * FEW_SOURCES:
        return 0
    n_values = int(pc.count_distinct(column).as_py())
    return n_values if n_values <= FEW_SOURCES else 0


def _count_sources_at_most(columns: list[str], n_rows: int) -> int:
    """Return how many values a column of sources can have: fewer where it stands in the place of a text.

    A text that stands in several rows may well be alone in its cluster, where clusters are small; and where every row
    has a cluster of its own, each lies in one source whatever there is.
    """
    after = columns[columns.index(SOURCE) + 1 :]
    if after[:1] == [CLUSTER] or all(name in (CLUSTER, FALSE_NEGATIVE_KEYS, *NO_TEXT_COLUMNS) for name in after):
        return 1 if n_rows == 1 else min(count_sources_at_most(n_rows), n_rows - 1)
    return n_rows // ROWS_OF_A_SOURCE


def is_source_hidden(dataset: Dataset, caller: Caller, gets_clusters: bool) -> bool:
    """Return whether the loss is not to see a column `source` that no option names.

    Args:
        dataset: The dataset that a sampler is for.
        caller: Who asks for it. An evaluation set shows what the training data shows.
        gets_clusters: Whether a refresh will make clusters, which lie within sources.
    """
    if SOURCE not in dataset.column_names:
        return False
    trained = [] if caller.is_training else [one for one in caller.trained if SOURCE in one.column_names]
    return any(has_source_labels(one, gets_clusters) for one in trained or [dataset])
