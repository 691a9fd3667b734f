"""The results of a comparison as files: `results.json`, tables in Markdown and figures drawn from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scipy.stats import pearsonr

from st_cluster_batches.data.naming import escape_cell, quote_code
from st_cluster_batches.evaluation.figures import can_draw, draw_figures, require_plots
from st_cluster_batches.storage.cache import write_atomically

RESULTS_FILE = "results.json"
TABLE_FILE = "results.md"

_NEEDED = {"baseline", "contrasts", "pairs", "queries", "results", "seeds", "spread", "steps"}  # what no results lack
_HARDNESS = {"negatives": "negative", "hardest": "hardest", "nearer": "false_negative_rate"}
_HARDNESS_EXPLAINED = (
    "The last three columns are of the first batches, as the encoder sees them: similarity of a query to the "
    "negatives of its batch, mean and highest, and the share of them that are nearer to it than its positive."
)


def write_report(results: dict[str, Any], folder: Path) -> None:
    """Write `results.json`, the table and, with matplotlib, the figures.

    Args:
        results: From `summarise_runs`.
        folder: Where to.
    """
    write_atomically(folder / RESULTS_FILE, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    write_atomically(folder / TABLE_FILE, describe_results(results) + "\n")
    if can_draw("A figure of the comparison (later, by --redraw)"):
        draw_figures(results, folder)


def redraw(folder: Path) -> dict[str, Any]:
    """Draw table and figures again from `results.json`.

    Args:
        folder: Output folder of `compare`, or one that holds its `results.json`.

    Returns:
        The results.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged.
        ImportError: If matplotlib is missing.
    """
    results = read_results(folder)
    require_plots("A figure of the comparison")
    write_report(results, folder)
    return results


def read_results(folder: Path) -> dict[str, Any]:
    """Read what `compare` left.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged.
    """
    path = folder / RESULTS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {RESULTS_FILE}; `st-cluster-batches compare` writes it")
    try:
        results: Any = json.loads(path.read_text(encoding="utf-8"))
        fault = f"it has no {', '.join(missing)}" if (missing := sorted(_NEEDED - {*results})) else ""
    except (ValueError, TypeError) as error:
        fault = str(error)
    if fault:
        raise ValueError(
            f"{path} is damaged ({fault}); write it again: `st-cluster-batches compare RECIPE.yaml --output "
            f"{folder}`, which repeats no finished run"
        )
    return dict(results)


def describe_results(results: dict[str, Any]) -> str:
    """Return the results in Markdown.

    Args:
        results: From `summarise_runs`.

    Returns:
        Tables of means, of the collections, and of costs and batches.
    """
    baseline, variants = results["baseline"], results["results"]
    spread = results["spread"]["mean"]
    between_seeds = "unknown, for there is one" if spread is None else f"{spread:.4f}"
    lines = [
        f"nDCG@10 on {len(results['queries'])} collections, {results['seeds']} seeds, {results['pairs']:,} pairs, "
        f"{results['steps']:,} steps. Standard deviation of {quote_code(baseline)} between seeds: {between_seeds}.",
        "",
        _row("batches", "mean", f"to {escape_cell(baseline)}", "95 % interval", "p", "collections up", "seeds up"),
        _row("---", *["---:"] * 6),
        *(_describe_variant(name, one, variants[baseline]) for name, one in variants.items()),
        *(
            f"\n{quote_code(one['variant'])} to {quote_code(one['to'])}: "
            f"{_describe_interval(one, variants[one['to']]['mean'])}, p = {one['p_value']:.4f}."
            for one in results["contrasts"]
        ),
        "",
        _row("collection", "queries", "noise", *map(escape_cell, variants)),
        _row("---", *["---:"] * (2 + len(variants))),
        *(
            _row(
                escape_cell(task),
                f"{queries:,}",
                "" if (noise := results["spread"]["tasks"][task]) is None else f"{noise:.4f}",
                *(_describe_task(one["tasks"][task]) for one in variants.values()),
            )
            for task, queries in results["queries"].items()
        ),
        "",
        f"Noise is the standard deviation of {quote_code(baseline)} between seeds. Differences are to "
        f"{quote_code(baseline)}; * marks p < .05, corrected for the number of collections.",
        *_describe_collections(results.get("collections", {})),
        "",
        *_describe_batches(variants),
        *_describe_seeds(results["seeds"]),
        *_describe_keys(variants),
        *_describe_masks(variants),
        *_describe_refreshes(variants),
        *_describe_correlation(variants),
    ]
    return "\n".join(lines)


def _describe_collections(collections: dict[str, str]) -> list[str]:
    """Say what collections hold, where whoever compares has said so."""
    told = [f"- {quote_code(name)}: {what}" for name, what in collections.items()]
    return ["", *told] if told else []


def _describe_seeds(n_seeds: int) -> list[str]:
    if n_seeds > 1:
        return []
    return [
        "",
        "**One seed**: the intervals are over queries alone, and two runs of the same batches with two seeds may "
        "differ as clearly. Take more: --seeds 4.",
    ]


def _describe_masks(variants: dict[str, Any]) -> list[str]:
    """Say what share of the in-batch negatives each guided variant has masked."""
    shares = {name: one.get("masked_share") for name, one in variants.items()}
    told = [f"{quote_code(name)} {share:.2%}" for name, share in shares.items() if share is not None]
    if not told:
        return []
    lines = ["", f"In-batch negatives that were masked: {', '.join(told)}."]
    by_guide: dict[str, list[str]] = {}
    for name, one in variants.items():
        if (guide := one.get("guide")) is not None:
            by_guide.setdefault(guide, []).append(quote_code(name))
    if len(by_guide) > 1:
        groups = " and ".join(", ".join(names) for names in by_guide.values())
        lines += ["", f"Different guides have masked: {groups}. A difference between these is in part due to that."]
    return lines


def _describe_refreshes(variants: dict[str, Any]) -> list[str]:
    """Say what refreshing clusters has cost, and what the columns of batches are of where clusters were refreshed."""
    seconds = {name: one.get("refresh_seconds") for name, one in variants.items()}
    told = [f"{quote_code(name)} {one:.1f} s" for name, one in seconds.items() if one is not None]
    if not told:
        return []
    return [
        "",
        f"Refreshing clusters took, within the time to train: {', '.join(told)}. Batches and negatives of these are "
        "shown as they were in the first epoch.",
    ]


def _describe_keys(variants: dict[str, Any]) -> list[str]:
    """Say which variants kept false negatives apart, so that no strategy is credited with it; nothing if unknown."""
    kept = {name: one.get("keeps_false_negatives_apart") for name, one in variants.items()}
    if None in kept.values():
        return []
    apart, others = ([quote_code(name) for name, one in kept.items() if one is wanted] for wanted in (True, False))
    if not others:
        return ["", "False negatives were kept apart in all batches alike."]
    if not apart:
        return ["", "False negatives were kept apart in no batches."]
    return [
        "",
        f"False negatives were kept apart in {', '.join(apart)} and not in {', '.join(others)}: a difference between "
        "these is in part due to that.",
    ]


def _describe_correlation(variants: dict[str, Any]) -> list[str]:
    """Return the correlation of in-batch hardness and nDCG@10 over all runs; nothing for too few or equal values."""
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
        return _row(escape_cell(name), f"{one['mean']:.4f}", *[""] * 5)
    difference, scale = one["difference"], baseline["mean"]
    tasks = [task["difference"]["mean"] > 0 for task in one["tasks"].values()]
    seeds = [ours > theirs for ours, theirs in zip(one["mean_by_seed"], baseline["mean_by_seed"], strict=True)]
    return _row(
        escape_cell(name),
        f"{one['mean']:.4f}",
        f"{difference['mean']:+.4f} ({_relate(difference['mean'], scale)})",
        f"{_relate(difference['low'], scale)} to {_relate(difference['high'], scale)}",
        f"{difference['p_value']:.4f}",
        *(f"{sum(wins)} of {len(wins)}" for wins in (tasks, seeds)),
    )


def _describe_interval(one: dict[str, Any], scale: float) -> str:
    mean, low, high = (_relate(one[name], scale) for name in ("mean", "low", "high"))
    return f"{mean}, 95 % interval {low} to {high}"


def _relate(difference: float, scale: float) -> str:
    """Return a difference as a share of what it is to; as it is where that is nothing."""
    return f"{difference / scale:+.1%}" if scale else f"{difference:+.4f}"


def _describe_task(one: dict[str, Any]) -> str:
    if "difference" not in one:
        return f"{one['mean']:.4f}"
    star = "*" if one["difference"]["corrected_p_value"] < 0.05 else ""
    return f"{one['mean']:.4f} ({one['difference']['mean']:+.4f}{star})"


def _describe_batches(variants: dict[str, Any]) -> list[str]:
    """Return the rows of the table of costs and batches; only where something was tuned, with what that took."""
    kinds = ("pure", "pooled", "mixed", "random", "dropped")
    steps = ["attach", "train"]
    if any(one.get("tune_seconds") for one in variants.values()):
        steps = ["tune", *steps]
    lines = [
        _row("batches", *(f"{step} s" for step in steps), *kinds, *_HARDNESS),
        _row("---", *["---:"] * (len(steps) + len(kinds) + len(_HARDNESS))),
    ]
    for name, one in variants.items():
        seconds = [f"{one.get(f'{step}_seconds', 0.0):.0f}" for step in steps]
        counts = [f"{sum(part[kind] for part in one['counts']):,}" if one["counts"] else "" for kind in kinds]
        hardness = [f"{one['hardness'][key]:.3f}" for key in _HARDNESS.values()]
        lines.append(_row(escape_cell(name), *seconds, *counts, *hardness))
    return [*lines, "", _HARDNESS_EXPLAINED]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
