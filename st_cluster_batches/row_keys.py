"""Row keys: by them a guided loss finds the stored vectors of a row; training labels, beside which they stand.

A trainer passes a column on beside the texts only under the name of training labels. So keys are told from labels to
learn from by what they are, wherever a file or the Hub has taken them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

if TYPE_CHECKING:
    from datasets import Dataset

# The columns that sentence-transformers takes as training labels.
TARGET_COLUMNS = ("label", "labels", "score", "scores")

# Row keys, by which a guided loss finds the vectors of a row, pass the collator under one of these names.
ROW_KEY = "label"

# What a batch may show beside texts without their being taken for text: training labels, and which dataset it is of.
NO_TEXT_COLUMNS = (*TARGET_COLUMNS, "dataset_name")

_KEYS_READ = 1000  # rows of a column of which all need to be row keys
_CHECK_MULTIPLIER = np.uint64(0xD6E8FEB86659FD93)
_MARK = np.uint64(0x5C)  # by which the checksum of a key differs whose row masks nothing


def certify_keys(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Make row keys of hashes: the last of their eight bytes is a checksum of the others.

    Args:
        hashes: (n,) hashes, of which 56 bits are kept: among ten million rows, two collide once in a thousand cases.

    Returns:
        (n,) int64 keys.
    """
    body = hashes & ~np.uint64(0xFF)
    return (body | _checksum(body)).view(np.int64)


def mark_keys(keys: npt.NDArray[np.int64], is_unmasked: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Mark the row keys of rows none of whose negatives is to be masked; the mark goes wherever the key goes.

    Args:
        keys: (n,) row keys without marks.
        is_unmasked: (n,) which of them are to be marked.
    """
    return np.where(is_unmasked, keys ^ np.int64(_MARK), keys)


def read_marks(keys: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return n row keys without their marks, and (n,) which of them had one."""
    found = _check(keys, _MARK)
    return mark_keys(keys, found), found


def are_row_keys(values: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    """Return (n,) whether values can be row keys; of labels to learn from, hardly one in 128 passes for one."""
    if values.dtype != np.int64:
        return np.zeros(len(values), dtype=bool)
    return _check(values, np.uint64(0)) | _check(values, _MARK)


def _check(values: npt.NDArray[Any], mark: np.uint64) -> npt.NDArray[np.bool_]:
    """Return (n,) whether int64 values are row keys with a mark, or without one if it is zero."""
    keys = np.ascontiguousarray(values).view(np.uint64)
    body = keys & ~np.uint64(0xFF)
    is_key: npt.NDArray[np.bool_] = (body != 0) & ((keys & np.uint64(0xFF)) == (_checksum(body) ^ mark))
    return is_key


def _checksum(body: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    return (body ^ (body >> np.uint64(31))) * _CHECK_MULTIPLIER >> np.uint64(56)


def has_row_keys(dataset: Dataset) -> bool:
    """Return whether the column `label` of a dataset holds row keys, by its first rows."""
    if ROW_KEY not in dataset.column_names or not len(dataset):
        return False
    rows = dataset.with_format("arrow", columns=[ROW_KEY])[: min(len(dataset), _KEYS_READ)]
    column = rows[ROW_KEY]
    return bool(column.null_count == 0 and pa.types.is_int64(column.type) and are_row_keys(column.to_numpy()).all())


def list_targets(dataset: Dataset, names: Sequence[str] | None = None) -> list[str]:
    """List the columns of a dataset, or of those named, with labels or scores to learn from; row keys are none."""
    names = [name for name in (dataset.column_names if names is None else names) if name in TARGET_COLUMNS]
    return [name for name in names if name != ROW_KEY or not has_row_keys(dataset)]


def check_targets(names: Sequence[str], where: str) -> None:
    """Refuse more than one column of labels or scores: a trainer's collator reads one, and takes the other for text.

    Args:
        names: Columns that batches show.
        where: How messages call the dataset.

    Raises:
        ValueError: If there are several, with the call that takes one away.
    """
    found = [name for name in TARGET_COLUMNS if name in names]  # in the collator's order
    if len(found) > 1:
        raise ValueError(
            f"{where} has the targets {' and '.join(map(repr, found))}: the collator reads {found[0]!r} alone, and "
            f"takes the other for text. Take it away: dataset.remove_columns({found[1]!r})"
        )


def check_keys(dataset: Dataset) -> None:
    """Refuse rows of which only some have row keys, as when guided rows are joined with others: no batch takes a null.

    Raises:
        ValueError: If there are such rows, with the call that gives them keys.
    """
    if ROW_KEY not in dataset.column_names or not dataset.data.column(ROW_KEY).null_count:
        return
    column = dataset.with_format("arrow", columns=[ROW_KEY])[:][ROW_KEY]
    known = column.drop_null()
    is_guided = pa.types.is_int64(column.type) and len(known) > 0 and are_row_keys(known.to_numpy()).all()
    if column.null_count and is_guided:
        raise ValueError(
            f"{column.null_count:,} of {len(column):,} rows have no row key: rows that were attached with guide=True "
            "have been joined with rows that were not. Attach all of them: attach_clusters(dataset, encoder, "
            "guide=True, overwrite=True)"
        )
