"""Label a stream row by row as it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from st_cluster_batches.clusters.choice_checks import compare_columns
from st_cluster_batches.clusters.false_negatives import hash_keys
from st_cluster_batches.columns import CLUSTER, FALSE_NEGATIVE_KEYS, SOURCE
from st_cluster_batches.data.meaning import check_meaning
from st_cluster_batches.data.pairs import WHOLE, Key, PairOptions, sides_of
from st_cluster_batches.data.roles import Roles, assign_roles, describe_feature, find_row_contents, tell_roles
from st_cluster_batches.data.sources import refuse_text_called_source
from st_cluster_batches.row_keys import ROW_KEY, TARGET_COLUMNS, has_row_keys

if TYPE_CHECKING:
    from datasets import IterableDataset

# Finds the clusters of texts, or of (query, passage) tuples, whose sources are given too: `Clustering.assign`.
Assign = Callable[[Sequence[Any], str | Sequence[str]], npt.NDArray[np.int64]]

_LOOKED_AT = 256  # rows that are read to see what the columns hold
_BATCH = 1024  # rows that are read ahead and embedded at once


def label_stream(
    dataset: IterableDataset,
    assign: Assign,
    manifest: Mapping[str, Any],
    options: PairOptions,
) -> IterableDataset:
    """Attach labels lazily: the cluster, and the keys that a row shares with its false negatives.

    Args:
        dataset: Pairs or longer tuples of text.
        assign: Finds the clusters of texts.
        manifest: That of the clustering: which text decides the cluster, and what it was called.
        options: Which columns are texts and sources, and whether labels are replaced.

    Returns:
        A stream of the same rows with labels.

    Raises:
        ValueError: If columns do not fit; the rows are checked as they come.
    """
    from datasets import Features, List, Value

    key: Key = manifest["key"]
    dataset, roles, has_sources = _choose_columns(dataset, options)
    has_targets = any(name in TARGET_COLUMNS for name in roles.targets)
    if len(roles.texts) < len(sides_of(key)):
        raise ValueError(f"The stream has the columns of text {list(roles.texts)}; key={key!r} needs more")
    compare_columns(manifest, {"": roles.texts})
    features, class_names = dataset.features, None
    if features is not None:
        class_names = getattr(features.get(SOURCE), "names", None)
        keys = {} if has_targets else {FALSE_NEGATIVE_KEYS: List(Value("int64"))}
        features = Features({**features, CLUSTER: Value("int64"), **keys})
    arguments = {
        "assign": assign,
        "key": key,
        "columns": list(roles.texts),
        "by_source": has_sources,
        "class_names": class_names,
        "has_targets": has_targets,
    }
    return dataset.map(_label_batch, batched=True, batch_size=_BATCH, features=features, fn_kwargs=arguments)


def _choose_columns(dataset: IterableDataset, options: PairOptions) -> tuple[IterableDataset, Roles, bool]:
    """Find out which column is what, and keep texts, training labels and a column `source`, in this order."""
    from datasets import Dataset

    read = list(islice(dataset, _LOOKED_AT))
    if not read:
        raise ValueError("The stream has no rows; there is nothing to label")
    first = read[0]
    has_keys = has_row_keys(Dataset.from_list([{ROW_KEY: row.get(ROW_KEY)} for row in read]))
    labels = (CLUSTER, FALSE_NEGATIVE_KEYS, *([ROW_KEY] if has_keys else []))
    if present := [column for column in labels if column in first]:
        options.refuse_labelled(present, dataset.features, "The stream")
        dataset = dataset.remove_columns(present)
        first = {name: value for name, value in first.items() if name not in present}
    source = options.find_source(list(first), "The stream")
    holds = find_row_contents(first)
    if dataset.features is not None:  # a first row may lack a text
        holds = {name: describe_feature(one) for name, one in dataset.features.items()}
    roles = assign_roles(holds, options.columns, [source] if source else [], "The stream")
    tell_roles([roles])
    if not roles.is_given:
        texts = [{name: row[name] for name in roles.texts} for row in read]
        check_meaning(Dataset.from_list(texts), roles.texts, f"The stream, by its first {len(texts)} rows,")
    shown = [*(roles.shown or [*roles.texts, *roles.targets]), *([source] if source else [])]
    dataset = dataset.select_columns(shown)
    if source not in (None, SOURCE):
        if SOURCE in shown:
            refuse_text_called_source(str(source))
        dataset = dataset.rename_column(source, SOURCE)
    return dataset, roles, source is not None


def _label_batch(
    batch: dict[str, list[Any]],
    assign: Assign,
    key: Key,
    columns: list[str],
    by_source: bool,
    class_names: list[str] | None,
    has_targets: bool,
) -> dict[str, Any]:
    for name in columns:
        if missing := [at for at, text in enumerate(batch[name]) if not (text or "").strip()]:
            raise ValueError(
                f"Column {name!r} has no text in row {missing[0]} of a batch: {batch[name][missing[0]]!r}"
            )
    sides = sides_of(key)
    texts = [batch[columns[0 if side == "query" else 1]] for side in sides]
    sources: str | list[str] = WHOLE
    if by_source:
        if class_names is not None and (nameless := [at for at, one in enumerate(batch[SOURCE]) if one < 0]):
            found = batch[SOURCE][nameless[0]]
            raise ValueError(f"Column {SOURCE!r} has no class in row {nameless[0]} of a batch: {found}")
        sources = [str(one) if class_names is None else class_names[one] for one in batch[SOURCE]]
    clusters = assign(list(zip(*texts, strict=True)) if len(sides) > 1 else texts[0], sources)
    if has_targets:
        return {CLUSTER: clusters}
    return {CLUSTER: clusters, FALSE_NEGATIVE_KEYS: hash_keys([batch[name] for name in columns])}
