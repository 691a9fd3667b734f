"""What a trainer's own card says of the columns: it is written before a sampler hides the labels among them."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from textwrap import indent
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from transformers.modelcard import make_markdown_table

from st_cluster_batches.columns import hide_labels, list_parts

if TYPE_CHECKING:
    from datasets import Dataset


def forget_labels(data: Any, trainer: Any, hidden: Collection[str]) -> None:
    """Take label columns out of what a card tells of the data, and their values out of its examples.

    Args:
        data: The `model_card_data` of a model of sentence-transformers.
        trainer: The trainer that has filled it.
        hidden: The columns that are hidden from the loss.
    """
    for about in (*data.train_datasets, *data.eval_datasets):
        if not set(hidden).isdisjoint(about.get("stats") or ()):
            _describe_again(data, about, hidden)
    shown = trainer.eval_dataset or trainer.train_dataset
    if _hold_any(list_parts(shown), hidden, set(_list_texts([data.widget, data.usage_examples]))):
        _draw_again(data, shown, hidden)


def _describe_again(data: Any, about: dict[str, Any], hidden: Collection[str]) -> None:
    """Make the tables of one dataset again without some columns, as the host library makes them."""
    about["columns"] = [name for name in about["columns"] if name not in {f"<code>{one}</code>" for one in hidden}]
    stats = about["stats"] = {name: one for name, one in about["stats"].items() if name not in hidden}
    details = {
        name: "".join(f"<li>{key}: {value}</li>" for key, value in one["data"].items()) for name, one in stats.items()
    }
    lines = [
        {"": "type", **{name: one["dtype"] for name, one in stats.items()}},
        {"": "modality", **{name: one.get("modality", "") for name, one in stats.items()}},
        {"": "details", **{name: f"<ul>{items}</ul>" if items else "" for name, items in details.items()}},
    ]
    about["stats_table"] = indent(make_markdown_table(lines).replace("-:|", "--|"), "  ")
    about["_example_columns"] = [name for name in about["_example_columns"] if name not in hidden]
    about["examples_table"], _ = data._render_examples_table(about)


def _draw_again(data: Any, shown: Any, hidden: Collection[str]) -> None:
    """Choose the sentences of the widget and of the example anew, from texts alone."""
    from datasets import DatasetDict

    is_dict = isinstance(shown, dict)
    parts = {name: _take_texts(part, hidden) for name, part in (shown if is_dict else {"": shown}).items()}
    state = random.getstate()
    try:
        data.widget = []
        data.set_widget_examples(DatasetDict(parts) if is_dict else parts[""])
    finally:
        random.setstate(state)  # of the trainer, whose draws are not to depend on ours


def _take_texts(part: Dataset, hidden: Collection[str]) -> Dataset:
    if part.format["type"] != "custom":
        return part.select_columns([name for name in part.column_names if name not in hidden])
    copied = part.with_format(**part.format)
    hide_labels(copied, hidden)
    return copied


def _hold_any(parts: list[Dataset], hidden: Collection[str], texts: Collection[str]) -> bool:
    """Return whether hidden columns of strings hold any of some texts."""
    from datasets import Dataset

    from st_cluster_batches.data.roles import list_texts  # samplers are imported without what reads texts

    wanted = pa.array(sorted(texts), pa.large_string())
    for part in [one for one in parts if isinstance(one, Dataset)]:  # of a stream a card has no examples
        for name in set(hidden) & set(list_texts(part.features or {})):
            column = part.with_format("arrow", columns=[name])[:][name].cast(pa.large_string())
            if pc.any(pc.is_in(column, value_set=wanted)).as_py():
                return True
    return False


def _list_texts(value: Any) -> Iterator[str]:
    """Yield the strings of nested lists and dicts."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _list_texts(one)
