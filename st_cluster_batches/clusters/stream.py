"""Label a stream row by row as it is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from st_cluster_batches.clusters.false_negatives import list_keys
from st_cluster_batches.columns import CLUSTER, FALSE_NEGATIVE_KEYS, LABEL_COLUMNS, SOURCE, TARGET_COLUMNS
from st_cluster_batches.data.pairs import WHOLE, Key, sides_of

if TYPE_CHECKING:
    from datasets import IterableDataset

# Finds the clusters of texts, or of (query, passage) tuples, whose sources are given too: `Clustering.assign`.
Assign = Callable[[Sequence[Any], str | Sequence[str]], npt.NDArray[np.int64]]

_TEXT_TYPES = ("string", "large_string")
_BATCH = 1024  # rows that are read ahead and embedded at once


def label_stream(
    dataset: IterableDataset, assign: Assign, key: Key, source_column: str | None, overwrite: bool
) -> IterableDataset:
    """Attach labels lazily: the cluster, and the keys that a row shares with its false negatives.

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
    from datasets import Features, List, Value

    first = next(iter(dataset), None)
    if first is None:
        raise ValueError("The stream has no rows; there is nothing to label")
    if present := [column for column in (CLUSTER, FALSE_NEGATIVE_KEYS) if column in first]:
        if not overwrite:
            raise ValueError(f"The stream has the columns {present} already; pass overwrite=True to replace them")
        dataset = dataset.remove_columns(present)
    if source_column not in (None, SOURCE):
        if source_column not in first:
            raise ValueError(f"The stream has no column {source_column!r}, only {list(first)}")
        dataset = dataset.rename_column(source_column, SOURCE)
    not_text = {*LABEL_COLUMNS, *TARGET_COLUMNS, source_column}
    features = dataset.features
    is_text = {name: isinstance(value, str) for name, value in first.items()}
    if features is not None:  # a first row may lack a text
        is_text = {name: getattr(one, "dtype", None) in _TEXT_TYPES for name, one in features.items()}
    columns = [name for name, is_one in is_text.items() if is_one and name not in not_text]
    has_targets = any(name in TARGET_COLUMNS for name in first)
    if len(columns) < len(sides_of(key)):
        raise ValueError(f"The stream has the columns of text {columns}; key={key!r} needs more")
    if features is not None:
        keys = {} if has_targets else {FALSE_NEGATIVE_KEYS: List(Value("int64"))}
        features = Features({**features, CLUSTER: Value("int64"), **keys})
    arguments = {
        "assign": assign,
        "key": key,
        "columns": columns,
        "by_source": source_column is not None,
        "has_targets": has_targets,
    }
    return dataset.map(_label_batch, batched=True, batch_size=_BATCH, features=features, fn_kwargs=arguments)


def _label_batch(
    batch: dict[str, list[Any]], assign: Assign, key: Key, columns: list[str], by_source: bool, has_targets: bool
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
    if has_targets:
        return {CLUSTER: clusters}
    return {CLUSTER: clusters, FALSE_NEGATIVE_KEYS: list_keys([batch[name] for name in columns])}
