"""Several datasets as one, where they differ in no more than the kind of string or the lack of a source."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from st_cluster_batches.columns import CLUSTER, FALSE_NEGATIVE_KEYS, ROW_KEY, SOURCE, has_row_keys
from st_cluster_batches.data.splits import name_sources

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, Features

logger = logging.getLogger(__name__)


def join_places(names: Sequence[str], loaded: Sequence[Dataset | DatasetDict]) -> Dataset:
    """Join what lies in several places, with the labels that all of them have.

    Numbers of clusters and keys are hashes: those that were made apart fit together.

    Args:
        names: The places; one without a column `source` is a source of the name of its file or folder.
        loaded: What lies there.

    Returns:
        One dataset; a warning says which labels only some have, and are dropped.

    Raises:
        ValueError: If a place holds several datasets, or columns differ.
    """
    from datasets import Dataset

    parts: list[tuple[str, str, Dataset]] = []
    labels: list[set[str]] = []
    sources = name_sources([Path(Path(name).resolve().parent.name, Path(name).name) for name in names])
    for name, part, source in zip(names, loaded, sources, strict=True):
        if not isinstance(part, Dataset):
            raise ValueError(f"{name} holds several datasets and cannot be joined with others; give it alone")
        labels.append({one for one in (CLUSTER, FALSE_NEGATIVE_KEYS) if one in part.column_names})
        labels[-1] |= {ROW_KEY} if has_row_keys(part) else set()
        parts.append((name, source, part))
    kept = set.intersection(*labels)
    surplus = [sorted(own - kept) for own in labels]
    if any(surplus):
        rows = sum(len(part) for (*_, part), own in zip(parts, surplus, strict=True) if own)
        logger.warning(
            "The labels of %d of %d places are dropped, for the others have none: %s, of %s rows. The pairs are "
            "labelled anew, all together, as the recipe's own options say. To keep labels, attach every place: "
            "st-cluster-batches attach PLACE OUT",
            sum(map(bool, surplus)),
            len(parts),
            "; ".join(f"{', '.join(own)} of {name}" for name, own in zip(names, surplus, strict=True) if own),
            f"{rows:,}",
        )
    return join_parts(
        [(name, source, part.remove_columns(own)) for (name, source, part), own in zip(parts, surplus, strict=True)]
    )


def join_parts(parts: Sequence[tuple[str, str, Dataset]]) -> Dataset:
    """Join datasets.

    Args:
        parts: For each the name of its place, the source that it is where it has no column `source`, and its rows.
            Those of one source are shards, and need no such column.

    Returns:
        One dataset, with the columns in the order of the first.

    Raises:
        ValueError: If columns differ; the message names both places.
    """
    from datasets import concatenate_datasets

    has_sources = any(SOURCE in rows.column_names for _, _, rows in parts)
    named = {source for _, source, rows in parts if SOURCE not in rows.column_names}
    if len(named) > 1 or (has_sources and named):
        without = sum(SOURCE not in rows.column_names for _, _, rows in parts)
        logger.info(
            "%d of %d files have no column %r, and get it: %s", without, len(parts), SOURCE, sorted(named)[:10]
        )
        parts = [(place, source, _add_source(rows, source)) for place, source, rows in parts]
    first_place, _, first = parts[0]
    for place, _, rows in parts[1:]:
        if surplus := set(rows.column_names) ^ set(first.column_names):
            column = min(surplus)
            has, lacks = (first_place, place) if column in first.column_names else (place, first_place)
            raise ValueError(
                f"{has} has a column {column!r} and {lacks} has not; they cannot be joined. Remove the column, give "
                f"the files apart, or choose columns that all have: {first_place} has {first.column_names}, {place} "
                f"has {rows.column_names}"
            )
    order = first.column_names
    aligned = [rows if rows.column_names == order else rows.select_columns(order) for _, _, rows in parts]
    target = _widen_strings([rows.features for rows in aligned])
    aligned = [rows if rows.features == target else _cast(rows, target, place, first_place)
               for rows, (place, _, _) in zip(aligned, parts, strict=True)]  # fmt: skip
    return aligned[0] if len(aligned) == 1 else concatenate_datasets(aligned)


def _add_source(rows: Dataset, source: str) -> Dataset:
    import numpy as np

    if SOURCE in rows.column_names:
        return rows
    return rows.add_column(SOURCE, np.full(len(rows), source, dtype=object))


def _widen_strings(all_features: Sequence[Features]) -> Features:
    """Return the features of the first, with large strings where any has such."""
    from datasets import Features, Value

    target = dict(all_features[0])
    for features in all_features[1:]:
        for name, feature in features.items():
            kinds = {getattr(one, "dtype", None) for one in (feature, target[name])}
            if kinds == {"string", "large_string"}:
                target[name] = Value("large_string")
            elif getattr(target[name], "dtype", None) == "null":
                target[name] = feature
    return Features(target)


def _cast(rows: Dataset, target: Features, place: str, first_place: str) -> Dataset:
    """Cast what may differ: the kind of string, columns without a value, integers to floats."""
    harmless = ({"string", "large_string"}, {"int64", "int32"}, {"int64", "float64"}, {"float32", "float64"})
    for name, feature in rows.features.items():
        kinds = {getattr(feature, "dtype", str(feature)), getattr(target[name], "dtype", str(target[name]))}
        if feature != target[name] and "null" not in kinds and kinds not in harmless:
            raise ValueError(
                f"Column {name!r} is {feature} in {place} and {target[name]} in {first_place}; make them one kind"
            )
    return rows.cast(target)
