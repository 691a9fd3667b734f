"""What cluster batches are worth to a static model that is fine-tuned on one source, by batch size, clusters and mask.

    python recipes/in_domain/static.py DATA --encoder MODEL --output recipes/in_domain/results

DATA is a folder of SOURCE.parquet files with the columns query and passage. Of each source --rows pairs are taken, and
queries held out of them twice: candidates and learning rates are chosen on one set, and scores are reported of the
other. The model starts from MODEL, distilled to token embeddings. Clusters are of its own embeddings; MODEL itself is
the guide that masks: tune(..., "static:MODEL", guide_model=MODEL). Communities are cut by the model's own embeddings,
too; guides.py compares both kinds. Each seed has clusters of its own. Finished runs are never repeated; report.py
draws table and figure.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset
from sentence_transformers import SentenceTransformer

from st_cluster_batches.clusters.choice import Candidate
from st_cluster_batches.clusters.encoder import STATIC_PREFIX, Encoder
from st_cluster_batches.evaluation.candidates import judge_sources, list_candidates
from st_cluster_batches.evaluation.problem import Problem, prepare_problem
from st_cluster_batches.evaluation.significance import bootstrap_difference
from st_cluster_batches.evaluation.start import Start
from st_cluster_batches.evaluation.trial_runs import TrialRuns
from st_cluster_batches.evaluation.tune_options import TuneOptions
from st_cluster_batches.storage.cache import write_atomically
from st_cluster_batches.storage.shared_cache import SharedCache

SOURCES = (
    "acl_anthology",
    "medquad",
    "wordnet_glosses",
    "wikipedia_movies",
    "python_docstrings",
    "debian_packages",
    "stackexchange",
    "jeopardy_clues",
)


def list_ways(batch_size: int, n_rows: int) -> list[Candidate]:
    """List what `tune` tries, with a mask where clusters are fine, and the paper's ten clusters."""
    own = list_candidates(batch_size, n_rows, has_communities=True)
    masked = [replace(one, masked=True) for one in own if _is_masked(one, batch_size)]
    ways = {*own, *masked, Candidate(round(n_rows / 10))}
    kinds = {one: (one.masked, one.rows_per_stratum is not None, one.method != "kmeans") for one in ways}
    return sorted(ways, key=lambda one: (*kinds[one], -(one.cluster_size or n_rows)))


def _is_masked(one: Candidate, batch_size: int) -> bool:
    is_cut_finely = one.method == "kmeans" or one.rows_per_stratum is not None
    return is_cut_finely and (one.cluster_size or 0) <= 20 * batch_size


def choose(ways: list[Candidate], records: dict[Candidate, Any], keep: Any) -> Candidate:
    """Choose among some ways on the queries that nothing is reported of."""
    kept = [one for one in ways if keep(one)]
    scores = {one: np.asarray([own["tuned"] for own in records[one]]) for one in kept}
    return judge_sources({"": scores}, {"": 1})[""].chosen


def summarise(ways: list[Candidate], records: dict[Candidate, Any], n_rows: int) -> dict[str, Any]:
    """Say what was chosen, and what each way scores on the other queries."""
    scores = {one: np.asarray([own["ndcg"] for own in records[one]]) for one in ways}
    tenth = round(n_rows / 10)
    named = {
        "random": ways[0],
        "k10": Candidate(tenth),
        "clusters": choose(ways, records, lambda one: not one.masked and _is_pure(one)),
        "mixed": choose(ways, records, lambda one: one == ways[0] or _is_mixed(one)),
        "communities": choose(ways, records, lambda one: one == ways[0] or one.method == "communities"),
        "random masked": Candidate(masked=True),
        "clusters masked": choose(ways, records, lambda one: one == ways[0] or (one.masked and _is_pure(one))),
        "tuned": choose(ways, records, lambda one: one.cluster_size != tenth),  # as `tune` does
    }
    return {
        "chosen": {name: str(one) for name, one in named.items()},
        "ndcg_by_seed": {name: scores[one].mean(axis=1).round(5).tolist() for name, one in named.items()},
        "difference": {
            name: {key: round(value, 5) for key, value in _compare(scores, one, ways[0]).items()}
            for name, one in named.items()
            if one != ways[0]
        },
        "all": {
            str(one) + (" (k10)" if one.cluster_size == tenth else ""): round(float(own.mean()), 5)
            for one, own in scores.items()
        },
        "rates": {str(one): records[one][0]["rate"] for one in ways},
        "seconds": round(float(np.median([own["seconds"] for one in ways for own in records[one]])), 2),
    }


