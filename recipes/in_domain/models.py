"""What ways of filling batches are worth that are the same for all sources, by model and batch size.

    python recipes/in_domain/models.py recipes/in_domain/results

Reads what `static.py` wrote into the folder and `full_length.py` into folders below it, and writes `models.md`: for
each way the mean and the least of the sources, in percent of the nDCG@10 of random batches of that size. The last
column is what `tune` chose with static models, of the sources where the transformer was run that way.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from st_cluster_batches.storage.cache import write_atomically

MODELS = {
    "pretrained": "a small BERT that had seen no pairs",
    "two_layers": "two layers of MiniLM",
    "whole": "the whole MiniLM",
}
MIXED = "clusters of 32, 8 rows of each"
CHOSEN = "chosen with static models"
COMMUNITIES = "communities of two batches"
SEVERAL = "communities of 32, 8 rows of each"
COLUMNS = ("k10", "of two batches", MIXED, f"{MIXED}, masked", "random, masked", COMMUNITIES, SEVERAL, CHOSEN)

Gains = dict[str, dict[str, float]]  # by source and way


def read_gains(folder: Path) -> Iterator[tuple[str, str, Gains]]:
    """Yield model, batch size and gains of all ways by source, in percent of random batches."""
    static = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    sizes = list(next(iter(static.values()))["batch_sizes"])
    for size in sizes:
        found = {name: one["batch_sizes"][size] for name, one in static.items()}
        yield (
            "static",
            size,
            {name: _name_ways(one["all"], one["chosen"]["tuned"], size) for name, one in found.items()},
        )
    for model in MODELS:
        for size in sizes:
            gains: Gains = {}
            for path in sorted(folder.glob(f"{model}*/batch-{size}.json")):  # sources that were run later lie apart
                for name, one in json.loads(path.read_text(encoding="utf-8"))["sources"].items():
                    scores = {way: float(np.mean(own["ndcg_by_seed"])) for way, own in one["ways"].items()}
                    chosen = static[name]["batch_sizes"][size]["chosen"]["tuned"]
                    # Ways that were run later, against random batches run anew, lie apart, too.
                    gains[name] = gains.get(name, {}) | _name_ways(scores, chosen, size)
            if gains:
                yield model, size, gains


def _name_ways(scores: dict[str, float], chosen: str, size: str) -> dict[str, float]:
    """Return gains by column."""
    gains = {way.removesuffix(" (k10)"): 100 * (score / scores["random"] - 1) for way, score in scores.items()}
    two = 2 * int(size)
    named = {"of two batches": f"clusters of {two:,}", COMMUNITIES: f"communities of {two:,}", CHOSEN: chosen}
    named["k10"] = next((way.removesuffix(" (k10)") for way in scores if way.endswith("(k10)")), "k10")
    return {column: gains[named.get(column, column)] for column in COLUMNS if named.get(column, column) in gains}


def describe(folder: Path) -> str:
    """Return the table in Markdown."""
    lines = [f"| model | batches of | sources | {' | '.join(COLUMNS)} |", "|" + " --- |" * (3 + len(COLUMNS))]
    for model, size, gains in read_gains(folder):
        cells = []
        for column in COLUMNS:
            own = [one[column] for one in gains.values() if column in one]
            part = "" if len(own) == len(gains) else f", {len(own)} of {len(gains)}"
            cells.append(f"{np.mean(own):+.1f} ({min(own):+.1f}{part})" if own else "")
        lines.append(f"| {MODELS.get(model, model)} | {size} | {len(gains)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write `models.md`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    write_atomically(folder / "models.md", describe(folder))


if __name__ == "__main__":
    main()
