"""What a choice rests on, for people: a table and a figure, made from the choice alone."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from st_cluster_batches.data.naming import label_figure, show_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

logger = logging.getLogger(__name__)

TUNING_FIGURE = "differences_by_candidate"


def write_figure(choice: dict[str, Any], folder: Path) -> None:
    """Draw the figure, if matplotlib is there and anything was measured.

    Args:
        choice: As `Choice.describe` returns it.
        folder: Where to.
    """
    if find_spec("matplotlib") is None:
        logger.warning("No figure is drawn without matplotlib: pip install 'st-cluster-batches[plots]'")
    elif any(one.get("differences") for one in choice["evidence"].values()):
        draw_tuning(choice, folder)


def describe_tuning(choice: dict[str, Any]) -> str:
    """Return the table of a choice: for each source every candidate's difference to random batches, and the choice.

    Args:
        choice: As `Choice.describe` returns it.
    """
    lines = [
        f"Difference in nDCG@10 to random batches of {choice['batch_size']:,} rows, with 95 % intervals, of small "
        "models on held-out queries.",
    ]
    promises = choice["about"].get("promises", {})
    if len(promises) > 1:
        shown = ", ".join(f"{key} {promise:+.4f}" for key, promise in promises.items())
        best = max(promises, key=lambda key: promises[key])
        own = ", which" if choice["key"] == best else f"; {best}"
        text = f"Clusters by {choice['key']}{own} promises most (lower ends of all choices, by rows): {shown}"
        if promises[best] <= 0:
            text = f"Clusters by {' or '.join(promises)} promise nothing above random batches"
        lines.append(text)
    for name, one in choice["evidence"].items():
        rows = (
            f"{one['tuned_rows']:,} of {one['rows']:,} rows"
            if one["tuned_rows"] < one["rows"]
            else (f"{one['rows']:,} rows")
        )
        if "ndcg" not in one:
            lines += ["", f"{show_line(name, 40)}: {rows}; one stratum: {one['why']}"]
            continue
        guide = "" if one["guide_ndcg"] is None else f", of the guide itself {one['guide_ndcg']:.3f}"
        lines += [
            "",
            f"{show_line(name, 40)}: {rows}, {one['queries']:,} queries; nDCG@10 of random batches "
            f"{one['ndcg']['random']:.3f}{guide}",
        ]
        width = max(len(found["name"]) for found in one["differences"]) + 2
        for found in one["differences"]:
            mean, low, high = (_relative(found["difference"][end], one) for end in ("mean", "low", "high"))
            mark = "  <- chosen" if found["name"] == one["chosen"] else ""
            lines.append(f"  {found['name']:<{width}}{mean:>+8.1%}  [{low:+.1%}, {high:+.1%}]{mark}")
        lines.append(f"  {_conclude(one)}")
    return "\n".join(lines)


def _relative(difference: float, evidence: dict[str, Any]) -> float:
    return float(difference / max(evidence["ndcg"]["random"], 1e-9))


def _conclude(evidence: dict[str, Any]) -> str:
    for found in evidence["differences"]:
        if found["name"] == evidence["chosen"]:
            low, high = (_relative(found["difference"][end], evidence) for end in ("low", "high"))
            return f"choice: {found['name']}; expected gain {low:+.1%} to {high:+.1%}"
    return f"choice: one stratum, {evidence['why']}"


def draw_tuning(choice: dict[str, Any], folder: Path) -> list[Path]:
    """Draw the difference of every candidate to random batches, source by source, as PNG and SVG.

    Args:
        choice: As `Choice.describe` returns it.
        folder: Where to.

    Returns:
        The files.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    measured = {name: one for name, one in choice["evidence"].items() if one.get("differences")}
    heights = [0.6 + 0.2 * len(one["differences"]) for one in measured.values()]
    files = [folder / f"{TUNING_FIGURE}.{ending}" for ending in ("png", "svg")]
    with rc_context({"svg.hashsalt": "st-cluster-batches", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure((6.5, 0.6 + sum(heights)), layout="constrained")
        rows = figure.subplots(len(measured), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        for axes, (name, one) in zip(rows, measured.items(), strict=True):
            _draw_source(axes, name, one)
        rows[-1].set_xlabel("difference in nDCG@10 to random batches, with 95 % intervals; filled: chosen")
        figure.savefig(files[0], dpi=150, metadata={"Software": None})
        figure.savefig(files[1], metadata={"Date": None})
    return files


def _draw_source(axes: Axes, name: str, evidence: dict[str, Any]) -> None:
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
    axes.spines[["top", "right"]].set_visible(False)
