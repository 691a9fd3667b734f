"""How sure `tune` should be: what rules of choice bring on queries that nothing was chosen on.

    python recipes/in_domain/rules.py RUNS --output recipes/in_domain/results

RUNS is the folder of single runs of `static.py`. A rule chooses among the ways of a source and batch size on one set
of held-out queries; the gain is of another, in percent of random batches'. `tune` leaves random batches at a level
(see `judge_sources`) for the way whose interval has the highest lower end; `best` is the best way, known afterwards.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from static import SOURCES

from st_cluster_batches.clusters.choice import Candidate
from st_cluster_batches.evaluation.candidates import judge_sources, list_candidates
from st_cluster_batches.storage.cache import write_atomically

LEVELS = (0.01, 0.05, 0.1, 0.2)

Sets = tuple[NDArray[np.float64], NDArray[np.float64]]  # (seeds, queries) chosen on, and reported of


def read_runs(folder: Path) -> dict[tuple[str, int], dict[Candidate, Sets]]:
    """Return by source and batch size the scores of every way with its best rate, the simplest first."""
    found: dict[Any, dict[Candidate, dict[tuple[float, int], Any]]] = defaultdict(lambda: defaultdict(dict))
    for path in folder.glob("*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        size = record["counts"]["global_batch_size"]
        if record["source"] not in {f"{name}-{size}" for name in SOURCES}:
            continue  # of another script, that wrote into the same folder
        own = found[record["source"], size]
        own[Candidate(**record["candidate"])][record["rate"], record["seed"]] = record
    return {place: _order({one: _find_best(runs) for one, runs in own.items()}) for place, own in found.items()}


def _find_best(runs: dict[tuple[float, int], Any]) -> Sets:
    rate = max((rate for rate, seed in runs if seed == 0), key=lambda one: runs[one, 0]["tuned_ndcg"])
    kept = [runs[key] for key in sorted(runs) if key[0] == rate]
    return np.asarray([one["tuned"] for one in kept]), np.asarray([one["ndcg"] for one in kept])


def _order(scores: dict[Candidate, Sets]) -> dict[Candidate, Sets]:
    def is_later(one: Candidate) -> tuple[bool, bool, bool, float]:
        return one.masked, one.rows_per_stratum is not None, one.method != "kmeans", -(one.cluster_size or np.inf)

    n_seeds = max(len(one) for one, _ in scores.values())
    return {one: scores[one] for one in sorted(scores, key=is_later) if len(scores[one][0]) == n_seeds}


def describe(problems: dict[tuple[str, int], dict[Candidate, Sets]]) -> list[str]:
    """Return a table in Markdown, a line for each rule."""
    sizes = sorted({size for _, size in problems})
    lines = ["| leave random at |" + "".join(f" batches of {size}: mean, least |" for size in sizes)]
    lines.append("|" + " --- |" * (len(sizes) + 1))
    for level in (*LEVELS, None):
        gains = defaultdict(list)
        for (_, size), scores in problems.items():
            tried = {one.cluster_size for one in list_candidates(size, 1_000_000)}  # not the paper's ten clusters
            kept = {one: own for one, own in scores.items() if one.cluster_size in tried}
            if level is None:
                chosen = max(kept, key=lambda one: kept[one][1].mean())
            else:
                sets = {one: own[0] for one, own in kept.items()}
                chosen = judge_sources({"": sets}, {"": 1}, level)[""].chosen
            baseline = next(iter(scores.values()))[1].mean()
            gains[size].append(100 * (scores[chosen][1].mean() / baseline - 1))
        cells = "".join(f" {np.mean(gains[size]):+.2f} %, {min(gains[size]):+.1f} % |" for size in sizes)
        lines.append(f"| {'best' if level is None else f'{level:g}'} |{cells}")
    return lines


def main() -> None:
    """Write `rules.md`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    lines = describe(read_runs(arguments.runs))
    write_atomically(arguments.output / "rules.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
