"""Attach labels to a dataset: which cluster a row is in, and with which rows it must not meet."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from st_cluster_batches.batches.labels import SOURCE
from st_cluster_batches.clusters.clustering import Clustering
from st_cluster_batches.clusters.encoder import Encoder, Key
from st_cluster_batches.clusters.fitting import fit_parts
from st_cluster_batches.clusters.kmeans import require_faiss
from st_cluster_batches.clusters.labelling import label_parts
from st_cluster_batches.clusters.options import ClusterOptions
from st_cluster_batches.data.pairs import prepare_parts
from st_cluster_batches.storage.processes import Crew

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

AnyDataset = TypeVar("AnyDataset", "Dataset", "DatasetDict")


def attach_clusters(
    dataset: AnyDataset,
    encoder: str | SentenceTransformer,
    *,
    n_clusters: int | Literal["auto"] | None = None,
    cluster_size: int | None = None,
    max_cluster_size: int | None = None,
    global_batch_size: int = 1024,
    key: Key = "query",
    source_column: str | None = SOURCE,
    false_negative_threshold: float | None = None,
    seed: int = 0,
    niter: int = 20,
    truncate_dim: int | None = None,
    batch_size: int | None = None,
    overwrite: bool = False,
    cache_dir: str | Path | None = None,
    show_progress_bar: bool = True,
) -> AnyDataset:
    """Label every row with its cluster and its false-negative group.

    `fit_clusters(...).attach(dataset)` does the same and keeps the clustering; see `ClusterOptions` for what decides
    the clusters, and `cluster_dataset` for the rest.

    Returns:
        The dataset with the int32 columns `cluster` and `false_negative_group` after its own.
    """
    options = ClusterOptions(n_clusters, cluster_size, max_cluster_size, global_batch_size, key, seed, niter)
    return cluster_dataset(
        dataset,
        encoder,
        options,
        source_column=source_column,
        false_negative_threshold=false_negative_threshold,
        truncate_dim=truncate_dim,
        batch_size=batch_size,
        overwrite=overwrite,
        cache_dir=cache_dir,
        show_progress_bar=show_progress_bar,
    )[0]


def cluster_dataset(
    dataset: AnyDataset,
    encoder: str | SentenceTransformer,
    options: ClusterOptions,
    *,
    source_column: str | None = SOURCE,
    false_negative_threshold: float | None = None,
    truncate_dim: int | None = None,
    batch_size: int | None = None,
    overwrite: bool = False,
    cache_dir: str | Path | None = None,
    show_progress_bar: bool = True,
) -> tuple[AnyDataset, Clustering]:
    """Embed the pairs, split every source by spherical k-means, and attach the labels.

    The steps are kept on disk under a hash of texts, encoder weights and options: a second call is a cache hit, and
    a killed one goes on with its last chunk. Under torchrun or `accelerate launch` every process embeds its share,
    and all get the labels that one process would have given; they need to see the same cache folder.

    Args:
        dataset: Pairs, triplets or longer tuples of text, in the column order that sentence-transformers expects:
            query, positive, negatives. In a DatasetDict each dataset is a source, or holds sources of its own.
        encoder: A SentenceTransformer, its path or Hub id, or `static:` and one of these, to distil it first.
        options: How to cluster.
        source_column: Column that names the source of a row; renamed to `source`. The default one may be absent.
            None takes all rows for one source.
        false_negative_threshold: Passages of one cluster whose cosine similarity under the encoder is above it count
            as nearly equal, and their rows join one false-negative group. None: equal texts alone. Costs the
            embedding of the passages where `key` is the query.
        truncate_dim: Keep the first so many dimensions of a vector, as Matryoshka models allow.
        batch_size: Texts that the encoder sees at once; by the kind of encoder if None.
        overwrite: Whether to replace label columns that the dataset has.
        cache_dir: Where embeddings, centroids and labels are kept; a folder in the datasets cache by default.
        show_progress_bar: Whether to show progress.

    Returns:
        The labelled dataset, and the clustering, whose cluster numbers are unique across sources.

    Raises:
        ValueError: If rows, columns or options do not fit; before anything is embedded.
        ImportError: If faiss is missing.
        OSError: If the cache folder cannot be written, or the disk is full.
    """
    from datasets import Dataset, DatasetDict

    if not isinstance(dataset, (Dataset, DatasetDict)):
        raise TypeError(
            f"attach_clusters takes a Dataset or a DatasetDict, not {type(dataset).__name__}; for a stream, fit on a "
            "sample first: fit_clusters(sample, encoder).attach(stream)"
        )
    if false_negative_threshold is not None and not 0 < false_negative_threshold < 1:
        raise ValueError(f"false_negative_threshold={false_negative_threshold} must be in (0, 1)")
    require_faiss()
    with Crew.join(cache_dir, show_progress_bar) as crew:
        parts = prepare_parts(
            dataset,
            key=options.key,
            needs_passages=false_negative_threshold is not None,
            source_column=source_column,
            overwrite=overwrite,
            show_progress_bar=crew.show_progress_bar,
        )
        loaded = Encoder.load(encoder, crew.cache, truncate_dim=truncate_dim, batch_size=batch_size)
        clustering = fit_parts(parts, loaded, options, crew)
        labelled, report = label_parts(
            parts, clustering.centroids, options.key, loaded, false_negative_threshold, crew
        )
    clustering = replace(clustering, manifest={**clustering.manifest, "false_negatives": report})
    named = {part.name: one for part, one in zip(parts, labelled, strict=True)}
    return (DatasetDict(named) if isinstance(dataset, DatasetDict) else named[""]), clustering
