"""How hard the negatives of the first batches are that a trainer will see."""

from __future__ import annotations

from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from st_cluster_batches.batches.callers import find_inner_sampler
from st_cluster_batches.batches.hardness import BatchHardness, Vectors, measure_batches
from st_cluster_batches.clusters.encoder import Encoder
from st_cluster_batches.clusters.vectors import take_by_key
from st_cluster_batches.data.pairs import Side
from st_cluster_batches.data.texts import hash_rows
from st_cluster_batches.row_keys import NO_TEXT_COLUMNS
from st_cluster_batches.storage.shared_cache import SharedCache

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

_MEASURED_BATCHES = 16


def measure_loader(loader: DataLoader[Any], encoder: Encoder, cache: SharedCache) -> BatchHardness:
    """Measure the first batches that a trainer will see.

    Args:
        loader: The training data with their sampler, prepared by accelerate or not.
        encoder: The model whose similarities are taken.
        cache: Where vectors of these rows may lie: only those that do not are embedded.

    Returns:
        The means over all queries of these batches.
    """
    batches = list(islice(find_inner_sampler(loader), _MEASURED_BATCHES))
    rows = [loader.dataset[int(row)] for batch in batches for row in batch]
    # The collator takes columns by position: query, positive, negatives; datasets of a dict may differ in them.
    rows_by_columns: dict[tuple[str, ...], list[int]] = {}
    for at, row in enumerate(rows):
        columns = tuple(name for name, one in row.items() if isinstance(one, str) and name not in NO_TEXT_COLUMNS)
        rows_by_columns.setdefault(columns, []).append(at)
    found: dict[Side, list[Vectors]] = {"query": [], "passage": []}
    for columns, own in rows_by_columns.items():
        table = pa.table({name: [rows[at][name] for at in own] for name in columns})
        texts: dict[Side, list[str]] = {side: table[columns[at]].to_pylist() for at, side in enumerate(found)}
        vectors = take_by_key(encoder, cache, hash_rows(table, columns), texts, "Embedding some batches")
        for side, one in found.items():
            one.append(vectors[side])
    order = np.argsort(np.concatenate([*rows_by_columns.values()]))
    queries, passages = (np.concatenate(one)[order] for one in found.values())
    bounds = np.cumsum([0, *map(len, batches)])
    return measure_batches(queries, passages, [np.arange(low, high) for low, high in pairwise(bounds)])
