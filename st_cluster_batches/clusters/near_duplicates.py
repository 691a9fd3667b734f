"""Find passages that say nearly the same: negatives of one another only by name."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from st_cluster_batches.clusters.kmeans import require_faiss
from st_cluster_batches.clusters.two_level_kmeans import list_cells, number_cells
from st_cluster_batches.clusters.vectors import PairVectors
from st_cluster_batches.data.duplicates import combine_hashes
from st_cluster_batches.data.pairs import Pairs
from st_cluster_batches.storage.cache import hash_values, write_atomically

logger = logging.getLogger(__name__)

# Larger clusters are cut into cells of about half this size, so that cost grows with the rows and not their square.
# Near-duplicates that a cut parts are missed: tests/bench/bench_attach.py near counts them.
_CELL_ROWS = 8192
_ITERATIONS = 5
_QUERY_ROWS = 256  # at once: bounds the pairs in memory where a cell is full of near-duplicates
# Above so many near-duplicates of a passage, all of them share one key, and not one for each pair: a thousand form
# letters would have half a million.
_MANY = 64
_N_SAMPLES = 10

Integers = npt.NDArray[np.integer[Any]]
Hashes = npt.NDArray[np.uint64]


@dataclass
class NearDuplicates:
    """Passages above a similarity, as keys that their rows share, and as samples to read.

    Args:
        threshold: The similarity.
        rows: Rows with a near-duplicate, once for each key, cell by cell.
        keys: The hashes that they share with these: of two passages, or of one with all close around it.
        n_pairs: How many pairs of different passages are that similar.
        samples: The least similar pairs: where the threshold is wrong, it shows here first.
    """

    threshold: float
    rows: list[Integers] = field(default_factory=list)
    keys: list[Hashes] = field(default_factory=list)
    n_pairs: int = 0
    samples: list[tuple[float, str, str]] = field(default_factory=list)

    def sort(self) -> tuple[npt.NDArray[np.int64], Hashes]:
        """Return all rows, ascending, with their keys."""
        rows = np.concatenate([np.zeros(0, dtype=np.int64), *self.rows])
        order = np.argsort(rows, kind="stable")
        return rows[order], np.concatenate([np.zeros(0, dtype=np.uint64), *self.keys])[order]


def find_near_duplicates(
    vectors: PairVectors, passages: Hashes, clusters: npt.NDArray[np.integer[Any]], threshold: float
) -> NearDuplicates:
    """Search each cluster for passages that are more similar than a threshold (FAISS range search).

    Ten sample pairs are logged, and written to the cache, so that a person can judge the threshold.

    Args:
        vectors: The pairs, whose passages have been embedded.
        passages: (n,) hashes of the passages; equal ones are no near-duplicates.
        clusters: (n,) the cluster of every row.
        threshold: Cosine similarity.

    Returns:
        What was found.
    """
    found = NearDuplicates(threshold)
    numbers = np.unique(clusters, return_inverse=True)[1]
    order = np.argsort(numbers, kind="stable").astype(np.int32)
    ends = np.cumsum(np.bincount(numbers))
    is_silent = not vectors.cache.show_progress_bar
    cells = zip([0, *ends[:-1]], ends, strict=True)
    for start, end in tqdm(cells, "Near-duplicates", len(ends), unit="cluster", disable=is_silent):
        for rows in _cut(order[start:end], vectors):
            _search(rows, passages, vectors, found)
    samples = [{"similarity": round(one, 4), "passages": texts} for one, *texts in found.samples]
    made_from = hash_values(vectors.pairs.data_hash, vectors.name("passage"), threshold)
    path = vectors.cache.folder / f"near-duplicates-{made_from}.json"
    write_atomically(path, json.dumps(samples, indent=2, ensure_ascii=False) + "\n")
    logger.info("%d pairs of passages are nearly equal; samples, least similar first: %s", found.n_pairs, path)
    for similarity, one, other in found.samples:
        logger.info("%.4f %r | %r", similarity, one[:100], other[:100])
    return found


def _cut(rows: npt.NDArray[np.int32], vectors: PairVectors) -> list[npt.NDArray[np.int32]]:
    """Cut the rows of a large cluster into cells of similar passages."""
    if len(rows) <= _CELL_ROWS:
        return [rows] if len(rows) > 1 else []
    n_cells = -(-2 * len(rows) // _CELL_ROWS)
    cells = number_cells(lambda at: vectors.take("passage", rows[at]), len(rows), n_cells, seed=0, niter=_ITERATIONS)
    return [rows[at] for at in list_cells(cells) if len(at) > 1]


def _search(rows: npt.NDArray[np.int32], passages: Hashes, vectors: PairVectors, found: NearDuplicates) -> None:
    """Find the keys of one cell."""
    _, first, distinct = np.unique(passages[rows], return_index=True, return_inverse=True)
    order = np.argsort(first)  # rows are read in ascending order
    distinct, ones = np.argsort(order)[distinct], rows[first[order]]
    unit = vectors.take("passage", ones)
    index = require_faiss().IndexFlatIP(unit.shape[1])
    index.add(unit)
    ball = np.full(len(ones), -1)  # the passage that stands for those close around it
    starts, ends = [], []
    for low in range(0, len(ones), _QUERY_ROWS):
        limits, similarity, other = index.range_search(unit[low : low + _QUERY_ROWS], found.threshold)
        one = low + np.repeat(np.arange(len(limits) - 1), np.diff(limits).astype(np.int64))
        _gather_balls(ball, low, limits.astype(np.int64), similarity, other, found.threshold)
        is_new = other > one
        found.n_pairs += int(np.count_nonzero(is_new))
        _keep_samples(found, vectors.pairs, ones, (one[is_new], other[is_new]), similarity[is_new])
        is_apart = is_new & ((ball[one] != ball[other]) | (ball[one] < 0))
        starts.append(one[is_apart])
        ends.append(other[is_apart])
    start, end = np.concatenate(starts), np.concatenate(ends)
    hashes = passages[ones]
    key = combine_hashes(np.minimum(hashes[start], hashes[end]), np.maximum(hashes[start], hashes[end]))
    in_ball = np.flatnonzero(ball >= 0)
    _add_keys(found, rows, distinct, np.concatenate([start, end]), np.concatenate([key, key]))
    _add_keys(found, rows, distinct, in_ball, combine_hashes(hashes[ball[in_ball]], hashes[ball[in_ball]]))


def _gather_balls(
    ball: Integers, low: int, limits: Integers, similarity: npt.NDArray[np.float32], other: Integers, threshold: float
) -> None:
    """Let passages with many near-duplicates stand for those within half the angle, which are near one another too."""
    half = np.sqrt((1 + threshold) / 2)  # cos(x / 2) for cos(x) = threshold
    for at in np.flatnonzero(np.diff(limits) > _MANY).tolist():
        if ball[low + at] < 0:
            own = slice(limits[at], limits[at + 1])
            close = other[own][similarity[own] >= half]
            ball[close[ball[close] < 0]] = low + at


def _add_keys(
    found: NearDuplicates, rows: npt.NDArray[np.int32], distinct: Integers, holders: Integers, keys: Hashes
) -> None:
    """Give the keys of distinct passages to all rows that have these passages."""
    by_passage = np.argsort(distinct, kind="stable")
    counts = np.bincount(distinct)
    first = np.cumsum(counts) - counts
    n_rows = counts[holders]
    within = np.arange(n_rows.sum()) - np.repeat(np.cumsum(n_rows) - n_rows, n_rows)
    found.rows.append(rows[by_passage[np.repeat(first[holders], n_rows) + within]].astype(np.int64))
    found.keys.append(np.repeat(keys, n_rows))


def _keep_samples(
    found: NearDuplicates,
    pairs: Pairs,
    rows: npt.NDArray[np.int32],
    both: tuple[Integers, Integers],
    similarity: npt.NDArray[np.float32],
) -> None:
    """Keep the least similar pairs whose texts differ."""
    worst = found.samples[-1][0] if len(found.samples) == _N_SAMPLES else np.inf
    texts = pairs.dataset.with_format(None)
    for at in np.argsort(similarity, kind="stable")[:_N_SAMPLES]:
        if similarity[at] >= worst:
            break
        one, other = (texts[int(rows[side[at]])][pairs.text_columns[1]] for side in both)
        if one != other:
            found.samples.append((float(similarity[at]), one, other))
    found.samples.sort()
    del found.samples[_N_SAMPLES:]
