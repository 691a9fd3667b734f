"""What cluster batches are worth to a transformer that is fine-tuned on one source, by batch size, clusters and mask.

    python recipes/in_domain/full_length.py DATA --model MODEL --encoder ENCODER --output RESULTS

As `static.py`, with fewer ways: MODEL is trained by the stock trainer for whole epochs, on a GPU if there is one. The
clusters are of ENCODER's vectors, and so are the masks that --masked tries, and the communities that --communities
tries, one or several in a batch. The learning rate, unless given, is the best one of random batches, for each source
and batch size, on one set of held-out queries; scores are of the other.
Finished runs are never repeated. For each batch size B the call writes `batch-B.json` and the table `batch-B.md`, of
its own sources alone, and `random.json` with random batches of all sizes; equal.py compares them.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from layers import pool, summarise
from sentence_transformers import SentenceTransformer
from static import SOURCES, count_seeds, make_parser, read_rows

from st_cluster_batches.clusters.choice import Candidate
from st_cluster_batches.clusters.encoder import Encoder
from st_cluster_batches.evaluation.candidates import list_candidates
from st_cluster_batches.evaluation.problem import Problem, prepare_problem
from st_cluster_batches.evaluation.start import Start
from st_cluster_batches.evaluation.trial_runs import TrialRuns
from st_cluster_batches.evaluation.trials import Record
from st_cluster_batches.evaluation.tune_options import TuneOptions
from st_cluster_batches.storage.cache import write_atomically
from st_cluster_batches.storage.shared_cache import SharedCache

_FINE = 2  # mean global batches of a cluster
_ENCODER_TOKENS = 128  # of a text, as in static.py


def list_few_ways(batch_size: int, n_rows: int, has_masks: bool, has_communities: bool) -> list[Candidate]:
    """List random batches, the paper's ten clusters, fine ones and batches of several, perhaps masked."""
    mixed = [one for one in list_candidates(batch_size, n_rows) if one.rows_per_stratum is not None]
    fine = [Candidate(_FINE * batch_size), *mixed]
    communities = [replace(one, method="communities") for one in fine] if has_communities else []
    finest = [Candidate(), *fine, *communities]
    masked = [replace(one, masked=True) for one in finest] if has_masks else []
    return [*finest, Candidate(round(n_rows / 10)), *masked]


def list_ways(batch_size: int, n_rows: int, arguments: argparse.Namespace) -> list[Candidate]:
    """List the ways that are asked for; random batches, to which all others are compared, are always among them."""
    random, *others = list_few_ways(batch_size, n_rows, arguments.masked, arguments.communities)
    return [random, *(one for one in others if any(fnmatchcase(str(one), own) for own in arguments.only))]


def prepare(name: str, arguments: argparse.Namespace) -> Problem | None:
    """Take pairs of a source, hold queries out, and embed the others."""
    with SharedCache.open(arguments.cache_dir, show_progress_bar=False) as cache:
        encoder = SentenceTransformer(arguments.encoder)
        encoder.max_seq_length = _ENCODER_TOKENS
        start = Start.load_model(arguments.model, cache.folder, arguments.n_layers, arguments.max_seq_length)
        made = Encoder(encoder, cache.folder)
        guide = made if arguments.masked else None
        rows, communities = read_rows(name, arguments), arguments.communities
        return prepare_problem(name, rows, made, "query", guide, start, cache, has_communities=communities)


