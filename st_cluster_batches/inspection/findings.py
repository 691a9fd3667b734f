"""What an inspection finds: the figures that advice is given on, that the page shows, and that `--json` prints."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from st_cluster_batches.batches.hardness import NEAR_POSITIVE, BatchHardness
from st_cluster_batches.batches.repeats import Crossings
from st_cluster_batches.clusters.strength import Strength, describe_strength
from st_cluster_batches.data.naming import show_line
from st_cluster_batches.data.pairs import Key
from st_cluster_batches.inspection.sample import Sample
from st_cluster_batches.plans.plan_counts import PlanCounts


@dataclass(frozen=True)
class SourceSizes:
    """The clusters of one source.

    Args:
        name: The source.
        rows: Its rows.
        clusters: Its clusters.
        smallest: Rows of the smallest one.
        median: Median rows of a cluster.
        largest: Rows of the largest one.
        effective_clusters: Clusters of equal size that would be as diverse: the exponential of the sizes' entropy.
        coherence: Mean similarity of a sampled row to the mean direction of its cluster; k-means' own objective.
    """

    name: str
    rows: int
    clusters: int
    smallest: int
    median: float
    largest: int
    effective_clusters: float
    coherence: float


@dataclass(frozen=True)
class SharedKeys:
    """The texts that make rows false negatives of one another.

    Args:
        keys: How many are the query or positive of several rows.
        rows: Rows that share one of these.
        largest: Rows that share the commonest.
        text: That text, cut.
        crossings: Explicit negatives that are positives of other rows, if there are any.
    """

    keys: int
    rows: int
    largest: int
    text: str
    crossings: Crossings | None = None


@dataclass(frozen=True)
class ClusterTopic:
    """The topic of a cluster, from a sample of its rows.

    Args:
        cluster: Its number.
        source: Its source.
        rows: Rows of the whole cluster.
        coherence: Mean cosine similarity of the sampled rows to their mean direction.
        words: Words that are more frequent in the cluster than in others, by class-based TF-IDF, best first.
        typical: Rows nearest to the mean direction.
        borderline: Rows whose similarity to another cluster of the source is nearest to that to their own.
    """

    cluster: int
    source: str
    rows: int
    coherence: float
    words: list[str]
    typical: list[int]
    borderline: list[int]


@dataclass(frozen=True)
class WorstPair:
    """A negative that the encoder finds nearer to a query than its own passage.

    Args:
        row: Row of the query.
        other: Row of the negative passage.
        positive_similarity: Of the query and its passage.
        negative_similarity: Of the query and the negative.
        query: The query.
        passage: Its passage.
        other_passage: The negative.
    """

    row: int
    other: int
    positive_similarity: float
    negative_similarity: float
    query: str
    passage: str
    other_passage: str


@dataclass(frozen=True)
class NearDuplicatePair:
    """Two rows of a batch whose passages are near-duplicates.

    Args:
        row: One row.
        other: The other.
        similarity: Of their passages.
        passage: Passage of the one, cut.
        other_passage: Passage of the other, cut.
    """

    row: int
    other: int
    similarity: float
    passage: str
    other_passage: str


@dataclass(frozen=True)
class MaskedShare:
    """What a guided loss would mask with a margin, if the model that measured similarity were its guide.

    Args:
        margin: Added to the similarity of query and positive; a negative above that is masked.
        shares: Of the negatives of `cluster`, `source` and `random` batches.
        masked: Negatives of cluster batches just above the margin.
        kept: Negatives just below it.
    """

    margin: float
    shares: dict[str, float]
    masked: list[WorstPair]
    kept: list[WorstPair]


@dataclass(frozen=True)
class Inspection:
    """The clusters of a labelled dataset, and a sample of the batches that they give.

    Args:
        rows: Rows of the dataset.
        sampled_rows: Rows that were embedded.
        batch_size: Rows of a batch on one device.
        world_size: Devices that step together.
        rows_per_stratum: Rows of each cluster in a batch of several; None for batches of one cluster.
        seed: Seed of plan and sample; training with another one draws other batches.
        encoder: Name of the model that measured similarity.
        key: The text that decided the clusters.
        columns: The texts: query, positive, then any negatives.
        sources: Cluster sizes, source by source.
        plans: What an epoch is made of, for `cluster` and, where there are sources, `source` batches.
        hardness: In-batch negatives of `cluster`, `source` and `random` batches.
        shared: The texts that make rows false negatives of one another.
        worst_pairs: Negatives of cluster batches that are much nearer than the positive, worst first.
        near_duplicates: Pairs of rows of one batch whose passages are near-duplicates, nearest first.
        near_duplicate_rate: Share of the rows of the sampled cluster batches that have one in their batch.
        masks: What guided losses with several margins would mask, smallest margin first.
        unmasked_sources: The sources for whose rows nothing is masked, since `tune` chose so.
        strength: How well the guide ranks the passages of each source.
        guide_model: The guide, where it is not the model that measured similarity: then `masks` are not its.
        clusters: Topics, in the order of the clusters; where there are more than 500, those of 500 evenly spaced ones
            and of the largest of each source.
        stability: Adjusted mutual information of k-means on the sample with two seeds; None for too small a sample.
        advice: What to change.
        sample: The pairs and vectors that were looked at, for the page.
    """

    rows: int
    sampled_rows: int
    batch_size: int
    world_size: int
    rows_per_stratum: int | None
    seed: int
    encoder: str
    key: Key
    columns: list[str]
    sources: list[SourceSizes]
    plans: dict[str, PlanCounts]
    hardness: dict[str, BatchHardness]
    shared: SharedKeys
    worst_pairs: list[WorstPair]
    near_duplicates: list[NearDuplicatePair]
    near_duplicate_rate: float
    masks: list[MaskedShare]
    unmasked_sources: list[str]
    strength: dict[str, Strength]
    guide_model: str | None
    clusters: list[ClusterTopic]
    stability: float | None
    sample: Sample = field(repr=False)
    advice: list[str] = field(default_factory=list)

    def describe(self) -> dict[str, Any]:
        """Return all figures as JSON values."""
        described = asdict(replace(self, sample=None))  # type: ignore[arg-type]  # the sample is no figure
        del described["sample"]
        return described

    def describe_lines(self) -> list[str]:
        """Return what a person reads first, as lines for a terminal."""
        names = ("rows", "clusters", "smallest", "median", "largest")
        lines = [f"{'source':<24}" + "".join(f"{name:>10}" for name in names) + f"{'effective':>11}{'coherence':>11}"]
        for one in self.sources:
            cells = "".join(f"{getattr(one, name):>10,.0f}" for name in names)
            lines.append(f"{show_line(one.name, 23):<24}{cells}{one.effective_clusters:>11.1f}{one.coherence:>11.3f}")
        lines += [f"{name} batches: {plan}" for name, plan in self.plans.items()]
        heads = ("negatives", "hardest", "positive", "nearer", f"> {NEAR_POSITIVE:g} of")
        lines.append(f"{'similarity':<24}" + "".join(f"{name:>11}" for name in heads))
        for name, found in self.hardness.items():
            means = "".join(f"{value:>11.3f}" for value in (found.negative, found.hardest, found.positive))
            rates = "".join(f"{value:>11.2%}" for value in (found.false_negative_rate, found.near_positive_rate))
            lines.append(f"{name + ' batches':<24}{means}{rates}")
        kinds = list(self.hardness)
        lines.append(f"{'masked by a guide at margin':<34}" + "".join(f"{kind:>11}" for kind in kinds))
        for mask in self.masks:
            lines.append(f"{mask.margin:<+34.2f}" + "".join(f"{mask.shares[kind]:>11.2%}" for kind in kinds))
        if self.guide_model is not None:
            lines.append(f"these are masks by {self.encoder}, which measured; the guide is {self.guide_model}")
        if self.unmasked_sources:
            lines.append(f"masked for no query, as tuned: those of {', '.join(self.unmasked_sources)}")
        lines += describe_strength(self.strength)
        if self.stability is not None:
            lines.append(f"two seeds of k-means agree to {self.stability:.2f} (adjusted mutual information)")
        return [*lines, "", *(f"* {line}" for line in self.advice)]
