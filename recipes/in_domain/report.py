"""Table and figure of `static.py`: nDCG@10 against batch size, and how much larger a random batch has to be.

python recipes/in_domain/report.py recipes/in_domain/results
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from st_cluster_batches.storage.cache import write_atomically

SHOWN = ("k10", "clusters", "mixed", "communities", "random masked", "clusters masked", "tuned")

FIXED = (
    "k10",
    "random, masked",
    "clusters of 32",
    "clusters of 32, masked",
    "clusters of 32, 8 rows of each",
    "clusters of 32, 8 rows of each, masked",
)


def find_multiplier(random: Mapping[int, float], batch_size: int, wanted: float) -> tuple[float, bool]:
    """Return how much larger than a batch size random batches are that score as much as is wanted.

    Between two measured sizes, nDCG@10 is taken to be linear in the logarithm of the size. Second is whether even the
    largest random batch scores less.
    """
    sizes = [one for one in random if one >= batch_size]
    best = np.maximum.accumulate([random[one] for one in sizes])
    if wanted > best[-1]:
        return sizes[-1] / batch_size, True
    at = int(np.searchsorted(best, wanted))
    if at == 0 or best[at] == best[at - 1]:
        return sizes[at] / batch_size, False
    share = (wanted - best[at - 1]) / (best[at] - best[at - 1])
    size = np.exp(np.log(sizes[at - 1]) + share * np.log(sizes[at] / sizes[at - 1]))
    return float(size / batch_size), False


def describe_multiplier(random: Mapping[int, float], batch_size: int, wanted: float) -> str:
    """Return the cell of a table: the size, and how many times it is the other."""
    multiplier, is_more = find_multiplier(random, batch_size, wanted)
    return f"{'more than ' if is_more else ''}{multiplier * batch_size:.0f} ({multiplier:.1f}x)"


def describe(results: dict[str, Any]) -> str:
    """Return the tables in Markdown: differences to random batches of the same size, in percent of their nDCG@10."""
    lines = []
    for batch_size in next(iter(results.values()))["batch_sizes"]:
        lines += [f"### Batches of {batch_size}", "", f"| source | random | {' | '.join(SHOWN)} | tuned is |"]
        lines.append("|" + " --- |" * (len(SHOWN) + 3))
        gains: dict[str, list[float]] = {name: [] for name in SHOWN}
        for source, found in results.items():
            one = found["batch_sizes"][batch_size]
            random = float(np.mean(one["ndcg_by_seed"]["random"]))
            cells = []
            for name in SHOWN:
                difference = one["difference"].get(name, {"mean": 0.0, "low": 0.0, "high": 0.0})
                gains[name].append(100 * difference["mean"] / random)
                clear = "**" if difference["low"] > 0 or difference["high"] < 0 else ""
                cells.append(f"{clear}{gains[name][-1]:+.1f}{clear}" if name in one["difference"] else "=")
            lines.append(f"| {source} | {random:.3f} | {' | '.join(cells)} | {one['chosen']['tuned']} |")
        means = " | ".join(f"{np.mean(gains[name]):+.1f}" for name in SHOWN)
        lines += [f"| mean | | {means} | |", ""]
    return "\n".join(lines)


def describe_fixed(results: dict[str, Any]) -> str:
    """Return what each way gives that is the same for all sources and sizes: mean and least of the sources."""
    sizes = list(next(iter(results.values()))["batch_sizes"])
    lines = [f"| the same for all | {' | '.join(f'batches of {one}: mean, least' for one in sizes)} |"]
    lines.append("|" + " --- |" * (len(sizes) + 1))
    for name in FIXED:
        cells = []
        for size in sizes:
            scores = [found["batch_sizes"][size]["all"] for found in results.values()]
            keys = [next((key for key in one if key == name or key.endswith(f"({name})")), None) for one in scores]
            if None in keys:  # not tried with batches of this size
                cells.append("")
                continue
            gains = [100 * (one[key] / one["random"] - 1) for one, key in zip(scores, keys, strict=True)]
            cells.append(f"{np.mean(gains):+.1f}, {min(gains):+.1f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def describe_multipliers(results: dict[str, Any]) -> str:
    """Return a line of Markdown for each source."""
    lines = ["| source | tuned batches of 16 equal random ones of | of 64 |", "| --- | --- | --- |"]
    for source, found in results.items():
        scores = {
            name: {int(size): float(np.mean(one["ndcg_by_seed"][name])) for size, one in found["batch_sizes"].items()}
            for name in ("random", "tuned")
        }
        cells = [describe_multiplier(scores["random"], size, scores["tuned"][size]) for size in (16, 64)]
        lines.append(f"| {source} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(results: dict[str, Any], folder: Path) -> None:
    """Draw nDCG@10 against batch size, one panel a source; bands are the range of the seeds."""
    columns = 4
    rows = -(-len(results) // columns)
    with rc_context({"font.size": 8, "svg.hashsalt": "st-cluster-batches", "svg.fonttype": "none"}):
        figure = Figure((9.0, 2.2 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, (source, found) in zip(panels, results.items(), strict=False):
            sizes = [int(one) for one in found["batch_sizes"]]
            for name, colour in (("random", "C7"), ("k10", "C1"), ("tuned", "C0")):
                scores = np.array([one["ndcg_by_seed"][name] for one in found["batch_sizes"].values()])
                axes.plot(sizes, scores.mean(axis=1), "o-", color=colour, label=name, markersize=3)
                axes.fill_between(sizes, scores.min(axis=1), scores.max(axis=1), color=colour, alpha=0.2, linewidth=0)
            axes.set_xscale("log", base=4)
            axes.set_xticks(sizes, [str(one) for one in sizes])
            axes.minorticks_off()
            axes.set_title(source, fontsize=8)
            axes.spines[["top", "right"]].set_visible(False)
        for axes in panels[len(results) :]:
            axes.set_visible(False)
        panels[0].legend(frameon=False)
        figure.supxlabel("rows of a batch")
        figure.supylabel("nDCG@10")
        save_figure(figure, folder / "ndcg_by_batch_size")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG and SVG, without a date, so that the same figure is the same file."""
    figure.savefig(path.with_suffix(".png"), dpi=150, metadata={"Software": None})
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


def main() -> None:
    """Write `results.md` and the figure beside `results.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    tables = describe(results), describe_multipliers(results), "", describe_fixed(results)
    write_atomically(folder / "results.md", "\n".join(tables) + "\n")
    draw(results, folder)


if __name__ == "__main__":
    main()
