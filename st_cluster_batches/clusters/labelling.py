"""Write the labels of pairs: the cluster of every row, and the rows that would be its false negatives."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from st_cluster_batches.clusters.assigning import assign_rows, number_clusters, read_clusters
from st_cluster_batches.clusters.false_negatives import find_keys, tell_of_keys
from st_cluster_batches.clusters.guide_index import make_row_keys, write_guide
from st_cluster_batches.clusters.kmeans import Centroids, require_faiss
from st_cluster_batches.clusters.vectors import PairVectors
from st_cluster_batches.columns import CLUSTER, FALSE_NEGATIVE_KEYS, SOURCE, join_labels, write_labels
from st_cluster_batches.data.pairs import Key, Pairs
from st_cluster_batches.row_keys import ROW_KEY, mark_keys
from st_cluster_batches.storage.cache import hash_values, read_seal, seal
from st_cluster_batches.storage.chunks import ChunkedArray, hash_array
from st_cluster_batches.target_values import read_targets

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

_LABEL_VERSION = 5  # to be raised by any change here that changes labels or what is reported of them


def check_threshold(parts: Sequence[Pairs], threshold: float | None) -> None:
    """Refuse to search near-duplicates among pairs with labels or scores, which get no keys.

    Raises:
        ValueError: If all pairs are such; where some are not, these get theirs.
    """
    if threshold is not None and all(one.targets for one in parts):
        values = read_targets(parts[0].given, parts[0].targets)[0]
        raise ValueError(
            f"false_negative_threshold={threshold:g} finds rows that no batch should hold both of, and pairs with "
            f"{values} get no such keys: their losses take no other rows for negatives. Leave it out, or "
            f"keep the pairs that belong together: {values.call}, on the command line --positive_label {values.label}"
        )


def label_rows(
    vectors: Sequence[PairVectors],
    centroids: Mapping[str, Centroids],
    key: Key,
    threshold: float | None,
    guides: Sequence[PairVectors] | None = None,
    unmasked: Collection[str] = (),
) -> tuple[list[Dataset], dict[str, Any]]:
    """Attach clusters and false-negative keys; a second call with the same inputs reads them from the cache.

    Args:
        vectors: The pairs, one of each dataset, under the encoder that the centroids were made with.
        centroids: Centroids by source, in the order in which clusters are numbered.
        key: The text that decides the cluster.
        threshold: Similarity from which on passages count as nearly equal; None for equal texts alone.
        guides: The same pairs under the encoder that masks: rows get keys, by which the vectors of all their columns
            are indexed. None for rows without keys.
        unmasked: The sources whose rows get keys by which a guided loss masks nothing.

    Returns:
        The labelled datasets, and a report on the rows that would be false negatives of one another.
    """
    for one in guides or ():
        write_guide(one)
    marked = sorted({name for one in vectors for name in one.pairs.sources} & set(unmasked))
    paths, report = _Labelling(vectors, centroids, key, threshold, guides, marked).make()
    if vectors[0].cache.processes.is_main:
        for one, own in zip(vectors, report.values(), strict=True):
            tell_of_keys(one.pairs, own)
    labelled = [
        join_labels(
            one.pairs.given,
            path,
            one.pairs.roles.shown,
            SOURCE if one.pairs.has_sources else None,
            one.pairs.given_names,
        )
        for one, path in zip(vectors, paths, strict=True)
    ]
    return labelled, report


@dataclass(frozen=True)
class _Labelling:
    """All that decides the labels of some pairs; see `label_rows`.

    Args:
        guides: The pairs under the encoder by which row keys are made; None if rows get none.
        marked: The sources whose row keys are marked, sorted.
    """

    vectors: Sequence[PairVectors]
    centroids: Mapping[str, Centroids]
    key: Key
    threshold: float | None
    guides: Sequence[PairVectors] | None
    marked: Sequence[str]

    def make(self) -> tuple[list[Path], dict[str, Any]]:
        """Make the labels together with the other processes, unless they are in the cache.

        Returns:
            The file of each dataset, and by dataset a report on its false negatives.
        """
        cache, name = self.vectors[0].cache, self._name()
        paths = [cache.folder / f"{name}-{at}.arrow" for at in range(len(self.vectors))]
        seal_path = cache.folder / f"{name}.json"
        report = cache.processes.decide(lambda: read_seal(paths, seal_path))
        if report is not None:
            logger.info("Labels of the same texts, encoder and centroids are in the cache: %s", seal_path)
            return paths, report
        nearest = [assign_rows(one, self.key, self.centroids) for one in self.vectors]
        for one in self.vectors:
            if self.threshold is not None and not one.pairs.targets:
                one.embed("passage")
        cache.processes.once(lambda: seal(paths, seal_path, self._write(nearest, paths)), None)
        report = read_seal(paths, seal_path)
        assert report is not None, "labels that were just written are there"
        return paths, report

    def _name(self) -> str:
        """Return a name of the labels in the cache, by all that decides them."""
        hashes = (
            [(one.pairs.data_hash, one.pairs.targets) for one in self.vectors],
            {name: hash_array(one) for name, one in self.centroids.items()},
        )
        encoder = self.vectors[0].encoder.fingerprint
        guided = [] if self.guides is None else ["guide", *self.marked]
        guided += sorted({one.encoder.fingerprint for one in self.guides or ()} - {encoder})
        guided += [hash_array(one.communities) for one in self.vectors if one.communities is not None]
        decided = (encoder, self.key, self.threshold, require_faiss().__version__)
        return f"labels-{hash_values(*hashes, *decided, _LABEL_VERSION, *guided)}"

    def _write(self, nearest: Sequence[ChunkedArray], paths: Sequence[Path]) -> dict[str, dict[str, Any]]:
        """Find the keys of all rows and write their labels; return what is known of their false negatives."""
        reports: dict[str, dict[str, Any]] = {}
        first_cluster = number_clusters(self.centroids)
        for at, (one, assigned, path) in enumerate(zip(self.vectors, nearest, paths, strict=True)):
            read = partial(read_clusters, one.pairs, assigned, first_cluster)
            columns: dict[str, Any] = {CLUSTER: lambda low, high, read=read: pa.array(read(low, high))}
            report: dict[str, Any] = {}
            if not one.pairs.targets:
                clusters = None if self.threshold is None else read(0, len(one))
                keys, report = find_keys(one, clusters, self.threshold)
                columns[FALSE_NEGATIVE_KEYS] = keys.to_arrow
            if self.guides is not None:
                columns[ROW_KEY] = partial(_read_row_keys, self.guides[at], self.marked)
            write_labels(path, len(one), columns)
            reports[one.pairs.name or "all"] = report
        return reports


def _read_row_keys(vectors: PairVectors, marked: Sequence[str], low: int, high: int) -> pa.Array:
    """Read the keys of some rows, marked where they are of a source whose rows mask nothing."""
    if low == high:
        return pa.array([], pa.int64())
    codes = [at for at, name in enumerate(vectors.pairs.sources) if name in marked]
    is_unmasked = np.isin(vectors.pairs.source_of_row[low:high], codes)
    keys = make_row_keys(vectors.row_hashes.slice(low, high), vectors.encoder.fingerprint)
    return pa.array(mark_keys(keys, is_unmasked))