def _is_pure(one: Candidate) -> bool:
    return one.method == "kmeans" and one.rows_per_stratum is None


def _is_mixed(one: Candidate) -> bool:
    return one.method == "kmeans" and one.rows_per_stratum is not None and not one.masked


def _compare(scores: dict[Candidate, Any], one: Candidate, baseline: Candidate) -> dict[str, float]:
    found = bootstrap_difference([scores[one] - scores[baseline]])
    return {"mean": found.mean, "low": found.low, "high": found.high}


def make_parser(description: str | None, sources: Sequence[str]) -> argparse.ArgumentParser:
    """Make a parser of what all trials on these sources are told."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--runs", type=Path, help="folder for the records of single runs; --output by default")
    parser.add_argument("--cache_dir", type=Path)
    parser.add_argument("--sources", nargs="+", default=sources)
    parser.add_argument("--rows", type=int, default=8000)
    return parser


def count_seeds(word: str) -> int:
    """Read a number of seeds, of which two tell how much of a difference is noise."""
    if not word.isdecimal() or int(word) < 2:
        raise argparse.ArgumentTypeError(f"{word}: intervals need two seeds or more")
    return int(word)


def parse_trials(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Add how trials of static models are run, and read the command line; the folder of results is there then."""
    parser.add_argument("--seeds", type=count_seeds, default=4)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    arguments.output.mkdir(parents=True, exist_ok=True)
    return arguments


def measure_gain(scores: Any, baseline: Any) -> list[float]:
    """Return the mean difference to random batches, and its interval, in percent of their score."""
    found = bootstrap_difference([scores - baseline])
    return [round(float(100 * end / baseline.mean()), 2) for end in (found.mean, found.low, found.high)]


def read_rows(name: str, arguments: argparse.Namespace) -> Dataset:
    """Read pairs of a source, so many at random."""
    frame = pd.read_parquet(arguments.data / f"{name}.parquet", columns=["query", "passage"])
    frame = frame.sample(min(len(frame), arguments.rows), random_state=0)
    return Dataset.from_pandas(frame, preserve_index=False)


def load_start(model: str, cache: SharedCache) -> tuple[Encoder, Start]:
    """Load the distilled model, which is trained and whose embeddings are clustered."""
    return Encoder(f"{STATIC_PREFIX}{model}", cache.folder), Start.load(model, cache.folder)


def prepare_source(name: str, arguments: argparse.Namespace, cache: SharedCache) -> Problem | None:
    """Take pairs of a source, hold queries out, and embed all with the model itself, as the guide that masks."""
    model = SentenceTransformer(arguments.encoder)
    model.max_seq_length = arguments.max_seq_length
    encoder, start = load_start(arguments.encoder, cache)
    rows = read_rows(name, arguments)
    guide = Encoder(model, cache.folder)
    return prepare_problem(name, rows, encoder, "query", guide, start, cache, has_communities=True)


def run_source(name: str, problem: Problem, arguments: argparse.Namespace, make: Any) -> dict[str, Any]:
    """Run all ways with all batch sizes on one source."""
    found: dict[str, Any] = {
        "rows": len(problem),
        "queries": len(problem.measured_on.queries),
        "documents": len(problem.documents),
        "guide_ndcg": problem.guide_ndcg and problem.guide_ndcg[1],
        "batch_sizes": {},
    }
    for batch_size in arguments.batch_sizes:
        ways = list_ways(batch_size, len(problem))
        records = make(batch_size).run(f"{name}-{batch_size}", problem, ways)
        found["batch_sizes"][str(batch_size)] = summarise(ways, records, len(problem))
    return found


def main() -> None:
    """Run what has not been run, and write `results.json`."""
    parser = make_parser(__doc__, SOURCES)
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=(16, 64, 256, 1024))
    parser.add_argument("--max_seq_length", type=int, default=128, help="tokens that the encoder reads of a text")
    arguments = parse_trials(parser)
    path = arguments.output / "results.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    with SharedCache.open(arguments.cache_dir) as cache:

        def make(batch_size: int) -> TrialRuns:
            options = TuneOptions(batch_size, guide=True, n_seeds=arguments.seeds, n_workers=arguments.workers)
            return TrialRuns(options, arguments.runs or arguments.output)

        for name in arguments.sources:
            problem = prepare_source(name, arguments, cache)
            if problem is not None:
                results[name] = run_source(name, problem, arguments, make)
                write_atomically(path, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
