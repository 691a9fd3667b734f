"""Whether static models choose as transformers would: rank correlation, and what their choice loses.

    python recipes/in_domain/regret.py recipes/in_domain/results

Reads what `static.py` and `layers.py` wrote, for batches of 16, and writes `regret.md`. A chooser takes on each source
the way that does best with its own model, or what `tune` chose with static models (where this way was not tried with
the transformer, the one of the nearest size). Its regret is the nDCG@10 that this way loses to the best one with the
transformer, in percent of the best. The best way is in part the luckiest, so regret is overstated for all alike.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from st_cluster_batches.storage.cache import write_atomically

Gains = dict[str, dict[str, float]]  # by source and way, in percent of the nDCG@10 of random batches


def read_static(folder: Path) -> Gains:
    """Return the gains of static models."""
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return {name: _relate(one["batch_sizes"]["16"]["all"]) for name, one in found.items()}


def read_layers(path: Path) -> tuple[Gains, dict[str, Any]]:
    """Return the gains of a transformer, and what was measured."""
    found = json.loads(path.read_text(encoding="utf-8"))
    gains = {
        name: _relate({way: float(np.mean(own["ndcg_by_seed"])) for way, own in one.items()})
        for name, one in found.items()
    }
    return gains, found


def _relate(scores: dict[str, float]) -> dict[str, float]:
    return {way: 100 * (score / scores["random"] - 1) for way, score in scores.items()}


def read_choices(folder: Path, ways: list[str]) -> Gains:
    """Return 1 by source for the way that `tune` chose, or for the nearest that was tried, and 0 for the others."""
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    chosen = {name: one["batch_sizes"]["16"]["chosen"]["tuned"] for name, one in found.items()}
    pure = [way for way in ways if way != "random" and "rows of each" not in way]
    near = {
        name: way if way in ways else min(pure, key=lambda one: abs(np.log(_read_size(one) / _read_size(way))))
        for name, way in chosen.items()
    }
    return {name: {way: float(way == one) for way in ways} for name, one in near.items()}


def _read_size(way: str) -> int:
    return int(way.replace(",", "").split()[2])  # "clusters of 1,024", "communities of 96"


def find_regrets(real: Gains, by: Gains) -> list[float]:
    """Return by source what is lost where one model chooses for another."""
    regrets = []
    for name, gains in real.items():
        chosen = max(gains, key=lambda way: by[name][way])
        regrets.append(100 * (1 - (100 + gains[chosen]) / (100 + max(gains.values()))))
    return regrets


def describe(layers: str, real: Gains, found: dict[str, Any], choosers: dict[str, Gains]) -> list[str]:
    """Return tables in Markdown: the gains of a transformer, and how others would have chosen for it."""
    ways = list(next(iter(real.values())))
    lines = [f"### The first {layers} layers", "", f"| source | random | {' | '.join(ways[1:])} | rates |"]
    lines.append("|" + " --- |" * (len(ways) + 2))
    for name, gains in real.items():
        cells = []
        for way in ways[1:]:
            difference = found[name][way]["difference"]
            clear = "**" if difference["low"] > 0 or difference["high"] < 0 else ""
            cells.append(f"{clear}{gains[way]:+.1f}{clear}")
        rates = ", ".join(f"{found[name][way]['rate']:g}" for way in ways)
        start = float(np.mean(found[name]["random"]["ndcg_by_seed"]))
        lines.append(f"| {name} | {start:.3f} | {' | '.join(cells)} | {rates} |")
    means = [np.mean([gains[way] for gains in real.values()]) for way in ways[1:]]
    lines += [f"| mean | | {' | '.join(f'{one:+.1f}' for one in means)} | |", ""]
    lines += ["| chosen by | rank correlation, mean of sources | of all | regret, mean | most |", "|" + " --- |" * 5]
    for chooser, by in choosers.items():
        regrets = find_regrets(real, by)
        pairs = [[(by[name][way], gains[way]) for way in ways] for name, gains in real.items()]
        cells = ["", ""]
        if not chooser.startswith(("always", "`tune`")):
            each = [spearmanr(*zip(*own, strict=True)).statistic for own in pairs]
            together = spearmanr(*zip(*(one for own in pairs for one in own[1:]), strict=True)).statistic
            cells = [f"{np.mean(each):+.2f}", f"{together:+.2f}"]
        lines.append(f"| {chooser} | {' | '.join(cells)} | {np.mean(regrets):.2f} % | {max(regrets):.2f} % |")
    return [*lines, ""]


def _always(way: str, gains: Gains) -> Gains:
    return {name: {one: float(one == way) for one in own} for name, own in gains.items()}


def main() -> None:
    """Write `regret.md`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    choosers: dict[str, Gains] = {"the best mean of static models": read_static(folder)}
    lines = []
    for path in sorted(folder.glob("layers-*.json")):
        layers = path.stem.removeprefix("layers-")
        real, found = read_layers(path)
        ways = list(next(iter(real.values())))
        tuned = {"`tune`, with static models": read_choices(folder, ways)}
        constant = {f"always {way}": _always(way, real) for way in ways}
        known = {name: own for name, own in choosers.items() if set(real) <= set(own)}
        lines += describe(layers, real, found, {**tuned, **known, **constant})
        choosers[f"the first {layers} layers"] = real
    write_atomically(folder / "regret.md", "\n".join(lines))


if __name__ == "__main__":
    main()
