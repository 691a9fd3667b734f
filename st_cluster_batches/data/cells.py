"""Cells of CSV and TSV files: texts as the file has them, and numbers where that loses nothing."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from itertools import islice
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from st_cluster_batches.data.role_names import has_role_name
from st_cluster_batches.row_keys import TARGET_COLUMNS
from st_cluster_batches.storage.cache import hash_values

if TYPE_CHECKING:
    from datasets import Dataset

_FIRST_LINES = 100  # by which a line of names is told from a row


def read_first_lines(lines: Iterable[str], options: dict[str, Any]) -> list[list[str]]:
    """Read the cells of the first lines of a table."""
    quoting = options.get("quoting", csv.QUOTE_MINIMAL)
    return list(csv.reader(islice(lines, _FIRST_LINES), delimiter=options["sep"], quoting=quoting))


def read_as_texts(table: IO[str], options: dict[str, Any]) -> dict[str, Any]:
    """Return the options by which `datasets` reads every cell as text.

    Left alone, pandas guesses a type for each 10,000 rows or fewer, so that "0000" among words may become "0", or not.

    Args:
        table: The opened file.
        options: How it separates and quotes, and perhaps the names of its columns.
    """
    import pandas as pd  # which `datasets` brings: the names and the index are to be those that it will find
    from datasets import Features, Value

    known = {"names" if name == "column_names" else name: value for name, value in options.items()}
    start = pd.read_csv(table, nrows=1, dtype=object, **known)
    names = [str(name) for name in start.columns]
    if isinstance(start.index, pd.RangeIndex):
        return {**options, "features": Features({name: Value("string") for name in names})}
    # Rows have more cells than the line of names: the first ones are an index to pandas, of which it guesses the type.
    index = [f"__index_level_{level}__" for level in range(start.index.nlevels)]
    features = Features({name: Value("string") for name in [*names, *index]})
    return {**options, "column_names": [*index, *names], "header": 0, "features": features}


def restore_numbers(rows: Dataset) -> Dataset:
    """Turn labels and scores into numbers, and other columns where all cells are as a number is printed.

    Columns that are called as texts are stay texts: an answer may well be a number.

    Args:
        rows: Columns of texts alone.
    """
    order = rows.column_names
    for name in order:
        texts = rows.data.column(name)
        values = None
        if name in TARGET_COLUMNS:
            values = _read_numbers(texts)
        elif not has_role_name(name):
            values = _read_exactly(texts)
        if values is not None:
            # Named by hand: `datasets` would hash all values to name it.
            fingerprint = hash_values(rows._fingerprint, name, str(values.dtype))[:16]
            rows = rows.remove_columns(name).add_column(name, values, new_fingerprint=fingerprint)
    return rows if rows.column_names == order else rows.select_columns(order)


def _read_numbers(texts: pa.ChunkedArray) -> npt.NDArray[Any] | None:
    """Read integers, else floats, else truth values, however they are written; None if some cell is none."""
    texts = pc.utf8_trim_whitespace(texts)
    for kind in (pa.int64(), pa.float64(), pa.bool_()):
        values = _cast(texts, kind)
        if values is not None and np.isfinite(values).all():
            return values
    return None


def _read_exactly(texts: pa.ChunkedArray) -> npt.NDArray[Any] | None:
    """Read integers or truth values that are printed as they stand there; None if some cell is not."""
    values = _cast(texts, pa.int64())
    if values is not None:  # "007" is 7, and another text
        return values if pc.all(pc.equal(pa.array(values).cast(texts.type), texts)).as_py() else None
    if pc.all(pc.is_in(texts, value_set=pa.array(["True", "False"], texts.type))).as_py():
        return _cast(texts, pa.bool_())
    return None


def _cast(texts: pa.ChunkedArray, kind: pa.DataType) -> npt.NDArray[Any] | None:
    if texts.null_count:
        return None
    try:
        values: npt.NDArray[Any] = texts.cast(kind).to_numpy()
    except pa.ArrowInvalid:
        return None
    return values
