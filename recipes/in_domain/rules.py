"""How sure `tune` should be: what rules of choice bring on queries that nothing was chosen on.

    python recipes/in_domain/rules.py RUNS --output recipes/in_domain/results

RUNS is the folder of single runs of `static.py`. Both sets of held-out queries are put together and parted in three:
a rule chooses on two thirds (`tune` has all), and the gain is of the other, in percent of random batches', the mean of
the three turns. (Learning rates were chosen on a third of the queries, for all ways alike.) `tune` takes
the way whose 80 % interval has the highest lower end, if that is above zero, and a mask only where it is as surely
better than the best way without. Other rules take masks as they take any way, widen the interval, or correct p-values
for the number of ways (Benjamini and Hochberg); the last knows the best way afterwards.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from static import SOURCES

from st_cluster_batches.clusters.choice import Candidate
from st_cluster_batches.evaluation.candidates import CONFIDENCE, judge_sources, list_candidates
from st_cluster_batches.evaluation.significance import Difference, correct_p_values
from st_cluster_batches.storage.cache import write_atomically

_TURNS = 3
_SIZES = (16, 64, 256)  # of batches; in those of 1,024 no way gains

Scores = NDArray[np.float64]  # (seeds, queries)
Rule = Callable[[Mapping[Candidate, Difference]], Candidate]


def take_above(share: float) -> Rule:
    """Make a rule: of the ways whose interval of that share lies above zero, the one with the highest lower end."""

    def choose(differences: Mapping[Candidate, Difference]) -> Candidate:
        narrowed = norm.ppf((1 + share) / 2) / norm.ppf((1 + CONFIDENCE) / 2)
        low = {one: own.mean - narrowed * (own.mean - own.low) for one, own in differences.items()}
        best = max(low, key=lambda one: low[one])
        return best if low[best] > 0 else Candidate()

    return choose


def take_discovered(level: float) -> Rule:
    """Make a rule: the same among the ways that are better at a false discovery rate."""

    def choose(differences: Mapping[Candidate, Difference]) -> Candidate:
        corrected = correct_p_values([one.p_value for one in differences.values()])
        ways = zip(differences.items(), corrected, strict=True)
        found = {one: own.low for (one, own), p_value in ways if p_value < level and own.mean > 0}
        return max(found, key=lambda one: found[one]) if found else Candidate()

    return choose


RULES = {
    "95 % interval above zero": take_above(0.95),
    "90 % interval above zero": take_above(0.9),
    "80 % interval above zero": take_above(0.8),
    "false discovery rate .05": take_discovered(0.05),
    "false discovery rate .2": take_discovered(0.2),
}
TUNE, BEST = "80 % interval above zero, a mask only where surely better (`tune`)", "the best way, known afterwards"


def read_runs(folder: Path, sources: Collection[str]) -> dict[tuple[str, int], dict[Candidate, Scores]]:
    """Return by source and batch size the scores of every way with its best rate, random batches first."""
    found: dict[Any, dict[Candidate, dict[tuple[float, int], Any]]] = defaultdict(lambda: defaultdict(dict))
    for path in folder.glob("*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        size = record["counts"]["global_batch_size"]
        name = record["source"].removesuffix(f"-{size}")
        if name not in sources or size not in _SIZES:
            continue  # perhaps of another script, that wrote into the same folder
        own = found[name, size]
        own[Candidate(**record["candidate"])][record["rate"], record["seed"]] = record
    return {place: _order({one: _find_best(runs) for one, runs in own.items()}) for place, own in found.items()}


def _find_best(runs: dict[tuple[float, int], Any]) -> Scores:
    n_seeds = Counter(rate for rate, _ in runs)  # the rate that was chosen is the one that was run with all
    rate = max(n_seeds, key=lambda one: (n_seeds[one], runs[one, 0]["tuned_ndcg"]))
    kept = [runs[key] for key in sorted(runs) if key[0] == rate]
    return np.asarray([one["tuned"] + one["ndcg"] for one in kept])


def _order(scores: dict[Candidate, Scores]) -> dict[Candidate, Scores]:
    def is_later(one: Candidate) -> tuple[bool, bool, bool, float]:
        return one.masked, one.rows_per_stratum is not None, one.method != "kmeans", -(one.cluster_size or np.inf)

    n_seeds = max(len(one) for one in scores.values())
    return {one: scores[one] for one in sorted(scores, key=is_later) if len(scores[one]) == n_seeds}


def judge(batch_size: int, scores: dict[Candidate, Scores]) -> dict[str, float]:
    """Return the gain of every rule on one source, in percent of random batches."""
    tried = {one.cluster_size for one in list_candidates(batch_size, 1_000_000)}  # not the paper's ten clusters
    ways = [one for one in scores if one.cluster_size in tried]
    random = scores[Candidate()]
    turns = np.random.default_rng(0).integers(_TURNS, size=random.shape[1])
    gains = defaultdict(list)
    for turn in range(_TURNS):
        is_reported = turns == turn
        verdict = judge_sources({"": {one: scores[one][:, ~is_reported] for one in ways}}, {"": 1})[""]
        gains[TUNE].append(_compare(scores[verdict.chosen][:, is_reported], random[:, is_reported]))
        for name, rule in RULES.items():
            chosen = scores[rule(verdict.differences)]
            gains[name].append(_compare(chosen[:, is_reported], random[:, is_reported]))
    best = max((scores[one] for one in ways), key=np.mean)
    gains[BEST].append(_compare(best, random))
    return {name: float(np.mean(own)) for name, own in gains.items()}


def _compare(scores: Scores, random: Scores) -> float:
    return float(100 * (scores.mean() / random.mean() - 1))


def describe(gains: Mapping[tuple[str, int], Mapping[str, float]]) -> str:
    """Return a table in Markdown, a line for each rule."""
    sizes = sorted({size for _, size in gains})
    lines = ["| a way is taken with |" + "".join(f" batches of {size}: mean, least |" for size in sizes)]
    lines.append("|" + " --- |" * (len(sizes) + 1))
    for name in (TUNE, *RULES, BEST):
        cells = ""
        for size in sizes:
            own = [one[name] for (_, at), one in gains.items() if at == size]
            cells += f" {np.mean(own):+.2f} %, {min(own):+.1f} % |"
        lines.append(f"| {name} |{cells}")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write `rules.md`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--sources", nargs="+", default=SOURCES)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    found = read_runs(arguments.runs, arguments.sources)
    judged = joblib.Parallel(2)(joblib.delayed(judge)(size, scores) for (_, size), scores in found.items())
    write_atomically(arguments.output / "rules.md", describe(dict(zip(found, judged, strict=True))))


if __name__ == "__main__":
    main()
