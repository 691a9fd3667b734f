"""What of the sizes of clusters is not as it was meant, said whenever they are used, made anew or not."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from st_cluster_batches.clusters.choice import method_of
from st_cluster_batches.clusters.options import ClusterOptions
from st_cluster_batches.columns import CLUSTER
from st_cluster_batches.data.naming import list_few
from st_cluster_batches.data.pairs import Pairs

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

LARGE_SHARE = 0.5  # of its source: a cluster that holds more, of three or more clusters, is warned of
_FAR_LARGER = 2  # times the rows asked for: new rows never fill clusters quite as those did that were fitted
_FEW_OF_THOSE_ASKED = 0.8  # as a share; k-means leaves a few centroids without rows


def warn_of_sizes(
    statistics: Mapping[str, Any],
    options: ClusterOptions,
    remedy: str = "max_cluster_size= splits it",
    dataset: str | None = None,
) -> None:
    """Warn where there are fewer clusters than asked for, or one came out too large.

    Args:
        statistics: Of a clustering's manifest: rows, clusters and their sizes by source.
        options: What the clusters were made by.
        remedy: What mends a large cluster, in the caller's options.
        dataset: The name of theirs, if there are several, each clustered by itself.
    """
    small, few, alike, large = list[str](), list[str](), list[str](), list[str]()
    for source, one in statistics.items():
        n_rows, n_clusters, largest = one["rows"], one["clusters"], max(one["sizes"])
        asked, limit = options.count_clusters(n_rows, source), options.find_limit(source)
        if asked > n_rows:
            small.append(f"{source!r} {n_rows:,}")
        if n_clusters < _FEW_OF_THOSE_ASKED * min(asked, n_rows):
            few.append(f"{source!r} {n_clusters:,} of {min(asked, n_rows):,}")
        if limit is not None and largest > limit:
            alike.append(f"{source!r} one of {largest:,} rows")
        elif n_clusters > 2 and largest > LARGE_SHARE * n_rows:
            large.append(f"{source!r} {largest:,} of its {n_rows:,} rows in one of {n_clusters:,} clusters")
    asked_for = f"the {options.n_clusters or 'ten'} clusters asked for"
    limited = f"clusters of more than max_cluster_size={options.max_cluster_size} rows, too alike to be split"
    fewer = "fewer clusters than asked for, since so few of their vectors differ"
    known = "Ask for fewer, or see whether the encoder knows these texts and reads the part in which they differ"
    if options.key == "symmetric":
        fewer = "fewer clusters than asked for, since others would hold exchanged sides of pairs alone"
        known = "Ask for more: a smaller cluster_size=, or a larger n_clusters="
    for found, what, mend in (
        (small, f"fewer rows than {asked_for}: every row is one", "cluster_size= suits sources of any size"),
        (few, fewer, known),
        (alike, limited, "Take out rows that repeat others, or allow larger ones"),
        (large, "most of their rows in one cluster", remedy),
    ):
        if found:
            text, of = "%d of %d sources%s have %s: %s. %s", f" of {dataset!r}" if dataset else ""
            logger.warning(text, len(found), len(statistics), of, what, list_few(found), mend)


def warn_of_whole_sources(
    sizes: Mapping[str, int], options: ClusterOptions, call: str = "attach_clusters", dataset: str | None = None
) -> None:
    """Warn of sources that become one cluster though several are meant: their batches are random rows of them.

    Args:
        sizes: Rows of each source.
        options: What the clusters are made by.
        call: What takes these options.
        dataset: The name of theirs, if there are several.
    """
    by_source = options.cluster_size if isinstance(options.cluster_size, Mapping) else None
    whole = {
        name: size
        for name, size in sizes.items()
        if options.n_clusters != 1
        and options.count_clusters(size, name) == 1
        and not (by_source is not None and by_source[name] is None)
    }
    if not whole:
        return
    given = "cluster_size= by source" if by_source is not None else f"cluster_size={options.cluster_size}"
    remedy = "a smaller cluster_size"
    if options.n_clusters is not None:
        given = f"n_clusters={options.n_clusters!r}, global_batch_size={options.global_batch_size}"
        remedy = "cluster_size= in its place"
    logger.warning(
        "%s(%s) makes one cluster of a whole source, whose batches are then random rows of it: %d of %d sources%s, "
        "%s. Give %s",
        call,
        given,
        len(whole),
        len(sizes),
        f" of {dataset!r}" if dataset else "",
        list_few([f"{name!r} with {size:,} rows" for name, size in whole.items()]),
        remedy,
    )


def warn_of_default(options: ClusterOptions) -> None:
    """Warn where nothing says how large clusters are: ten of each source suit few data."""
    if options.n_clusters is None and options.cluster_size is None:
        logger.warning(
            "Neither n_clusters nor cluster_size is given: each source gets 10 clusters, as in arXiv 2407.18887. In "
            "our trials that brought +2 to -4 % nDCG@10 on average, and up to -9 % on one source; cluster_size=32, "
            "with ClusterBatchSampler.configure(rows_per_stratum=8), brought more in batches of 16 and 64, and `tune` "
            "finds out what suits these data. To keep ten: n_clusters=10"
        )


def warn_of_new_sizes(labelled: Iterable[tuple[Pairs, Dataset]], manifest: Mapping[str, Any]) -> None:
    """Warn where rows that a clustering of others labels fill far larger clusters than it was asked for.

    Args:
        labelled: Each dataset with its labels.
        manifest: That of the clustering.
    """
    found = []
    for pairs, rows in labelled:
        clusters = rows.with_format("arrow", columns=[CLUSTER])[:][CLUSTER].to_numpy()
        for code, name in enumerate(pairs.sources):
            sizes = np.unique(clusters[pairs.source_of_row == code], return_counts=True)[1]
            mean, limit = _read_sizes(manifest, name)
            if (mean and sizes.mean() > _FAR_LARGER * mean) or (limit and sizes.max() > _FAR_LARGER * limit):
                asked = f"{mean or 'any number'} on average{f', {limit} at most' if limit else ''}"
                found.append(f"{name!r} {sizes.mean():,.0f} rows on average, {sizes.max():,} at most (asked: {asked})")
    if found:
        logger.warning(
            "These rows fill far larger clusters than were asked for when others were clustered, so that batches are "
            "of coarser topics: %s. Cluster these rows by themselves: attach_clusters(dataset, encoder, "
            "cluster_size=...)",
            list_few(found),
        )


def _read_sizes(manifest: Mapping[str, Any], source: str) -> tuple[int | None, int | None]:
    """Return the rows of a cluster of a source that were asked for, on average and at most."""
    mean, limit = manifest.get("cluster_size"), manifest.get("max_cluster_size")
    if isinstance(mean, Mapping) and (mean := mean.get(source)) is None:
        return None, None  # one stratum, of any size
    if method_of(manifest.get("method"), source) == "communities":
        limit = mean  # they are about equal
    return mean, limit
