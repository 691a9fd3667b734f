"""Tasks that mteb knows by name, and how to find them."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

REMEDY = "evaluate folders instead, or set HF_HUB_OFFLINE=1 if the data has been downloaded before"


def find_official_tasks(name: str) -> list[Any]:
    """Find an official task, or the retrieval tasks of a benchmark; their data is not loaded yet.

    Args:
        name: Name of a task or a benchmark.

    Returns:
        Tasks of mteb.

    Raises:
        ValueError: If mteb knows no such name, or nothing of type Retrieval by it.
    """
    import mteb

    try:
        task = mteb.get_task(name)
    except KeyError:
        try:
            tasks = [one for one in mteb.get_benchmark(name).tasks if one.metadata.type == "Retrieval"]
        except KeyError as error:
            raise ValueError(
                f"{name} is neither a folder here nor the name of an mteb task or benchmark{_suggest(name)}"
            ) from error
        if not tasks:
            raise ValueError(
                f"The benchmark {name} has no task of type Retrieval; no other is evaluated here"
            ) from None
        return tasks
    if task.metadata.type != "Retrieval":
        raise ValueError(f"{name} is a task of type {task.metadata.type}; only Retrieval is evaluated here")
    return [task]


def _suggest(name: str) -> str:
    """Return the known names that a misspelt one resembles, as the end of a sentence."""
    import mteb

    known = [one.metadata.name for one in mteb.get_tasks(task_types=["Retrieval"])]
    known += [one.name for one in mteb.get_benchmarks()]
    of_folded = {one.casefold(): one for one in known}
    near = get_close_matches(name.casefold(), of_folded, n=3)
    return f"; did you mean {' or '.join(of_folded[one] for one in near)}?" if near else ""
