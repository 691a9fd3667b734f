"""The label columns, where map steps and samplers meet: their names, how they are written, how they are hidden.

Labels are ordinary columns, so they survive `select`, parquet and the Hub. The price is that a trainer's collator
takes every visible column for text: the sampler hides them on the very object that the DataLoader reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from st_cluster_batches.storage.cache import write_whole

if TYPE_CHECKING:
    from datasets import Dataset

SOURCE = "source"
CLUSTER = "cluster"
FALSE_NEGATIVE_KEYS = "false_negative_keys"
LABEL_COLUMNS = (SOURCE, CLUSTER, FALSE_NEGATIVE_KEYS)

# The columns that sentence-transformers takes as training labels.
TARGET_COLUMNS = ("label", "labels", "score", "scores")

_ROWS = 100_000  # written at once


def write_labels(path: Path, n_rows: int, labels: Mapping[str, Callable[[int, int], pa.Array]]) -> None:
    """Write label columns as an Arrow file that `datasets` maps into memory.

    Args:
        path: The file.
        n_rows: How many rows there are.
        labels: By name of column, what gives the labels from one row up to another.
    """
    schema = pa.schema([(name, read(0, 0).type) for name, read in labels.items()])
    with (
        write_whole(path) as temporary,
        pa.OSFile(str(temporary), "wb") as file,
        pa.ipc.new_stream(file, schema) as to,
    ):
        for low in range(0, n_rows, _ROWS):
            bounds = low, min(low + _ROWS, n_rows)
            to.write_batch(pa.record_batch([read(*bounds) for read in labels.values()], schema=schema))


def join_labels(dataset: Dataset, path: Path) -> Dataset:
    """Return a dataset with written labels beside it, in the format that it has.

    Its texts are not copied, unless it has an indices mapping, as after `select`: then `datasets` rewrites them once.

    Args:
        dataset: The rows; a column `source` moves behind the others.
        path: From `write_labels`.
    """
    from datasets import Dataset, concatenate_datasets

    state = dataset.format
    plain = dataset.with_format(None)
    if SOURCE in plain.column_names:
        # Text first, in the user's order: losses read the columns by position.
        plain = plain.select_columns([*(name for name in plain.column_names if name != SOURCE), SOURCE])
    joined = concatenate_datasets([plain, Dataset.from_file(str(path))], axis=1)
    if set(state["columns"]) >= set(dataset.column_names):
        joined.set_format(state["type"], **state["format_kwargs"])
    else:
        joined.set_format(**state)
    return joined


def hide_labels(dataset: Dataset, columns: Sequence[str] = LABEL_COLUMNS) -> None:
    """Hide label columns from the rows of a dataset, in place, whatever its format or transform.

    In place because the DataLoader holds this very object and users would need a second line otherwise; the
    columns stay in the data and `dataset.with_format(None)` shows them again.

    Args:
        dataset: The dataset that a trainer reads.
        columns: The columns that must not reach the collator.

    Raises:
        ValueError: If no other column would be left.
    """
    state = dataset.format
    # `columns` are the formatted ones; with `output_all_columns` the others are shown too, as python objects.
    formatted = state["columns"]
    shown = [*formatted, *(set(dataset.column_names) - set(formatted) if state["output_all_columns"] else [])]
    kept = [column for column in shown if column not in columns]
    if not kept:
        raise ValueError(f"The dataset shows only label columns, {shown}; a batch needs columns of text beside them")
    if state["type"] != "custom":
        dataset.set_format(state["type"], columns=kept, **state["format_kwargs"])
        return
    transform = state["format_kwargs"]["transform"]
    already_hides = isinstance(transform, partial) and transform.func is _transform_and_hide
    if already_hides and set(columns) <= transform.keywords["hidden"]:
        return
    # The transform may read a label or bring one back: it keeps its input, and only its output loses columns.
    passed_on = [column for column in kept if column not in formatted]
    dataset.set_transform(
        partial(
            _transform_and_hide, transform=transform, given=formatted, passed_on=passed_on, hidden=frozenset(columns)
        )
    )


def _transform_and_hide(
    batch: dict[str, Any],
    transform: Callable[[dict[str, Any]], dict[str, Any]],
    given: list[str],
    passed_on: list[str],
    hidden: frozenset[str],
) -> dict[str, Any]:
    output = transform({column: batch[column] for column in given if column in batch})
    output = {**{column: batch[column] for column in passed_on}, **output}
    return {column: values for column, values in output.items() if column not in hidden}
