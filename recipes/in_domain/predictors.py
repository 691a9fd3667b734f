"""What could have told the gain of `static.py` without training? Figures of each source beside it, and how they rank.

    python recipes/in_domain/predictors.py DATA --encoder MODEL --output recipes/in_domain/results

Takes the same pairs, vectors and held-out queries as `static.py`, whose results it reads; nothing is trained.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from static import SOURCES, make_parser, prepare_source

from st_cluster_batches.clusters.choice import Candidate
from st_cluster_batches.evaluation.problem import Problem
from st_cluster_batches.evaluation.proxy import Guide, as_bags, embed_all, rank_documents
from st_cluster_batches.evaluation.trials import label_problem
from st_cluster_batches.plans.batch_plan import BatchPlan
from st_cluster_batches.storage.cache import write_atomically
from st_cluster_batches.storage.shared_cache import SharedCache

_BATCHES = 40  # that are looked at
_BATCH_SIZE = 16


def measure(problem: Problem) -> dict[str, float]:
    """Measure a source with the model that training starts from and with the guide."""
    weights = torch.from_numpy(np.array(problem.start.weights))
    documents = embed_all(weights, as_bags(problem.documents))
    judged = problem.measured_on
    start = rank_documents(embed_all(weights, as_bags(judged.queries)), documents, judged).mean()
    assert problem.guide is not None and problem.guide_ndcg is not None, "static.py embeds both sides"
    guide, guide_ndcg = Guide(*problem.guide), problem.guide_ndcg[1]
    shares = {}
    for name, candidate in (("random", Candidate()), ("clusters of 32", Candidate(32))):
        plan = BatchPlan(label_problem(problem, candidate, 0), _BATCH_SIZE, seed=0).plan_epoch(0)
        masks = [guide.find_false(rows).float().mean() for rows in plan.rows[plan.order[:_BATCHES]]]
        shares[name] = float(torch.stack(masks).mean()) * _BATCH_SIZE / (_BATCH_SIZE - 1)
    lengths = np.diff(as_bags(problem.passages).starts)
    return {
        "start": float(start),
        "guide": guide_ndcg,
        "guide ahead by": float(guide_ndcg - start),
        "answers a held-out query": len(judged.rows) / len(judged.queries),
        "tokens of a passage": float(lengths.mean()),
        "false negatives, random": shares["random"],
        "false negatives, clusters of 32": shares["clusters of 32"],
    }


def describe(found: dict[str, Any], gains: dict[str, dict[str, float]]) -> str:
    """Return a table of the sources, and the rank correlation of every figure with every gain."""
    names = list(next(iter(found.values())))
    lines = [f"| source | {' | '.join(names)} | {' | '.join(gains)} |", "|" + " --- |" * (1 + len(names) + len(gains))]
    for source, one in found.items():
        cells = [f"{one[name]:.3g}" for name in names] + [f"{100 * gain[source]:+.1f} %" for gain in gains.values()]
        lines.append(f"| {source} | {' | '.join(cells)} |")
    lines += ["", f"| rank correlation with | {' | '.join(gains)} |", "|" + " --- |" * (1 + len(gains))]
    for name in names:
        own = [one[name] for one in found.values()]
        cells = [f"{spearmanr(own, list(gain.values())).statistic:+.2f}" for gain in gains.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Write `predictors.json` and `predictors.md`."""
    parser = make_parser(__doc__, SOURCES)
    parser.add_argument("--max_seq_length", type=int, default=128)
    arguments = parser.parse_args()
    results = json.loads((arguments.output / "results.json").read_text(encoding="utf-8"))
    found = {}
    with SharedCache.open(arguments.cache_dir) as cache:
        for name in arguments.sources:
            if name in results and (problem := prepare_source(name, arguments, cache)) is not None:
                found[name] = measure(problem)
    gains: dict[str, dict[str, float]] = {}
    for size in next(iter(results.values()))["batch_sizes"]:
        own = {name: results[name]["batch_sizes"][size]["all"] for name in found}
        if any("clusters of 32" not in scores for scores in own.values()):
            continue  # finer than these batches allow
        gains[f"gain of clusters of 32, batch {size}"] = {
            name: scores["clusters of 32"] / scores["random"] - 1 for name, scores in own.items()
        }
        gains[f"of the mask, batch {size}"] = {
            name: scores["random, masked"] / scores["random"] - 1 for name, scores in own.items()
        }
    write_atomically(arguments.output / "predictors.json", json.dumps(found, indent=1) + "\n")
    write_atomically(arguments.output / "predictors.md", describe(found, gains) + "\n")


if __name__ == "__main__":
    main()
