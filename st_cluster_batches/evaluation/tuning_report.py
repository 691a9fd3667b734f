"""What a choice rests on: its files and figure, and a table for people that is made from the choice alone."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from st_cluster_batches.clusters.choice import CHOICE_FILE, Choice
from st_cluster_batches.clusters.output import refuse_rows
from st_cluster_batches.data.naming import show_line
from st_cluster_batches.data.pairs import KEYS, Key
from st_cluster_batches.evaluation.candidates import name_intervals
from st_cluster_batches.evaluation.figures import can_draw, draw_tuning

logger = logging.getLogger(__name__)

KEYS_FOLDER = "keys"


def warn_of_replaced(output: Path, coming: Mapping[str, Any], rows: Mapping[str, int]) -> None:
    """Warn of a choice in a folder that another one is to replace; its runs are kept.

    Args:
        output: The folder.
        coming: How the choice to come is made, as `Choice.about` says it, with `batch_size` and `encoder`.
        rows: What it is made of: the number of rows of each source.

    Raises:
        ValueError: If rows lie in the folder.
    """
    refuse_rows(output)
    if not (output / CHOICE_FILE).is_file():
        return
    try:
        earlier = Choice.load(output)
    except ValueError as error:
        logger.warning("%s. What is chosen now replaces it", error)
        return
    before = {"batch_size": earlier.batch_size, "encoder": earlier.encoder, **earlier.about}
    changes = [f"{name} {before[name]!r}" for name, one in coming.items() if before.get(name, one) != one]
    if {name: one["rows"] for name, one in earlier.evidence.items()} != rows:
        changes.append("other rows")
    if changes:
        logger.warning(
            "%s holds a choice made with %s, which this one replaces when it is done. To keep it, give another "
            "output_dir (--output); runs are kept",
            output,
            ", ".join(changes),
        )


def write_choices(choices: Mapping[Key, Choice], output: Path) -> None:
    """Write choices and their figures, the first into the folder itself, the others below `keys`."""
    for key in KEYS:  # of an earlier run, perhaps with other keys
        if (output / KEYS_FOLDER / key / CHOICE_FILE).is_file():
            shutil.rmtree(output / KEYS_FOLDER / key)
    for number, (key, choice) in enumerate(choices.items()):
        folder = output / KEYS_FOLDER / key if number else output
        choice.save(folder)
        if can_draw("A figure of the choice"):
            draw_tuning(choice.describe(), folder)


def describe_tuning(choice: dict[str, Any]) -> str:
    """Return the table of a choice: for each source every candidate's difference to random batches, and the choice.

    Args:
        choice: As `Choice.describe` returns it.
    """
    lines = [
        f"Difference in nDCG@10 to random batches of {choice['batch_size']:,} rows, "
        f"{name_intervals(choice['about'])}, of small models on held-out queries.",
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
            gain = f"gain {low:+.1%} to {high:+.1%}, or less: the best of several ways looks better than it is"
            return f"choice: {found['name']}; {gain}"
    return f"choice: one stratum, {evidence['why']}"
