"""Whether a column `source` is a label, which hides it from the loss, or a text that happens to have this name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from st_cluster_batches.batches.loaders import Loader
from st_cluster_batches.columns import CLUSTER, SOURCE

if TYPE_CHECKING:
    from datasets import Dataset

_SAMPLE = 4096  # rows that are looked at
_FEW = 20  # sources that any number of rows may have


def has_source_labels(dataset: Dataset) -> bool:
    """Return whether the column `source` is a label: whether each cluster lies in one source.

    A sample of the rows tells, since samplers are built often. In translation pairs (columns source, target, negative)
    the rows of a cluster have different texts there.

    Args:
        dataset: The rows, hidden columns or not; without clusters nothing says that `source` is a label.
    """
    if not {SOURCE, CLUSTER} <= set(dataset.column_names) or not len(dataset):
        return False
    rows = np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), _SAMPLE)).astype(np.int64))
    table = dataset.with_format("arrow", columns=[SOURCE, CLUSTER])[rows]
    if pa.types.is_nested(table[SOURCE].type):
        return False
    sources = pc.rank(table[SOURCE].cast(pa.large_string()), tiebreaker="min")
    numbered = pa.table({SOURCE: sources, CLUSTER: table[CLUSTER].combine_chunks()})
    in_cluster = numbered.group_by(CLUSTER).aggregate([(SOURCE, "count_distinct")])[f"{SOURCE}_count_distinct"]
    n_sources = pc.count_distinct(sources).as_py()
    # Where every row has a cluster of its own, each lies in one source whatever there is.
    is_repeated = n_sources < len(rows) or n_sources == 1
    return bool(is_repeated and n_sources <= max(_FEW, len(rows) // 2) and pc.max(in_cluster).as_py() == 1)


def is_source_hidden(dataset: Dataset, loader: Loader) -> bool:
    """Return whether the loss is not to see a column `source` that no option names.

    Args:
        dataset: The dataset that a sampler is for.
        loader: Who asks for it. An evaluation set shows what the training data shows.
    """
    if SOURCE not in dataset.column_names:
        return False
    trained = [] if loader.is_training else [one for one in loader.trained if SOURCE in one.column_names]
    return any(map(has_source_labels, trained or [dataset]))
