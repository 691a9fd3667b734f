"""What the demo found, for people: tables, and the choice with its reason in sentences."""

from __future__ import annotations

from statistics import fmean, stdev
from typing import Any

from st_cluster_batches.data.pairs import WHOLE
from st_cluster_batches.evaluation.tuning_report import describe_tuning

TUNED = "tuned"


def describe_demo(results: dict[str, Any]) -> str:
    """Return the results of `run_demo` as tables, with the choice and its reason in sentences."""
    variants, tasks = results["results"], list(results["queries"])
    before, scale = [results["before"][task] for task in tasks], variants["random"]["mean"]
    lines = [
        "Trials (step 2)",
        describe_tuning(results["choice"]),
        "",
        "Results (step 3)",
        f"{results['pairs']:,} pairs of {results['sources']} packages in batches of {results['batch_size']}, "
        f"{results['steps']:,} steps, seeds: {results['seeds']}; nDCG@10 on held-out docstrings: mean ± deviation,",
        "difference to random batches with its 95 % interval",
        f"{'batches':<10}" + "".join(f"{task:>18}" for task in [*tasks, "mean"]) + f"{'to random':>26}",
        f"{'(start)':<10}" + "".join(f"{one:>18.4f}" for one in [*before, fmean(before)]),
    ]
    for name, one in variants.items():
        columns = [*(one["tasks"][task]["by_seed"] for task in tasks), one["mean_by_seed"]]
        cells = "".join(f"{_describe(values):>18}" for values in columns)
        difference = _compare(one["difference"], scale) if "difference" in one else ""
        lines.append(f"{name:<10}{cells}{difference:>26}".rstrip())
    lines += ["", *_conclude(results), "", f"All tables: {results['report']}"]
    if results["page"] is None:
        lines.append("The batches to look through: pip install 'st-cluster-batches[plots]', and run this again")
    else:
        lines.append(f"The batches to look through, in a browser: {results['page']}")
    lines.append(f"The model of tuned batches, first seed: SentenceTransformer({results['model']!r})")
    return "\n".join(lines)


def _conclude(results: dict[str, Any]) -> list[str]:
    """Say what was chosen and why, and how far from the training docstrings it bears out."""
    evidence = results["choice"]["evidence"][WHOLE]
    tried = (
        f"{len(evidence['ndcg'])} ways to fill batches, random ones among them, tried on {evidence['trained_rows']:,} "
        "training pairs"
    )
    asked = f"{evidence['queries']:,} training queries held out of these"
    chosen = next((one for one in evidence["differences"] if one["name"] == evidence["chosen"]), None)
    if chosen is None:
        return [
            f"The choice: random batches. Of {tried},",
            f"none answered {asked} better than random batches by more than chance:",
            "tuned batches are the random ones here. With more pairs smaller differences show (--pairs).",
        ]
    random, tuned = (results["results"][name] for name in ("random", TUNED))
    found = {name: (one["difference"], random["tasks"][name]["mean"]) for name, one in tuned["tasks"].items()}
    found["all of them"] = tuned["difference"], random["mean"]
    return [
        f"The choice: {evidence['chosen']}. Of {tried},",
        f"it is {evidence['why']}.",
        f"On {asked} it beat random batches by",
        f"{_compare(chosen['difference'], evidence['ndcg']['random'])}. On docstrings that took no part in it all,",
        "those nearest to the training pairs first, it brought",
        *(
            f"  {name:<18}{_compare(difference, scale):<26}{_judge(difference, results['seeds'])}"
            for name, (difference, scale) in found.items()
        ),
    ]


def _judge(difference: dict[str, float], n_seeds: int) -> str:
    """Say what a difference on a collection, or on all of them, is worth."""
    if n_seeds == 1:
        return "one run of each says little, for runs differ by their seed alone, too (--seeds 3)"
    if difference["low"] <= 0 <= difference["high"]:
        return "within the noise"
    verdict = "the gain is there" if difference["low"] > 0 else "a loss"
    # As in the card: of several collections one or other differs by chance.
    is_clear = difference.get("corrected_p_value", difference["p_value"]) < 0.05
    return verdict if is_clear else f"{verdict}, not clear among several collections"


def _describe(values: list[float]) -> str:
    return f"{fmean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")


def _compare(difference: dict[str, float], scale: float) -> str:
    mean, low, high = (f"{difference[name] / scale:+.1%}" for name in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"
