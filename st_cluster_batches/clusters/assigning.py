"""Give every row the nearest centroid of its source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from st_cluster_batches.clusters.kmeans import Centroids, NearestCentroid
from st_cluster_batches.clusters.vectors import PairVectors
from st_cluster_batches.data.pairs import Key, Pairs
from st_cluster_batches.storage.cache import hash_values
from st_cluster_batches.storage.chunks import ChunkedArray, hash_array

_CLUSTER_BITS = 24  # of a cluster's number are its place among the clusters of its source
_NEAREST = np.dtype([("cluster", np.int32), ("similarity", np.float32)])


def assign_rows(vectors: PairVectors, key: Key, centroids: Mapping[str, Centroids]) -> ChunkedArray:
    """Assign every row to the most similar centroid of its source, or to the community that it is in.

    All processes share the work.

    Args:
        vectors: The rows.
        key: The text that decides the cluster.
        centroids: Centroids of every source of the pairs.

    Returns:
        (n,) rows of `cluster`, numbered from 0 in each source, and `similarity`.
    """
    pairs, cache = vectors.pairs, vectors.cache
    vectors.embed(key)
    own = [centroids[name] for name in pairs.sources]
    indexes = [NearestCentroid(one) for one in own]
    given = vectors.communities
    made_from = [*vectors.name(key), pairs.data_hash, *map(hash_array, own)]
    made_from += [] if given is None else [hash_array(given)]
    array = ChunkedArray.at(cache.folder / f"nearest-{hash_values(made_from)}", len(pairs))

    def make(chunk: int) -> npt.NDArray[Any]:
        low, high = array.bounds(chunk)
        rows, codes = vectors.read(key, chunk), pairs.source_of_row[low:high]
        nearest = np.empty(high - low, dtype=_NEAREST)
        for code in np.unique(codes):
            at = np.flatnonzero(codes == code)
            if given is None or given[low + at[0]] < 0:
                nearest["cluster"][at], nearest["similarity"][at] = indexes[code].find(rows[at])
                continue
            nearest["cluster"][at] = given[low + at]
            nearest["similarity"][at] = (rows[at] * own[code][given[low + at]]).sum(axis=1)
        return nearest

    array.fill(make, cache, "Assigning")
    return array


def measure_clusters(
    vectors: PairVectors, nearest: ChunkedArray, centroids: Mapping[str, Centroids]
) -> Iterator[tuple[str, npt.NDArray[np.int64], float]]:
    """Yield every source with the (k,) sizes of its clusters and the mean similarity of a row to its centroid."""
    pairs = vectors.pairs
    sizes = [np.zeros(len(centroids[name]), dtype=np.int64) for name in pairs.sources]
    total = np.zeros(len(pairs.sources))
    for low, high, rows in nearest:
        codes = pairs.source_of_row[low:high]
        for code in np.unique(codes):
            own = rows[codes == code]
            sizes[code] += np.bincount(own["cluster"], minlength=len(sizes[code]))
            total[code] += own["similarity"].sum(dtype=np.float64)
    for code, name in enumerate(pairs.sources):
        yield name, sizes[code], float(total[code] / sizes[code].sum())


def number_clusters(centroids: Mapping[str, Centroids]) -> dict[str, int]:
    """Return the number of every source's first cluster.

    It is a hash of the source and its centroids, and not counted from 0, so that rows which were labelled apart and
    joined later share a number only if they share a cluster. The clusters of a source are numbered on from it.
    """
    return {
        name: (xxhash.xxh3_64_intdigest(f"{name}\0{hash_array(own)}".encode()) >> (_CLUSTER_BITS + 1)) << _CLUSTER_BITS
        for name, own in centroids.items()
    }


def find_position(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return which cluster of its source a number stands for, from 0; for people, who cannot read 19 digits.

    Small numbers, which are a user's own, stay as they are.
    """
    return np.where(numbers < 1 << _CLUSTER_BITS, numbers, numbers & ((1 << _CLUSTER_BITS) - 1))


def read_clusters(
    pairs: Pairs, nearest: ChunkedArray, first_cluster: Mapping[str, int], low: int, high: int
) -> npt.NDArray[np.int64]:
    """Return the clusters of the rows from one up to another; `number_clusters` gives the first of each source."""
    offsets = np.asarray([first_cluster[name] for name in pairs.sources], dtype=np.int64)
    clusters: npt.NDArray[np.int64] = nearest.slice(low, high)["cluster"] + offsets[pairs.source_of_row[low:high]]
    return clusters
