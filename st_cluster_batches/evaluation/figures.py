"""Figures of a comparison, drawn from `results.json` alone, and of cluster sizes, by matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from st_cluster_batches.data.naming import label_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STRATEGIES_FIGURE = "ndcg_by_strategy"
HARDNESS_FIGURE = "hardness"
COLLECTIONS_FIGURE = "differences_by_collection"


def draw_figures(results: dict[str, Any], folder: Path) -> list[Path]:
    """Draw all figures, as PNG and SVG.

    Args:
        results: From `summarise_runs`.
        folder: Where to.

    Returns:
        The files.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    n_variants, n_tasks = len(results["results"]), len(results["queries"])
    drawings = {
        STRATEGIES_FIGURE: (_draw_strategies, (6.0, 1.2 + 0.45 * n_variants)),
        HARDNESS_FIGURE: (_draw_hardness, (6.0, 4.0)),
        COLLECTIONS_FIGURE: (_draw_collections, (7.0, 1.2 + 0.14 * n_tasks * n_variants + 0.12 * n_tasks)),
    }
    files = []
    for name, (draw, size) in drawings.items():
        # A fixed salt and no date, so that the same results give the same file. Not pyplot, which keeps global state.
        with rc_context({"svg.hashsalt": "st-cluster-batches", "svg.fonttype": "none", "font.size": 9}):
            figure = Figure(size, layout="constrained")
            axes = figure.subplots()
            draw(axes, results)
            axes.spines[["top", "right"]].set_visible(False)
            figure.savefig(folder / f"{name}.png", dpi=150, metadata={"Software": None})
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        files += [folder / f"{name}.png", folder / f"{name}.svg"]
    return files


def draw_cluster_sizes(sizes: dict[str, list[int]], path: Path) -> None:
    """Draw a histogram of cluster sizes, as PNG.

    Args:
        sizes: Rows of every cluster by source. Beyond ten sources the largest nine have bars of their own.
        path: Where to.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    by_rows = sorted(sizes, key=lambda name: -sum(sizes[name]))
    shown = by_rows if len(by_rows) <= 10 else by_rows[:9]
    parts = {name: sizes[name] for name in shown}
    if others := [size for name in by_rows[len(shown) :] for size in sizes[name]]:
        parts[f"{len(by_rows) - len(shown)} other sources"] = others
    with rc_context({"font.size": 9}):
        figure = Figure((6.0, 3.0), layout="constrained")
        axes = figure.subplots()
        axes.hist(list(parts.values()), bins=20, stacked=True, label=[label_figure(name) for name in parts])
        axes.set_xlabel("rows of a cluster")
        axes.set_ylabel("clusters")
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, dpi=150, metadata={"Software": None})


def _draw_strategies(axes: Axes, results: dict[str, Any]) -> None:
    """Draw the mean nDCG@10 of every variant, its seeds, and the interval of its difference to the baseline."""
    baseline = results["results"][results["baseline"]]["mean"]
    for at, one in enumerate(results["results"].values()):
        axes.plot(one["mean_by_seed"], [at] * len(one["mean_by_seed"]), "|", color="grey", markersize=9)
        bounds = [[0.0], [0.0]]
        if difference := one.get("difference"):
            bounds = [[difference["mean"] - difference["low"]], [difference["high"] - difference["mean"]]]
        axes.errorbar([one["mean"]], [at], xerr=bounds, fmt="o", color=f"C{at}", capsize=3)
    axes.axvline(baseline, color="grey", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(results["results"])), [label_figure(name) for name in results["results"]])
    axes.invert_yaxis()
    name = label_figure(results["baseline"])
    axes.set_xlabel(f"mean nDCG@10; ticks are seeds, bars the 95 % interval of the difference to {name}")


def _draw_hardness(axes: Axes, results: dict[str, Any]) -> None:
    """Draw in-batch hardness against mean nDCG@10, one point for each run."""
    for at, (name, one) in enumerate(results["results"].items()):
        axes.plot(
            one["hardness_by_seed"], one["mean_by_seed"], "o", color=f"C{at}", alpha=0.7, label=label_figure(name)
        )
    axes.set_xlabel("mean similarity of a query and its in-batch negatives")
    axes.set_ylabel("mean nDCG@10")
    axes.legend(frameon=False)


def _draw_collections(axes: Axes, results: dict[str, Any]) -> None:
    """Draw the difference to the baseline on every collection, with its interval."""
    others = [name for name in results["results"] if name != results["baseline"]]
    tasks = list(results["queries"])
    for at, name in enumerate(others, 1):
        found = [results["results"][name]["tasks"][task]["difference"] for task in tasks]
        means = [one["mean"] for one in found]
        bounds = [[one["mean"] - one["low"] for one in found], [one["high"] - one["mean"] for one in found]]
        heights = [row + 0.7 * (at / (len(others) + 1) - 0.5) for row in range(len(tasks))]
        axes.errorbar(
            means, heights, xerr=bounds, fmt="o", color=f"C{at}", markersize=4, capsize=2, label=label_figure(name)
        )
    axes.axvline(0, color="grey", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(tasks)), [label_figure(task) for task in tasks])
    axes.invert_yaxis()
    axes.set_xlabel(f"difference in nDCG@10 to {label_figure(results['baseline'])}, with 95 % intervals")
    axes.legend(frameon=False)
