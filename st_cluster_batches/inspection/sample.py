"""The sample of a labelled dataset that an inspection measures: rows, texts and vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from st_cluster_batches.batches.sampler import ClusterBatchSampler
from st_cluster_batches.clusters.encoder import Encoder
from st_cluster_batches.clusters.vectors import take_by_key
from st_cluster_batches.columns import CLUSTER, SOURCE
from st_cluster_batches.data.pairs import Side
from st_cluster_batches.data.texts import hash_rows
from st_cluster_batches.inspection.labelled import Integers, LabelledPairs
from st_cluster_batches.plans.plan_counts import PlanCounts
from st_cluster_batches.storage.shared_cache import SharedCache

if TYPE_CHECKING:
    from datasets import Dataset

_MAX_CLUSTERS = 500  # whose topics are looked at, and the largest of each source
_TOPIC_ROWS = 4000  # embedded for them, in all
_MIN_TOPIC_ROWS = 6  # and for each at least
_MAP_ROWS = 1500
_BLOCK = 1 << 22  # similarities that are held at once: a global batch of 32,768 rows has a billion

Leads = npt.NDArray[np.float32]
Ahead = tuple[float, float, float, int, int]  # how far; similarity of positive and negative; their rows


@dataclass
class Sample:
    """Whole batches of each kind, some rows of the clusters, and the vectors of them all.

    Args:
        pairs: The dataset.
        samplers: The samplers of `cluster` and perhaps `source` batches.
        counts: What an epoch of them is made of, of all datasets together, each of which is planned by itself.
        batches: Global batches of `cluster`, perhaps `source`, and `random`.
        topic_rows: Some rows of every cluster that is described, ascending.
        map_rows: Rows to be drawn on a map, ascending; the first cluster and random batches are among them.
        rows: All of these, ascending.
        query_vectors: Unit vectors of `rows`, once embedded.
        passage_vectors: Likewise.
    """

    pairs: LabelledPairs
    samplers: Mapping[str, ClusterBatchSampler]
    counts: Mapping[str, PlanCounts]
    batches: Mapping[str, list[Integers]]
    topic_rows: Integers
    map_rows: Integers
    rows: Integers
    query_vectors: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    passage_vectors: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    @classmethod
    def draw(
        cls,
        pairs: LabelledPairs,
        batch_size: int,
        world_size: int,
        n_rows: int,
        seed: int,
        rows_per_stratum: int | None = None,
    ) -> Sample:
        """Plan the batches, and draw those that are measured."""
        rng = np.random.default_rng(seed)
        strata: dict[str, tuple[str, ...]] = {"cluster": (SOURCE, CLUSTER) if pairs.has_sources else (CLUSTER,)}
        if pairs.has_sources:
            strata["source"] = (SOURCE,)

        def plan(dataset: Dataset, name: str) -> ClusterBatchSampler:
            return ClusterBatchSampler(
                dataset.with_format(None),
                batch_size,
                drop_last=world_size > 1,
                seed=seed,
                strata=strata[name],
                world_size=world_size,
                rows_per_stratum=rows_per_stratum if name == "cluster" else None,
            )

        samplers = {name: plan(pairs.dataset, name) for name in strata}
        counts = {name: sampler.counts for name, sampler in samplers.items()}
        if len(pairs.sizes) > 1:
            ends = np.cumsum([0, *pairs.sizes])
            parts = [pairs.dataset.select(range(low, high)) for low, high in pairwise(ends.tolist())]
            counts = {name: _sum_counts([plan(part, name) for part in parts]) for name in strata}
        size = min(batch_size * world_size, len(pairs))
        n_batches = max(2, n_rows // size)
        batches = {}
        for name, sampler in samplers.items():
            planned = sampler.plan_epoch()
            chosen = rng.permutation(len(planned.rows))[:n_batches]
            batches[name] = [planned.rows[at].astype(np.int64) for at in chosen] or [planned.last.astype(np.int64)]
        shuffled = rng.permutation(len(pairs))[: n_batches * size]
        batches["random"] = [shuffled[low : low + size] for low in range(0, len(shuffled) - size + 1, size)]
        numbers = pairs.choose_strata(_MAX_CLUSTERS)
        topic_rows = pairs.sample_strata(numbers, max(_MIN_TOPIC_ROWS, _TOPIC_ROWS // len(numbers)), rng)
        shown = np.concatenate([batches[name][0][: _MAP_ROWS // 4] for name in ("cluster", "random")])
        others = rng.permutation(topic_rows)[: _MAP_ROWS - len(shown)]
        rows = np.unique(np.concatenate([topic_rows, *(batch for kind in batches.values() for batch in kind)]))
        return cls(pairs, samplers, counts, batches, topic_rows, np.unique(np.concatenate([shown, others])), rows)

    def embed(self, encoder: Encoder, cache: SharedCache) -> None:
        """Find the vectors of all rows in the cache, and embed those that are not there."""
        pairs = self.pairs
        table = pairs.dataset.with_format("arrow", columns=pairs.text_columns)[self.rows]
        texts: dict[Side, list[str]] = {
            "query": table[pairs.columns[0]].to_pylist(),
            "passage": table[pairs.columns[1]].to_pylist(),
        }
        vectors = take_by_key(encoder, cache, hash_rows(table, pairs.text_columns), texts, "Embedding the sample")
        self.query_vectors, self.passage_vectors = vectors["query"], vectors["passage"]

    def find(self, rows: Integers) -> Integers:
        """Return where rows of the dataset are among `rows`."""
        return np.searchsorted(self.rows, rows)

    def measure_leads(self, batch: Integers, counts_unmasked: bool = True) -> Iterator[tuple[Integers, Leads]]:
        """Yield, part by part of a batch, its rows, and how much nearer each passage is to them than their own.

        It is -inf for their own.

        Args:
            batch: Rows of the dataset.
            counts_unmasked: Whether queries count for which nothing is to be masked; else it is -inf for them, too.
        """
        at = self.find(batch)
        passages = self.passage_vectors[at]
        for part in split_batch(len(batch)):
            lead: Leads = self.query_vectors[at[part]] @ passages.T
            rows = np.arange(len(lead))
            lead -= lead[rows, rows + part.start][:, None]
            lead[rows, rows + part.start] = -np.inf
            if not counts_unmasked:
                lead[self.pairs.is_unmasked[batch[part]]] = -np.inf
            yield batch[part], lead

    def choose_nearest(
        self, rows: Integers, batch: Integers, lead: Leads, distance: Leads, n_chosen: int
    ) -> Iterator[Ahead]:
        """Yield the negatives at the least distance, one at most for each query.

        Args:
            rows: From `measure_leads`, of a batch.
            batch: Rows of the dataset.
            lead: From `measure_leads`.
            distance: Of each; infinite where it is not to be chosen.
            n_chosen: Negatives at most.
        """
        nearest, smallest = distance.argmin(axis=1), distance.min(axis=1)
        for at in np.argsort(smallest, kind="stable")[:n_chosen].tolist():
            if np.isfinite(smallest[at]):
                place = self.find(rows[at])
                positive = float(self.query_vectors[place] @ self.passage_vectors[place])
                ahead = float(lead[at, nearest[at]])
                yield ahead, positive, positive + ahead, int(rows[at]), int(batch[nearest[at]])


def _sum_counts(samplers: Sequence[ClusterBatchSampler]) -> PlanCounts:
    """Add up what an epoch of each dataset is made of; one that fills no global batch is left out."""
    found = [
        PlanCounts(0, 0, 0, 0, 0, last=0, dropped=len(one.dataset), repeats=0) if one.fills_no_batch else one.counts
        for one in samplers
    ]
    size = samplers[0].batch_size * samplers[0].world_size
    added = {part.name: sum(getattr(one, part.name) for one in found) for part in fields(PlanCounts)}
    return PlanCounts(**{**added, "global_batch_size": size})


def split_batch(n_rows: int) -> Iterator[slice]:
    """Split the rows of a batch such that the similarities of each part to the whole batch take little memory."""
    step = max(1, _BLOCK // n_rows)
    for low in range(0, n_rows, step):
        yield slice(low, min(low + step, n_rows))
