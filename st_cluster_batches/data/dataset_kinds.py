"""What people pass where a dataset is needed, and the call that makes one of it."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any


def describe_kind(given: Any) -> str:
    """Return what somebody passes, with what it holds."""
    held = list(given.values()) if isinstance(given, Mapping) else given if isinstance(given, list | tuple) else []
    return f"{type(given).__name__}{f' of {type(held[0]).__name__}' if held else ''}"


def find_call(given: Any, caller: str) -> str:
    """Return the call that makes datasets of what somebody passes.

    Args:
        given: What is no dataset.
        caller: The call that it is passed to.
    """
    from datasets import Dataset, IterableDataset

    held = list(given.values()) if isinstance(given, Mapping) else [given]
    if any(isinstance(one, IterableDataset) for one in held):
        of_each, each = (" of each", "each") if isinstance(given, Mapping) else ("", "it")
        call = f"take rows{of_each}: Dataset.from_list(list(stream.take(10_000))), or load without streaming=True"
        if caller == "export_batches":
            call = f"take all rows{of_each}: Dataset.from_list(list(stream)), or load without streaming=True"
        if caller in ("attach_clusters", "Clustering.attach"):
            call += f"; or label {each} as it is read: fit_clusters(sample, encoder).attach(stream)"
        return call
    if isinstance(given, Mapping):
        return "make one of columns: Dataset.from_dict({'query': [...], 'passage': [...]})"
    if isinstance(given, list | tuple):
        if any(isinstance(one, Dataset) for one in given):
            return "give each a name: {'first': ..., 'second': ...}"
        return "make one of rows: Dataset.from_list([{'query': ..., 'passage': ...}, ...])"
    if isinstance(given, str | PathLike):
        return "load it first: load_dataset(...), or pass it on the command line: st-cluster-batches"
    return "make one: Dataset.from_pandas(frame), Dataset.from_list(rows) or load_dataset(...)"
