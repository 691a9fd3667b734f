"""Fit a clustering: train centroids on a sample, assign all rows, split what is too large, until sizes are right."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from tqdm.auto import tqdm

from st_cluster_batches.clusters.assigning import assign_rows, measure_clusters
from st_cluster_batches.clusters.clustering import Clustering
from st_cluster_batches.clusters.kmeans import Centroids, fit_centroids, require_faiss, sample_positions
from st_cluster_batches.clusters.options import ClusterOptions
from st_cluster_batches.clusters.sizes import warn_of_default
from st_cluster_batches.clusters.source_communities import cut_sources, find_middles
from st_cluster_batches.clusters.two_level_kmeans import MOST_AT_ONCE, fit_in_cells
from st_cluster_batches.clusters.vectors import PairVectors
from st_cluster_batches.data.pairs import Pairs
from st_cluster_batches.storage.cache import hash_values, write_whole
from st_cluster_batches.storage.chunks import ChunkedArray, hash_array
from st_cluster_batches.storage.shared_cache import SharedCache

logger = logging.getLogger(__name__)

_FIT_VERSION = 5  # to be raised by any change here that changes centroids
_VERSIONED = ("st-cluster-batches", "sentence-transformers", "datasets")

_MAX_ROUNDS = 20


def fit_vectors(
    vectors: Sequence[PairVectors],
    options: ClusterOptions,
    cache: SharedCache,
    start: Mapping[str, Centroids] | None = None,
) -> Clustering:
    """Cluster every source of some pairs; a second call with the same inputs reads no vector.

    Args:
        vectors: The pairs, one of each dataset, under one encoder.
        options: What decides the clusters.
        cache: Where centroids are kept, and who shares the work.
        start: Centroids by source that k-means starts from, if they are about as many as are wanted.

    Returns:
        The clustering.
    """
    options.check_sources(name for one in vectors for name in one.pairs.sources)
    if cache.processes.is_main:
        warn_of_default(options)  # before hours of embedding
    encoder = vectors[0].encoder
    for one in vectors:
        cut_sources(one, options, cache)
    data_hash = hash_values([one.pairs.data_hash for one in vectors])
    started = [[hash_array(one) for one in start.values()]] if start else []
    started += [one.name(options.key) for one in vectors if one.renewal is not None]
    started += [[hash_array(one.communities)] for one in vectors if one.communities is not None]
    name = hash_values(
        data_hash, encoder.fingerprint, asdict(options), require_faiss().__version__, _FIT_VERSION, *started
    )
    artefact = cache.folder / f"clustering-{name}"
    if cache.processes.decide(lambda: _is_whole(artefact)):
        logger.info("A clustering of the same texts, encoder and options is in the cache: %s", artefact)
        found = Clustering.load(artefact)
        # The same model may have had another name or place when it was made.
        return replace(found, encoder=encoder, manifest={**found.manifest, **encoder.describe()})
    for one in vectors:
        one.embed(options.key)
    centroids, nearest = _settle(vectors, options, cache, f"draft-{name}", start or {})

    def save() -> None:
        manifest = _describe(vectors, nearest, centroids, options)
        manifest["data_hash"] = data_hash
        Clustering(centroids, manifest).save(artefact)

    cache.processes.once(save, None)
    return replace(Clustering.load(artefact), encoder=encoder)


def _settle(
    vectors: Sequence[PairVectors],
    options: ClusterOptions,
    cache: SharedCache,
    draft: str,
    start: Mapping[str, Centroids],
) -> tuple[dict[str, Centroids], list[ChunkedArray]]:
    """Find centroids, and refine them until sizes are as asked; return the rows' nearest too."""
    # Drafts and assignments stay: another job may be reading them, and they are small beside the vectors.
    centroids = _keep(cache.folder / f"{draft}-0", lambda: _train_sources(vectors, options, cache, start), cache)
    for number in range(1, _MAX_ROUNDS):
        nearest = [assign_rows(one, options.key, centroids) for one in vectors]
        path = cache.folder / f"{draft}-{number}"
        refined = _keep(path, lambda: _refine_sources(vectors, nearest, centroids, options), cache)  # noqa: B023
        is_settled = all(np.array_equal(refined[source], centroids[source]) for source in centroids)
        if is_settled or number == _MAX_ROUNDS - 1:  # rows that are too alike to be split may go on for ever
            break
        centroids = refined
    return centroids, nearest


def _is_whole(artefact: Path) -> bool:
    """Whether a clustering in the cache can be read."""
    if not artefact.exists():
        return False
    try:
        Clustering.load(artefact)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        logger.warning("%s cannot be read and is made again: %s", artefact, error)
        return False
    return True


def _keep(path: Path, make: Callable[[], dict[str, Centroids]], cache: SharedCache) -> dict[str, Centroids]:
    """Make centroids in the first process, keep them in the cache, and give them to all processes."""

    def save() -> None:
        # As a whole: another job that finds other centroids, on another device, must not mix its own with these.
        if not path.exists():
            with write_whole(path) as temporary:
                Clustering(make()).save(temporary)

    cache.processes.once(save, None)
    return Clustering.load(path).centroids


