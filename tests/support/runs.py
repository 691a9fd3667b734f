"""Records of made-up training runs."""

from __future__ import annotations

from typing import Any

import numpy as np


def make_records(n_seeds: int = 3, n_queries: int = 100) -> list[dict[str, Any]]:
    """Make runs in which `better` gains .05 on `easy` and nothing on `hard`, whatever the seed."""
    rng = np.random.default_rng(0)
    queries = {task: rng.uniform(0.2, 0.8, n_queries) for task in ("easy", "hard")}
    records = []
    for seed in range(n_seeds):
        for variant in ("random", "better"):
            per_query = {}
            for task, scores in queries.items():
                gain = 0.05 if (variant, task) == ("better", "easy") else 0.0
                noise = rng.normal(0, 0.02, n_queries)
                per_query[task] = {f"q{at}": float(score) for at, score in enumerate(scores + gain + noise)}
            records.append(
                {
                    "variant": variant,
                    "seed": seed,
                    "attach_seconds": 1.5,
                    "train_seconds": 10.0 + seed,
                    "counts": [] if variant == "random" else [dict.fromkeys(COUNTS, 2)],
                    "hardness": dict.fromkeys(("negative", "hardest", "positive", "false_negative_rate"), 0.25),
                    "ndcg_at_10": {task: float(np.mean(list(one.values()))) for task, one in per_query.items()},
                    "per_query": per_query,
                }
            )
    return records


COUNTS = ("pure", "pooled", "mixed", "random", "last", "dropped")


ABOUT = {"pairs": 1000, "steps": 50}
