"""What cluster batches are worth to a transformer, whole or its first layers alone: by what `tune` would choose by.

    python recipes/in_domain/layers.py DATA --encoder MODEL --n_layers 2 --output recipes/in_domain/results

The same sources, pairs and clusters as `static.py`, in batches of 16. The model is MODEL itself, or its first layers,
trained by the stock trainer for a few hundred steps. The learning rate is chosen for each way on one set of held-out
queries, or given; scores are of the other set. Finished runs are never repeated; regret.py compares them with the
choice of static models.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from static import count_seeds, make_parser, read_rows

from st_cluster_batches.clusters.choice import Candidate
from st_cluster_batches.clusters.encoder import STATIC_PREFIX, Encoder
from st_cluster_batches.evaluation.problem import prepare_problem
from st_cluster_batches.evaluation.significance import bootstrap_difference
from st_cluster_batches.evaluation.start import Start
from st_cluster_batches.evaluation.trial_runs import TrialRuns
from st_cluster_batches.evaluation.tune_options import TuneOptions
from st_cluster_batches.storage.cache import write_atomically
from st_cluster_batches.storage.shared_cache import SharedCache

SOURCES = ("acl_anthology", "medquad", "python_docstrings", "stackexchange", "wordnet_glosses", "debian_packages")
BATCH_SIZE = 16


def summarise(records: Mapping[Any, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return what each way scores, and its difference to the first, on queries that no rate was chosen on."""
    scores = {one: np.asarray([own["ndcg"] for own in runs]) for one, runs in records.items()}
    baseline, *others = scores
    differences = {one: bootstrap_difference([scores[one] - scores[baseline]]) for one in others}
    return {
        str(one): {
            "ndcg_by_seed": scores[one].mean(axis=1).round(5).tolist(),
            "rate": runs[0]["rate"],
            "seconds": round(float(np.median([own["seconds"] for own in runs])), 1),
            "difference": None
            if one not in differences
            else {end: round(getattr(differences[one], end), 5) for end in ("mean", "low", "high")},
        }
        for one, runs in records.items()
    }


def pool(records: Mapping[str, Mapping[Any, list[dict[str, Any]]]]) -> dict[str, Any]:
    """Return the mean difference of each way to random batches over all sources, relative to the mean of these."""
    scores = [
        {one: np.asarray([run["ndcg"] for run in runs]) for one, runs in own.items()} for own in records.values()
    ]
    baseline, *others = scores[0]
    scale = float(np.mean([own[baseline].mean() for own in scores]))
    found = {one: bootstrap_difference([own[one] - own[baseline] for own in scores]) for one in others}
    return {
        str(one): {end: round(getattr(found[one], end) / scale, 5) for end in ("mean", "low", "high")} for one in found
    }


def main() -> None:
    """Run what has not been run, and write `layers-N.json`, and what it is over all sources to `mean-N.json`."""
    parser = make_parser(__doc__, SOURCES)
    parser.add_argument("--n_layers", type=int, required=True)
    parser.add_argument("--learning_rate", type=float, help="for all ways; chosen for each by default")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=count_seeds, default=3)
    parser.add_argument("--sizes", nargs="+", type=int, default=(1024, 32), help="rows of a cluster")
    parser.add_argument("--max_seq_length", type=int, default=64)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / f"layers-{arguments.n_layers}.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    options = TuneOptions(
        BATCH_SIZE,
        proxy="model",
        n_seeds=arguments.seeds,
        n_steps=arguments.steps,
        n_layers=arguments.n_layers,
        max_seq_length=arguments.max_seq_length,
        learning_rate=arguments.learning_rate,
        bf16=True,
    )
    ways = [Candidate(), *map(Candidate, arguments.sizes), Candidate(32, rows_per_stratum=8)]
    with SharedCache.open(arguments.cache_dir) as cache:
        encoder = Encoder(f"{STATIC_PREFIX}{arguments.encoder}", cache.folder)
        start = Start.load_model(arguments.encoder, cache.folder, arguments.n_layers, arguments.max_seq_length)
        runs = TrialRuns(options, arguments.runs or arguments.output)
        records = {}
        for name in arguments.sources:
            rows = read_rows(name, arguments)
            problem = prepare_problem(name, rows, encoder, "query", None, start, cache)
            if problem is not None:
                records[name] = runs.run(name, problem, ways)
                results[name] = summarise(records[name])
                write_atomically(path, json.dumps(results, indent=1) + "\n")
    write_atomically(path.with_name(f"mean-{arguments.n_layers}.json"), json.dumps(pool(records), indent=1) + "\n")


if __name__ == "__main__":
    main()