def describe_source(name: str, arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Embed a source, and say what it is; None where it is too small."""
    problem = prepare(name, arguments)
    if problem is None:
        return None
    guide_ndcg = problem.guide_ndcg and problem.guide_ndcg[1]
    return {"rows": len(problem), "queries": len(problem.measured_on.queries), "guide_ndcg": guide_ndcg}


def run(
    name: str, batch_size: int, ways: list[Candidate], rate: float | None, arguments: argparse.Namespace
) -> dict[Candidate, list[Record]]:
    """Run some ways with one batch size on one source, all with one rate or each with the best of several."""
    torch.cuda.empty_cache()  # of the run before, for the others that share the device
    problem = prepare(name, arguments)
    assert problem is not None, "sources that are too small were left out"
    options = TuneOptions(
        batch_size,
        proxy="model",
        guide=arguments.masked,
        n_seeds=arguments.seeds,
        n_steps=max(1, arguments.epochs * len(problem) // batch_size),
        learning_rate=rate,
        bf16=arguments.bf16,
        n_workers=1 if torch.accelerator.is_available() else arguments.processes,  # there it is cells that run at once
    )
    made = TrialRuns(options, arguments.runs or arguments.output, show_progress_bar=False)
    return made.run(f"{name}-{batch_size}", problem, ways)


def run_all(arguments: argparse.Namespace) -> Iterator[tuple[str, int, dict[str, Any], dict[str, list[Record]]]]:
    """Run random batches of all cells, then the other ways with the same rates; yield a cell once it is done."""
    has_gpu = torch.accelerator.is_available()
    n_jobs = arguments.processes if has_gpu else 1  # else it is the trials of a task that run at once
    parallel = joblib.Parallel(n_jobs, return_as="generator")
    described = parallel(joblib.delayed(describe_source)(one, arguments) for one in arguments.sources)
    about = {name: one for name, one in zip(arguments.sources, described, strict=True) if one is not None}
    cells = [(name, size) for size in arguments.batch_sizes for name in about]
    random = Candidate()
    given = [find_rate(*cell, arguments) for cell in cells]
    baselines = parallel(
        joblib.delayed(run)(*cell, [random], rate, arguments) for cell, rate in zip(cells, given, strict=True)
    )
    records = {cell: own for cell, own in zip(cells, baselines, strict=True)}
    write_random({cell: own[random] for cell, own in records.items()}, arguments.output / "random.json")
    ways = {(name, size): list_ways(size, about[name]["rows"], arguments) for name, size in cells}
    tasks = [(cell, [one]) for cell in cells for one in ways[cell]] if has_gpu else list(ways.items())
    others = parallel(
        joblib.delayed(run)(*cell, tried, records[cell][random][0]["rate"], arguments) for cell, tried in tasks
    )
    for (cell, tried), own in zip(tasks, others, strict=True):
        records[cell] |= own
        if tried[-1] == ways[cell][-1]:
            tenth = round(about[cell[0]]["rows"] / 10)
            yield *cell, about[cell[0]], {_name(one, tenth): one_way for one, one_way in records[cell].items()}


def find_rate(name: str, batch_size: int, arguments: argparse.Namespace) -> float | None:
    """Return the learning rate that is given, or that an earlier call found for the cell; None to search for it."""
    rate: float | None = arguments.learning_rate
    if arguments.rates is None:
        return rate
    found = json.loads(arguments.rates.read_text(encoding="utf-8"))
    return float(found[name][str(batch_size)]["rate"])


def write_random(records: Mapping[tuple[str, int], list[Record]], path: Path) -> None:
    """Write rate and nDCG@10 of random batches, by source and batch size, beside what other calls have written."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for (name, size), runs in records.items():
        scores = [round(float(np.mean(one["ndcg"])), 5) for one in runs]
        found.setdefault(name, {})[str(size)] = {"rate": runs[0]["rate"], "ndcg_by_seed": scores}
    write_atomically(path, json.dumps(found, indent=1) + "\n")


def _name(way: Candidate, tenth: int) -> str:
    return "k10" if way.cluster_size == tenth else str(way)


def describe(found: dict[str, Any], means: dict[str, Any]) -> str:
    """Return a table in Markdown: differences to random batches in percent, bold where the interval excludes zero."""
    ways = list(means)
    lines = [f"| source | random | {' | '.join(ways)} |", "|" + " --- |" * (len(ways) + 2)]
    gains: dict[str, list[float]] = {way: [] for way in ways}
    for name, one in found.items():
        random, cells = float(np.mean(one["ways"]["random"]["ndcg_by_seed"])), []
        for way in ways:
            own = one["ways"][way]["difference"]
            gains[way].append(100 * own["mean"] / random)
            clear = "**" if own["low"] > 0 or own["high"] < 0 else ""
            cells.append(f"{clear}{gains[way][-1]:+.1f}{clear}")
        lines.append(f"| {name} | {random:.3f} | {' | '.join(cells)} |")
    lines.append(f"| mean | | {' | '.join(f'{np.mean(gains[way]):+.1f}' for way in ways)} |")
    pooled = [
        "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * one[end] for end in ("mean", "low", "high")))
        for one in means.values()
    ]
    return "\n".join([*lines, f"| over all | | {' | '.join(pooled)} |"]) + "\n"


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, SOURCES)
    parser.add_argument("--model", required=True)
    parser.add_argument("--n_layers", type=int)
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=(16, 64, 256, 1024))
    parser.add_argument("--masked", action="store_true", help="try masks too")
    parser.add_argument("--communities", action="store_true", help="try communities too")
    parser.add_argument("--only", nargs="+", default=["*"], help="try ways alone whose names match, * for anything")
    parser.add_argument("--max_seq_length", type=int, default=128)
    rate = parser.add_mutually_exclusive_group()
    rate.add_argument("--learning_rate", type=float, help="by default the best one of random batches")
    rate.add_argument("--rates", type=Path, help="random.json of an earlier call, whose rates are taken")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seeds", type=count_seeds, default=2)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--processes", type=int, default=1, help="that train at once, each a run")
    return parser.parse_args()


def main() -> None:
    """Run what has not been run, and write results and table of each batch size."""
    arguments = parse_arguments()
    logging.basicConfig(level=logging.WARNING)
    arguments.output.mkdir(parents=True, exist_ok=True)
    settings = {
        name: getattr(arguments, name)
        for name in ("rows", "n_layers", "max_seq_length", "learning_rate", "epochs", "seeds", "bf16")
    }
    found: dict[int, dict[str, Any]] = {}
    records: dict[int, dict[str, Any]] = {}
    for name, batch_size, about, own in run_all(arguments):
        records.setdefault(batch_size, {})[name] = own
        found.setdefault(batch_size, {})[name] = about | {"ways": summarise(own)}
        means = pool(records[batch_size])
        content = {"settings": settings, "sources": found[batch_size], "mean": means}
        path = arguments.output / f"batch-{batch_size}.json"
        write_atomically(path, json.dumps(content, indent=1) + "\n")
        write_atomically(path.with_suffix(".md"), describe(found[batch_size], means))


if __name__ == "__main__":
    main()
