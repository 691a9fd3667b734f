"""Label a stream row by row as it is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from st_cluster_batches.columns import CLUSTER, FALSE_NEGATIVE_GROUP, LABEL_COLUMNS, SOURCE, TARGET_COLUMNS
from st_cluster_batches.data.duplicates import hash_texts
from st_cluster_batches.data.pairs import WHOLE, Key, sides_of

if TYPE_CHECKING:
    from datasets import IterableDataset

# Finds the clusters of texts, or of (query, passage) tuples, whose sources are given too: `Clustering.assign`.
Assign = Callable[[Sequence[Any], str | Sequence[str]], npt.NDArray[np.int32]]

_BATCH = 1024  # rows that are read ahead and embedded at once


def label_stream(
    dataset: IterableDataset, assign: Assign, key: Key, source_column: str | None, overwrite: bool
) -> IterableDataset:
    """Attach labels lazily: `cluster`, and as `false_negative_group` a hash of the passage.

    Groups that also know of shared queries need all rows at once; a stream does not have them.

    Args:
        dataset: Pairs or longer tuples of text.
        assign: Finds the clusters of texts.
        key: The text that decides the cluster.
        source_column: Column that names the source of a row; the default one may be absent.
        overwrite: Whether to replace label columns that the dataset has.

    Returns:
        A stream of the same rows with labels.

    Raises:
        ValueError: If columns do not fit; the rows are checked as they come.
    """
    from datasets import Features, Value

    first = next(iter(dataset), None)
    if first is None:
        raise ValueError("The stream has no rows; there is nothing to label")
    if present := [column for column in (CLUSTER, FALSE_NEGATIVE_GROUP) if column in first]:
        if not overwrite:
            raise ValueError(f"The stream has the columns {present} already; pass overwrite=True to replace them")
        dataset = dataset.remove_columns(present)
    if source_column not in (None, SOURCE):
        if source_column not in first:
            raise ValueError(f"The stream has no column {source_column!r}, only {list(first)}")
        dataset = dataset.rename_column(source_column, SOURCE)
    not_text = {*LABEL_COLUMNS, *TARGET_COLUMNS, source_column}
    columns = [name for name, value in first.items() if isinstance(value, str) and name not in not_text]
    if len(columns) < len(sides_of(key)):
        raise ValueError(f"The stream has the columns of text {columns}; key={key!r} needs more")
    features = dataset.features
    if features is not None:
        features = Features({**features, CLUSTER: Value("int32"), FALSE_NEGATIVE_GROUP: Value("int32")})
    arguments = {"assign": assign, "key": key, "columns": columns[:2], "by_source": source_column is not None}
    return dataset.map(_label_batch, batched=True, batch_size=_BATCH, features=features, fn_kwargs=arguments)


def _label_batch(
    batch: dict[str, list[Any]], assign: Assign, key: Key, columns: list[str], by_source: bool
) -> dict[str, Any]:
    for name in columns:
        if missing := [at for at, text in enumerate(batch[name]) if not (text or "").strip()]:
            raise ValueError(
                f"Column {name!r} has no text in row {missing[0]} of a batch: {batch[name][missing[0]]!r}"
            )
    sides = sides_of(key)
    texts = [batch[columns[0 if side == "query" else 1]] for side in sides]
    has_source = by_source and SOURCE in batch
    clusters = assign(
        list(zip(*texts, strict=True)) if len(sides) > 1 else texts[0],
        [str(one) for one in batch[SOURCE]] if has_source else WHOLE,
    )
    groups = (hash_texts(batch[columns[-1]]) >> np.uint64(33)).astype(np.int32)
    return {CLUSTER: clusters, FALSE_NEGATIVE_GROUP: groups}
