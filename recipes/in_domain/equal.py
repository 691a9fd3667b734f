"""How large random batches must be to score as much as small ones that are filled in some way, for a transformer.

    python recipes/in_domain/equal.py recipes/in_domain/results/whole

The folder is an output of full_length.py. Writes the table `equal.md` into it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from models import MIXED
from report import describe_multiplier

from st_cluster_batches.storage.cache import write_atomically


def describe(random: dict[str, Any], ways: dict[int, dict[str, Any]]) -> str:
    """Return a table in Markdown: nDCG@10 of random batches of all sizes, and what other batches are worth."""
    sizes = list(map(int, next(iter(random.values()))))
    columns = [f"random, {size}" for size in sizes] + [f"batches of {size} equal random ones of" for size in ways]
    lines = [f"| source | {' | '.join(columns)} |", "|" + " --- |" * (len(columns) + 1)]
    for name, found in random.items():
        scores = {size: float(np.mean(found[str(size)]["ndcg_by_seed"])) for size in sizes}
        cells = [f"{score:.3f}" for score in scores.values()]
        for size, sources in ways.items():
            own = sources.get(name)
            wanted = float(np.mean(own["ways"][MIXED]["ndcg_by_seed"])) if own else None
            cells.append("" if wanted is None else describe_multiplier(scores, size, wanted))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write `equal.md`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    random = json.loads((folder / "random.json").read_text(encoding="utf-8"))
    paths = {int(one.stem.removeprefix("batch-")): one for one in folder.glob("batch-*.json")}
    ways = {size: json.loads(paths[size].read_text(encoding="utf-8"))["sources"] for size in sorted(paths)}
    write_atomically(folder / "equal.md", describe(random, ways))


if __name__ == "__main__":
    main()
