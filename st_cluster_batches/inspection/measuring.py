"""Measure labels and batches before training: sizes, purity, hardness, false negatives, topics, stability."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from st_cluster_batches.batches.hardness import BatchHardness, measure_batches
from st_cluster_batches.batches.repeats import find_crossings, find_largest_key
from st_cluster_batches.clusters.choice_checks import compare_columns
from st_cluster_batches.clusters.encoder import Encoder
from st_cluster_batches.clusters.kmeans import NearestCentroid, fit_centroids
from st_cluster_batches.clusters.strength import Strength, measure_strength
from st_cluster_batches.clusters.vectors import join_sides
from st_cluster_batches.columns import list_parts
from st_cluster_batches.data.pairs import Key, as_datasets, sides_of
from st_cluster_batches.data.roles import Columns
from st_cluster_batches.inspection.advice import give_advice
from st_cluster_batches.inspection.findings import ClusterTopic, Inspection, SharedKeys, SourceSizes
from st_cluster_batches.inspection.labelled import LabelledPairs
from st_cluster_batches.inspection.masking import measure_masks
from st_cluster_batches.inspection.negatives import find_near_pairs, find_worst_pairs
from st_cluster_batches.inspection.sample import Sample
from st_cluster_batches.inspection.topics import describe_clusters, find_words
from st_cluster_batches.row_keys import has_row_keys
from st_cluster_batches.storage.cache import open_cache
from st_cluster_batches.storage.numbers import as_count
from st_cluster_batches.storage.shared_cache import SharedCache

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from sentence_transformers import SentenceTransformer

    from st_cluster_batches.clusters.clustering import Clustering

logger = logging.getLogger(__name__)

_MIN_ROWS_PER_CLUSTER = 20  # of the sample, for k-means with two seeds
_TOPIC_ROWS = 25_000  # rows whose words are counted, over all clusters


def inspect(
    dataset: Dataset | DatasetDict,
    encoder: str | Path | SentenceTransformer | None = None,
    *,
    clustering: Clustering | None = None,
    batch_size: int = 128,
    world_size: int = 1,
    rows_per_stratum: int | None = None,
    key: Key | None = None,
    columns: Columns | None = None,
    seed: int = 0,
    sample_rows: int = 2048,
    trust_remote_code: bool = False,
    cache_dir: str | Path | None = None,
    show_progress_bar: bool = True,
) -> Inspection:
    """Measure what the batches of a labelled dataset will be like, without training.

    Sizes and plan are of all rows. What needs an encoder is of a sample: about `sample_rows` rows in whole batches of
    each kind, two batches at least, and some rows of every cluster.

    Args:
        dataset: As `attach_clusters` or `Clustering.attach` leaves it.
        encoder: The model to measure similarity with, best the one that the clusters come from; the clustering's own
            by default.
        clustering: Where the labels come from, if it was kept.
        batch_size: Rows of a batch on one device.
        world_size: Devices that will step together.
        rows_per_stratum: Rows of each cluster in a batch of several; by default as the clustering was tuned.
        key: The text that decided the clusters; a clustering knows it, and without one it is the query.
        columns: Query, positive, negatives, in order; by default as `attach_clusters` finds them.
        seed: Seed of plan and sample.
        sample_rows: Rows to embed for the batches of each kind.
        trust_remote_code: Whether code that comes with the encoder may run; a clustering was told when it was loaded.
        cache_dir: Where `attach_clusters` has kept embeddings and distilled models: what is there is not made again.
        show_progress_bar: Whether to show progress.

    Returns:
        The figures, with advice.

    Raises:
        ValueError: If there is neither encoder nor clustering, if the dataset has no labels or no passages, or if
            there is one row in a batch.
    """
    sample_rows, seed = as_count("sample_rows", sample_rows, least=2), as_count("seed", seed, least=0)
    batch_size, world_size = as_count("batch_size", batch_size), as_count("world_size", world_size)
    cache = SharedCache(open_cache(cache_dir), show_progress_bar=show_progress_bar)
    loaded, key = _find_encoder(encoder, clustering, key, cache.folder, trust_remote_code)
    pairs = LabelledPairs.read(as_datasets(dataset, "inspect"), columns)
    _check_negatives(batch_size, world_size, len(pairs))
    if clustering is not None:
        compare_columns(clustering.manifest, {"": pairs.text_columns}, "inspect(..., columns=(...)) or --columns")
    if rows_per_stratum is None and clustering is not None and clustering.tuned is not None:
        rows_per_stratum = clustering.tuned.rows_per_stratum
    sample = Sample.draw(pairs, batch_size, world_size, sample_rows, seed, rows_per_stratum)
    sample.embed(loaded, cache)
    key_vectors = join_sides([getattr(sample, f"{side}_vectors") for side in sides_of(key)])
    topics = _describe_topics(sample, key_vectors, seed)
    inspection = Inspection(
        rows=len(pairs),
        sampled_rows=len(sample.rows),
        batch_size=batch_size,
        world_size=world_size,
        rows_per_stratum=rows_per_stratum,
        seed=seed,
        encoder=loaded.name,
        key=key,
        columns=pairs.text_columns,
        sources=_describe_sources(pairs, topics),
        plans=dict(sample.counts),
        hardness=_measure_hardness(sample),
        shared=_describe_keys(pairs),
        worst_pairs=find_worst_pairs(sample),
        **find_near_pairs(sample),
        masks=measure_masks(sample),
        unmasked_sources=[pairs.source_names[at] for at in np.unique(pairs.source_of_row[pairs.is_unmasked])],
        strength=_find_strength(dataset, pairs, clustering, loaded, cache),
        guide_model=None if clustering is None else clustering.manifest.get("guide_model"),
        clusters=topics,
        stability=_measure_stability(sample, key_vectors, seed),
        sample=sample,
    )
    return replace(inspection, advice=give_advice(inspection, None if clustering is None else clustering.tuned))


def _check_negatives(batch_size: int, world_size: int, n_rows: int) -> None:
    """Check, before anything is embedded, that rows have others in their batch."""
    if min(batch_size * world_size, n_rows) < 2:
        raise ValueError(
            f"batch_size={batch_size} with world_size={world_size}, of {n_rows} rows: a global batch of one row has "
            "no in-batch negatives to measure; inspect two rows or more, with batch_size=32 (--batch_size 32)"
        )


def _find_encoder(
    encoder: str | Path | SentenceTransformer | None,
    clustering: Clustering | None,
    key: Key | None,
    cache_dir: Path,
    trust: bool,
) -> tuple[Encoder, Key]:
    if clustering is not None:
        clustering = clustering if encoder is None else clustering.with_encoder(encoder, cache_dir, trust)
        own: Key = clustering.manifest["key"]
        if key not in (None, own):
            raise ValueError(f"key={key!r}, but the clusters were made by key={own!r}; leave key out")
        return clustering.get_encoder(), own
    if encoder is None:
        raise ValueError("Similarity needs a model: inspect(dataset, encoder), or inspect(dataset, clustering=...)")
    return Encoder(encoder, cache_dir, trust_remote_code=trust), key or "query"


def _find_strength(
    dataset: Any, pairs: LabelledPairs, clustering: Clustering | None, encoder: Encoder, cache: SharedCache
) -> dict[str, Strength]:
    """Return what the guide is worth, as attaching measured one that is not the encoder; nothing without a guide."""
    if not any(map(has_row_keys, list_parts(dataset))):
        return {}
    if clustering is not None and "guide_model" in clustering.manifest:
        return {name: Strength(**one) for name, one in clustering.manifest["guide"].items()}
    return measure_strength(pairs.dataset, pairs.text_columns, pairs.source_names, pairs.source_of_row, encoder, cache)


def _measure_hardness(sample: Sample) -> dict[str, BatchHardness]:
    return {
        name: measure_batches(sample.query_vectors, sample.passage_vectors, map(sample.find, batches))
        for name, batches in sample.batches.items()
    }


def _describe_topics(sample: Sample, key_vectors: npt.NDArray[np.float32], seed: int) -> list[ClusterTopic]:
    pairs = sample.pairs
    numbers, first, sizes = np.unique(pairs.strata, return_index=True, return_counts=True)
    names = {
        number: (pairs.source_names[pairs.source_of_row[row]], int(pairs.clusters[row]), size)
        for number, row, size in zip(numbers.tolist(), first.tolist(), sizes.tolist(), strict=True)
    }
    at = sample.find(sample.topic_rows)
    topics = describe_clusters(sample.topic_rows, key_vectors[at], pairs.strata[sample.topic_rows], names)
    # Words are cheap: they are counted on more rows than are embedded.
    described = np.unique(pairs.strata[sample.topic_rows])
    rows = pairs.sample_strata(described, max(1, _TOPIC_ROWS // len(topics)), np.random.default_rng(seed))
    queries, passages = pairs.read_texts(rows)
    documents = [f"{query} {passage}" for query, passage in zip(queries, passages, strict=True)]
    words = find_words(documents, pairs.strata[rows])
    return [replace(one, words=words[number]) for number, one in zip(described.tolist(), topics, strict=True)]


def _describe_sources(pairs: LabelledPairs, topics: list[ClusterTopic]) -> list[SourceSizes]:
    described = []
    for at, name in enumerate(pairs.source_names):
        rows = np.flatnonzero(pairs.source_of_row == at)
        sizes = np.unique(pairs.strata[rows], return_counts=True)[1]
        shares = sizes / sizes.sum()
        own = [one for one in topics if one.source == name]
        described.append(
            SourceSizes(
                name=name,
                rows=int(sizes.sum()),
                clusters=len(sizes),
                smallest=int(sizes.min()),
                median=float(np.median(sizes)),
                largest=int(sizes.max()),
                effective_clusters=float(np.exp(-(shares * np.log(shares)).sum())),
                coherence=float(np.average([one.coherence for one in own], weights=[one.rows for one in own])),
            )
        )
    return described


def _describe_keys(pairs: LabelledPairs) -> SharedKeys:
    if pairs.keys is None or not len(pairs.keys.rows):
        return SharedKeys(0, 0, 0, "")
    crossings, held = find_crossings(pairs.dataset, pairs.keys), pairs.keys.drop_negatives()
    if held is None:
        return SharedKeys(0, 0, 0, "", crossings)
    rows, _, text = find_largest_key(pairs.dataset, held)
    return SharedKeys(len(np.unique(held.keys)), len(np.unique(held.rows)), rows, text[:80], crossings)


def _measure_stability(sample: Sample, key_vectors: npt.NDArray[np.float32], seed: int) -> float | None:
    """Cluster the sample with two seeds, source by source, and compare; a small sample into fewer clusters."""
    from sklearn.metrics import adjusted_mutual_info_score

    pairs, scores, weights = sample.pairs, [], []
    source_of_row = pairs.source_of_row[sample.rows]
    for at in range(len(pairs.source_names)):
        own = key_vectors[source_of_row == at]
        n_clusters = len(np.unique(pairs.strata[pairs.source_of_row == at]))
        n_clusters = min(n_clusters, len(own) // _MIN_ROWS_PER_CLUSTER)
        if n_clusters < 2:
            continue
        labels = [
            NearestCentroid(fit_centroids(own, n_clusters, seed=seed + offset, niter=20)).find(own)[0]
            for offset in (0, 1)
        ]
        scores.append(adjusted_mutual_info_score(*labels))
        weights.append(len(own))
    return float(np.average(scores, weights=weights)) if scores else None
