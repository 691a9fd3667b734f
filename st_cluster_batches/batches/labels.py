"""Read the label columns of a dataset as the integers that a plan works with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from st_cluster_batches.columns import CLUSTER, FALSE_NEGATIVE_GROUP, SOURCE

if TYPE_CHECKING:
    from datasets import Dataset

Integers = npt.NDArray[np.integer[Any]]

# A lookup table over label values may have this many entries whatever the number of rows; beyond it, np.unique.
_SMALL_TABLE = 1 << 22


@dataclass(frozen=True)
class Labels:
    """The labels of n rows, as a batch plan needs them.

    Args:
        strata: (n,) dense stratum codes; strata of one source are consecutive and follow the path of its clusters.
        source_of_stratum: (number of strata,) dense source codes, ascending.
        groups: (n,) uint32 false-negative groups, or None where every row may meet every other.
    """

    strata: Integers
    source_of_stratum: Integers
    groups: npt.NDArray[np.uint32] | None = None

    def __len__(self) -> int:
        return len(self.strata)

    def digest(self) -> int:
        """Return a 64-bit hash of all labels, so that seeds and checkpoints can tell one labelling from another."""
        state = xxhash.xxh3_64()
        for array in (self.strata, self.source_of_stratum, self.groups):
            if array is not None:
                state.update(np.ascontiguousarray(array).view(np.uint8).data)
        return state.intdigest()


def find_strata_columns(column_names: Sequence[str], strata: Sequence[str]) -> list[str]:
    """Return the strata columns that a dataset has; only the finest, the last one, is required.

    Raises:
        ValueError: If the finest column is missing; the message names the call that adds it.
    """
    if strata[-1] not in column_names:
        remedy = (
            "label the dataset first: dataset = attach_clusters(dataset, encoder)"
            if strata[-1] == CLUSTER
            else "add the column, or give other columns: ClusterBatchSampler.configure(strata=...)"
        )
        raise ValueError(
            f"Batches are to share {tuple(strata)}, but the dataset has no column {strata[-1]!r}, "
            f"only {list(column_names)}; {remedy}"
        )
    return [column for column in strata if column in column_names]


def read_labels(
    dataset: Dataset, strata: Sequence[str] = (SOURCE, CLUSTER), distinct: str | None = FALSE_NEGATIVE_GROUP
) -> Labels:
    """Read labels from Arrow, hidden or not, without a Python object per row.

    Args:
        dataset: A labelled dataset in any format or transform, with or without an indices mapping.
        strata: Columns a batch must share, coarse to fine; integers or strings. A coarse one may be absent.
        distinct: Integer column that a batch must not repeat. The default one may be absent, another one may not.

    Returns:
        The labels of all rows, in row order.

    Raises:
        ValueError: If a column is missing or holds nulls.
        TypeError: If a column is neither integers nor strings.
    """
    columns = find_strata_columns(dataset.column_names, strata)
    has_distinct = distinct in dataset.column_names
    if distinct is not None and not has_distinct and distinct != FALSE_NEGATIVE_GROUP:
        raise ValueError(
            f"distinct={distinct!r} is no column of the dataset, only {dataset.column_names}; pass distinct=None to "
            "let any rows meet"
        )
    table = dataset.with_format("arrow", columns=columns + ([distinct] if has_distinct else []))[:]
    codes, source_of_stratum = _number_strata(table, columns)
    groups = _as_uint32(_to_integers(table, str(distinct))) if has_distinct else None
    return Labels(codes, source_of_stratum, groups)


def _number_strata(table: pa.Table, columns: list[str]) -> tuple[Integers, Integers]:
    """Number the distinct tuples of label values in lexicographic order, source first."""
    size, keys = 1, np.zeros(table.num_rows, dtype=np.int64)
    source_span = 1  # how many keys one source covers
    for column in columns:
        values = _to_integers(table, column)
        low = int(values.min()) if len(values) else 0
        span = int(values.max()) - low + 1 if len(values) else 1
        if size * span >= 1 << 62:
            raise ValueError(f"Label column {column!r} spans {span} values, too many beside {columns}; renumber it")
        keys *= span
        keys += values
        keys -= low
        size *= span
        source_span = 1 if column == SOURCE else source_span * span
    if SOURCE not in columns:
        source_span = size
    if size <= max(_SMALL_TABLE, 2 * len(keys)):
        present = np.zeros(size, dtype=bool)
        present[keys] = True
        distinct = np.flatnonzero(present)
        table_of_codes = np.cumsum(present, dtype=np.int64) - 1
        codes = table_of_codes.astype(np.min_scalar_type(max(len(distinct), 1)))[keys]
    else:
        distinct, inverse = np.unique(keys, return_inverse=True)
        codes = inverse.astype(np.min_scalar_type(len(distinct)))
    sources = np.unique(distinct // max(source_span, 1), return_inverse=True)[1]
    return codes, sources


def _to_integers(table: pa.Table, name: str) -> Integers:
    column = table[name]
    if column.null_count:
        row = int(pc.index(pc.is_null(column), True).as_py())
        raise ValueError(f"Label column {name!r} has {column.null_count} nulls, the first in row {row}")
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        # Codes first: the strings of all rows together may be more than Arrow can address.
        encoded = column.dictionary_encode().unify_dictionaries().combine_chunks()
        # Alphabetical, so that the codes do not depend on which row happens to come first.
        rank = np.argsort(np.argsort(np.asarray(encoded.dictionary.to_pylist())))
        codes: Integers = rank.astype(np.int32)[encoded.indices.to_numpy()]
        return codes
    if not pa.types.is_integer(column.type):
        raise TypeError(
            f"Label column {name!r} holds {column.type}, needed are integers or strings; "
            f"cast it: dataset.cast_column({name!r}, Value('int32'))"
        )
    values: Integers = column.to_numpy()
    return values


def _as_uint32(values: Integers) -> npt.NDArray[np.uint32]:
    """Map group numbers to 32 bits one to one; the numbers themselves carry no meaning."""
    if values.dtype == np.int32 or values.dtype == np.uint32:
        return values.view(np.uint32)
    if len(values) and (values.min() < 0 or values.max() >= 1 << 32):
        values = np.unique(values, return_inverse=True)[1]
    return values.astype(np.uint32)
