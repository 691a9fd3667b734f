"""Attach labels to a dataset: which cluster a row is in, and with which rows it must not meet."""

from __future__ import annotations

import logging
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from st_cluster_batches.clustering import Clustering, ClusterOptions, assign, fit_centroids, require_faiss
from st_cluster_batches.embedding import (
    STATIC_PREFIX,
    Key,
    default_cache_dir,
    embed_rows,
    fingerprint_model,
    load_encoder,
)
from st_cluster_batches.labels import SOURCE
from st_cluster_batches.pairs import Pairs, hash_values
from st_cluster_batches.texts import group_false_negatives

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

AnyDataset = TypeVar("AnyDataset", "Dataset", "DatasetDict")

_LABEL_VERSION = 1  # to be raised by any change here that changes labels
_VERSIONED = ("st-cluster-batches", "sentence-transformers", "datasets")


def attach_clusters(
    dataset: AnyDataset,
    encoder: str | SentenceTransformer,
    *,
    n_clusters: int | None = None,
    cluster_size: int | None = None,
    key: Key = "query",
    source_column: str | None = SOURCE,
    seed: int = 0,
    niter: int = 20,
    batch_size: int = 32,
    overwrite: bool = False,
    cache_dir: str | Path | None = None,
    show_progress_bar: bool = True,
) -> AnyDataset:
    """Label every row with its cluster and its false-negative group; see `cluster_dataset` for the arguments.

    Returns:
        The dataset with the int32 columns `cluster` and `false_negative_group` after its own.
    """
    options = ClusterOptions(n_clusters, cluster_size, key, seed, niter)
    return cluster_dataset(
        dataset,
        encoder,
        options,
        source_column=source_column,
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
    batch_size: int = 32,
    overwrite: bool = False,
    cache_dir: str | Path | None = None,
    show_progress_bar: bool = True,
) -> tuple[AnyDataset, Clustering]:
    """Embed the pairs, split every source by spherical k-means, and attach the labels.

    The steps are kept on disk under a hash of texts, encoder weights and options: a second call is a cache hit, and
    a killed one goes on with its last chunk of embeddings.

    Args:
        dataset: Pairs, triplets or longer tuples of text, in the column order that sentence-transformers expects:
            query, positive, negatives. In a DatasetDict each dataset is a source, or holds sources of its own.
        encoder: A SentenceTransformer, its path or Hub id, or `static:` and one of these, to distil it first.
        options: How to cluster.
        source_column: Column that names the source of a row; renamed to `source`. The default one may be absent.
        batch_size: Texts that the encoder sees at once.
        overwrite: Whether to replace label columns that the dataset has.
        cache_dir: Where embeddings, centroids and labels are kept; a folder in the datasets cache by default.
        show_progress_bar: Whether to show progress.

    Returns:
        The labelled dataset, and the clustering, whose cluster numbers are unique across sources.

    Raises:
        ValueError: If rows, columns or options do not fit; before anything is embedded.
        ImportError: If faiss is missing.
    """
    from datasets import Dataset, DatasetDict

    if not isinstance(dataset, (Dataset, DatasetDict)):
        raise TypeError(f"attach_clusters takes a Dataset or a DatasetDict, not {type(dataset).__name__}")
    faiss_version = require_faiss().__version__
    cache = Path(cache_dir) if cache_dir is not None else default_cache_dir()
    cache.mkdir(parents=True, exist_ok=True)
    named = dict(dataset) if isinstance(dataset, DatasetDict) else {"": dataset}
    parts = [
        Pairs.prepare(name, one, options.key, source_column, overwrite, show_progress_bar)
        for name, one in named.items()
    ]
    model = load_encoder(encoder, cache)
    model_hash = fingerprint_model(model)
    data_hash = hash_values([(part.text_hash, part.source_hash) for part in parts])
    label_hash = hash_values(data_hash, model_hash, asdict(options), faiss_version, _LABEL_VERSION)
    paths = [cache / f"labels-{label_hash}-{at}.arrow" for at in range(len(parts))]
    artefact = cache / f"clustering-{label_hash}"
    if artefact.exists() and all(path.exists() for path in paths):
        logger.info("Labels of the same texts, encoder and options are in the cache: %s", artefact)
        clustering = Clustering.load(artefact)
    else:
        vectors = [
            embed_rows(
                part.dataset,
                part.key_columns,
                model,
                options.key,
                cache / f"embeddings-{hash_values(part.text_hash, model_hash, options.key)}.npy",
                batch_size=batch_size,
                show_progress_bar=show_progress_bar,
            )
            for part in parts
        ]
        clustering = _fit_and_write(parts, vectors, options, paths, show_progress_bar)
        clustering.manifest.update(
            encoder=_name_encoder(encoder),
            encoder_hash=model_hash,
            prompts=model.prompts,
            data_hash=data_hash,
            versions={"faiss": faiss_version, **{name: version(name) for name in _VERSIONED}},
        )
        clustering.save(artefact)
    labelled = {part.name: part.join(path) for part, path in zip(parts, paths, strict=True)}
    return DatasetDict(labelled) if isinstance(dataset, DatasetDict) else labelled[""], clustering


def _fit_and_write(
    parts: list[Pairs],
    vectors: list[npt.NDArray[np.float16]],
    options: ClusterOptions,
    paths: list[Path],
    show_progress_bar: bool,
) -> Clustering:
    """Cluster every source of every part, and write the label files."""
    centroids: dict[str, npt.NDArray[np.float32]] = {}
    statistics: dict[str, Any] = {}
    first_cluster = first_group = 0
    for part, part_vectors, path in zip(parts, vectors, paths, strict=True):
        names, source_of_row = part.sources()
        clusters = np.empty(len(part.dataset), dtype=np.int32)
        for at, name in enumerate(tqdm(names, "Clustering", unit="source", disable=not show_progress_bar)):
            rows = np.flatnonzero(source_of_row == at)
            # A view where it can be one: indexing would read the whole memory map.
            own = part_vectors if len(rows) == len(part_vectors) else part_vectors[rows]
            asked = options.count_clusters(len(rows))
            if asked > len(rows):
                logger.warning(
                    "Source %r has %d rows, fewer than the %d clusters asked for: every row is one",
                    name,
                    len(rows),
                    asked,
                )
            fitted = fit_centroids(own, asked, seed=options.seed, niter=options.niter)
            nearest, objective = assign(own, fitted)
            # Duplicates leave clusters empty; they vanish, and the numbers close up along the path.
            used, labels = np.unique(nearest, return_inverse=True)
            clusters[rows] = first_cluster + labels
            centroids[name] = fitted[used]
            first_cluster += len(used)
            statistics[name] = {
                "rows": len(rows),
                "clusters": len(used),
                "objective": round(objective, 6),
                "sizes": np.bincount(labels).tolist(),
            }
        groups = group_false_negatives(part.dataset, part.text_columns, show_progress_bar) + np.int32(first_group)
        first_group += len(groups)
        part.write(clusters, groups, path, show_progress_bar)
    return Clustering(centroids, {**asdict(options), "dim": vectors[0].shape[1], "statistics": statistics})


def _name_encoder(encoder: str | SentenceTransformer) -> str:
    """Name an encoder without giving away where it lies on this machine."""
    if not isinstance(encoder, str):
        return str(encoder.model_card_data.base_model or type(encoder).__name__)
    prefix = STATIC_PREFIX if encoder.startswith(STATIC_PREFIX) else ""
    name = encoder.removeprefix(prefix)
    return prefix + (Path(name).resolve().name if Path(name).exists() else name)
