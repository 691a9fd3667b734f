"""The label columns, where map steps and samplers meet: their names, how they are written, how they are hidden.

Labels are ordinary columns, so they survive `select`, parquet and the Hub. The price is that a trainer's collator
takes every visible column for text: the sampler hides them on the very object that the DataLoader reads.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from st_cluster_batches.row_keys import check_keys
from st_cluster_batches.storage.cache import write_whole

if TYPE_CHECKING:
    from datasets import Dataset

SOURCE = "source"
CLUSTER = "cluster"
FALSE_NEGATIVE_KEYS = "false_negative_keys"
LABEL_COLUMNS = (SOURCE, CLUSTER, FALSE_NEGATIVE_KEYS)

_ROWS = 100_000  # written at once
_HIDING = "_st_cluster_batches_hiding"  # attribute of a dataset: its format before and after its labels were hidden


def list_parts(dataset: Any) -> list[Any]:
    """Return the datasets of a dict, or the only one, or none."""
    if dataset is None:
        return []
    return list(dataset.values()) if isinstance(dataset, dict) else [dataset]


def map_parts(dataset: Any, change: Callable[[Dataset], Dataset]) -> Any:
    """Return a dataset, or a DatasetDict, with the only one or each of them changed."""
    if isinstance(dataset, dict):
        return type(dataset)({name: change(part) for name, part in dataset.items()})
    return change(dataset)


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


def join_labels(
    dataset: Dataset,
    path: Path,
    shown: Sequence[str] | None = None,
    source: str | None = None,
    given: Mapping[str, str] | None = None,
) -> Dataset:
    """Return a dataset with written labels beside it, in the format that it has.

    Its texts are not copied, unless it has an indices mapping, as after `select`: then `datasets` rewrites them once.
    A transform goes on to see the columns that it saw, under the names that they had.

    Args:
        dataset: The rows.
        path: From `write_labels`.
        shown: The columns that rows are to show beside the labels, in order; None leaves them as they are. The others
            leave the data, unless a transform reads them.
        source: The column that is a label of its own and moves behind the others: `source`, or None.
        given: By the name under which a transform knows a column, its name in the dataset, where these differ.
    """
    from datasets import Dataset, concatenate_datasets

    state, plain, labels = dataset.format, dataset.with_format(None), Dataset.from_file(str(path))
    is_custom = state["type"] == "custom"
    if shown is not None and not is_custom:
        plain = plain.select_columns([*(name for name in shown if name != source), *([source] if source else [])])
    elif source is not None:
        # Text first, in the user's order: losses read the columns by position.
        plain = plain.select_columns([*(name for name in plain.column_names if name != source), source])
    joined = concatenate_datasets([plain, labels], axis=1)
    if is_custom:
        _pass_labels_on(joined, state, shown, [*([source] if source else []), *labels.column_names], given or {})
    elif shown is not None or set(state["columns"]) >= set(dataset.column_names):
        joined.set_format(state["type"], **state["format_kwargs"])
    else:
        joined.set_format(**state)
    return joined


def _pass_labels_on(
    joined: Dataset, state: dict[str, Any], shown: Sequence[str] | None, labels: list[str], given: Mapping[str, str]
) -> None:
    """Set a transform that sees its own columns alone, and let labels pass beside it."""
    other_names = {column: name for name, column in given.items()}
    own = {other_names.get(column, column): column for column in state["columns"]}
    others = [name for name in joined.column_names if name not in (*state["columns"], *labels)]
    joined.set_transform(
        partial(
            _transform_own,
            transform=state["format_kwargs"]["transform"],
            given=own,
            passed_on=[*(others if state["output_all_columns"] else []), *labels],
            hidden=frozenset(given),
            order=None if shown is None else tuple(shown),
        )
    )


def hide_labels(dataset: Dataset, columns: Collection[str] = LABEL_COLUMNS) -> None:
    """Hide label columns from the rows of a dataset, in place, whatever its format or transform.

    In place because the DataLoader holds this very object and users would need a second line otherwise; the columns
    stay in the data, `dataset.with_format(None)` shows them, and `show_labels` takes the hiding back.

    Args:
        dataset: The dataset that a trainer reads.
        columns: The columns that must not reach the collator.

    Raises:
        ValueError: If no other column would be left, or only some of the rows have row keys.
    """
    check_keys(dataset)
    state = dataset.format
    # `columns` are the formatted ones; with `output_all_columns` the others are shown too, as python objects.
    formatted = state["columns"]
    others = [name for name in dataset.column_names if name not in formatted] if state["output_all_columns"] else []
    kept = [column for column in (*formatted, *others) if column not in columns]
    if not kept:
        raise ValueError(
            f"The dataset shows only label columns, {[*formatted, *others]}; a batch needs columns of text beside them"
        )
    before, after = getattr(dataset, _HIDING, (None, None))
    if state["type"] != "custom":
        if len(kept) == len(formatted) + len(others):
            return
        dataset.set_format(state["type"], columns=kept, **state["format_kwargs"])
    else:
        transform = state["format_kwargs"]["transform"]
        is_ours = isinstance(transform, partial) and transform.func is _transform_own
        if is_ours and set(columns) <= transform.keywords["hidden"]:
            return
        # The transform may read a label or bring one back: it keeps its input, and only its output loses columns.
        own = {column: column for column in formatted}
        passed_on = [column for column in others if column in kept]
        hidden = frozenset(columns)
        dataset.set_transform(
            partial(_transform_own, transform=transform, given=own, passed_on=passed_on, hidden=hidden)
        )
    setattr(dataset, _HIDING, (before if state == after else state, dataset.format))


def show_labels(dataset: Dataset) -> None:
    """Give a dataset the format back that it had before its labels were hidden, unless it was given another since."""
    before, after = getattr(dataset, _HIDING, (None, None))
    if before is None:
        return
    delattr(dataset, _HIDING)
    if dataset.format != after:
        return
    columns = [name for name in before["columns"] if name in dataset.column_names]
    shows_all = len(columns) == len(dataset.column_names)
    dataset.set_format(**{**before, "columns": None if shows_all else columns})


def _transform_own(
    batch: dict[str, Any],
    transform: Callable[[dict[str, Any]], dict[str, Any]],
    given: Mapping[str, str],
    passed_on: Sequence[str],
    hidden: frozenset[str],
    order: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Apply a user's transform to the columns that it knows, and let others pass beside it.

    Args:
        batch: The rows.
        transform: The user's.
        given: The columns that it gets, by the names under which it knows them.
        passed_on: The columns that it does not get and that are shown all the same.
        hidden: The columns that are not shown.
        order: The columns of its output that are shown, in order; all if None.
    """
    output = transform({name: batch[column] for name, column in given.items() if column in batch})
    if order is not None:
        output = {name: output[name] for name in order if name in output}
    beside = {name: batch[name] for name in passed_on if name in batch}
    # Also where the transform gives a label back: the label's place is behind the texts.
    output = {**{name: values for name, values in output.items() if name not in beside}, **beside}
    return {name: values for name, values in output.items() if name not in hidden}
