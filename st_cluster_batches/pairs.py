"""Pairs as they come, checked, and as they go, with labels beside them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from st_cluster_batches.embedding import Key
from st_cluster_batches.labels import CLUSTER, FALSE_NEGATIVE_GROUP, SOURCE
from st_cluster_batches.texts import check_texts, find_text_columns

if TYPE_CHECKING:
    from datasets import Dataset

_WHOLE = "all"  # the name of the only source where there is no source column
_LABEL_CHUNK = 100_000


@dataclass(frozen=True)
class Pairs:
    """One Dataset of pairs, or longer tuples of text, checked and without label columns of its own.

    Args:
        name: Its name in a DatasetDict, or an empty string.
        dataset: The rows; the source column is called `source`.
        text_columns: Query, positive, then any negatives.
        text_hash: Hash of all texts in order.
        format: The format in which the user gave the dataset.
    """

    name: str
    dataset: Dataset
    text_columns: list[str]
    text_hash: str
    format: dict[str, Any]

    @classmethod
    def prepare(
        cls, name: str, dataset: Dataset, key: Key, source_column: str | None, overwrite: bool, show_progress_bar: bool
    ) -> Pairs:
        """Check a dataset and name its parts; see `cluster_dataset` for the arguments and errors."""
        where = f"Dataset {name!r}" if name else "The dataset"
        if len(dataset) == 0:
            raise ValueError(f"{where} has no rows; there is nothing to cluster")
        if present := [column for column in (CLUSTER, FALSE_NEGATIVE_GROUP) if column in dataset.column_names]:
            if not overwrite:
                raise ValueError(f"{where} has the columns {present} already; pass overwrite=True to replace them")
            dataset = dataset.remove_columns(present)
        if source_column is not None and source_column not in dataset.column_names and source_column != SOURCE:
            raise ValueError(f"{where} has no column {source_column!r}, only {dataset.column_names}")
        if source_column not in (None, SOURCE):
            dataset = dataset.rename_column(source_column, SOURCE)
        text_columns = find_text_columns(dataset)
        if key != "query" and len(text_columns) < 2:
            raise ValueError(f"{where} has one column of text, {text_columns}; key={key!r} needs a passage beside it")
        text_hash = check_texts(dataset, text_columns, show_progress_bar)
        part = cls(name, dataset, text_columns, text_hash, dataset.format)
        n_sources = len(part.sources()[0])
        if n_sources > max(20, len(dataset) // 2):
            raise ValueError(
                f"{where} has {n_sources} values of {SOURCE!r} in {len(dataset)} rows: that is no source but text. "
                f"Rename the column: dataset.rename_column({SOURCE!r}, ...)"
            )
        return part

    @property
    def key_columns(self) -> tuple[str, str | None]:
        """The query column, and the passage column if there is one."""
        return self.text_columns[0], (self.text_columns[1] if len(self.text_columns) > 1 else None)

    @property
    def source_hash(self) -> str:
        """Hash of the source of every row."""
        names, codes = self.sources()
        return hash_values(names, hashlib.sha256(codes.tobytes()).hexdigest())

    def sources(self) -> tuple[list[str], npt.NDArray[np.int32]]:
        """Return the names of the sources, in alphabetical order, and (n,) the source of every row."""
        prefix = [self.name] if self.name else []
        if SOURCE not in self.dataset.column_names:
            return prefix or [_WHOLE], np.zeros(len(self.dataset), dtype=np.int32)
        column = self.dataset.with_format("arrow", columns=[SOURCE])[:][SOURCE]
        if column.null_count:
            raise ValueError(f"Column {SOURCE!r} has {column.null_count} nulls; every row needs a source")
        encoded = column.combine_chunks().dictionary_encode()
        names = ["/".join([*prefix, str(value)]) for value in encoded.dictionary.to_pylist()]
        order = np.argsort(names)
        codes: npt.NDArray[np.int32] = np.argsort(order).astype(np.int32)[encoded.indices.to_numpy()]
        return [names[at] for at in order], codes

    def write(
        self, clusters: npt.NDArray[np.int32], groups: npt.NDArray[np.int32], path: Path, show_progress_bar: bool
    ) -> None:
        """Write the label columns as an Arrow file, by a map step over the rows' numbers."""
        from datasets import Features, Value

        self.dataset.with_format(None).map(
            _take_labels,
            with_indices=True,
            input_columns=[],
            batched=True,
            batch_size=_LABEL_CHUNK,
            remove_columns=self.dataset.column_names,
            fn_kwargs={CLUSTER: clusters, FALSE_NEGATIVE_GROUP: groups},
            features=Features({CLUSTER: Value("int32"), FALSE_NEGATIVE_GROUP: Value("int32")}),
            cache_file_name=str(path),
            load_from_cache_file=False,
            new_fingerprint=path.stem[-32:],
            desc="Attaching labels" if show_progress_bar else None,
        )

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


def _take_labels(indices: list[int], **labels: npt.NDArray[np.int32]) -> dict[str, npt.NDArray[np.int32]]:
    return {name: values[indices[0] : indices[-1] + 1] for name, values in labels.items()}


def hash_values(*values: Any) -> str:
    """Hash JSON values to 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:32]
