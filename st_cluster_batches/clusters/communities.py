"""Communities of rows whose passages are near one another's queries: clusters by the negatives that they would give.

B3 (arXiv 2505.11293): an edge joins two rows if each one's passage is among those that a teacher ranks p to p + m for
the other's query; METIS cuts the graph into parts of equal size. The first p ranks are skipped: many of them answer.
B3's p = 30 and m = 100 are for large sources. Of 60 rows ranks 30 to 59 are the farthest, and communities of these
would be easier than random rows, so both are scaled in small sources. Large sources are parted coarsely at first, so
that the search does not grow with the square of their rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from st_cluster_batches.clusters.kmeans import make_index, normalise, order_along_path
from st_cluster_batches.clusters.metis import cut_graph
from st_cluster_batches.clusters.two_level_kmeans import list_cells, number_cells

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scipy.sparse import csr_array

# Rows of a coarse cluster within which neighbours are searched: a quarter of a minute on two cores.
_COARSE_ROWS = 50_000
_COARSE_ITERATIONS = 10
_QUERIES_AT_ONCE = 4096
# B3's window, ranks 30 to 130, in sources of so many rows and more; in smaller ones the same share of their rows.
_SKIP, _NEIGHBOURS, _WHOLE_WINDOW_ROWS = 30, 100, 2000
_LEAST_NEIGHBOURS = 20  # with 10 up to half of the rows of a source of 120 have no edge, and land anywhere
COMMUNITIES_VERSION = 3  # to be raised by any change that changes communities

Vectors = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Rows = npt.NDArray[np.integer]


def find_communities(queries: Vectors, passages: Vectors, size: int, *, seed: int = 0) -> Labels:
    """Cut the rows of a source, held in memory, into communities.

    Args:
        queries: (n, d) unit rows.
        passages: (n, d) unit rows; passage i is the positive of query i.
        size: Rows of a community; METIS keeps them about equal.
        seed: Seed of METIS, and of the coarse clusters of a large source.

    Returns:
        (n,) the community of every row, from 0; those near one another have numbers near one another.
    """
    groups = list_cells(number_groups(lambda rows: queries[rows], len(queries), seed))
    parts = [cut_group(queries[rows], passages[rows], len(queries), size, seed) for rows in groups]
    return join_groups(groups, parts)


def number_groups(take: Callable[[Rows], Vectors], n_rows: int, seed: int) -> Labels:
    """Number the rows of a source by the group that they are cut in: coarse clusters, or one where it is not large.

    Args:
        take: Returns the (m, d) queries, unit rows, at m ascending positions.
        n_rows: Rows of the source.
        seed: Seed of the coarse clusters.

    Returns:
        (n,) the group of every row, for `list_cells`.
    """
    n_groups = round(n_rows / _COARSE_ROWS)
    if n_groups < 2:
        return np.zeros(n_rows, dtype=np.int64)
    return number_cells(take, n_rows, n_groups, seed=seed, niter=_COARSE_ITERATIONS)


def cut_group(queries: Vectors, passages: Vectors, n_rows: int, size: int, seed: int) -> Labels:
    """Cut a group of rows into communities.

    Args:
        queries: (m, d) unit rows.
        passages: (m, d) unit rows; passage i is the positive of query i.
        n_rows: Rows of their source, which decide the window of ranks.
        size: Rows of a community.
        seed: Seed of METIS.

    Returns:
        (m,) the community of every row, from 0, along a path through their mean queries.
    """
    skip, neighbours = choose_window(n_rows)
    parts = cut_graph(_link(queries, passages, skip, neighbours), -(-len(queries) // size), seed)
    return _number_along_path(queries, parts)


def join_groups(groups: Sequence[Rows], parts: Sequence[Labels]) -> Labels:
    """Number the communities of some groups on, and return that of every row."""
    labels = np.empty(sum(map(len, groups)), dtype=np.int64)
    first = 0
    for rows, own in zip(groups, parts, strict=True):
        labels[rows] = first + own
        first += int(own.max()) + 1
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


def _link(queries: Vectors, passages: Vectors, skip: int, neighbours: int) -> csr_array:
    """Return the (n, n) graph of rows that are among each other's neighbours."""
    from scipy.sparse import csr_array

    n_rows = len(queries)
    # One more: a query's own passage is nobody's negative, wherever it is ranked.
    depth = min(n_rows, skip + neighbours + 1)
    index = make_index(passages)
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
