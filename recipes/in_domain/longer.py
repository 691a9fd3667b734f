"""Gain against time: random batches for more epochs, or batches that `tune` chose.

    python recipes/in_domain/longer.py DATA --encoder MODEL --output recipes/in_domain/results --tune_seconds 99

The sources, pairs and choices of `static.py`, which has to have been run, for batches of one size. Random batches and
the chosen ones are trained for 1, 2 and 4 epochs, each with a learning rate of its own, chosen as there. Seconds are
of one core, from clustering to scores. --tune_seconds, on a clock on the wall, are added once in a curve of their own.
Sources for which random batches were chosen are left out, since both curves are one.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from report import save_figure
from static import SOURCES, count_seeds, list_ways, load_start, make_parser, prepare_source, read_rows

from st_cluster_batches.clusters.choice import Candidate
from st_cluster_batches.evaluation.problem import prepare_problem
from st_cluster_batches.evaluation.significance import bootstrap_difference
from st_cluster_batches.evaluation.trial_runs import TrialRuns
from st_cluster_batches.evaluation.tune_options import TuneOptions
from st_cluster_batches.storage.cache import write_atomically
from st_cluster_batches.storage.shared_cache import SharedCache

EPOCHS = (1, 2, 4)


def run_source(name: str, chosen: str, arguments: Any, cache: SharedCache) -> dict[str, dict[str, Any]]:
    """Train with both ways for all numbers of epochs."""
    encoder, start = load_start(arguments.encoder, cache)
    if "communities" in chosen or "masked" in chosen:
        problem = prepare_source(name, arguments, cache)  # with the guide that these need
    else:
        problem = prepare_problem(name, read_rows(name, arguments), encoder, "query", None, start, cache)
    assert problem is not None, f"{name} has a choice"
    way = next(one for one in list_ways(arguments.batch_size, len(problem)) if str(one) == chosen)
    found = {}
    for epochs in EPOCHS:
        options = TuneOptions(arguments.batch_size, n_seeds=arguments.seeds, n_epochs=epochs)
        runs = TrialRuns(options, arguments.runs or arguments.output)
        records = runs.run(f"{name}-{arguments.batch_size}-{epochs}", problem, [Candidate(), way])
        scores = [np.asarray([one["ndcg"] for one in own]) for own in records.values()]
        difference = bootstrap_difference([scores[1] - scores[0]])
        found[str(epochs)] = {
            kind: {
                "ndcg": round(float(own.mean()), 5),
                "seconds": round(float(np.median([one["seconds"] for one in run])), 2),
                "rate": run[0]["rate"],
            }
            for kind, own, run in zip(("random", "tuned"), scores, records.values(), strict=True)
        } | {"difference": {end: round(getattr(difference, end), 5) for end in ("mean", "low", "high")}}
    return found


def read_choice(choices: dict[str, Any], name: str, batch_size: int) -> str:
    """Return what `static.py` chose for a source."""
    try:
        return str(choices[name]["batch_sizes"][str(batch_size)]["chosen"]["tuned"])
    except KeyError as error:
        raise ValueError(f"No choice for {name} in batches of {batch_size}: run static.py on it first") from error


def draw(results: dict[str, Any], tune_seconds: float, folder: Path) -> None:
    """Draw nDCG@10 against seconds, one panel a source."""
    with rc_context({"font.size": 8, "svg.hashsalt": "st-cluster-batches", "svg.fonttype": "none"}):
        figure = Figure((1.0 + 1.9 * len(results), 2.4), layout="constrained")
        panels = figure.subplots(1, len(results), squeeze=False).ravel()
        for axes, (source, found) in zip(panels, results.items(), strict=True):
            for kind, colour in (("random", "C7"), ("tuned", "C0")):
                seconds, scores = (np.array([one[kind][key] for one in found.values()]) for key in ("seconds", "ndcg"))
                axes.plot(seconds, scores, "o-", color=colour, label=kind, markersize=3)
                if kind == "tuned":
                    label = f"tuned, with {tune_seconds:g} s of tune"
                    axes.plot(seconds + tune_seconds, scores, "o--", color=colour, label=label, markersize=3)
            axes.set_xscale("log")
            axes.set_title(source, fontsize=8)
            axes.spines[["top", "right"]].set_visible(False)
        panels[0].legend(frameon=False, fontsize=6)
        figure.supxlabel(f"seconds of one core for {', '.join(map(str, EPOCHS))} epochs")
        figure.supylabel("nDCG@10")
        save_figure(figure, folder / "gain_by_time")


def main() -> None:
    """Run what has not been run, and write `longer.json` and the figure."""
    parser = make_parser(__doc__, SOURCES)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--seeds", type=count_seeds, default=4)
    parser.add_argument("--max_seq_length", type=int, default=128, help="tokens that a guide reads of a text")
    parser.add_argument("--tune_seconds", type=float, required=True, help="that `tune` takes for a source")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    choices = json.loads((arguments.output / "results.json").read_text(encoding="utf-8"))
    results: dict[str, Any] = {}
    with SharedCache.open(arguments.cache_dir) as cache:
        for name in arguments.sources:
            chosen = read_choice(choices, name, arguments.batch_size)
            if chosen != str(Candidate()):
                results[name] = run_source(name, chosen, arguments, cache)
                write_atomically(arguments.output / "longer.json", json.dumps(results, indent=1) + "\n")
    if not results:
        raise SystemExit(f"random batches of {arguments.batch_size} were chosen for all sources: nothing to draw")
    draw(results, arguments.tune_seconds, arguments.output)


if __name__ == "__main__":
    main()
