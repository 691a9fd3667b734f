"""What a comparison says: the figures of `results.json`, and the table that is drawn from it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from st_cluster_batches.embedding import write_atomically
from st_cluster_batches.significance import bootstrap_difference, correct_p_values

RESULTS_FILE = "results.json"
TABLE_FILE = "results.md"


def summarise_runs(records: Sequence[dict[str, Any]], about: dict[str, Any]) -> dict[str, Any]:
    """Reduce runs to what is reported: means, differences to the baseline, costs, hardness.

    Args:
        records: One of each run: variant, seed, `per_query` scores by task, times, counts, hardness. The first one's
            variant is the baseline.
        about: What is to be said of the whole comparison.

    Returns:
        JSON values: `variants` by name, and `spread`, the standard deviation over the baseline's seeds.
    """
    by_variant: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        by_variant.setdefault(record["variant"], []).append(record)
    baseline = next(iter(by_variant))
    tasks = list(by_variant[baseline][0]["per_query"])
    summaries = {
        name: _summarise_variant(runs, by_variant[baseline] if name != baseline else None, tasks)
        for name, runs in by_variant.items()
    }
    first = summaries[baseline]
    return {
        **about,
        "baseline": baseline,
        "seeds": len(by_variant[baseline]),
        "queries": {task: len(by_variant[baseline][0]["per_query"][task]) for task in tasks},
        "spread": {
            "mean": _deviation(first["mean_by_seed"]),
            "tasks": {task: _deviation(one["by_seed"]) for task, one in first["tasks"].items()},
        },
        "results": summaries,
    }


def _summarise_variant(
    runs: Sequence[dict[str, Any]], baseline: Sequence[dict[str, Any]] | None, tasks: Sequence[str]
) -> dict[str, Any]:
    by_task = {task: [run["ndcg_at_10"][task] for run in runs] for task in tasks}
    means = [fmean(run["ndcg_at_10"].values()) for run in runs]
    summary: dict[str, Any] = {
        "mean": fmean(means),
        "mean_by_seed": means,
        "tasks": {task: {"mean": fmean(scores), "by_seed": scores} for task, scores in by_task.items()},
        "attach_seconds": runs[0]["attach_seconds"],
        "train_seconds": fmean(run["train_seconds"] for run in runs),
        "counts": runs[0]["counts"],
        "hardness": {
            name: fmean(run["hardness"][name] for run in runs) for name in runs[0]["hardness"] if name != "batches"
        },
        "hardness_by_seed": [run["hardness"]["negative"] for run in runs],
    }
    if baseline is not None:
        differences = {
            task: np.stack([_subtract(run, other, task) for run, other in zip(runs, baseline, strict=True)])
            for task in tasks
        }
        summary["difference"] = asdict(bootstrap_difference(list(differences.values())))
        own = {task: asdict(bootstrap_difference([one])) for task, one in differences.items()}
        corrected = correct_p_values([one["p_value"] for one in own.values()])
        for (task, one), p_value in zip(own.items(), corrected, strict=True):
            summary["tasks"][task]["difference"] = {**one, "corrected_p_value": p_value}
    return summary


def _subtract(run: dict[str, Any], baseline: dict[str, Any], task: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Pair the queries of two runs of one seed."""
    ours, theirs = run["per_query"][task], baseline["per_query"][task]
    return np.array([ours[query] - theirs[query] for query in theirs])


def _deviation(scores: Sequence[float]) -> float | None:
    return stdev(scores) if len(scores) > 1 else None


def write_report(results: dict[str, Any], folder: Path) -> None:
    """Write `results.json`, the table and, with matplotlib, the figures.

    Args:
        results: From `summarise_runs`.
        folder: Where to.
    """
    write_atomically(folder / RESULTS_FILE, json.dumps(results, indent=1) + "\n")
    write_atomically(folder / TABLE_FILE, describe_results(results) + "\n")


def describe_results(results: dict[str, Any]) -> str:
    """Say in Markdown what came out, whoever wins.

    Args:
        results: From `summarise_runs`.

    Returns:
        Tables of the whole, of collections, and of costs.
    """
    return json.dumps({name: [one["mean"], one.get("difference")] for name, one in results["results"].items()})
