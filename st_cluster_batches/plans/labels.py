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

from st_cluster_batches.column_values import is_text
from st_cluster_batches.columns import CLUSTER, FALSE_NEGATIVE_KEYS, SOURCE
from st_cluster_batches.plans.keys import Keys, join_keys, read_keys
from st_cluster_batches.plans.sorting import CHUNK, Integers

if TYPE_CHECKING:
    from datasets import Dataset

# A lookup table over label values may have this many entries whatever the number of rows; beyond it, ranks.
_SMALL_TABLE = 1 << 22


@dataclass(frozen=True)
class Labels:
    """The labels of n rows, as a batch plan needs them.

    Args:
        strata: (n,) dense stratum codes; strata of one source are consecutive and follow the path of its clusters.
        source_of_stratum: (number of strata,) dense source codes, ascending; without a column of sources, of what is
            coarser than the strata.
        keys: The keys of false negatives, or None where every row may meet every other.
    """

    strata: Integers
    source_of_stratum: Integers
    keys: Keys | None = None

    def __len__(self) -> int:
        return len(self.strata)

    def digest(self) -> int:
        """Return a 64-bit hash of all labels, so that seeds and checkpoints can tell one labelling from another."""
        state = xxhash.xxh3_64()
        arrays: list[npt.NDArray[Any]] = [self.strata, self.source_of_stratum]
        if self.keys is not None:
            arrays += [self.keys.rows, self.keys.keys]
            arrays += [] if self.keys.is_negative is None else [self.keys.is_negative]
        for array in arrays:
            state.update(f"{array.dtype}{array.shape}".encode())
            state.update(np.ascontiguousarray(array).view(np.uint8).data)
        return state.intdigest()


def find_strata_columns(column_names: Sequence[str], strata: Sequence[str], where: str = "the dataset") -> list[str]:
    """Return the strata columns that a dataset has; sources alone may be absent, unless they are the finest.

    Raises:
        ValueError: If a column is missing; the message names the call that adds it.
    """
    for name in strata:
        if name in column_names or (name == SOURCE and name != strata[-1]):
            continue
        remedy = (
            "label the dataset first: dataset = attach_clusters(dataset, encoder)"
            if name == CLUSTER
            else "add the column, or give other columns: ClusterBatchSampler.configure(strata=...)"
        )
        raise ValueError(
            f"Batches are to share {tuple(strata)}, but {where} has no column {name!r}, only "
            f"{list(column_names)}; {remedy}"
        )
    return [column for column in strata if column in column_names]


def read_labels(
    dataset: Dataset,
    strata: Sequence[str] = (SOURCE, CLUSTER),
    distinct: Sequence[str] = (FALSE_NEGATIVE_KEYS,),
    clusters: Integers | None = None,
) -> Labels:
    """Read labels from Arrow, hidden or not, without a Python object per row.

    Args:
        dataset: A labelled dataset in any format or transform, with or without an indices mapping.
        strata: Columns a batch must share, coarse to fine; integers or strings. That of sources may be absent, where
            a finer one follows. Without any, all rows are of one stratum.
        distinct: Columns of keys that a batch is not to repeat: integers, strings, or lists of them. The default one
            may be absent, another one may not. In the default one, -k means key k, held only as the text of an
            explicit negative.
        clusters: (n,) clusters in place of those that the dataset has, if any.

    Returns:
        The labels of all rows, in row order.

    Raises:
        ValueError: If a column is missing, or holds nulls, or neither integers nor strings.
    """
    present = [*dataset.column_names, *([CLUSTER] if clusters is not None else [])]
    columns = find_strata_columns(present, strata)
    if missing := [name for name in distinct if name not in {*dataset.column_names, FALSE_NEGATIVE_KEYS}]:
        raise ValueError(
            f"distinct={missing[0]!r} is no column of the dataset, only {dataset.column_names}; pass distinct=None to "
            "let any rows meet"
        )
    held = [name for name in distinct if name in dataset.column_names]
    own = [name for name in columns if clusters is None or name != CLUSTER]
    table = dataset.with_format("arrow", columns=list(dict.fromkeys(own + held)))[:]
    if FALSE_NEGATIVE_KEYS in held:
        _check_own_keys(table[FALSE_NEGATIVE_KEYS])
    keys = join_keys([read_keys(table[name], name, name == FALSE_NEGATIVE_KEYS) for name in held])
    if not columns:  # a table without columns has forgotten its rows
        return Labels(np.zeros(len(dataset), dtype=np.uint8), np.zeros(min(len(dataset), 1), dtype=np.int64), keys)
    if clusters is not None and CLUSTER in columns:
        table = pa.table({**{name: table[name] for name in own}, CLUSTER: clusters})
    return Labels(*_number_strata(table, columns), keys)


