"""From the records of single runs to the results of a comparison: means, paired differences, costs and hardness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations
from statistics import fmean, stdev
from typing import Any

import numpy as np
import numpy.typing as npt

from st_cluster_batches.evaluation.significance import bootstrap_difference, correct_p_values


def summarise_runs(records: Sequence[dict[str, Any]], about: dict[str, Any]) -> dict[str, Any]:
    """Summarise runs: means, differences to the baseline, costs, hardness.

    Args:
        records: One record of each run: variant, seed, `per_query` scores by task, times, counts, hardness. The
            variant of the first is the baseline.
        about: What is true of all runs, such as the number of pairs and of steps.

    Returns:
        JSON values: `about`; `results` by variant; `spread`, the standard deviation over the baseline's seeds; and
        `contrasts`, the differences between variants other than the baseline.
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
        "tune_seconds": runs[0].get("tune_seconds", 0.0),  # older runs were not timed
        "attach_seconds": runs[0]["attach_seconds"],
        "train_seconds": fmean(run["train_seconds"] for run in runs),
        "refresh_seconds": _average([run.get("refresh_seconds") for run in runs]),
        "counts": runs[0]["counts"],
        "keeps_false_negatives_apart": runs[0].get("keeps_false_negatives_apart"),  # unknown of older runs
        "masked_share": _average([run.get("masked_share") for run in runs]),
        "guide": runs[0].get("guide"),  # unknown of older runs
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


def _average(values: Sequence[float | None]) -> float | None:
    known = [one for one in values if one is not None]
    return fmean(known) if known else None


def _pair(
    runs: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]], tasks: Sequence[str]
) -> list[npt.NDArray[np.float64]]:
    """Return for each task (seeds, queries) score differences between runs of the same seed, on the same query."""
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
