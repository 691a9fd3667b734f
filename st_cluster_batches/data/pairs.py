"""Pairs as they come, checked, and as they go, with labels beside them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from st_cluster_batches.batches.labels import CLUSTER, FALSE_NEGATIVE_GROUP, SOURCE
from st_cluster_batches.data.texts import check_texts, find_text_columns, iterate_tables
from st_cluster_batches.storage.cache import hash_values, write_whole

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

    from st_cluster_batches.clusters.encoder import Key

WHOLE = "all"  # the name of the only source where there is no source column
_LABEL_CHUNK = 100_000


@dataclass(frozen=True)
class Pairs:
    """One Dataset of pairs, or longer tuples of text, checked and without label columns of its own.

    Args:
        name: Its name in a DatasetDict, or an empty string.
        dataset: The rows; the source column is called `source`.
        has_sources: Whether there is such a column and it counts.
        text_columns: Query, positive, then any negatives.
        text_hash: Hash of all texts in order.
        format: The format in which the user gave the dataset.
    """

    name: str
    dataset: Dataset
    has_sources: bool
    text_columns: list[str]
    text_hash: str
    format: dict[str, Any]

    @classmethod
    def prepare(
        cls,
        name: str,
        dataset: Dataset,
        *,
        key: Key,
        needs_passages: bool = False,
        source_column: str | None,
        overwrite: bool,
        show_progress_bar: bool,
    ) -> Pairs:
        """Check a dataset and name its parts; see `cluster_dataset` for the arguments and errors."""
        where = f"Dataset {name!r}" if name else "The dataset"
        if not 0 < len(dataset) < 1 << 31:
            raise ValueError(f"{where} has {len(dataset) or 'no'} rows; there is nothing to cluster, or too much")
        if present := [column for column in (CLUSTER, FALSE_NEGATIVE_GROUP) if column in dataset.column_names]:
            if not overwrite:
                raise ValueError(f"{where} has the columns {present} already; pass overwrite=True to replace them")
            dataset = dataset.remove_columns(present)
        if source_column is not None and source_column not in dataset.column_names and source_column != SOURCE:
            raise ValueError(f"{where} has no column {source_column!r}, only {dataset.column_names}")
        if source_column not in (None, SOURCE):
            dataset = dataset.rename_column(source_column, SOURCE)
        text_columns = find_text_columns(dataset)
        if len(text_columns) < 2 and (key != "query" or needs_passages):
            needing = f"key={key!r}" if key != "query" else "false_negative_threshold="
            raise ValueError(f"{where} has one column of text, {text_columns}; {needing} needs a passage beside it")
        text_hash = check_texts(dataset, text_columns, show_progress_bar)
        has_sources = source_column is not None and SOURCE in dataset.column_names
        part = cls(name, dataset, has_sources, text_columns, text_hash, dataset.format)
        n_sources = len(part.sources)
        if n_sources > max(20, len(dataset) // 2):
            raise ValueError(
                f"{where} has {n_sources} values of {SOURCE!r} in {len(dataset)} rows: that is no source but text. "
                f"Rename the column: dataset.rename_column({SOURCE!r}, ...)"
            )
        return part

    def __len__(self) -> int:
        return len(self.dataset)

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

    def join(self, path: Path) -> Dataset:
        """Return the dataset with the written labels beside it; texts are neither copied nor changed."""
        from datasets import Dataset, concatenate_datasets

        plain = self.dataset.with_format(None)
        if SOURCE in plain.column_names:
            # Text first, in the user's order: losses read the columns by position.
            plain = plain.select_columns([*(name for name in plain.column_names if name != SOURCE), SOURCE])
        joined = concatenate_datasets([plain, Dataset.from_file(str(path))], axis=1)
        if set(self.format["columns"]) >= set(self.dataset.column_names):
            joined.set_format(self.format["type"], **self.format["format_kwargs"])
        else:
            joined.set_format(**self.format)
        return joined


def prepare_parts(
    dataset: Dataset | DatasetDict,
    *,
    key: Key,
    needs_passages: bool = False,
    source_column: str | None,
    overwrite: bool,
    show_progress_bar: bool,
) -> list[Pairs]:
    """Check the datasets of a dict, or the only one; see `cluster_dataset` for the arguments and errors."""
    from datasets import DatasetDict

    named = dict(dataset) if isinstance(dataset, DatasetDict) else {"": dataset}
    return [
        Pairs.prepare(
            name,
            one,
            key=key,
            needs_passages=needs_passages,
            source_column=source_column,
            overwrite=overwrite,
            show_progress_bar=show_progress_bar,
        )
        for name, one in named.items()
    ]


def write_labels(path: Path, clusters: npt.NDArray[np.int32], groups: npt.NDArray[np.int32]) -> None:
    """Write the label columns as an Arrow file that `datasets` maps into memory."""
    from datasets import Features, Value

    schema = Features({CLUSTER: Value("int32"), FALSE_NEGATIVE_GROUP: Value("int32")}).arrow_schema
    with (
        write_whole(path) as temporary,
        pa.OSFile(str(temporary), "wb") as file,
        pa.ipc.new_stream(file, schema) as to,
    ):
        for low in range(0, len(clusters), _LABEL_CHUNK):
            columns = [pa.array(values[low : low + _LABEL_CHUNK]) for values in (clusters, groups)]
            to.write_batch(pa.record_batch(columns, schema=schema))
