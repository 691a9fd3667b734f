"""Communities of rows whose passages are near one another's queries: clusters by the negatives that they would give.

B3 (arXiv 2505.11293): an edge joins two rows if each one's passage is among those that a teacher ranks p to p + m for
the other's query; METIS cuts the graph into parts of equal size. The first p ranks are skipped: many of them answer.
B3's p = 30 and m = 100 are for large sources. Of 60 rows ranks 30 to 59 are the farthest, and communities of these
would be easier than random rows, so both are scaled in small sources.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from st_cluster_batches.clusters.kmeans import (
    Centroids,
    NearestCentroid,
    fit_centroids,
    normalise,
    order_along_path,
    require_faiss,
)
from st_cluster_batches.clusters.metis import cut_graph
from st_cluster_batches.clusters.options import ClusterOptions
from st_cluster_batches.clusters.vectors import PairVectors
from st_cluster_batches.data.pairs import Key, Pairs
from st_cluster_batches.storage.cache import hash_values, write_whole
from st_cluster_batches.storage.shared_cache import SharedCache

if TYPE_CHECKING:
    from scipy.sparse import csr_array

# Rows of a coarse cluster within which neighbours are searched: a quarter of a minute on two cores.
_COARSE_ROWS = 50_000
_QUERIES_AT_ONCE = 4096
# B3's window, ranks 30 to 130, in sources of so many rows and more; in smaller ones the same share of their rows.
_SKIP, _NEIGHBOURS, _WHOLE_WINDOW_ROWS = 30, 100, 2000
_LEAST_NEIGHBOURS = 20  # with 10 up to half of the rows of a source of 120 have no edge, and land anywhere
COMMUNITIES_VERSION = 2  # to be raised by any change that changes communities

Vectors = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


def find_communities(
    queries: Vectors,
    passages: Vectors,
    size: int,
    *,
    seed: int = 0,
    show_progress_bar: bool = False,
) -> Labels:
    """Cut rows into communities.

    Args:
        queries: (n, d) unit rows.
        passages: (n, d) unit rows; passage i is the positive of query i.
        size: Rows of a community; METIS keeps them about equal.
        seed: Seed of the coarse clusters that a large source is searched in.
        show_progress_bar: Whether to show progress.

    Returns:
        (n,) the community of every row, from 0; communities of one coarse cluster are consecutive.
    """
    skip, neighbours = choose_window(len(queries))
    groups = _split_coarsely(queries, seed)
    labels = np.empty(len(queries), dtype=np.int64)
    first = 0
    for rows in tqdm(groups, "Finding communities", unit="group", disable=not show_progress_bar):
        parts = cut_graph(_link(queries[rows], passages[rows], skip, neighbours), -(-len(rows) // size), seed)
        labels[rows] = first + _number_along_path(queries[rows], parts)
        first = int(labels[rows].max()) + 1
    return labels


def choose_window(n_rows: int) -> tuple[int, int]:
    """Return p and m for a source: the ranks that are left out as likely positives, and the neighbours after them.

    They are B3's 30 and 100, and in a source of less than 2,000 rows as large a share of it.
    """
    share = min(1.0, n_rows / _WHOLE_WINDOW_ROWS)
    return round(_SKIP * share), max(_LEAST_NEIGHBOURS, round(_NEIGHBOURS * share))


def _number_along_path(queries: Vectors, parts: Labels) -> Labels:
    """Number parts anew, so that neighbours in number are neighbours in space; METIS may leave some empty."""
    present, codes = np.unique(parts, return_inverse=True)
    means = np.zeros((len(present), queries.shape[1]), dtype=np.float32)
    np.add.at(means, codes, queries)
    place = np.empty(len(present), dtype=np.int64)
    place[order_along_path(normalise(means))] = np.arange(len(present))
    return place[codes]


def cut_sources(vectors: PairVectors, options: ClusterOptions, cache: SharedCache) -> None:
    """Cut those sources of some pairs into communities that options say so of; a second call reads what it finds.

    The vectors of a source are held in memory, about 8 bytes a row and dimension.

    Args:
        vectors: The pairs; they remember the communities, which assignment then follows.
        options: Which sources, and how large communities are.
        cache: Where communities are kept; the first process cuts, the others wait.
    """
    pairs = vectors.pairs
    chosen = [at for at, name in enumerate(pairs.sources) if options.find_method(name) == "communities"]
    if not chosen:
        return
    vectors.embed("both")
    sizes = [(pairs.sources[at], options.count_clusters(_count(pairs, at), pairs.sources[at])) for at in chosen]
    decides = (*vectors.name("both"), pairs.data_hash, sizes, options.seed, COMMUNITIES_VERSION)
    path = cache.folder / f"communities-{hash_values(*decides)}.npy"

    def cut() -> None:
        if path.exists():
            return
        labels = np.full(len(pairs), -1, dtype=np.int32)
        for at in chosen:
            rows = np.flatnonzero(pairs.source_of_row == at)
            size = max(1, round(len(rows) / options.count_clusters(len(rows), pairs.sources[at])))
            labels[rows] = find_communities(
                vectors.take("query", rows),
                vectors.take("passage", rows),
                size,
                seed=options.seed,
                show_progress_bar=cache.show_progress_bar,
            )
        with write_whole(path) as temporary, temporary.open("wb") as file:
            np.save(file, labels)

    cache.processes.once(cut, None)
    vectors.communities = np.load(path)


def _count(pairs: Pairs, source: int) -> int:
    return int(np.count_nonzero(pairs.source_of_row == source))


def find_middles(vectors: PairVectors, key: Key, source: int) -> Centroids:
    """Return the (k, d) mean directions of the communities of a source: new rows go to the nearest."""
    assert vectors.communities is not None, "sources are cut before their middles are asked for"
    rows = np.flatnonzero(vectors.pairs.source_of_row == source)
    labels = vectors.communities[rows]
    own = vectors.take(key, rows)
    means = np.zeros((int(labels.max()) + 1, own.shape[1]), dtype=np.float32)
    np.add.at(means, labels, own)
    return normalise(means)


def _split_coarsely(queries: Vectors, seed: int) -> list[npt.NDArray[np.intp]]:
    """Return the rows of coarse clusters, so that the search does not grow with the square of the rows."""
    n_groups = round(len(queries) / _COARSE_ROWS)
    if n_groups < 2:
        return [np.arange(len(queries))]
    sample = np.sort(np.random.default_rng(seed).permutation(len(queries))[:_COARSE_ROWS])
    nearest = NearestCentroid(fit_centroids(queries[sample], n_groups, seed=seed, niter=10)).find(queries)[0]
    order = np.argsort(nearest, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(nearest[order])) + 1)


def _link(queries: Vectors, passages: Vectors, skip: int, neighbours: int) -> csr_array:
    """Return the (n, n) graph of rows that are among each other's neighbours."""
    from scipy.sparse import csr_array

    n_rows = len(queries)
    # One more: a query's own passage is nobody's negative, wherever it is ranked.
    depth = min(n_rows, skip + neighbours + 1)
    index = require_faiss().IndexFlatIP(passages.shape[1])
    index.add(np.ascontiguousarray(passages))
    found = []
    for low in range(0, n_rows, _QUERIES_AT_ONCE):
        ranked = index.search(np.ascontiguousarray(queries[low : low + _QUERIES_AT_ONCE]), depth)[1]
        is_own = ranked == np.arange(low, low + len(ranked))[:, None]
        # The own passage moves behind the others, which keep their order.
        ranked = np.take_along_axis(ranked, np.argsort(is_own, axis=1, kind="stable"), axis=1)
        found.append(ranked[:, min(skip, max(depth - 2, 0)) : depth - 1].astype(np.int32))
    near = np.concatenate(found)
    starts = np.arange(n_rows + 1, dtype=np.int64) * near.shape[1]
    graph = csr_array((np.ones(near.size, dtype=np.int8), near.ravel(), starts), shape=(n_rows, n_rows))
    mutual = graph.minimum(graph.T.tocsr())
    mutual.setdiag(0)
    mutual.eliminate_zeros()
    return mutual.tocsr()
