"""Advice on what to change before training, by rules of thumb on the figures of an inspection."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from st_cluster_batches.batches.plan_messages import WORTH_A_WARNING, WORTH_A_WARNING_OF_PURITY
from st_cluster_batches.clusters.choice import FOR_TRANSFORMERS, Choice
from st_cluster_batches.clusters.sizes import LARGE_SHARE
from st_cluster_batches.data.naming import list_few
from st_cluster_batches.inspection.findings import Inspection
from st_cluster_batches.inspection.negatives import NEAR_DUPLICATE
from st_cluster_batches.plans.options import find_divisor

# The values from which on a figure gives rise to advice.
_PURE = 0.5  # share of global batches, or of their chunks, that should be of one cluster
_MIXED = 0.8  # coherence of a cluster, as a share of the median in its source
_NEARER = 0.01  # how much nearer negatives should be than those of one source alone
_FALSE = 0.01  # share of negatives that are nearer than the positive
_STABLE = 0.5  # adjusted mutual information of two seeds
_CHUNK, _CHUNKS = 8, 4  # rows of each of several clusters, and how many of them a cluster has; see recipes/RESULTS.md
_FEW = 8  # clusters of a source, fewer of which hardly part topics
_NAMED = 3  # sources that a line names


_TUNE = (
    "Whether clusters help a static model on these pairs, and how fine they should be, is told by trials: "
    "st-cluster-batches tune DATA --encoder ENCODER --batch_size {size} --output DIR. " + FOR_TRANSFORMERS + "."
)


def give_advice(inspection: Inspection, tuned: Choice | None = None) -> list[str]:
    """Return one line for each problem, the most serious first; a line that says so if there is none.

    Args:
        inspection: What was found.
        tuned: What was chosen by trials with batches of this size, which rules of thumb do not know better.
    """
    size = inspection.batch_size * inspection.world_size
    is_tuned = tuned is not None and tuned.batch_size == size
    sizes, false_negatives = list(_on_sizes(inspection)), list(_on_false_negatives(inspection))
    advice = [
        *sizes,
        *_on_giants(inspection),
        *_on_duplicates(inspection),
        *false_negatives,
        *_on_mixed_topics(inspection, is_coarser_advised=bool(sizes or false_negatives)),
        *([] if is_tuned or inspection.plans["cluster"].is_one_batch else _on_hardness(inspection)),
        *_on_stability(inspection),
    ]
    if tuned is not None and is_tuned:
        return [*advice, _describe_choice(tuned)]
    if tuned is not None:
        advice.append(f"The labels were tuned for batches of {tuned.batch_size:,} rows, a global batch has {size:,}.")
    advice = advice or [
        "Nothing stands out: clusters fill their batches, and their negatives are harder but not false."
    ]
    return [*advice, _TUNE.format(size=size)]


def _describe_choice(tuned: Choice) -> str:
    """Say what trials have chosen, and for which sources."""
    sources: dict[str, list[str]] = {}
    for name, one in tuned.sources.items():
        sources.setdefault(str(one), []).append(repr(name))
    chosen = "; ".join(f"{way} for {list_few(names, _NAMED, ', ')}" for way, names in sources.items())
    return f"Trials on these pairs have chosen for batches of {tuned.batch_size:,} rows: {chosen}."


def _on_sizes(inspection: Inspection) -> Iterator[str]:
    plan = inspection.plans["cluster"]
    n_batches = plan.planned
    if plan.is_one_batch:
        yield f"One batch holds all {inspection.rows:,} rows, so that clusters decide nothing. Lower batch_size."
        return
    rows = int(np.median([topic.rows for topic in inspection.clusters]))
    if plan.chunks and plan.pure_share < _PURE:
        chunk = inspection.rows_per_stratum or 1
        yield (
            f"Only {plan.pure_chunks / plan.chunks:.0%} of the chunks of {chunk:,} rows are of one cluster: half of "
            f"the clusters have {rows:,} rows or fewer. The others are packed with neighbours. Better cluster again "
            f"with cluster_size={_CHUNKS * chunk:,}, or lower rows_per_stratum."
        )
    elif n_batches and plan.pure_share < _PURE:
        chunk = find_divisor(inspection.batch_size, _CHUNK)
        purer = f"cluster again with cluster_size={8 * plan.global_batch_size:,}"
        several = f"fill a batch with {chunk} rows of each of several (rows_per_stratum={chunk})"
        is_purer = rows < _CHUNK or chunk < _CHUNK // 2
        yield (
            f"Only {plan.pure / n_batches:.0%} of the global batches are of one cluster: half of the clusters have "
            f"{rows:,} rows or fewer, a global batch has {plan.global_batch_size:,}. The others are packed with "
            f"neighbours. Better {purer if is_purer else several}, or lower batch_size."
        )
    if plan.given_up > WORTH_A_WARNING_OF_PURITY * n_batches:
        yield (
            f"{plan.given_up:,} of the {n_batches:,} global batches could be of one cluster each, but clusters hold "
            "too few different texts for that: to keep false negatives apart their rows are packed with those of "
            f"neighbours. {_advise_larger(inspection, 16 * plan.global_batch_size)}"
        )
    if plan.dropped > WORTH_A_WARNING * inspection.rows:
        yield (
            f"{plan.dropped:,} rows ({plan.dropped / inspection.rows:.1%}) are in no batch: they fill no whole global "
            f"batch of {plan.global_batch_size:,}. Lower batch_size."
        )


def _advise_larger(inspection: Inspection, size: int) -> str:
    """Advise larger clusters where a source has rows for a few of them."""
    if max(source.rows for source in inspection.sources) < _FEW * size:
        return f"Lower batch_size: of clusters of {size:,} rows there would be fewer than {_FEW}."
    return f"Cluster again with cluster_size={size:,}, or lower batch_size."


def _on_giants(inspection: Inspection) -> Iterator[str]:
    for source in inspection.sources:
        if source.clusters >= 3 and source.largest > LARGE_SHARE * source.rows:
            giant = max((one for one in inspection.clusters if one.source == source.name), key=lambda one: one.rows)
            size = max(source.rows // 10, inspection.plans["cluster"].global_batch_size)
            if giant.rows <= size:
                continue  # a smaller one fills no batch
            yield (
                f"Cluster {giant.cluster}{_quote(giant.words)} holds {giant.rows / source.rows:.0%} of the rows of "
                f"{source.name!r}: its batches are hardly of one topic. Cluster again with "
                f"max_cluster_size={size:,}."
            )


def _on_duplicates(inspection: Inspection) -> Iterator[str]:
    shared, repeats = inspection.shared, inspection.plans["cluster"].repeats
    crossings = shared.crossings
    if repeats:
        named = [f"too few texts are different: {shared.largest:,} rows share {shared.text!r}"] if shared.rows else []
        if crossings:
            named.insert(not crossings.is_main, str(crossings))
        yield (
            f"At least {repeats:,} rows ({repeats / inspection.rows:.1%}) meet a false negative, since "
            f"{', and '.join(named)}. Lower batch_size, or train with a loss "
            "that masks false negatives, such as GuidedMultipleNegativesRankingLoss (attach with guide=True)."
        )
    elif shared.rows or crossings:
        named = [str(crossings)] if crossings else []
        if shared.rows:
            commonest = f"the commonest, {shared.text!r}, stands in {shared.largest:,}"
            named.insert(0, f"{shared.rows:,} rows share a query or a positive with another ({commonest})")
        yield (
            f"{', and '.join(named)}. The plan lets none of them meet, as long as distinct='false_negative_keys', the "
            "default."
        )
    if inspection.near_duplicates:
        worst = inspection.near_duplicates[0]
        yield (
            f"Rows {worst.row} and {worst.other} say nearly the same (similarity {worst.similarity:.2f}: "
            f"{worst.passage!r} and {worst.other_passage!r}) and meet as negatives, and they are not the only ones "
            f"({inspection.near_duplicate_rate:.2%} of the rows looked at). Attach again with "
            f"false_negative_threshold={NEAR_DUPLICATE:g}."
        )


def _on_false_negatives(inspection: Inspection) -> Iterator[str]:
    found = inspection.hardness["cluster"]
    plain = inspection.hardness["random"]
    if found.false_negative_rate > max(_FALSE, 2 * plain.false_negative_rate):
        yield (
            f"{found.false_negative_rate:.1%} of the negatives are nearer to the query than its own passage "
            f"({plain.false_negative_rate:.1%} in random batches): read the worst pairs. If they are answers, attach "
            "with a false_negative_threshold, mask them (guide=True and GuidedMultipleNegativesRankingLoss, if the "
            "encoder knows more than the model), or take fewer clusters."
        )


def _on_mixed_topics(inspection: Inspection, is_coarser_advised: bool) -> Iterator[str]:
    for source in inspection.sources:
        own = [one for one in inspection.clusters if one.source == source.name]
        median = float(np.median([one.coherence for one in own])) if own else 0.0
        mixed = sorted((one for one in own if one.coherence < _MIXED * median), key=lambda one: one.coherence)
        if len(own) >= 3 and mixed:
            others = f", and {len(mixed) - 1} more like it" if len(mixed) > 1 else ""
            remedy = (
                "More clusters would part them, and make worse what is said above: leave that."
                if is_coarser_advised
                else f"More clusters part them: try n_clusters={2 * source.clusters:,}."
            )
            yield (
                f"Cluster {mixed[0].cluster}{_quote(mixed[0].words)} of {source.name!r} mixes topics: its rows have a "
                f"similarity of {mixed[0].coherence:.2f} to their mean, where {median:.2f} is usual{others}. {remedy}"
            )


def _on_hardness(inspection: Inspection) -> Iterator[str]:
    found = inspection.hardness["cluster"].negative
    name = "source" if "source" in inspection.hardness else "random"
    plain = inspection.hardness[name].negative
    if found - plain < _NEARER:
        yield (
            f"The negatives of cluster batches are hardly nearer than those of {name} batches ({found:.3f} against "
            f"{plain:.3f}): these clusters would change little. Take more of them, or another key."
        )


def _on_stability(inspection: Inspection) -> Iterator[str]:
    if inspection.stability is not None and inspection.stability < _STABLE:
        yield (
            f"Two seeds of k-means agree only to {inspection.stability:.2f} (adjusted mutual information, 1 is "
            "perfect): the clusters are in part arbitrary. A stronger encoder may help, or fewer of them."
        )


def _quote(words: Sequence[str]) -> str:
    return f" ({', '.join(words[:3])})" if words else ""
