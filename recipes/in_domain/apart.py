"""What is it worth to keep false negatives apart, for which fine clusters give up batches of their own?

    python recipes/in_domain/apart.py DATA --encoder MODEL --output recipes/in_domain/results

The start of `static.py`, on sources some of whose texts stand in several rows: random batches and clusters of two
batches each, with the keys of false negatives and without, a rate for each. Rates are chosen on one set of held-out
queries, scores are of the other. Finished runs are never repeated.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
from keys import tabulate
from static import load_start, make_parser, measure_gain, parse_trials, read_rows

from st_cluster_batches.clusters.choice import Candidate
from st_cluster_batches.evaluation.problem import Problem, prepare_problem
from st_cluster_batches.evaluation.trial_runs import TrialRuns
from st_cluster_batches.evaluation.tune_options import TuneOptions
from st_cluster_batches.storage.cache import write_atomically
from st_cluster_batches.storage.shared_cache import SharedCache

SOURCES = ("stackexchange", "medquad", "nl2bash", "medical_qa_forums", "climate_fever")


def measure(name: str, problem: Problem, batch_size: int, runs: TrialRuns) -> dict[str, Any]:
    """Return the differences to random batches that keep false negatives apart, in percent, with intervals."""
    ways = (Candidate(), Candidate(2 * batch_size))
    scores = {}
    for told, one in ((", apart", problem), (", meeting", replace(problem, keys=None))):
        records = runs.run(f"{name}-{batch_size}{told}", one, ways)
        scores |= {f"{way}{told}": np.asarray([own["ndcg"] for own in records[way]]) for way in ways}
    baseline = scores.pop(f"{ways[0]}, apart")
    found: dict[str, Any] = {"random": round(float(baseline.mean()), 5)}
    return found | {way: measure_gain(own, baseline) for way, own in scores.items()}


def main() -> None:
    """Run what has not been run, and write `apart-BATCH_SIZE.json` and `.md`."""
    parser = make_parser(__doc__, SOURCES)
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=(16, 64))
    arguments = parse_trials(parser)
    results: dict[int, dict[str, Any]] = {size: {} for size in arguments.batch_sizes}
    with SharedCache.open(arguments.cache_dir) as cache:
        encoder, start = load_start(arguments.encoder, cache)
        for name in arguments.sources:
            problem = prepare_problem(name, read_rows(name, arguments), encoder, "query", None, start, cache)
            for size in arguments.batch_sizes if problem is not None else ():
                options = TuneOptions(size, n_seeds=arguments.seeds, n_workers=arguments.workers)
                runs = TrialRuns(options, arguments.runs or arguments.output)
                results[size][name] = measure(name, problem, size, runs)
                path = arguments.output / f"apart-{size}.json"
                write_atomically(path, json.dumps(results[size], indent=1) + "\n")
                write_atomically(path.with_suffix(".md"), tabulate(results[size], size))


if __name__ == "__main__":
    main()
