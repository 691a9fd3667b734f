"""Pairs of query and passage, or longer tuples of text: which column is what, checked, with hashes of the texts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import xxhash

from st_cluster_batches.columns import CLUSTER, FALSE_NEGATIVE_KEYS, SOURCE
from st_cluster_batches.data.dataset_kinds import describe_kind, find_call
from st_cluster_batches.data.meaning import check_meaning, check_text_called_source
from st_cluster_batches.data.roles import Columns, Roles, find_roles, list_texts, read_as_columns, tell_roles
from st_cluster_batches.data.sources import read_sources, refuse_text, refuse_text_called_source
from st_cluster_batches.data.texts import check_texts
from st_cluster_batches.row_keys import ROW_KEY, TARGET_COLUMNS, has_row_keys, list_targets
from st_cluster_batches.storage.cache import hash_values

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

logger = logging.getLogger(__name__)

# What decides a cluster. `symmetric` is `both`, and k-means sees every pair a second time with its sides exchanged, as
# CDE (arXiv 2410.02525) does.
Key = Literal["query", "passage", "both", "symmetric"]
KEYS: tuple[Key, ...] = ("query", "passage", "both", "symmetric")
Side = Literal["query", "passage"]

WHOLE = "all"  # the name of the only source where there is no source column


def sides_of(key: Key) -> tuple[Side, ...]:
    """Return the texts of a pair that a key is made of."""
    return (key,) if key in ("query", "passage") else ("query", "passage")


@dataclass(frozen=True)
class PairOptions:
    """How a dataset of pairs is to be read.

    Args:
        source_column: Column that names the source of a row; renamed to `source`. The default one may be absent, and
            is text if `columns` names it. None takes all rows for one source, and a column `source` for text.
        overwrite: Whether to replace label columns that the dataset has.
        needs_passages: Whatever needs a passage beside the query, as an error message names it; None if nothing does.
        columns: Query, positive, negatives, in order; by default those that a trainer would take. See `find_roles`.
        needs_row_keys: Whether rows are to carry their keys, where a loss expects its labels.
        keeps_clusters: Whether a column of clusters stays, since they are not to be found anew.
    """

    source_column: str | None = SOURCE
    _: KW_ONLY
    overwrite: bool = False
    needs_passages: str | None = None
    columns: Columns | None = None
    needs_row_keys: bool = False
    keeps_clusters: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.columns, list):
            object.__setattr__(self, "columns", tuple(self.columns))  # so that options can be compared and hashed

    def refuse_labelled(self, present: Sequence[str], features: Mapping[str, Any] | None, where: str) -> None:
        """Raise a ValueError if labels are there already, and are not to be replaced; warn if they look like texts."""
        if present and not self.overwrite:
            raise ValueError(
                f"{where} has the columns {present} already; pass overwrite=True to replace them, or, where they are "
                f"yours, rename them: dataset.rename_column({present[0]!r}, ...)"
            )
        if texts := list_texts({name: (features or {}).get(name) for name in present}):
            logger.warning(
                "%s: the columns %s hold texts, and are replaced by labels; to keep them, rename them: "
                "dataset.rename_column(%r, ...)",
                where,
                texts,
                texts[0],
            )

    def find_source(self, names: Sequence[str], where: str) -> str | None:
        """Return which of some columns is that of sources, if there is one.

        Raises:
            ValueError: If a column is named and is not there, or is a text too.
        """
        column = self.source_column
        if column is None or (column == SOURCE and column not in names):
            return None
        if column not in names:
            raise ValueError(f"{where} has no column {column!r}, only {list(names)}")
        if column in (self.columns or ()):
            if column == SOURCE:
                return None
            raise ValueError(
                f"{column!r} is named as a text by columns= and as source_column= too; it can be only one"
            )
        return column


@dataclass(frozen=True)
class Pairs:
    """One dataset of pairs, checked and without label columns of its own.

    Args:
        name: Its name in a DatasetDict, or an empty string.
        dataset: The rows, with their texts as columns; the source column is called `source`.
        given: The rows as they are to be labelled: in the user's format, perhaps with a transform that makes the
            texts.
        has_sources: Whether there is a column of sources.
        roles: Which column is what.
        text_hashes: Hash of all texts of a column in order, by column.
        given_names: By the name under which a transform knows a column, its name now, where these differ.
        names_sources: Whether its name stands before those of its sources, or is that of its only one.
    """

    name: str
    dataset: Dataset
    given: Dataset
    has_sources: bool
    roles: Roles
    text_hashes: dict[str, str]
    given_names: Mapping[str, str] = field(default_factory=dict)
    names_sources: bool = True

    @classmethod
    def prepare(cls, name: str, dataset: Dataset, options: PairOptions, show_progress_bar: bool = True) -> Pairs:
        """Check a dataset and name its parts.

        Raises:
            ValueError: If rows, texts or columns are missing or do not fit the options.
        """
        where = f"Dataset {name!r}" if name else "The dataset"
        if not 0 < len(dataset) < 1 << 31:
            raise ValueError(f"{where} has {len(dataset) or 'no'} rows; needed are one and up to {(1 << 31) - 1:,}")
        own = [FALSE_NEGATIVE_KEYS, *([] if options.keeps_clusters else [CLUSTER])]
        own += [ROW_KEY] if has_row_keys(dataset) and not options.keeps_clusters else []
        if present := [column for column in own if column in dataset.column_names]:
            options.refuse_labelled(present, dataset.features, where)
            dataset = dataset.remove_columns(present)
        source = options.find_source(dataset.column_names, where)
        roles = find_roles(dataset, options.columns, [source] if source else [], where)
        if len(roles.texts) < 2 and options.needs_passages:
            raise ValueError(
                f"{where} has one column of text, {list(roles.texts)}; {options.needs_passages} needs a passage "
                "beside it"
            )
        given, given_names = _rename_source(dataset, source, roles)
        if options.needs_row_keys:
            _check_free(roles, where)
        read = read_as_columns(dataset, roles.texts, [source] if source else [])
        if source not in (None, SOURCE):
            read = read.select_columns([*roles.texts, source]).rename_column(source, SOURCE)
        if not roles.is_given:
            check_meaning(read, roles.texts, where)
            check_text_called_source(read, roles.texts, where)
        pairs = cls(
            name,
            read,
            given,
            source is not None,
            roles,
            check_texts(read, roles.texts, show_progress_bar),
            given_names,
        )
        refuse_text(len(pairs.sources), len(dataset), str(source), where)
        return pairs

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def text_columns(self) -> list[str]:
        """Query, positive, then any negatives."""
        return list(self.roles.texts)

    @cached_property
    def targets(self) -> list[str]:
        """The columns with labels or scores: with these, a loss takes no other rows of a batch for negatives."""
        return list_targets(self.given, self.roles.targets)

    @cached_property
    def text_hash(self) -> str:
        """Hash of all texts, with their columns in order."""
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

    @property
    def rows_of_source(self) -> dict[str, int]:
        """The number of rows by name of source."""
        counts = np.bincount(self.source_of_row, minlength=len(self.sources))
        return dict(zip(self.sources, counts.tolist(), strict=True))

    @cached_property
    def _sources(self) -> tuple[list[str], npt.NDArray[np.int32]]:
        name = self.name if self.names_sources else ""
        if not self.has_sources:
            return [name or WHOLE], np.zeros(len(self.dataset), dtype=np.int32)
        return read_sources(self.dataset, prefix=f"{name}/" if name else "")


def _rename_source(dataset: Dataset, source: str | None, roles: Roles) -> tuple[Dataset, dict[str, str]]:
    """Call the column of sources `source`, and remember its name for a transform that reads it."""
    if source in (None, SOURCE):
        return dataset, {}
    if SOURCE in dataset.column_names:
        if SOURCE in roles.texts:
            refuse_text_called_source(str(source))
        dataset = dataset.remove_columns(SOURCE)
    return dataset.rename_column(source, SOURCE), {str(source): SOURCE}


def _check_free(roles: Roles, where: str) -> None:
    """Check that a row can carry its key, in the one place from which a loss gets a number."""
    if targets := [name for name in roles.targets if name in TARGET_COLUMNS]:
        raise ValueError(
            f"{where} has {targets} to learn from; a guide needs that place for row keys, and the losses that read "
            f"labels take no negatives from the batch, so that there is nothing to guide. Leave guide=True away, or "
            f"take them out: dataset.remove_columns({targets})"
        )
    if len(roles.texts) < 2:
        raise ValueError(f"{where} has one column of text, {list(roles.texts)}; guide=True needs a passage beside it")


def as_datasets(dataset: Any, caller: str) -> Any:
    """Return a Dataset or a DatasetDict, which a plain dict of datasets becomes.

    Args:
        dataset: What the user passes.
        caller: The call, for the message.

    Raises:
        TypeError: If it is anything else, with what to do.
    """
    from datasets import Dataset, DatasetDict

    if isinstance(dataset, Dataset | DatasetDict):
        return dataset
    if isinstance(dataset, dict) and dataset and all(isinstance(one, Dataset) for one in dataset.values()):
        return DatasetDict({str(name): one for name, one in dataset.items()})
    raise TypeError(
        f"{caller} takes a Dataset, a DatasetDict or a dict of Datasets, not {describe_kind(dataset)}; "
        f"{find_call(dataset, caller)}"
    )


def prepare_parts(dataset: Dataset | DatasetDict, options: PairOptions, show_progress_bar: bool = True) -> list[Pairs]:
    """Check the datasets of a dict, or the only one, and log which column is what; see `Pairs.prepare`."""
    from datasets import DatasetDict

    named = dict(dataset) if isinstance(dataset, DatasetDict) else {"": dataset}
    parts = [Pairs.prepare(name, one, options, show_progress_bar) for name, one in named.items()]
    tell_roles([one.roles for one in parts])
    return parts
