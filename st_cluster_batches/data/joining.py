"""Several datasets as one, where they differ in no more than the kind of string or the lack of a source."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from st_cluster_batches.columns import CLUSTER, FALSE_NEGATIVE_KEYS, SOURCE
from st_cluster_batches.data.splits import name_sources
from st_cluster_batches.row_keys import ROW_KEY, has_row_keys

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, Features

logger = logging.getLogger(__name__)


def join_places(names: Sequence[str], loaded: Sequence[Dataset | DatasetDict], tells_sources: bool = True) -> Dataset:
    """Join what lies in several places, with the labels that all of them have.

    Numbers of clusters and keys are hashes: those that were made apart fit together.

    Args:
        names: The places; one without a column `source` is a source of the name of its file or folder.
        loaded: What lies there.
        tells_sources: Whether any are sources.

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
            "st-cluster-batches attach PLACE OUT --encoder E",
            sum(map(bool, surplus)),
            len(parts),
            "; ".join(f"{', '.join(own)} of {name}" for name, own in zip(names, surplus, strict=True) if own),
            f"{rows:,}",
        )
    return join_parts(
        [(name, source, part.remove_columns(own)) for (name, source, part), own in zip(parts, surplus, strict=True)],
        tells_sources,
    )


def join_parts(parts: Sequence[tuple[str, str, Dataset]], tells_sources: bool = True) -> Dataset:
    """Join datasets.

    Args:
        parts: For each the name of its place, the source that it is where it has no column `source`, and its rows.
            Those of one source are shards, and need no such column.
        tells_sources: Whether any get one.

    Returns:
        One dataset, with the columns in the order of the first.

    Raises:
        ValueError: If columns differ; the message names both places.
    """
    from datasets import concatenate_datasets

    has_sources = any(SOURCE in rows.column_names for _, _, rows in parts)
    named = {source for _, source, rows in parts if SOURCE not in rows.column_names}
    if tells_sources and (len(named) > 1 or (has_sources and named)):
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
    target = _unify([(place, rows.features) for (place, _, _), rows in zip(parts, aligned, strict=True)])
    aligned = [rows if rows.features == target else rows.cast(target) for rows in aligned]
    return aligned[0] if len(aligned) == 1 else concatenate_datasets(aligned)


def _add_source(rows: Dataset, source: str) -> Dataset:
    import numpy as np

    if SOURCE in rows.column_names:
        return rows
    return rows.add_column(SOURCE, np.full(len(rows), source, dtype=object))


def _unify(parts: Sequence[tuple[str, Features]]) -> Features:
    """Return features that hold the values of all: strings of either kind, integers and floats as the wider of them.

    Args:
        parts: The place and the features of each.

    Raises:
        ValueError: If a column holds what has no common kind, such as classes of other names.
    """
    from datasets import Features

    first_place, first = parts[0]
    target = dict(first)
    for place, features in parts[1:]:
        for name, feature in features.items():
            if feature == target[name]:
                continue
            given = [Features({name: one}) for one in (target[name], feature)]
            try:
                if any("ClassLabel" in str(one) for one in given):
                    raise pa.ArrowTypeError("the numbers of classes mean other things")
                schemas = [one.arrow_schema.remove_metadata() for one in given]
                unified = pa.unify_schemas(schemas, promote_options="permissive")
                target[name] = Features.from_arrow_schema(unified)[name]
            except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
                raise ValueError(
                    f"Column {name!r} is {feature} in {place} and {first[name]} in {first_place}; make them one kind"
                ) from error
    return Features(target)