def _train_sources(
    vectors: Sequence[PairVectors], options: ClusterOptions, cache: SharedCache, start: Mapping[str, Centroids]
) -> dict[str, Centroids]:
    """Find centroids of every source on a uniform sample of its rows."""
    centroids = {}
    sources = [(one, code, name) for one in vectors for code, name in enumerate(one.pairs.sources)]
    for own, code, name in tqdm(sources, "Clustering", unit="source", disable=not cache.show_progress_bar):
        source_of_row = own.pairs.source_of_row
        n_clusters = options.count_clusters(int(np.count_nonzero(source_of_row == code)), name)
        if own.communities is not None and options.find_method(name) == "communities":
            centroids[name] = find_middles(own, options.key, code)
            continue
        rows, how = own.list_rows(code), {"seed": options.seed, "niter": options.niter}
        if n_clusters <= MOST_AT_ONCE:
            sample = own.take_sample(options.key, rows[sample_positions(len(rows), n_clusters, options.seed)])
            centroids[name] = fit_centroids(sample, n_clusters, **how, start=start.get(name))
        else:
            take, n_views = partial(own.take_views, options.key, rows), own.count_views(options.key, len(rows))
            centroids[name] = fit_in_cells(take, n_views, n_clusters, **how, show_progress_bar=cache.show_progress_bar)
    return centroids


def _refine_sources(
    vectors: Sequence[PairVectors],
    nearest: Sequence[ChunkedArray],
    centroids: dict[str, Centroids],
    options: ClusterOptions,
) -> dict[str, Centroids]:
    """Drop centroids without rows, and put several in place of one with too many."""
    refined = {}
    for own, assigned in zip(vectors, nearest, strict=True):
        measured = [(name, sizes) for name, sizes, _ in measure_clusters(own, assigned, centroids)]
        limits = [options.find_limit(name) or np.inf for name, _ in measured]
        is_oversized = [sizes > limit for limit, (_, sizes) in zip(limits, measured, strict=True)]
        rows_of = _find_rows(own, assigned, is_oversized)
        for code, (name, sizes) in enumerate(measured):
            pieces: list[Centroids] = []
            for cluster in np.flatnonzero(sizes).tolist():
                piece = centroids[name][cluster : cluster + 1]
                if is_oversized[code][cluster]:
                    previous, rows = pieces[-1][-1] if pieces else None, rows_of[code, cluster]
                    piece = _split(piece, rows, math.ceil(len(rows) / limits[code]), own, options, previous)
                pieces.append(piece)
            refined[name] = np.concatenate(pieces)
    return refined


def _split(
    centroid: Centroids,
    rows: npt.NDArray[np.int64],
    n_parts: int,
    vectors: PairVectors,
    options: ClusterOptions,
    previous: npt.NDArray[np.float32] | None,
) -> Centroids:
    """Return the centroids of the parts of a cluster, in the direction of the path."""
    sample = vectors.take_sample(options.key, rows[sample_positions(len(rows), n_parts, options.seed)])
    split = fit_centroids(sample, n_parts, seed=options.seed, niter=options.niter)
    if len(split) == 1:
        return centroid  # all its rows are equal
    if previous is not None and split[-1] @ previous > split[0] @ previous:
        split = split[::-1]
    return split


def _find_rows(
    vectors: PairVectors, nearest: ChunkedArray, is_wanted: Sequence[npt.NDArray[np.bool_]]
) -> dict[tuple[int, int], npt.NDArray[np.int64]]:
    """Return the rows of the wanted clusters, by source and cluster, in ascending order."""
    if not any(one.any() for one in is_wanted):
        return {}
    first = np.cumsum([0, *(len(one) for one in is_wanted)])
    flags = np.concatenate(is_wanted)
    found, numbers = [], []
    for low, high, rows in nearest:
        number = first[vectors.pairs.source_of_row[low:high]] + rows["cluster"]
        at = np.flatnonzero(flags[number])
        found.append(low + at)
        numbers.append(number[at])
    number = np.concatenate(numbers)
    order = np.argsort(number, kind="stable")
    rows = np.concatenate(found)[order]
    starts = np.flatnonzero(np.diff(number[order], prepend=-1))
    keys = [(int(np.searchsorted(first, one, side="right")) - 1, int(one)) for one in number[order][starts]]
    return {
        (code, one - int(first[code])): own for (code, one), own in zip(keys, np.split(rows, starts[1:]), strict=True)
    }


def _describe(
    vectors: Sequence[PairVectors],
    nearest: Sequence[ChunkedArray],
    centroids: dict[str, Centroids],
    options: ClusterOptions,
) -> dict[str, Any]:
    """Return the manifest."""
    statistics = {}
    for own, assigned in zip(vectors, nearest, strict=True):
        for name, sizes, objective in measure_clusters(own, assigned, centroids):
            statistics[name] = {
                "rows": int(sizes.sum()),
                "clusters": len(sizes),
                "objective": round(objective, 6),
                "sizes": sizes.tolist(),
            }
    return {
        **asdict(options),
        **vectors[0].encoder.describe(),
        "columns": describe_columns([one.pairs for one in vectors]),
        "statistics": statistics,
        "dim": next(iter(centroids.values())).shape[1],
        "versions": {"faiss": require_faiss().__version__, **{package: version(package) for package in _VERSIONED}},
    }


def describe_columns(parts: Sequence[Pairs]) -> list[str] | dict[str, list[str]]:
    """Return query, positive and negatives by name; of each dataset, if they differ."""
    found = {one.name: one.text_columns for one in parts}
    first = parts[0].text_columns
    return first if all(columns == first for columns in found.values()) else found
