"""Figures, by matplotlib: of a comparison and of a choice, drawn from their JSON values alone, and of batches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from st_cluster_batches.data.naming import label_figure
from st_cluster_batches.evaluation.candidates import name_intervals
from st_cluster_batches.storage.cache import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from st_cluster_batches.batches.hardness import BatchHardness

logger = logging.getLogger(__name__)

STRATEGIES_FIGURE = "ndcg_by_strategy"
HARDNESS_FIGURE = "hardness"
COLLECTIONS_FIGURE = "differences_by_collection"
TUNING_FIGURE = "differences_by_candidate"
SIZES_FIGURE = "cluster_sizes.png"

_ENDINGS = ("png", "svg")
_SHOWN_SOURCES = 10


def require_plots(what: str, *libraries: str) -> None:
    """Check that libraries are there that draw.

    Args:
        what: What is to be drawn, as a message begins.
        libraries: Which; matplotlib by default.

    Raises:
        ImportError: If one is missing, with the extra that brings all.
    """
    for name in libraries or ("matplotlib",):
        if find_spec(name) is None:
            raise ImportError(f"{what} needs {name}: pip install 'st-cluster-batches[plots]'")


def can_draw(what: str) -> bool:
    """Return whether figures can be drawn, and warn if they cannot.

    Args:
        what: What is to be drawn, as the warning begins.
    """
    try:
        require_plots(what)
    except ImportError as error:
        logger.warning("%s", error)
        return False
    return True


def save_figure(draw: Callable[[Figure], None], size: tuple[float, float], *paths: Path) -> list[Path]:
    """Draw a figure and write it, such that the same figure gives the same files.

    Args:
        draw: Draws into an empty figure.
        size: Width and height in inches.
        paths: Where to, as PNG or SVG by their ending.

    Returns:
        The files.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    settings: dict[str, dict[str, Any]] = {
        ".png": {"format": "png", "dpi": 150, "metadata": {"Software": None}},
        ".svg": {"format": "svg", "metadata": {"Date": None}},
    }
    # A fixed salt and no date. Not pyplot, which keeps global state.
    with rc_context({"svg.hashsalt": "st-cluster-batches", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(size, layout="constrained")
        draw(figure)
        for axes in figure.axes:
            axes.spines[["top", "right"]].set_visible(False)
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            with write_whole(path) as temporary:
                figure.savefig(temporary, **settings[path.suffix])
    return list(paths)


def draw_figures(results: dict[str, Any], folder: Path, endings: Sequence[str] = _ENDINGS) -> list[Path]:
    """Draw all figures of a comparison.

    Args:
        results: From `summarise_runs`.
        folder: Where to.
        endings: Of the files; PNG and SVG by default.

    Returns:
        The files.
    """
    n_variants, n_tasks = len(results["results"]), len(results["queries"])
    drawings = {
        STRATEGIES_FIGURE: (_draw_strategies, (6.0, 1.2 + 0.45 * n_variants)),
        HARDNESS_FIGURE: (_draw_hardness, (6.0, 4.0)),
        COLLECTIONS_FIGURE: (_draw_collections, (7.0, 1.2 + 0.14 * n_tasks * n_variants + 0.12 * n_tasks)),
    }
    files = []
    for name, (draw, size) in drawings.items():
        paths = [folder / f"{name}.{ending}" for ending in endings]
        files += save_figure(lambda figure: draw(figure.subplots(), results), size, *paths)  # noqa: B023  # called at once
    return files


def draw_tuning(choice: dict[str, Any], folder: Path) -> list[Path]:
    """Draw the difference of every candidate to random batches, source by source, as PNG and SVG.

    Args:
        choice: As `Choice.describe` returns it.
        folder: Where to.

    Returns:
        The files; none where nothing was measured.
    """
    measured = {name: one for name, one in choice["evidence"].items() if one.get("differences")}
    if not measured:
        return []
    heights = [0.6 + 0.2 * len(one["differences"]) for one in measured.values()]

    def draw(figure: Figure) -> None:
        rows = figure.subplots(len(measured), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        for axes, (name, one) in zip(rows, measured.items(), strict=True):
            _draw_candidates(axes, name, one)
        rows[-1].set_xlabel(
            f"difference in nDCG@10 to random batches, {name_intervals(choice['about'])}; filled: chosen"
        )

    paths = [folder / f"{TUNING_FIGURE}.{ending}" for ending in _ENDINGS]
    return save_figure(draw, (6.5, 0.6 + sum(heights)), *paths)


def draw_cluster_sizes(sizes: Mapping[str, Sequence[int]], path: Path, global_batch_size: int | None = None) -> Path:
    """Draw a histogram of cluster sizes.

    Args:
        sizes: Rows of every cluster by source. Beyond ten sources the largest nine have bars of their own.
        path: Where to.
        global_batch_size: Rows of a global batch, if it is to be shown.

    Returns:
        The file.
    """
    by_rows = sorted(sizes, key=lambda name: -sum(sizes[name]))
    shown = by_rows if len(by_rows) <= _SHOWN_SOURCES else by_rows[: _SHOWN_SOURCES - 1]
    parts = {name: sizes[name] for name in shown}
    if others := [size for name in by_rows[len(shown) :] for size in sizes[name]]:
        parts[f"{len(by_rows) - len(shown)} other sources"] = others

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.hist(list(parts.values()), bins=20, stacked=True, label=[label_figure(name) for name in parts])
        if global_batch_size is not None:
            axes.axvline(global_batch_size, color="grey", linestyle=":", label="a global batch")
        axes.set_xlabel("rows of a cluster")
        axes.set_ylabel("clusters")
        axes.legend(frameon=False)

    return save_figure(draw, (6.0, 3.0), path)[0]


def draw_negatives(hardness: Mapping[str, BatchHardness], path: Path) -> Path:
    """Draw how near positives and negatives are in batches of several kinds.

    Args:
        hardness: By the kind of batches.
        path: Where to.

    Returns:
        The file.
    """
    bars = (("negative", "all negatives"), ("hardest", "hardest negative"), ("positive", "positive"))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for at, (name, label) in enumerate(bars):
            places = [kind + 0.27 * (at - 1) for kind in range(len(hardness))]
            axes.bar(places, [getattr(one, name) for one in hardness.values()], 0.25, label=label)
        axes.set_xticks(range(len(hardness)), [f"{kind} batches" for kind in hardness])
        axes.set_ylabel("cosine similarity to the query")
        axes.legend(frameon=False, fontsize=7)

    return save_figure(draw, (6.0, 3.4), path)[0]


def _draw_candidates(axes: Axes, name: str, evidence: dict[str, Any]) -> None:
    """Draw the difference of every candidate for a source to random batches."""
    for at, found in enumerate(evidence["differences"]):
        one = found["difference"]
        axes.errorbar(
            [one["mean"]],
            [at],
            xerr=[[one["mean"] - one["low"]], [one["high"] - one["mean"]]],
            fmt="o",
            color="C0" if not found["masked"] else "C1",
            markerfacecolor=None if found["name"] == evidence["chosen"] else "white",
            capsize=3,
        )
    axes.axvline(0, color="grey", linewidth=0.8, linestyle=":")
    axes.set_yticks(
        range(len(evidence["differences"])), [label_figure(one["name"]) for one in evidence["differences"]]
    )
    axes.set_ylim(len(evidence["differences"]) - 0.5, -0.5)
    axes.set_title(label_figure(name), loc="left", fontsize=9)


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
