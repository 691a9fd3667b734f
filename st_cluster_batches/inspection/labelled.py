"""A labelled dataset as an inspection reads it: one table of texts and labels, also of several datasets."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from st_cluster_batches.batches.sources import has_source_labels
from st_cluster_batches.clusters.assigning import find_position
from st_cluster_batches.columns import CLUSTER, FALSE_NEGATIVE_KEYS, SOURCE
from st_cluster_batches.data.pairs import WHOLE
from st_cluster_batches.data.roles import Columns, find_roles, read_as_columns, select_roles, tell_roles
from st_cluster_batches.data.sources import read_sources
from st_cluster_batches.plans.keys import Keys
from st_cluster_batches.plans.labels import find_strata_columns, read_labels
from st_cluster_batches.row_keys import ROW_KEY, has_row_keys, list_targets, read_marks
from st_cluster_batches.target_values import describe_targets, read_targets

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

logger = logging.getLogger(__name__)

Integers = npt.NDArray[np.integer[Any]]

_MAX_CHARACTERS = 2000  # of a text that is shown or whose words are counted
_LABELLED = (
    "%s has the column %s: every pair is measured as a positive here, as losses of in-batch negatives learn it. "
    "Losses that read the column take no negatives of the batch, so that batches make no difference to them"
)


@dataclass(frozen=True)
class LabelledPairs:
    """A labelled dataset as one table, also where it is a DatasetDict of sources.

    Args:
        dataset: All rows.
        text_columns: Query, passage, then any negatives.
        has_sources: Whether `dataset` has a column `source`, of numbers of sources.
        source_names: The sources.
        source_of_row: (n,) which of them a row is of.
        clusters: (n,) places of the clusters in their source, for people to read; `strata` tell them apart.
        strata: (n,) dense numbers of source and cluster together.
        keys: The keys of false negatives, or None.
        is_unmasked: (n,) the rows none of whose negatives a guided loss masks, as their row keys say.
        sizes: Rows of each dataset, in the order of the rows: a trainer plans each by itself.
    """

    dataset: Dataset
    text_columns: list[str]
    has_sources: bool
    source_names: list[str]
    source_of_row: Integers
    clusters: Integers
    strata: Integers
    keys: Keys | None
    is_unmasked: npt.NDArray[np.bool_]
    sizes: list[int]

    @classmethod
    def read(cls, dataset: Dataset | DatasetDict, columns: Columns | None = None) -> LabelledPairs:
        """Read labels and find the texts.

        Args:
            dataset: As `attach_clusters` leaves it.
            columns: Query, positive, negatives, in order; by default as `find_roles` finds them.

        Raises:
            ValueError: If labels or passages are missing.
        """
        from datasets import DatasetDict, concatenate_datasets

        named = dict(dataset) if isinstance(dataset, DatasetDict) else {"": dataset}
        parts, found = [], []
        names: list[list[str]] = []
        codes: list[Integers] = []
        marks: list[npt.NDArray[np.bool_]] = []
        for name, part in named.items():
            find_strata_columns(part.column_names, (CLUSTER,))
            is_label = SOURCE not in (columns or ()) and has_source_labels(part)
            where = f"Dataset {name!r}" if name else "The dataset"
            roles = replace(find_roles(part, columns, [SOURCE] if is_label else [], where), targets=())
            if targets := list_targets(part):
                logger.warning(_LABELLED, where, describe_targets(read_targets(part, targets)))
            found.append(roles)
            own_names, own_codes = [name or WHOLE], np.zeros(len(part), np.int32)
            if is_label:
                own_names, own_codes = read_sources(part, f"{name}/" if name else "")
            names.append(own_names)
            codes.append(own_codes)
            marks.append(_read_marks(part))
            labels = [one for one in (CLUSTER, FALSE_NEGATIVE_KEYS) if one in part.column_names]
            parts.append(select_roles(read_as_columns(part, roles.texts, labels), roles, labels))
        texts = _check_texts([roles.texts for roles in found])
        tell_roles(found)
        source_names = sorted(set().union(*names))
        numbers = [np.searchsorted(source_names, own)[code] for own, code in zip(names, codes, strict=True)]
        joined = np.concatenate(numbers), np.concatenate(marks)
        return cls._join(concatenate_datasets(parts), texts, source_names, *joined, list(map(len, parts)))

    @classmethod
    def _join(
        cls,
        dataset: Dataset,
        texts: list[str],
        source_names: list[str],
        source_of_row: Integers,
        is_unmasked: npt.NDArray[np.bool_],
        sizes: list[int],
    ) -> LabelledPairs:
        has_sources = len(source_names) > 1 and SOURCE not in texts
        if has_sources:
            dataset = dataset.add_column(SOURCE, source_of_row)
        labels = read_labels(dataset, (SOURCE, CLUSTER) if has_sources else (CLUSTER,))
        clusters = find_position(dataset.with_format("arrow", columns=[CLUSTER])[:][CLUSTER].to_numpy())
        strata, keys = labels.strata, labels.keys
        return cls(
            dataset, texts, has_sources, source_names, source_of_row, clusters, strata, keys, is_unmasked, sizes
        )

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def columns(self) -> tuple[str, str]:
        """The query column and the passage column."""
        return self.text_columns[0], self.text_columns[1]

    def read_texts(self, rows: Integers) -> tuple[list[str], list[str]]:
        """Return the queries and the passages of some rows, very long ones cut."""
        table = self.dataset.with_format("arrow", columns=list(self.columns))[rows]
        queries, passages = (
            [str(text)[:_MAX_CHARACTERS] for text in table[name].to_pylist()] for name in self.columns
        )
        return queries, passages

    def choose_strata(self, n_spaced: int) -> Integers:
        """Choose strata to describe: evenly spaced ones, and the largest of each source; ascending.

        Advice is given source by source, and on the largest cluster of each.

        Args:
            n_spaced: How many are evenly spaced; all are chosen where there are no more.
        """
        numbers, first, sizes = np.unique(self.strata, return_index=True, return_counts=True)
        spaced = np.linspace(0, len(numbers) - 1, n_spaced).round().astype(int)
        by_size = np.argsort(-sizes, kind="stable")
        _, at = np.unique(self.source_of_row[first[by_size]], return_index=True)
        chosen: Integers = numbers[np.union1d(spaced, by_size[at])]
        return chosen

    def sample_strata(self, numbers: Integers, n_rows: int, rng: np.random.Generator) -> Integers:
        """Choose up to `n_rows` rows of each stratum; ascending."""
        order = np.argsort(self.strata, kind="stable")
        ordered = self.strata[order]
        starts, ends = np.searchsorted(ordered, numbers), np.searchsorted(ordered, numbers, side="right")
        chosen = [
            order[start:end]
            if end - start <= n_rows
            else order[rng.choice(np.arange(start, end), n_rows, replace=False)]
            for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
        ]
        return np.sort(np.concatenate(chosen))


def _read_marks(part: Dataset) -> npt.NDArray[np.bool_]:
    if not has_row_keys(part):
        return np.zeros(len(part), dtype=bool)
    return read_marks(part.with_format("arrow", columns=[ROW_KEY])[:][ROW_KEY].to_numpy())[1]


def _check_texts(found: list[tuple[str, ...]]) -> list[str]:
    """Return the texts of all datasets, which are to be the same."""
    for texts in found:
        if len(texts) < 2:
            raise ValueError(
                f"The dataset has one column of text, {list(texts)}; in-batch negatives need passages too"
            )
        if texts != found[0]:
            raise ValueError(
                f"The datasets have different columns, {list(found[0])} and {list(texts)}; inspect one at a time"
            )
    return list(found[0])
