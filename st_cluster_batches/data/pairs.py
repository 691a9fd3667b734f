"""Pairs of query and passage, or longer tuples of text: which column is what, checked, with hashes of the texts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import xxhash

from st_cluster_batches.columns import CLUSTER, FALSE_NEGATIVE_KEYS, SOURCE, TARGET_COLUMNS
from st_cluster_batches.data.texts import check_texts, find_text_columns, iterate_tables
from st_cluster_batches.storage.cache import hash_values

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

Key = Literal["query", "passage", "both"]
KEYS: tuple[Key, ...] = ("query", "passage", "both")
Side = Literal["query", "passage"]

WHOLE = "all"  # the name of the only source where there is no source column


def sides_of(key: Key) -> tuple[Side, ...]:
    """Return the texts of a pair that a key is made of."""
    return ("query", "passage") if key == "both" else (key,)


@dataclass(frozen=True)
class PairOptions:
    """How a dataset of pairs is to be read.

    Args:
        source_column: Column that names the source of a row; renamed to `source`. The default one may be absent.
            None takes all rows for one source.
        overwrite: Whether to replace label columns that the dataset has.
        needs_passages: Whatever needs a passage beside the query, as an error message names it; None if nothing does.
    """

    source_column: str | None = SOURCE
    overwrite: bool = False
    needs_passages: str | None = None


@dataclass(frozen=True)
class Pairs:
    """One dataset of pairs, checked and without label columns of its own.

    Args:
        name: Its name in a DatasetDict, or an empty string.
        dataset: The rows; the source column is called `source`.
        has_sources: Whether there is such a column and it counts.
        text_columns: Query, positive, then any negatives.
        text_hashes: Hash of all texts of a column in order, by column.
    """

    name: str
    dataset: Dataset
    has_sources: bool
    text_columns: list[str]
    text_hashes: dict[str, str]

    @classmethod
    def prepare(cls, name: str, dataset: Dataset, options: PairOptions, show_progress_bar: bool = True) -> Pairs:
        """Check a dataset and name its parts.

        Raises:
            ValueError: If rows, texts or columns are missing or do not fit the options.
        """
        where = f"Dataset {name!r}" if name else "The dataset"
        if not 0 < len(dataset) < 1 << 31:
            raise ValueError(f"{where} has {len(dataset) or 'no'} rows; there is nothing to cluster, or too much")
        if present := [column for column in (CLUSTER, FALSE_NEGATIVE_KEYS) if column in dataset.column_names]:
            if not options.overwrite:
                raise ValueError(f"{where} has the columns {present} already; pass overwrite=True to replace them")
            dataset = dataset.remove_columns(present)
        source_column = options.source_column
        if source_column is not None and source_column not in dataset.column_names and source_column != SOURCE:
            raise ValueError(f"{where} has no column {source_column!r}, only {dataset.column_names}")
        if source_column not in (None, SOURCE):
            dataset = dataset.rename_column(source_column, SOURCE)
        text_columns = find_text_columns(dataset)
        if len(text_columns) < 2 and options.needs_passages:
            raise ValueError(
                f"{where} has one column of text, {text_columns}; {options.needs_passages} needs a passage beside it"
            )
        text_hashes = check_texts(dataset, text_columns, show_progress_bar)
        pairs = cls(
            name, dataset, source_column is not None and SOURCE in dataset.column_names, text_columns, text_hashes
        )
        n_sources = len(pairs.sources)
        if n_sources > max(20, len(dataset) // 2):
            raise ValueError(
                f"{where} has {n_sources} values of {SOURCE!r} in {len(dataset)} rows: that is no source but text. "
                f"Rename the column: dataset.rename_column({SOURCE!r}, ...)"
            )
        return pairs

    def __len__(self) -> int:
        return len(self.dataset)

    def column_of(self, side: Side) -> str:
        """Return the column that holds the queries or the passages."""
        return self.text_columns[0 if side == "query" else 1]

    @property
    def targets(self) -> list[str]:
        """The columns with labels or scores: with these, a loss takes no other rows of a batch for negatives."""
        return [name for name in self.dataset.column_names if name in TARGET_COLUMNS]

    @cached_property
    def text_hash(self) -> str:
        """Hash of all texts, with their columns."""
        return hash_values(self.text_hashes)

    @cached_property
    def data_hash(self) -> str:
        """Hash of texts and sources."""
        return hash_values(self.text_hash, self.sources, xxhash.xxh3_128_hexdigest(self.source_of_row.data))

    @property
    def sources(self) -> list[str]:
        """The names of the sources, in alphabetical order."""
        return self._sources[0]

    @property
    def source_of_row(self) -> npt.NDArray[np.int32]:
        """(n,) the source of every row, as a position in `sources`."""
        return self._sources[1]

    @cached_property
    def _sources(self) -> tuple[list[str], npt.NDArray[np.int32]]:
        prefix = [self.name] if self.name else []
        codes = np.zeros(len(self.dataset), dtype=np.int32)
        if not self.has_sources:
            return prefix or [WHOLE], codes
        code_of_value: dict[Any, int] = {}
        first = 0
        for table in iterate_tables(self.dataset, [SOURCE], "Reading sources", False):
            encoded = table[SOURCE].combine_chunks().dictionary_encode()
            if encoded.null_count:
                raise ValueError(
                    f"Column {SOURCE!r} has no value in row {first + encoded.is_null().index(True).as_py()}; every "
                    "row needs a source"
                )
            values = [code_of_value.setdefault(one, len(code_of_value)) for one in encoded.dictionary.to_pylist()]
            codes[first : first + len(encoded)] = np.asarray(values, dtype=np.int32)[encoded.indices.to_numpy()]
            first += len(encoded)
        names = ["/".join([*prefix, str(value)]) for value in code_of_value]
        order = np.argsort(names)
        return [names[at] for at in order], np.argsort(order).astype(np.int32)[codes]


def prepare_parts(dataset: Dataset | DatasetDict, options: PairOptions, show_progress_bar: bool = True) -> list[Pairs]:
    """Check the datasets of a dict, or the only one; see `Pairs.prepare`."""
    from datasets import DatasetDict

    named = dict(dataset) if isinstance(dataset, DatasetDict) else {"": dataset}
    return [Pairs.prepare(name, one, options, show_progress_bar) for name, one in named.items()]