def _check_own_keys(column: pa.ChunkedArray) -> None:
    """Check that keys are as `attach` writes them: lists of integers, an empty one for a row that may meet any other.

    Raises:
        ValueError: If some rows have none, or all have text in place of lists.
    """
    again = "attach_keys(dataset, overwrite=True), or attach_clusters(...) for clusters too"
    if column.null_count:
        row = int(pc.index(pc.is_null(column), True).as_py())
        raise ValueError(
            f"{column.null_count:,} of {len(column):,} rows have no {FALSE_NEGATIVE_KEYS!r}, the first of them row "
            f"{row}, as where labelled rows are joined with others; false negatives would meet. Label all: {again}"
        )
    if is_text(column.type) or is_text(getattr(column.type, "value_type", column.type)):
        raise ValueError(
            f"Column {FALSE_NEGATIVE_KEYS!r} holds text such as {column[0].as_py()!r}, as after a CSV file, which "
            f"keeps no lists; no two rows would share a key. Write parquet or JSON lines, or label again: {again}"
        )


def _number_strata(table: pa.Table, columns: list[str]) -> tuple[Integers, Integers]:
    """Number the distinct tuples of label values in lexicographic order, and those of the coarse columns."""
    codes, n_strata = _number(table, columns)
    coarse = columns[: columns.index(SOURCE) + 1] if SOURCE in columns else columns[:-1]
    if not coarse or not n_strata:
        return codes, np.zeros(n_strata, dtype=np.int64)
    # Any row of a stratum tells its source.
    row_of_stratum = np.empty(n_strata, dtype=np.int64)
    for low in range(0, len(codes), CHUNK):
        part = codes[low : low + CHUNK]
        row_of_stratum[part] = np.arange(low, low + len(part))
    return codes, _number(table.select(coarse).take(row_of_stratum), coarse)[0].astype(np.int64)


def _number(table: pa.Table, columns: list[str]) -> tuple[Integers, int]:
    """Number the distinct tuples of values from 0, in lexicographic order; return also how many there are."""
    keys: Integers = np.zeros(table.num_rows, dtype=np.int32)
    size = 1
    for column in columns:
        values, low, span = _find_span(_to_integers(table, column), table.num_rows)
        if size * span >= 1 << 62:  # only if there are millions of tuples already
            distinct, keys = np.unique(keys, return_inverse=True)
            size = len(distinct)
        size *= span
        keys = keys.astype(np.int32 if size < 1 << 31 else np.int64, copy=False)
        keys *= keys.dtype.type(span)
        np.add(keys, values, out=keys, casting="unsafe")
        keys -= keys.dtype.type(low)
    if size > max(_SMALL_TABLE, 2 * len(keys)):
        distinct, keys = np.unique(keys, return_inverse=True)
        return keys.astype(np.min_scalar_type(len(distinct))), len(distinct)
    is_present = np.zeros(size, dtype=bool)
    is_present[keys] = True
    n_distinct = int(np.count_nonzero(is_present))
    table_of_codes = np.cumsum(is_present, dtype=np.int64) - 1
    return table_of_codes.astype(np.min_scalar_type(max(n_distinct, 1)))[keys], n_distinct


def _find_span(values: Integers, n_rows: int) -> tuple[Integers, int, int]:
    """Return values, the least one and how many integers they span; ranks instead where that is far more than rows."""
    low, high = (int(values.min()), int(values.max())) if n_rows else (0, 0)
    if high - low < max(_SMALL_TABLE, 2 * n_rows) and high < 1 << 31 and low >= -(1 << 31):
        return values, low, high - low + 1
    # By a hash table: numbers of clusters lie far apart, but are few.
    encoded = pa.array(values).dictionary_encode()
    distinct = encoded.dictionary.to_numpy()
    rank = np.empty(len(distinct), dtype=np.int32 if n_rows < 1 << 31 else np.int64)
    rank[np.argsort(distinct)] = np.arange(len(distinct), dtype=rank.dtype)
    return rank[encoded.indices.to_numpy()], 0, len(distinct)


def _to_integers(table: pa.Table, name: str) -> Integers:
    column = table[name]
    if column.null_count:
        row = int(pc.index(pc.is_null(column), True).as_py())
        raise ValueError(
            f"Label column {name!r} has {column.null_count} nulls, the first in row {row}, as where labelled rows "
            "are joined with others. Label all: attach_clusters(dataset, encoder, overwrite=True); or leave these "
            f"out: dataset.filter(lambda row: row[{name!r}] is not None)"
        )
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if column.type == pa.string_view():
        column = column.cast(pa.large_string())
    elif pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    elif pa.types.is_temporal(column.type):
        column = column.cast(pa.int32() if column.type.bit_width == 32 else pa.int64())
    if is_text(column.type):
        # Codes first: the strings of all rows together may be more than Arrow can address.
        encoded = column.dictionary_encode().unify_dictionaries().combine_chunks()
        # Alphabetical, so that the codes do not depend on which row happens to come first.
        rank = np.argsort(np.argsort(np.asarray(encoded.dictionary.to_pylist())))
        codes: Integers = rank.astype(np.int32)[encoded.indices.to_numpy()]
        return codes
    if not pa.types.is_integer(column.type):
        mend = f"cast it: dataset.cast_column({name!r}, Value('int64'))"
        if name == CLUSTER and pa.types.is_floating(column.type):
            # A number of a cluster has more digits than a float keeps: cast back, many clusters would be one.
            mend = "pandas made them of integers and lost digits: attach_clusters(dataset, encoder, overwrite=True)"
        # No TypeError: transformers would take a sampler that raises one for a loader without a length.
        raise ValueError(f"Label column {name!r} holds {column.type}, needed are integers or strings; {mend}")
    values: Integers = column.to_numpy()
    return values
