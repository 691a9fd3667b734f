"""What a comparison says: the figures of `results.json`, and the table that is drawn from it."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import pearsonr

from st_cluster_batches.evaluation.significance import bootstrap_difference, correct_p_values
from st_cluster_batches.storage.cache import write_atomically

logger = logging.getLogger(__name__)

RESULTS_FILE = "results.json"
TABLE_FILE = "results.md"

_HARDNESS = {"negatives": "negative", "hardest": "hardest", "false negatives": "false_negative_rate"}


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
        "contrasts": [
            {
                "variant": name,
                "to": other,
                **asdict(bootstrap_difference(_pair(by_variant[name], by_variant[other], tasks))),
            }
            for other, name in combinations([name for name in by_variant if name != baseline], 2)
        ],
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
        differences = _pair(runs, baseline, tasks)
        summary["difference"] = asdict(bootstrap_difference(differences))
        own = {task: asdict(bootstrap_difference([one])) for task, one in zip(tasks, differences, strict=True)}
        corrected = correct_p_values([one["p_value"] for one in own.values()])
        for (task, one), p_value in zip(own.items(), corrected, strict=True):
            summary["tasks"][task]["difference"] = {**one, "corrected_p_value": p_value}
    return summary


def _pair(
    runs: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]], tasks: Sequence[str]
) -> list[npt.NDArray[np.float64]]:
    """Return for each task (seeds, queries) differences, of the same seed and query."""
    return [
        np.array(
            [
                [run["per_query"][task][query] - score for query, score in other["per_query"][task].items()]
                for run, other in zip(runs, others, strict=True)
            ]
        )
        for task in tasks
    ]


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
    if find_spec("matplotlib") is None:
        logger.warning("No figures: they need matplotlib, pip install 'st-cluster-batches[plots]'; then --redraw")
    else:
        from st_cluster_batches.evaluation.figures import draw_figures

        draw_figures(results, folder)


def redraw(folder: Path) -> dict[str, Any]:
    """Draw table and figures again from `results.json`.

    Args:
        folder: Output folder of `compare`, or one that holds its `results.json`.

    Returns:
        The results.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If matplotlib is missing.
    """
    if not (folder / RESULTS_FILE).is_file():
        raise FileNotFoundError(f"{folder} has no {RESULTS_FILE}; `st-cluster-batches compare` writes it")
    if find_spec("matplotlib") is None:
        raise ImportError("Figures need matplotlib: pip install 'st-cluster-batches[plots]'")
    results: dict[str, Any] = json.loads((folder / RESULTS_FILE).read_text())
    write_report(results, folder)
    return results


def describe_results(results: dict[str, Any]) -> str:
    """Say in Markdown what came out, whoever wins.

    Args:
        results: From `summarise_runs`.

    Returns:
        Tables of the whole, of the collections, and of costs and batches.
    """
    baseline, variants = results["baseline"], results["results"]
    spread = results["spread"]["mean"]
    between_seeds = "unknown, for there is one" if spread is None else f"{spread:.4f}"
    lines = [
        f"nDCG@10 on {len(results['queries'])} collections, {results['seeds']} seeds, {results['pairs']:,} pairs, "
        f"{results['steps']:,} steps. Standard deviation of `{baseline}` between seeds: {between_seeds}.",
        "",
        _row("batches", "mean", f"to {baseline}", "95 % interval", "p", "collections up", "seeds up"),
        _row("---", *["---:"] * 6),
        *(_describe_variant(name, one, variants[baseline]) for name, one in variants.items()),
        *(
            f"\n`{one['variant']}` to `{one['to']}`: {_describe_interval(one, variants[one['to']]['mean'])}, "
            f"p = {one['p_value']:.4f}."
            for one in results["contrasts"]
        ),
        "",
        _row("collection", "queries", "noise", *variants),
        _row("---", *["---:"] * (2 + len(variants))),
        *(
            _row(
                task,
                f"{queries:,}",
                "" if (noise := results["spread"]["tasks"][task]) is None else f"{noise:.4f}",
                *(_describe_task(one["tasks"][task]) for one in variants.values()),
            )
            for task, queries in results["queries"].items()
        ),
        "",
        f"Noise is the standard deviation of `{baseline}` between seeds. Differences are to `{baseline}`; * marks "
        "p < .05, corrected for the number of collections.",
        "",
        _row("batches", "attach s", "train s", "pure", "pooled", "mixed", "random", "dropped", *_HARDNESS),
        _row("---", *["---:"] * (7 + len(_HARDNESS))),
        *(_describe_batches(name, one) for name, one in variants.items()),
        *_describe_correlation(variants),
    ]
    return "\n".join(lines)


def _describe_correlation(variants: dict[str, Any]) -> list[str]:
    """Say how in-batch hardness goes with quality over all runs; nothing for too few, or for equal ones."""
    hardness = [value for one in variants.values() for value in one["hardness_by_seed"]]
    means = [value for one in variants.values() for value in one["mean_by_seed"]]
    if len(set(hardness)) < 3 or len(set(means)) < 3:
        return []
    found = pearsonr(hardness, means)
    return [
        "",
        f"Over {len(means)} runs the similarity of negatives and mean nDCG@10 correlate by r = {found.statistic:.2f} "
        "(Pearson; runs of one strategy are alike, so that this counts strategies more than runs).",
    ]


def _describe_variant(name: str, one: dict[str, Any], baseline: dict[str, Any]) -> str:
    if "difference" not in one:
        return _row(name, f"{one['mean']:.4f}", *[""] * 5)
    difference, scale = one["difference"], baseline["mean"]
    tasks = [task["difference"]["mean"] > 0 for task in one["tasks"].values()]
    seeds = [ours > theirs for ours, theirs in zip(one["mean_by_seed"], baseline["mean_by_seed"], strict=True)]
    return _row(
        name,
        f"{one['mean']:.4f}",
        f"{difference['mean']:+.4f} ({difference['mean'] / scale:+.1%})",
        f"{difference['low'] / scale:+.1%} to {difference['high'] / scale:+.1%}",
        f"{difference['p_value']:.4f}",
        *(f"{sum(wins)} of {len(wins)}" for wins in (tasks, seeds)),
    )


def _describe_interval(one: dict[str, Any], scale: float) -> str:
    return f"{one['mean'] / scale:+.1%}, 95 % interval {one['low'] / scale:+.1%} to {one['high'] / scale:+.1%}"


def _describe_task(one: dict[str, Any]) -> str:
    if "difference" not in one:
        return f"{one['mean']:.4f}"
    star = "*" if one["difference"]["corrected_p_value"] < 0.05 else ""
    return f"{one['mean']:.4f} ({one['difference']['mean']:+.4f}{star})"


def _describe_batches(name: str, one: dict[str, Any]) -> str:
    kinds = ("pure", "pooled", "mixed", "random", "dropped")
    counts = [f"{sum(part[kind] for part in one['counts']):,}" if one["counts"] else "" for kind in kinds]
    hardness = [f"{one['hardness'][key]:.3f}" for key in _HARDNESS.values()]
    return _row(name, f"{one['attach_seconds']:.0f}", f"{one['train_seconds']:.0f}", *counts, *hardness)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
