"""The communities of the sources of some pairs: found group by group, kept in the cache, read again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from st_cluster_batches.clusters.communities import (
    COMMUNITIES_VERSION,
    Labels,
    Rows,
    cut_group,
    join_groups,
    number_groups,
)
from st_cluster_batches.clusters.kmeans import Centroids, normalise
from st_cluster_batches.clusters.options import ClusterOptions
from st_cluster_batches.clusters.two_level_kmeans import READ_AT_ONCE, list_cells
from st_cluster_batches.clusters.vectors import PairVectors
from st_cluster_batches.data.pairs import Key
from st_cluster_batches.storage.cache import hash_values, remove_leftovers
from st_cluster_batches.storage.chunks import write_array
from st_cluster_batches.storage.shared_cache import SharedCache


@dataclass(frozen=True)
class _Source:
    """A source that is cut into communities.

    Args:
        rows: (n,) its rows, ascending.
        size: Rows of a community.
        seed: Seed of the cut.
        folder: Where the communities of its groups are kept.
        groups: Positions among the rows, of each group that is cut by itself.
    """

    rows: npt.NDArray[np.int64]
    size: int
    seed: int
    folder: Path
    groups: Sequence[Rows]

    def cut(self, number: int, vectors: PairVectors) -> Labels:
        """Return the communities of a group, found now or kept by an earlier call."""

        def make() -> Labels:
            rows = self.rows[self.groups[number]]
            queries, passages = vectors.take("query", rows), vectors.take("passage", rows)
            return cut_group(queries, passages, len(self.rows), self.size, self.seed)

        return _keep(self.folder / f"{number}.npy", make)


def cut_sources(vectors: PairVectors, options: ClusterOptions, cache: SharedCache) -> None:
    """Cut those sources of some pairs into communities that options say so of.

    No more is in memory than the vectors of one group, and an interruption loses no more than one.

    Args:
        vectors: The pairs; they remember the communities, which assignment then follows.
        options: Which sources, and how large communities are.
        cache: Where communities are kept; the processes share the groups.
    """
    names = vectors.pairs.sources
    chosen = [at for at, name in enumerate(names) if options.find_method(name) == "communities"]
    if not chosen:
        return
    vectors.embed("both")
    sources = [_split_source(at, vectors, options, cache) for at in chosen]
    tasks = [(source, number) for source in sources for number in range(len(source.groups))]
    share = cache.processes.share(len(tasks))
    for at in tqdm(share, "Finding communities", unit="group", disable=not cache.show_progress_bar):
        source, number = tasks[at]
        source.cut(number, vectors)
    cache.processes.wait()
    communities = np.full(len(vectors), -1, dtype=np.int32)
    for source in sources:
        parts = [source.cut(number, vectors) for number in range(len(source.groups))]
        communities[source.rows] = join_groups(source.groups, parts)
    vectors.communities = communities


def _split_source(at: int, vectors: PairVectors, options: ClusterOptions, cache: SharedCache) -> _Source:
    """Split a source, by its position, into groups: in the first process, for all."""
    name = vectors.pairs.sources[at]
    rows = np.flatnonzero(vectors.pairs.source_of_row == at)
    n_communities = options.count_clusters(len(rows), name)
    decides = (*vectors.name("both"), vectors.pairs.data_hash, name, n_communities, options.seed, COMMUNITIES_VERSION)
    folder = cache.folder / f"communities-{hash_values(*decides)}"

    def prepare() -> None:
        folder.mkdir(exist_ok=True)
        remove_leftovers(folder)
        take = partial(vectors.take, "query")
        _keep(folder / "groups.npy", lambda: number_groups(lambda at: take(rows[at]), len(rows), options.seed))

    cache.processes.once(prepare, None)
    groups = list_cells(np.load(folder / "groups.npy"))
    return _Source(rows, max(1, round(len(rows) / n_communities)), options.seed, folder, groups)


def find_middles(vectors: PairVectors, key: Key, source: int) -> Centroids:
    """Return the (k, d) mean directions of the communities of a source: new rows go to the nearest."""
    assert vectors.communities is not None, "sources are cut before their middles are asked for"
    rows = np.flatnonzero(vectors.pairs.source_of_row == source)
    labels = vectors.communities[rows]
    means: Centroids | None = None
    for low in range(0, len(rows), READ_AT_ONCE):
        own = vectors.take(key, rows[low : low + READ_AT_ONCE])
        means = np.zeros((int(labels.max()) + 1, own.shape[1]), dtype=np.float32) if means is None else means
        np.add.at(means, labels[low : low + READ_AT_ONCE], own)
    assert means is not None, "no source is empty"
    return normalise(means)


def _keep(path: Path, make: Callable[[], Labels]) -> Labels:
    """Return the numbers that a file holds, and make them first where it is not there."""
    if not path.exists():
        write_array(path, make())
    numbers: Labels = np.load(path)
    return numbers
