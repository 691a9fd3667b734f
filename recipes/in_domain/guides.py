"""Whose vectors should mask a static model's false negatives, and cut its communities: its own, or a stronger model's?

    python recipes/in_domain/guides.py DATA --encoder MODEL --output recipes/in_domain/results

The sources, pairs and start of `static.py`: the model is MODEL, distilled to token embeddings, and k-means sees its
own. Masks and communities are of these as well, as tune(..., "static:MODEL", guide=True) has it, or of MODEL, as
guide_model=MODEL has it for masks. Rates are chosen on one set of held-out queries, scores are of the other. Finished
runs are never repeated.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import Any

import numpy as np
from keys import tabulate
from static import SOURCES, load_start, make_parser, measure_gain, parse_trials, prepare_source, read_rows

from st_cluster_batches.clusters.choice import Candidate
from st_cluster_batches.evaluation.problem import Problem, prepare_problem
from st_cluster_batches.evaluation.trial_runs import TrialRuns
from st_cluster_batches.evaluation.tune_options import TuneOptions
from st_cluster_batches.storage.cache import write_atomically
from st_cluster_batches.storage.shared_cache import SharedCache

_RANDOM, _PURE, _SEVERAL = Candidate(), Candidate(32), Candidate(32, rows_per_stratum=8)
_CUT = Candidate(32, method="communities")
_MASKED = [replace(one, masked=True) for one in (_RANDOM, _PURE, _SEVERAL)]
_STRICT = [replace(one, masked=True, margin=-0.1) for one in (_PURE, _SEVERAL, _CUT)]  # masks more
_OWN = [_RANDOM, _PURE, _SEVERAL, _CUT, *_MASKED]
_GUIDED = [_RANDOM, _CUT, *_MASKED, replace(_CUT, masked=True), *_STRICT]


def summarise(scores: dict[tuple[str, Candidate], Any]) -> dict[str, Any]:
    """Return the difference of each way to random batches, in percent of these, with its interval."""
    baseline = scores["itself", _RANDOM]
    found: dict[str, Any] = {"random": round(float(baseline.mean()), 5)}
    for (guide, way), own in scores.items():
        if way != _RANDOM:
            whose = f" by {guide}" if way.masked or way.method == "communities" else ""
            margin = f", margin {way.margin}" if way.margin else ""
            found[f"{way}{whose}{margin}"] = measure_gain(own, baseline)
    return found


def prepare(name: str, arguments: argparse.Namespace, cache: SharedCache) -> dict[str, Problem]:
    """Embed a source by the model itself, and by the stronger one; nothing for a source that is too small."""
    encoder, start = load_start(arguments.encoder, cache)
    own = prepare_problem(name, read_rows(name, arguments), encoder, "query", encoder, start, cache)
    guided = prepare_source(name, arguments, cache)
    if own is None or guided is None:
        return {}
    return {"itself": replace(own, sides=own.guide), "MODEL": replace(guided, sides=guided.guide)}


def main() -> None:
    """Run what has not been run, and write `guides-BATCH_SIZE.json` and `.md`."""
    parser = make_parser(__doc__, SOURCES)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--max_seq_length", type=int, default=128, help="tokens that the encoder reads of a text")
    arguments = parse_trials(parser)
    path = arguments.output / f"guides-{arguments.batch_size}.json"
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    with SharedCache.open(arguments.cache_dir) as cache:
        options = TuneOptions(arguments.batch_size, guide=True, n_seeds=arguments.seeds, n_workers=arguments.workers)
        runs = TrialRuns(options, arguments.runs or arguments.output)
        for name in arguments.sources:
            scores: dict[tuple[str, Candidate], Any] = {}
            for guide, problem in prepare(name, arguments, cache).items():
                ways = _OWN if guide == "itself" else _GUIDED
                records = runs.run(f"{name}-{guide}", problem, ways)
                scores |= {(guide, way): np.asarray([own["ndcg"] for own in records[way]]) for way in ways}
            if scores:
                results[name] = summarise(scores)
                write_atomically(path, json.dumps(results, indent=1) + "\n")
                write_atomically(path.with_suffix(".md"), tabulate(results, arguments.batch_size))


if __name__ == "__main__":
    main()
