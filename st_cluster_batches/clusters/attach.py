"""Attach labels to a dataset: the cluster of every row, and the rows that it must not meet."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from st_cluster_batches.clusters.choice import Choice, Method, find_choice, tell_of_chunks
from st_cluster_batches.clusters.choice_checks import check_sources, compare_choice, compare_guide
from st_cluster_batches.clusters.clustering import Clustering
from st_cluster_batches.clusters.encoder import Encoder
from st_cluster_batches.clusters.fitting import fit_vectors
from st_cluster_batches.clusters.kmeans import require_faiss
from st_cluster_batches.clusters.labelling import check_threshold, label_rows
from st_cluster_batches.clusters.options import AttachOptions, ClusterOptions, find_key
from st_cluster_batches.clusters.sizes import warn_of_sizes, warn_of_whole_sources
from st_cluster_batches.clusters.strength import describe_strength, measure_parts
from st_cluster_batches.clusters.vectors import PairVectors
from st_cluster_batches.columns import SOURCE
from st_cluster_batches.data.pairs import Key, Pairs, as_datasets, prepare_parts
from st_cluster_batches.data.roles import Columns
from st_cluster_batches.storage.shared_cache import SharedCache

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

AnyDataset = TypeVar("AnyDataset", "Dataset", "DatasetDict")


def attach_clusters(
    dataset: AnyDataset,
    encoder: str | Path | SentenceTransformer,
    *,
    n_clusters: int | Literal["auto"] | None = None,
    cluster_size: int | Mapping[str, int | None] | None = None,
    max_cluster_size: int | None = None,
    global_batch_size: int = ClusterOptions.global_batch_size,
    key: Key | None = None,
    columns: Columns | None = None,
    source_column: str | None = SOURCE,
    false_negative_threshold: float | None = None,
    seed: int = 0,
    niter: int = ClusterOptions.niter,
    truncate_dim: int | None = None,
    batch_size: int | None = None,
    overwrite: bool = False,
    cache_dir: str | Path | None = None,
    show_progress_bar: bool = True,
    guide: bool = False,
    guide_model: str | Path | SentenceTransformer | None = None,
    method: Method | Mapping[str, Method] = "kmeans",
    tuned: Choice | str | Path | None = None,
    trust_remote_code: bool = False,
) -> AnyDataset:
    """Label every row with its cluster, and with keys that it shares with its false negatives.

    To keep the clustering, or to label new rows by it, take `fit_clusters`; see `cluster_dataset` for what is done.

    Args:
        dataset: Pairs, triplets or longer tuples of text; a DatasetDict, or a dict, of several.
        encoder: A SentenceTransformer, its path or Hub id, or `static:` and one of these, to distil it first.
        n_clusters: k of every source, 10 by default; or `auto`, for clusters of several global batches.
        cluster_size: Mean rows of a cluster, instead of `n_clusters`; of all sources or by source, where None is one
            cluster.
        max_cluster_size: Split clusters of more rows than this.
        global_batch_size: Rows of a global batch, for `n_clusters="auto"`.
        key: The text that decides the clusters of k-means; see `ClusterOptions`.
        columns: Query, positive, negatives, in order; see `AttachOptions`.
        source_column: Column that names the source of a row; None takes all rows for one source.
        false_negative_threshold: Cosine similarity from which passages of a cluster are false negatives too.
        seed: Seed of the clusters.
        niter: Iterations of k-means.
        truncate_dim: Keep the first so many dimensions of a vector, as Matryoshka models allow.
        batch_size: Texts that the encoder sees at once; by the kind of encoder if None.
        overwrite: Whether to replace label columns that the dataset has.
        cache_dir: Where embeddings, centroids and labels are kept; a folder in the datasets cache by default.
        show_progress_bar: Whether to show progress.
        guide: Whether to keep all vectors, and to give rows the keys by which a guided loss finds them.
        guide_model: The model whose vectors these are, by default the encoder; see `AttachOptions`.
        method: `kmeans`, or `communities`; of all sources or by source.
        tuned: What `tune` chose, or its output folder: sizes and method by source, and a guide if it masks.
        trust_remote_code: Whether code that comes with the encoder may run.

    Returns:
        The dataset with two columns after its own: `cluster`, an int64 number, and `false_negative_keys`, a list of
        int64 keys. Pairs with labels or scores, whose losses take no in-batch negatives, get no keys. With `guide` a
        third, `label`: the row key that `GuidedMultipleNegativesRankingLoss` reads.
    """
    choice = find_choice(tuned)
    options = AttachOptions(
        ClusterOptions(
            n_clusters=n_clusters,
            cluster_size=cluster_size,
            max_cluster_size=max_cluster_size,
            global_batch_size=global_batch_size,
            key=find_key(key, choice),
            seed=seed,
            niter=niter,
            method=method,
        ),
        columns=columns,
        source_column=source_column,
        false_negative_threshold=false_negative_threshold,
        truncate_dim=truncate_dim,
        batch_size=batch_size,
        overwrite=overwrite,
        cache_dir=cache_dir,
        show_progress_bar=show_progress_bar,
        guide=guide,
        guide_model=guide_model,
        tuned=choice,
        trust_remote_code=trust_remote_code,
    )
    tell_of_chunks(options.tuned)
    return cluster_dataset(dataset, encoder, options)[0]


def cluster_dataset(
    dataset: AnyDataset, encoder: str | Path | SentenceTransformer, options: AttachOptions
) -> tuple[AnyDataset, Clustering]:
    """Embed the pairs, split every source by spherical k-means, and attach the labels.

    Each step is kept on disk under a hash of texts, encoder weights and options: a second call is a cache hit, and a
    killed one goes on with its last chunk. Under torchrun or `accelerate launch` every process embeds its share, and
    all get the labels that one process would have given; they need to see the same cache folder.

    Args:
        dataset: Pairs, triplets or longer tuples of text; see `find_roles` for which column is what. In a DatasetDict,
            or a dict, each dataset is a source, or holds sources of its own.
        encoder: A SentenceTransformer, its path or Hub id, or `static:` and one of these, to distil it first.
        options: How to read, cluster and label the rows.

    Returns:
        The labelled dataset, and the clustering, whose cluster numbers are unique across sources.

    Raises:
        ValueError: If rows, columns or options do not fit; before anything is embedded.
        ImportError: If faiss is missing.
        OSError: If the cache folder cannot be written, or the disk is full.
    """
    from datasets import DatasetDict

    dataset = as_datasets(dataset, "attach_clusters")
    require_faiss()
    key, threshold = options.clusters.key, options.false_negative_threshold
    with SharedCache.open(options.cache_dir, options.show_progress_bar, "attach_clusters") as cache:
        parts = prepare_parts(dataset, options.pairs, cache.show_progress_bar)
        check_threshold(parts, threshold)
        if options.tuned is None:  # which may well be followed on a part of the sources
            options.clusters.refuse_strange(name for part in parts for name in part.sources)
        batch_size, trust = options.batch_size, options.trust_remote_code
        loaded = Encoder(encoder, cache.folder, options.truncate_dim, batch_size, trust_remote_code=trust)
        masking = loaded.load_beside(options.guide_model)
        if options.tuned is not None:
            check_sources(options.tuned, parts)
            compare_guide(options.tuned, masking, is_given=options.guide_model is not None)
            compare_choice(options.tuned, options.guide, loaded, parts)
        vectors = [PairVectors(part, loaded, cache) for part in parts]
        clustering = fit_vectors(vectors, options.clusters, cache)
        if cache.processes.is_main:
            _warn_of_clusters(clustering, options.clusters)
        unmasked = frozenset() if options.tuned is None else options.tuned.unmasked_sources
        guides = [replace(one, encoder=masking) for one in vectors] if options.keeps_vectors else None
        labelled, report = label_rows(vectors, clustering.centroids, key, threshold, guides, unmasked)
        about: dict[str, Any] = {"false_negatives": report}
        if options.tuned is not None:
            about["tuned"] = options.tuned.describe()
        if guides is not None:
            about["guide"] = _describe_guide(parts, masking, cache)
        if options.guide_model is not None:
            about["guide_model"] = masking.name
    clustering = replace(clustering, manifest={**clustering.manifest, **about})
    named = {part.name: one for part, one in zip(parts, labelled, strict=True)}
    return (DatasetDict(named) if isinstance(dataset, DatasetDict) else named[""]), clustering


def _warn_of_clusters(clustering: Clustering, options: ClusterOptions) -> None:
    """Warn of sizes that are not as they are meant."""
    statistics = clustering.manifest["statistics"]
    warn_of_whole_sources({name: one["rows"] for name, one in statistics.items()}, options)
    warn_of_sizes(statistics, options)


def _describe_guide(parts: Sequence[Pairs], encoder: Encoder, cache: SharedCache) -> dict[str, Any]:
    """Measure a guide, and say what it is worth; see `measure_parts`."""
    found = measure_parts(parts, encoder, cache)
    for line in describe_strength(found) if cache.processes.is_main else ():
        logger.info(line)
    return {name: asdict(one) for name, one in found.items()}


def fit_clusters(
    dataset: Dataset | DatasetDict,
    encoder: str | Path | SentenceTransformer,
    *,
    n_clusters: int | Literal["auto"] | None = None,
    cluster_size: int | Mapping[str, int | None] | None = None,
    max_cluster_size: int | None = None,
    global_batch_size: int = ClusterOptions.global_batch_size,
    key: Key = "query",
    columns: Columns | None = None,
    source_column: str | None = SOURCE,
    seed: int = 0,
    niter: int = ClusterOptions.niter,
    truncate_dim: int | None = None,
    batch_size: int | None = None,
    overwrite: bool = False,
    cache_dir: str | Path | None = None,
    show_progress_bar: bool = True,
    trust_remote_code: bool = False,
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
        columns: Query, positive, negatives, in order.
        source_column: Column that names the source of a row.
        seed: Seed of the clusters.
        niter: Iterations of k-means.
        truncate_dim: Keep the first so many dimensions of a vector.
        batch_size: Texts that the encoder sees at once.
        overwrite: Whether the dataset may have label columns already.
        cache_dir: Where embeddings and centroids are kept.
        show_progress_bar: Whether to show progress.
        trust_remote_code: Whether code that comes with the encoder may run.

    Returns:
        The clustering; `attach` labels a dataset with it, `save` keeps it.

    Raises:
        ValueError: If rows, columns or options do not fit; before anything is embedded.
    """
    clusters = ClusterOptions(
        n_clusters=n_clusters,
        cluster_size=cluster_size,
        max_cluster_size=max_cluster_size,
        global_batch_size=global_batch_size,
        key=key,
        seed=seed,
        niter=niter,
    )
    options = AttachOptions(
        clusters,
        columns=columns,
        source_column=source_column,
        truncate_dim=truncate_dim,
        batch_size=batch_size,
        overwrite=overwrite,
    )
    dataset = as_datasets(dataset, "fit_clusters")
    require_faiss()
    with SharedCache.open(cache_dir, show_progress_bar, "fit_clusters") as cache:
        parts = prepare_parts(dataset, options.pairs, cache.show_progress_bar)
        clusters.refuse_strange(name for part in parts for name in part.sources)
        loaded = Encoder(
            encoder, cache.folder, options.truncate_dim, options.batch_size, trust_remote_code=trust_remote_code
        )
        clustering = fit_vectors([PairVectors(part, loaded, cache) for part in parts], clusters, cache)
        if cache.processes.is_main:
            _warn_of_clusters(clustering, clusters)
        return clustering
