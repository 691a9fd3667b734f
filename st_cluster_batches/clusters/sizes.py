"""What of the sizes of clusters is not as it was meant, said whenever they are used, made anew or not."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from st_cluster_batches.clusters.options import ClusterOptions

logger = logging.getLogger(__name__)

_LARGE_SHARE = 0.5  # of its source: a cluster that holds more, of three or more clusters, is warned of
_FEW_OF_THOSE_ASKED = 0.8  # as a share; k-means leaves a few centroids without rows


def warn_of_sizes(
    statistics: Mapping[str, Any], options: ClusterOptions, remedy: str = "max_cluster_size= splits it"
) -> None:
    """Warn where there are fewer clusters than asked for, or one came out too large.

    Args:
        statistics: Of a clustering's manifest: rows, clusters and their sizes by source.
        options: What the clusters were made by.
        remedy: What mends a large cluster, in the caller's options.
    """
    for source, one in statistics.items():
        n_rows, n_clusters, largest = one["rows"], one["clusters"], max(one["sizes"])
        asked, limit = options.count_clusters(n_rows, source), options.find_limit(source)
        if asked > n_rows:
            text = "Source %r has %d rows, fewer than the %d clusters asked for: every row is one"
            logger.warning(text, source, n_rows, asked)
        if n_clusters < _FEW_OF_THOSE_ASKED * min(asked, n_rows):
            logger.warning(
                "Source %r gives %d clusters of the %d asked for, since so few of its vectors differ. Ask for fewer, "
                "or see whether the encoder knows these texts and reads the part in which they differ",
                source,
                n_clusters,
                min(asked, n_rows),
            )
        if limit is not None and largest > limit:
            logger.warning("A cluster of source %r has %d rows that are too alike to be split", source, largest)
        elif n_clusters > 2 and largest > _LARGE_SHARE * n_rows:
            text = "One of the %d clusters of source %r holds %d of its %d rows; %s"
            logger.warning(text, n_clusters, source, largest, n_rows, remedy)


def warn_of_whole_sources(sizes: Mapping[str, int], options: ClusterOptions, call: str = "attach_clusters") -> None:
    """Warn of sources that become one cluster though several are meant: their batches are random rows of them.

    Args:
        sizes: Rows of each source.
        options: What the clusters are made by.
        call: What takes these options.
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
    given = f"cluster_size={options.cluster_size}"
    if options.n_clusters is not None:
        given = f"n_clusters={options.n_clusters!r}, global_batch_size={options.global_batch_size}"
    logger.warning(
        "%s(%s) makes one cluster of a whole source, whose batches are then random rows of it: %s. Give a smaller "
        "cluster_size",
        call,
        given,
        ", ".join(f"{name!r} with {size:,} rows" for name, size in whole.items()),
    )
