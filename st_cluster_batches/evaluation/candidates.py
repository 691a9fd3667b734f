"""Which ways to fill batches are tried, and which of them the measured scores speak for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from st_cluster_batches.clusters.choice import Candidate
from st_cluster_batches.evaluation.significance import Difference, Scores, bootstrap_difference

# Mean rows of a cluster in global batches: 1,024 to 32 rows at 16 rows a batch. Clusters that are smaller than a batch
# are packed with their neighbours.
_BATCHES_IN_A_CLUSTER = (64, 20, 6, 2, 0.5, 0.125)
_LEAST_SIZE = 16
_LEAST_CLUSTERS = 2
_LARGEST_COMMUNITY = 8  # in global batches: larger ones hold what clusters hold
# Rows of each cluster in a batch of several: a 32nd of the batch, as B3 has it (arXiv 2505.11293), and 8 at least; if
# that does not divide the batch, the next larger number that does.
_CHUNK, _CHUNKS_IN_A_BATCH = 8, 32
_CHUNKS_IN_A_CLUSTER = 4
# A way is taken if it is better at odds of nine to one. Surer rules left gains behind: recipes/in_domain/rules.py.
CONFIDENCE = 0.8
_BETTER = "better than random batches at odds of nine to one or more"
Measured = tuple[dict[Candidate, Scores], dict[str, Any]]  # of a source: by candidate its scores; what is known of it


def list_candidates(
    batch_size: int, n_rows: int, margin: float | None = None, has_communities: bool = False
) -> list[Candidate]:
    """List ways to fill batches, the simplest first: coarse before fine, and all without a mask before those with one.

    Args:
        batch_size: Rows of a batch.
        n_rows: Rows of the source.
        margin: That of the mask; None if there are no vectors of both sides to mask by.
        has_communities: Whether communities can be cut, for which there need to be vectors of both sides, and METIS.
    """
    sizes = [round(batch_size * one) for one in _BATCHES_IN_A_CLUSTER]
    plain = [Candidate(), *(Candidate(one) for one in sizes if _LEAST_SIZE <= one <= n_rows // _LEAST_CLUSTERS)]
    if has_communities:
        # Whole batches, as B3 has them; a plan packs smaller ones with their neighbours.
        largest = min(_LARGEST_COMMUNITY * batch_size, n_rows // _LEAST_CLUSTERS)
        plain += [Candidate(one, method="communities") for one in sizes if batch_size <= one <= largest]
    least = max(_CHUNK, batch_size // _CHUNKS_IN_A_BATCH)
    for chunk in [one for one in range(least, batch_size) if batch_size % one == 0][:1]:
        if len(plain) > 1 and _CHUNKS_IN_A_CLUSTER * chunk <= n_rows // _LEAST_CLUSTERS:
            several = Candidate(_CHUNKS_IN_A_CLUSTER * chunk, rows_per_stratum=chunk)
            plain += [several, replace(several, method="communities")] if has_communities else [several]
    masked = [] if margin is None else [replace(one, masked=True, margin=margin) for one in plain]
    return plain + masked


@dataclass(frozen=True)
class Verdict:
    """What the scores of one source say.

    Args:
        chosen: The way to take.
        differences: By candidate its difference to random batches.
    """

    chosen: Candidate
    differences: dict[Candidate, Difference]

    @property
    def promise(self) -> float:
        """What can be counted on of the way to take: nDCG@10 above random batches, at the interval's lower end."""
        return self.differences[self.chosen].low if self.chosen in self.differences else 0.0

    @property
    def why(self) -> str:
        """The reason in words."""
        if self.chosen.rows_per_stratum is not None:
            return f"{_BETTER}, and batches of several clusters promise most for all sources"
        if self.chosen in self.differences:
            return f"{_BETTER}, and of all such ways its interval has the highest lower end"
        if any(one.low > 0 for one in self.differences.values()):
            return "what is better than random batches here fills them in a way that promises less for other sources"
        return "no candidate is better than random batches by more than the noise"

    def describe(self) -> list[dict[str, Any]]:
        """Return the differences as JSON values."""
        return [
            {"name": str(one), **one.describe(), "difference": asdict(difference)}
            for one, difference in self.differences.items()
        ]


