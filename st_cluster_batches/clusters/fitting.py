"""Fit a clustering: sample, train, assign, split what is too large, and do it over until sizes are right."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from tqdm.auto import tqdm

from st_cluster_batches.batches.labels import SOURCE
from st_cluster_batches.clusters.clustering import MANIFEST_FILE, Clustering
from st_cluster_batches.clusters.encoder import Encoder, Key, KeyVectors
from st_cluster_batches.clusters.kmeans import Centroids, fit_centroids, require_faiss, sample_positions
from st_cluster_batches.clusters.labelling import assign_rows, embed
from st_cluster_batches.clusters.options import ClusterOptions
from st_cluster_batches.data.pairs import Pairs, prepare_parts
from st_cluster_batches.storage.cache import hash_values
from st_cluster_batches.storage.chunks import ChunkedArray
from st_cluster_batches.storage.processes import Crew

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

_FIT_VERSION = 3  # to be raised by any change here that changes centroids
_VERSIONED = ("st-cluster-batches", "sentence-transformers", "datasets")

_LARGE_SHARE = 0.5  # of its source: a cluster that holds more, of three or more clusters, is warned of
_MAX_ROUNDS = 20


def fit_clusters(
    dataset: Dataset | DatasetDict,
    encoder: str | SentenceTransformer,
    *,
    n_clusters: int | Literal["auto"] | None = None,
    cluster_size: int | None = None,
    max_cluster_size: int | None = None,
    global_batch_size: int = 1024,
    key: Key = "query",
    source_column: str | None = SOURCE,
    seed: int = 0,
    niter: int = 20,
    truncate_dim: int | None = None,
    batch_size: int | None = None,
    overwrite: bool = False,
    cache_dir: str | Path | None = None,
    show_progress_bar: bool = True,
) -> Clustering:
    """Find the clusters of every source by spherical k-means, to be kept, shared, and attached to rows old and new.

    Args:
        dataset: As for `attach_clusters`, and so are the other arguments.
        encoder: The model that embeds the texts.
        n_clusters: k of every source, or `auto`.
        cluster_size: Mean rows of a cluster, instead.
        max_cluster_size: Rows of a cluster at most.
        global_batch_size: Rows of a global batch, for `auto`.
        key: The text that decides the cluster.
        source_column: Column that names the source of a row.
        seed: Seed of k-means.
        niter: Iterations of k-means.
        truncate_dim: Keep the first so many dimensions of a vector.
        batch_size: Texts that the encoder sees at once.
        overwrite: Whether the dataset may have label columns already.
        cache_dir: Where embeddings and centroids are kept.
        show_progress_bar: Whether to show progress.

    Returns:
        The clustering; `attach` labels a dataset with it, `save` keeps it.

    Raises:
        ValueError: If rows, columns or options do not fit; before anything is embedded.
    """
    options = ClusterOptions(n_clusters, cluster_size, max_cluster_size, global_batch_size, key, seed, niter)
    require_faiss()
    with Crew.join(cache_dir, show_progress_bar) as crew:
        parts = prepare_parts(
            dataset,
            key=key,
            source_column=source_column,
            overwrite=overwrite,
            show_progress_bar=crew.show_progress_bar,
        )
        loaded = Encoder.load(encoder, crew.cache, truncate_dim=truncate_dim, batch_size=batch_size)
        return fit_parts(parts, loaded, options, crew)


def fit_parts(parts: list[Pairs], encoder: Encoder, options: ClusterOptions, crew: Crew) -> Clustering:
    """Embed checked pairs and cluster every source of theirs; see `fit_clusters`."""
    faiss_version = require_faiss().__version__
    data_hash = hash_values([part.data_hash for part in parts])
    name = hash_values(data_hash, encoder.digest, asdict(options), faiss_version, _FIT_VERSION)
    artefact = crew.cache / f"clustering-{name}"
    if (cached := _load_cached(artefact, encoder)) is not None:
        logger.info("A clustering of the same texts, encoder and options is in the cache: %s", artefact)
        return cached
    vectors = [embed(part, options.key, encoder, crew) for part in parts]

    def draft(number: int) -> Path:
        return crew.cache / f"draft-{name}-{number}"

    centroids = _keep(draft(0), lambda: _train_sources(parts, vectors, options, crew), crew)
    for number in range(1, _MAX_ROUNDS):
        nearest = [assign_rows(part, own, centroids, crew) for part, own in zip(parts, vectors, strict=True)]
        work = list(zip(parts, vectors, nearest, strict=True))
        refined = _keep(draft(number), partial(_refine_sources, work, centroids, options, crew), crew)
        is_settled = all(np.array_equal(refined[source], centroids[source]) for source in centroids)
        if is_settled or number == _MAX_ROUNDS - 1:  # rows that are too alike to be split may go on for ever
            break
        centroids = refined
        if crew.is_main:  # and the others have filled their shares, else the first process could not have refined
            for assigned in nearest:
                assigned.remove()
    crew.finish("fitted")

    def save() -> None:
        statistics = {}
        for part, _, assigned in work:
            statistics.update(_describe(_measure(part, assigned, centroids, crew), options))
        manifest = {**asdict(options), **encoder.describe(), "statistics": statistics, "data_hash": data_hash}
        manifest["dim"] = next(iter(centroids.values())).shape[1]
        manifest["versions"] = {"faiss": faiss_version, **{package: version(package) for package in _VERSIONED}}
        Clustering(centroids, manifest).save(artefact)
        crew.wait_for("fitted")
        for at in range(number + 1):
            shutil.rmtree(draft(at), ignore_errors=True)

    crew.once("clustering", save)
    return replace(Clustering.load(artefact), encoder=encoder)


def _load_cached(artefact: Path, encoder: Encoder) -> Clustering | None:
    """Return a clustering that is complete and whole, or None."""
    if not artefact.exists():
        return None
    try:
        return replace(Clustering.load(artefact), encoder=encoder)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        logger.warning("%s cannot be read and is made again: %s", artefact, error)
        return None


def _keep(path: Path, make: Callable[[], dict[str, Centroids]], crew: Crew) -> dict[str, Centroids]:
    """Make centroids in the first process, keep them in the cache, and give them to all processes."""
    # The manifest is written last: without it a kill or a full disk has left the folder half-written.
    crew.once(path.name, lambda: None if (path / MANIFEST_FILE).is_file() else Clustering(make()).save(path))
    return Clustering.load(path).centroids


def _train_sources(
    parts: list[Pairs], vectors: list[KeyVectors], options: ClusterOptions, crew: Crew
) -> dict[str, Centroids]:
    """Find centroids of every source on a uniform sample of its rows."""
    centroids = {}
    sources = [
        (part, own, code, name)
        for part, own in zip(parts, vectors, strict=True)
        for code, name in enumerate(part.sources)
    ]
    for part, own, code, name in tqdm(sources, "Clustering", unit="source", disable=not crew.show_progress_bar):
        for side in own.sides:
            side.wait(crew)
        n_rows = len(part) if len(part.sources) == 1 else int(np.count_nonzero(part.source_of_row == code))
        n_clusters = options.count_clusters(n_rows)
        if n_clusters > n_rows:
            logger.warning(
                "Source %r has %d rows, fewer than the %d clusters asked for: every row is one",
                name,
                n_rows,
                n_clusters,
            )
        rows = sample_positions(n_rows, n_clusters, options.seed)
        if len(part.sources) > 1:
            rows = np.flatnonzero(part.source_of_row == code)[rows]
        centroids[name] = fit_centroids(own.take(rows), n_clusters, seed=options.seed, niter=options.niter)
    return centroids


def _refine_sources(
    work: list[tuple[Pairs, KeyVectors, ChunkedArray]],
    centroids: dict[str, Centroids],
    options: ClusterOptions,
    crew: Crew,
) -> dict[str, Centroids]:
    """Drop centroids without rows, and put several in place of one with too many."""
    refined = {}
    for part, vectors, nearest in work:
        for code, (name, (sizes, _)) in enumerate(_measure(part, nearest, centroids, crew).items()):
            pieces: list[Centroids] = []
            for cluster in np.flatnonzero(sizes):
                own = centroids[name][cluster : cluster + 1]
                if options.max_cluster_size is not None and sizes[cluster] > options.max_cluster_size:
                    rows = _find_rows(part, nearest, code, int(cluster))
                    own = _split(own, rows, vectors, options, pieces[-1][-1] if pieces else None)
                pieces.append(own)
            refined[name] = np.concatenate(pieces)
    return refined


def _split(
    centroid: Centroids,
    rows: npt.NDArray[np.int64],
    vectors: KeyVectors,
    options: ClusterOptions,
    previous: npt.NDArray[np.float32] | None,
) -> Centroids:
    """Return the centroids of the parts of a cluster, in the direction of the path."""
    n_parts = -(-len(rows) // int(options.max_cluster_size or 1))
    sample = vectors.take(rows[sample_positions(len(rows), n_parts, options.seed)])
    split = fit_centroids(sample, n_parts, seed=options.seed, niter=options.niter)
    if len(split) == 1:
        return centroid  # all its rows are equal
    if previous is not None and split[-1] @ previous > split[0] @ previous:
        split = split[::-1]
    return split


def _find_rows(part: Pairs, nearest: ChunkedArray, code: int, cluster: int) -> npt.NDArray[np.int64]:
    """Return the rows of one cluster of one source."""
    return np.concatenate(
        [
            low + np.flatnonzero((rows["cluster"] == cluster) & (part.source_of_row[low:high] == code))
            for low, high, rows in nearest
        ]
    )


def _measure(
    part: Pairs, nearest: ChunkedArray, centroids: dict[str, Centroids], crew: Crew
) -> dict[str, tuple[npt.NDArray[np.int64], float]]:
    """Return the (k,) cluster sizes of every source, and the mean similarity of a row to its centroid."""
    nearest.wait(crew)
    sizes = [np.zeros(len(centroids[name]), dtype=np.int64) for name in part.sources]
    total = np.zeros(len(part.sources))
    for low, high, rows in nearest:
        codes = part.source_of_row[low:high]
        for code in np.unique(codes):
            own = rows[codes == code]
            sizes[code] += np.bincount(own["cluster"], minlength=len(sizes[code]))
            total[code] += own["similarity"].sum(dtype=np.float64)
    return {name: (sizes[code], float(total[code] / sizes[code].sum())) for code, name in enumerate(part.sources)}


def _describe(
    measured: dict[str, tuple[npt.NDArray[np.int64], float]], options: ClusterOptions
) -> dict[str, dict[str, Any]]:
    """Return the statistics of every source for the manifest, and warn where clusters came out too large."""
    for name, (sizes, _) in measured.items():
        largest, n_rows = int(sizes.max()), int(sizes.sum())
        if options.max_cluster_size is not None and largest > options.max_cluster_size:
            logger.warning("A cluster of source %r has %d rows that are too alike to be split", name, largest)
        elif len(sizes) > 2 and largest > _LARGE_SHARE * n_rows:
            logger.warning(
                "One of the %d clusters of source %r holds %d of its %d rows; max_cluster_size= splits it",
                len(sizes),
                name,
                largest,
                n_rows,
            )
    return {
        name: {
            "rows": int(sizes.sum()),
            "clusters": len(sizes),
            "objective": round(objective, 6),
            "sizes": sizes.tolist(),
        }
        for name, (sizes, objective) in measured.items()
    }
