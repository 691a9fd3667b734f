"""Label a stream row by row as it is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from st_cluster_batches.batches.labels import CLUSTER, FALSE_NEGATIVE_GROUP, LABEL_COLUMNS, SOURCE
from st_cluster_batches.clusters.encoder import sides_of
from st_cluster_batches.data.pairs import WHOLE
from st_cluster_batches.data.texts import TARGET_COLUMNS, hash_texts

if TYPE_CHECKING:
    from datasets import IterableDataset

    from st_cluster_batches.clusters.clustering import Clustering

_BATCH = 1024  # rows that are read ahead and embedded at once


def label_stream(
    dataset: IterableDataset, clustering: Clustering, source_column: str | None, overwrite: bool
) -> IterableDataset:
    """Attach labels lazily: `cluster`, and as `false_negative_group` a hash of the passage.

    Groups that also know of shared queries need all rows at once; a stream does not have them.

    Args:
        dataset: Pairs or longer tuples of text.
        clustering: Centroids with their encoder.
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
    if len(columns) < len(sides_of(clustering.manifest["key"])):
        raise ValueError(
            f"The stream has the columns of text {columns}; key={clustering.manifest['key']!r} needs more"
        )
    features = dataset.features
    if features is not None:
        features = Features({**features, CLUSTER: Value("int32"), FALSE_NEGATIVE_GROUP: Value("int32")})
    arguments = {"clustering": clustering, "columns": columns[:2], "by_source": source_column is not None}
    return dataset.map(_label_batch, batched=True, batch_size=_BATCH, features=features, fn_kwargs=arguments)


def _label_batch(
    batch: dict[str, list[Any]], clustering: Clustering, columns: list[str], by_source: bool
) -> dict[str, Any]:
    for name in columns:
        if missing := [at for at, text in enumerate(batch[name]) if not (text or "").strip()]:
            raise ValueError(
                f"Column {name!r} has no text in row {missing[0]} of a batch: {batch[name][missing[0]]!r}"
            )
    sides = sides_of(clustering.manifest["key"])
    texts = [batch[columns[0 if side == "query" else 1]] for side in sides]
    has_source = by_source and SOURCE in batch
    clusters = clustering.assign(
        list(zip(*texts, strict=True)) if len(sides) > 1 else texts[0],
        [str(one) for one in batch[SOURCE]] if has_source else WHOLE,
    )
    groups = (hash_texts(batch[columns[-1]]) >> np.uint64(33)).astype(np.int32)
    return {CLUSTER: clusters, FALSE_NEGATIVE_GROUP: groups}
