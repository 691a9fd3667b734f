"""Which text should decide the clusters of a static model: the query, the passage, or both?

    python recipes/in_domain/keys.py DATA --encoder MODEL --output recipes/in_domain/results

The sources, pairs and start of `static.py`, with clusters by the one text, the other, or both; `symmetric` is both,
and k-means sees every pair a second time with its sides exchanged, as in CDE (arXiv 2410.02525). Rates are chosen on
one set of held-out queries, scores are of the other. Finished runs are never repeated.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from static import SOURCES, load_start, make_parser, measure_gain, parse_trials, read_rows

from st_cluster_batches.clusters.choice import Candidate
from st_cluster_batches.data.pairs import KEYS, Key
from st_cluster_batches.evaluation.problem import prepare_problem
from st_cluster_batches.evaluation.trial_runs import TrialRuns
from st_cluster_batches.evaluation.tune_options import TuneOptions
from st_cluster_batches.storage.cache import write_atomically
from st_cluster_batches.storage.shared_cache import SharedCache

WAYS = (Candidate(), Candidate(32), Candidate(32, rows_per_stratum=8))


def summarise(scores: dict[tuple[Key, Candidate], Any]) -> dict[str, Any]:
    """Return the difference of each key and way to random batches, in percent of these, with its interval."""
    baseline = scores[KEYS[0], WAYS[0]]
    found: dict[str, Any] = {"random": round(float(baseline.mean()), 5)}
    for key in KEYS:
        for way in WAYS[1:]:
            found[f"{key}: {way}"] = measure_gain(scores[key, way], baseline)
    return found


def tabulate(results: dict[str, Any], batch_size: int) -> str:
    """Return the table, with the means of all sources, and the least."""
    names = list(results)
    lines = [f"### Batches of {batch_size}", "", f"| clusters | {' | '.join(names)} | mean | least |"]
    lines.append("|" + " --- |" * (len(names) + 3))
    for way in [one for one in results[names[0]] if one != "random"]:
        means = [results[name][way][0] for name in names]
        cells = []
        for name in names:
            mean, low, high = results[name][way]
            cells.append(f"**{mean:+.1f}**" if low > 0 or high < 0 else f"{mean:+.1f}")
        lines.append(f"| {way} | {' | '.join(cells)} | {np.mean(means):+.1f} | {min(means):+.1f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what has not been run, and write `keys-BATCH_SIZE.json` and `.md`."""
    parser = make_parser(__doc__, SOURCES)
    parser.add_argument("--batch_size", type=int, default=16)
    arguments = parse_trials(parser)
    results: dict[str, Any] = {}
    with SharedCache.open(arguments.cache_dir) as cache:
        encoder, start = load_start(arguments.encoder, cache)
        options = TuneOptions(arguments.batch_size, n_seeds=arguments.seeds, n_workers=arguments.workers)
        runs = TrialRuns(options, arguments.runs or arguments.output)
        for name in arguments.sources:
            rows = read_rows(name, arguments)
            scores: dict[tuple[Key, Candidate], Any] = {}
            for key in KEYS:
                problem = prepare_problem(name, rows, encoder, key, None, start, cache)
                if problem is not None:
                    ways = WAYS if key == KEYS[0] else WAYS[1:]  # random batches are the same for all
                    records = runs.run(f"{name}-{key}", problem, ways)
                    scores |= {(key, way): np.asarray([own["ndcg"] for own in records[way]]) for way in ways}
            if scores:
                results[name] = summarise(scores)
                path = arguments.output / f"keys-{arguments.batch_size}.json"
                write_atomically(path, json.dumps(results, indent=1) + "\n")
                write_atomically(path.with_suffix(".md"), tabulate(results, arguments.batch_size))


if __name__ == "__main__":
    main()