def name_intervals(about: Mapping[str, Any]) -> str:
    """Say which intervals the differences of a choice have, by how it was made: `Choice.about`."""
    level = about.get("confidence", 0.95)  # what choices of before have
    return f"with {100 * level:.0f} % intervals"


def judge_sources(scores: Mapping[str, Mapping[Candidate, Scores]], weights: Mapping[str, int]) -> dict[str, Verdict]:
    """Choose a candidate for each source: of those that beat random batches by more than the noise the surest.

    That is the one whose 80 % interval, paired query by query and seed by seed, has the highest lower end, if that is
    above zero; of equal ones the simpler. The intervals are not widened for the number of candidates, nor are they of
    95 %: candidates are much alike, one that is taken by chance costs no quality on average, and surer rules left
    gains behind (recipes/in_domain/rules.py, on queries that nothing was chosen on). A mask, which asks for vectors
    and a loss that reads them, has to beat the best way without one as surely. A batch plan has one number of rows of
    a cluster in a batch for all sources: of each number's candidates one is chosen, and that number taken which
    promises most.

    Args:
        scores: By source and candidate, the simplest first and random batches at the head, (seeds, queries) scores of
            the same seeds and queries.
        weights: Rows of each source.

    Returns:
        By source what was chosen, with the differences of all candidates.
    """
    numbers = {None, *(one.rows_per_stratum for own in scores.values() for one in own)}
    compared = {name: _compare(own) for name, own in scores.items()}
    by_number: dict[int | None, dict[str, Verdict]] = {}
    for number in sorted(numbers, key=lambda one: one or 0):
        by_number[number] = {}
        for name, own in scores.items():
            kept = [one for one in own if one.cluster_size is None or one.rows_per_stratum == number]
            by_number[number][name] = _choose(own, compared[name], kept)
    return max(by_number.values(), key=lambda own: sum_promises(own, weights))


def _compare(scores: Mapping[Candidate, Scores]) -> dict[Candidate, Difference]:
    """Return by candidate its difference to random batches."""
    baseline, *others = scores
    return {one: bootstrap_difference([scores[one] - scores[baseline]], CONFIDENCE) for one in others}


def _choose(
    scores: Mapping[Candidate, Scores], differences: dict[Candidate, Difference], kept: Collection[Candidate]
) -> Verdict:
    """Choose among some candidates, of which random batches are the first."""
    chosen, *_ = kept
    better = [one for one in kept if one in differences and differences[one].low > 0]
    for is_masked in (False, True):
        own = [one for one in better if one.masked is is_masked]
        if not own:
            continue
        best = max(own, key=lambda one: differences[one].low)
        if chosen not in differences or bootstrap_difference([scores[best] - scores[chosen]], CONFIDENCE).low > 0:
            chosen = best
    return Verdict(chosen, differences)


def sum_promises(verdicts: Mapping[str, Verdict], weights: Mapping[str, int]) -> float:
    """Return what can be counted on of the ways to take, over all rows of the sources."""
    return sum(weights[name] * one.promise for name, one in verdicts.items())


def judge_measured(measured: Mapping[str, Measured]) -> tuple[dict[str, Candidate], dict[str, Any], float]:
    """Choose for all sources, those without scores among them, which get one stratum.

    Args:
        measured: By source what was measured of it.

    Returns:
        By source what is chosen and what is known of it, and the gain of a row that can be counted on.
    """
    evidence = {name: own for name, (_, own) in measured.items()}
    weights = {name: evidence[name]["rows"] for name, (scores, _) in measured.items() if scores}
    verdicts = judge_sources({name: measured[name][0] for name in weights}, weights)
    for name, verdict in verdicts.items():
        evidence[name] |= {"differences": verdict.describe(), "chosen": str(verdict.chosen), "why": verdict.why}
    chosen = {name: verdicts[name].chosen if name in verdicts else Candidate() for name in measured}
    n_rows = sum(one["rows"] for one in evidence.values())
    return chosen, evidence, sum_promises(verdicts, weights) / max(1, n_rows)
