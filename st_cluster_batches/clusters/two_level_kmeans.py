"""k-means with thousands of centroids: within the cells of a coarser one, so that time grows with k^1.5, not k^2."""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from st_cluster_batches.clusters.kmeans import Centroids, NearestCentroid, Vectors, fit_centroids, sample_positions

MOST_AT_ONCE = 4096  # centroids that k-means finds without cells

READ_AT_ONCE = 65_536  # rows

Positions = npt.NDArray[np.integer]


def fit_in_cells(
    take: Callable[[Positions], Vectors],
    n_rows: int,
    n_clusters: int,
    *,
    seed: int,
    niter: int,
    show_progress_bar: bool = False,
) -> Centroids:
    """Find many centroids of unit vectors: about the square root of their number first, then those of each cell.

    Two levels of a vocabulary tree (Nister and Stewenius, CVPR 2006). Clusters of 32 rows of a million are 31,250: all
    rows would be compared with all of them in each iteration, and all centroids to put them in the order of a path.
    Here no more is in memory than the sample of the coarse k-means, or the rows of one cell. The mean similarity of a
    row to its centroid is some 3 % less, in a twentieth of the time (k = 9,909): tests/bench/bench_attach.py cells.

    Args:
        take: Returns the (m, d) unit rows at m ascending positions.
        n_rows: Rows that there are.
        n_clusters: k.
        seed: Seed of samples and of FAISS.
        niter: Iterations of each k-means.
        show_progress_bar: Whether to show progress.

    Returns:
        (k, d) float32 unit rows in path order; fewer where a cell has too few different rows, as by `fit_centroids`,
        and more where cells are of so few rows that they would share one, since each cell has one at least.
    """
    cells = list_cells(number_cells(take, n_rows, isqrt(n_clusters), seed=seed, niter=niter))
    shares = _share(n_clusters, np.asarray([len(rows) for rows in cells]))
    pieces: list[Centroids] = []
    bar = tqdm(cells, "Clustering cells", unit="cell", disable=not show_progress_bar)
    for rows, share in zip(bar, shares, strict=True):
        sample = take(rows[sample_positions(len(rows), share, seed)])
        piece = fit_centroids(sample, share, seed=seed, niter=niter)
        # In the direction of the path, so that neighbours in number are neighbours in meaning from cell to cell.
        if pieces and piece[-1] @ pieces[-1][-1] > piece[0] @ pieces[-1][-1]:
            piece = piece[::-1]
        pieces.append(piece)
    return np.concatenate(pieces)


def number_cells(
    take: Callable[[Positions], Vectors], n_rows: int, n_cells: int, *, seed: int, niter: int
) -> npt.NDArray[np.int64]:
    """Number rows by the nearest of a few centroids, in memory that does not grow with their vectors.

    Args:
        take: Returns the (m, d) unit rows at m ascending positions.
        n_rows: Rows that there are.
        n_cells: How many centroids.
        seed: Seed of sample and FAISS.
        niter: Iterations.

    Returns:
        (n,) the cell of every row; cells are numbered along a path.
    """
    coarse = fit_centroids(take(sample_positions(n_rows, n_cells, seed)), n_cells, seed=seed, niter=niter)
    search = NearestCentroid(coarse)
    blocks = (np.arange(low, min(low + READ_AT_ONCE, n_rows)) for low in range(0, n_rows, READ_AT_ONCE))
    return np.concatenate([search.find(take(rows))[0] for rows in blocks])


def list_cells(cell_of_row: npt.NDArray[np.int64]) -> list[npt.NDArray[np.intp]]:
    """Return the ascending positions of the rows of each cell that has any, in the order of their numbers."""
    order = np.argsort(cell_of_row, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(cell_of_row[order])) + 1)


def _share(n_clusters: int, sizes: npt.NDArray[np.int64]) -> list[int]:
    """Share clusters among cells in proportion to their rows; each that has rows gets one."""
    exact = n_clusters * sizes / sizes.sum()
    shares = np.floor(exact).astype(np.int64)
    most = np.argsort(shares - exact, kind="stable")[: n_clusters - int(shares.sum())]
    shares[most] += 1
    return [max(1, int(share)) for share in shares]
