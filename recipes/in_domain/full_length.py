"""What cluster batches are worth to a transformer that is fine-tuned on one source, by batch size, clusters and mask.

    python recipes/in_domain/full_length.py DATA --model MODEL --encoder ENCODER --output RESULTS

As `static.py`, with fewer ways: MODEL is trained by the stock trainer for whole epochs, on a GPU if there is one. The
clusters are of ENCODER's vectors, and so are the masks that --masked tries. Learning rates (or one that is given) and
candidates are chosen on one set of held-out queries, scores are of the other. Finished runs are never repeated;
report.py draws table and figure.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import joblib
import torch
from layers import pool
from sentence_transformers import SentenceTransformer
from static import SOURCES, describe_problem, make_parser, read_rows, summarise

from st_cluster_batches.clusters.choice import Candidate
from st_cluster_batches.clusters.encoder import Encoder
from st_cluster_batches.evaluation.candidates import list_candidates
from st_cluster_batches.evaluation.problem import Problem, prepare_problem
from st_cluster_batches.evaluation.start import Start
from st_cluster_batches.evaluation.trial_runs import TrialRuns
from st_cluster_batches.evaluation.tune_options import TuneOptions
from st_cluster_batches.storage.cache import write_atomically
from st_cluster_batches.storage.shared_cache import SharedCache

_FINE = 2  # mean global batches of a cluster
_ENCODER_TOKENS = 128  # of a text, as in static.py


def list_few_ways(batch_size: int, n_rows: int, has_masks: bool) -> list[Candidate]:
    """List random batches, the paper's ten clusters, fine ones and batches of several, perhaps masked."""
    mixed = [one for one in list_candidates(batch_size, n_rows) if one.rows_per_stratum is not None]
    finest = [Candidate(), Candidate(_FINE * batch_size), *mixed]
    masked = [replace(one, masked=True) for one in finest] if has_masks else []
    return [*finest, Candidate(round(n_rows / 10)), *masked]


def prepare(name: str, arguments: argparse.Namespace) -> Problem | None:
    """Take pairs of a source, hold queries out, and embed the others."""
    with SharedCache.open(arguments.cache_dir, show_progress_bar=False) as cache:
        encoder = SentenceTransformer(arguments.encoder)
        encoder.max_seq_length = _ENCODER_TOKENS
        start = Start.load_model(arguments.model, cache.folder, arguments.n_layers, arguments.max_seq_length)
        made = Encoder(encoder, cache.folder)
        return prepare_problem(name, read_rows(name, arguments), made, "query", arguments.masked, start, cache)


Found = tuple[str, int, dict[str, Any], dict[str, Any], dict[str, Any]]


def run(name: str, batch_size: int, arguments: argparse.Namespace) -> Found:
    """Run all ways with one batch size on one source, and return what both are, what was found, and the records."""
    problem = prepare(name, arguments)
    assert problem is not None, "sources that are too small were left out"
    options = TuneOptions(
        batch_size,
        proxy="model",
        guide=arguments.masked,
        n_seeds=arguments.seeds,
        n_steps=arguments.epochs * len(problem) // batch_size,
        learning_rate=arguments.learning_rate,
        bf16=arguments.bf16,
        n_workers=arguments.processes,
    )
    ways = list_few_ways(batch_size, len(problem), arguments.masked)
    made = TrialRuns(options, arguments.runs or arguments.output, show_progress_bar=False)
    records = made.run(f"{name}-{batch_size}", problem, ways)
    tenth = round(len(problem) / 10)
    named = {"k10" if one.cluster_size == tenth else str(one): records[one] for one in ways}
    return name, batch_size, describe_problem(problem), summarise(ways, records, len(problem)), named


def run_all(arguments: argparse.Namespace) -> Iterable[Found]:
    """Embed each source once, then yield what each has with each batch size."""
    n_jobs = arguments.processes if torch.accelerator.is_available() else 1  # else it is trials that run at once
    is_large = joblib.Parallel(n_jobs)(
        joblib.delayed(lambda name: prepare(name, arguments) is not None)(name) for name in arguments.sources
    )
    known = [name for name, large in zip(arguments.sources, is_large, strict=True) if large]
    return joblib.Parallel(n_jobs, return_as="generator_unordered")(
        joblib.delayed(run)(name, size, arguments) for size in arguments.batch_sizes for name in known
    )


def main() -> None:
    """Run what has not been run, and write `results.json`, and what it is over all sources to `mean.json`."""
    parser = make_parser(__doc__, SOURCES)
    parser.add_argument("--model", required=True)
    parser.add_argument("--n_layers", type=int)
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=(16, 64, 256, 1024))
    parser.add_argument("--masked", action="store_true", help="try masks too")
    parser.add_argument("--max_seq_length", type=int, default=128)
    parser.add_argument("--learning_rate", type=float, help="for all ways; chosen for each by default")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--processes", type=int, default=1, help="that train at once, each a run")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "results.json"
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    records: dict[int, dict[str, Any]] = {}
    for name, batch_size, about, found, own in run_all(arguments):
        records.setdefault(batch_size, {})[name] = own
        sizes = results.setdefault(name, about)["batch_sizes"] | {str(batch_size): found}
        results[name] |= about | {"batch_sizes": dict(sorted(sizes.items(), key=lambda one: int(one[0])))}
        ordered = {one: results[one] for one in SOURCES if one in results}
        write_atomically(path, json.dumps(ordered, indent=1) + "\n")
    means = {str(batch_size): pool(own) for batch_size, own in records.items()}
    write_atomically(path.with_name("mean.json"), json.dumps(means, indent=1) + "\n")


if __name__ == "__main__":
    main()
