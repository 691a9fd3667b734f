"""The sources of rows by name: where a row comes from, whatever the type of the column that says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from st_cluster_batches.column_values import count_sources_at_most, is_text
from st_cluster_batches.columns import SOURCE
from st_cluster_batches.data.texts import iterate_tables

if TYPE_CHECKING:
    from datasets import Dataset


def read_sources(dataset: Dataset, prefix: str = "") -> tuple[list[str], npt.NDArray[np.int32]]:
    """Read the names of the sources, in alphabetical order, and the source of every row as a position in them.

    Args:
        dataset: The rows; sources are texts, classes, integers, booleans or dates, whose printed form is the name.
        prefix: What stands before each name.

    Raises:
        ValueError: If a row has no source, the column cannot hold sources, or it holds as many as texts would be.
    """
    feature = dataset.features[SOURCE]
    codes = np.zeros(len(dataset), dtype=np.int32)
    code_of_value: dict[Any, int] = {}
    first = 0
    for table in iterate_tables(dataset, [SOURCE], "Reading sources", False):
        values = table[SOURCE].combine_chunks()
        if values.null_count:
            raise ValueError(
                f"Column {SOURCE!r} has no value in row {first + values.is_null().index(True).as_py()}; every row "
                "needs a source, or pass source_column=None"
            )
        if not _can_be_source(values.type):
            raise ValueError(
                f"Column {SOURCE!r} holds {values.type}, needed for a source are texts, integers, booleans or dates; "
                "name another one, source_column=..., or none, source_column=None"
            )
        encoded = values.dictionary_encode()
        own = [code_of_value.setdefault(one, len(code_of_value)) for one in encoded.dictionary.to_pylist()]
        codes[first : first + len(encoded)] = np.asarray(own, dtype=np.int32)[encoded.indices.to_numpy()]
        first += len(encoded)
    to_name = feature.int2str if type(feature).__name__ == "ClassLabel" else str
    names = [prefix + to_name(value) for value in code_of_value]
    order = np.argsort(names)
    return [names[at] for at in order], np.argsort(order).astype(np.int32)[codes]


def refuse_text(n_sources: int, n_rows: int, column: str, where: str = "The dataset") -> None:
    """Check that a column of sources has no more of them than sources there could be.

    Raises:
        ValueError: If most of its values are different, with what to do.
    """
    if n_sources > count_sources_at_most(n_rows):
        raise ValueError(
            f"{where} has {n_sources} values of {column!r} in {n_rows} rows: that is no source but text. Pass "
            f"source_column=None to train on it as text, or name the texts, columns=(...); to keep both, rename it: "
            f"dataset.rename_column({column!r}, ...)"
        )


def refuse_text_called_source(column: str) -> NoReturn:
    """Refuse a column of sources that is to get the name of a text."""
    raise ValueError(
        f"source_column={column!r} is to become {SOURCE!r}, which is a text: rename the text first, "
        f"dataset.rename_column({SOURCE!r}, ...), or, where it is none, name the texts, columns=(...)"
    )


def _can_be_source(kind: pa.DataType) -> bool:
    return bool(is_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_temporal(kind))
