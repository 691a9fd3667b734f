"""Tasks that mteb knows by name: how to find them, reach their data, and say their results as the Hub reads them.

With `evaluation`, all that imports mteb.
"""

from __future__ import annotations

from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import huggingface_hub.constants

_PROBE_SECONDS = 10
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
            raise ValueError(f"{name} is neither a folder here nor the name of an mteb task or benchmark") from error
        if not tasks:
            raise ValueError(
                f"The benchmark {name} has no task of type Retrieval; no other is evaluated here"
            ) from None
        return tasks
    if task.metadata.type != "Retrieval":
        raise ValueError(f"{name} is a task of type {task.metadata.type}; only Retrieval is evaluated here")
    return [task]


def probe_hub(name: str) -> None:
    """Ask the Hub for a sign of life: its own client tries for half a minute, or for many where nobody answers.

    Args:
        name: The task whose data is wanted.

    Raises:
        ConnectionError: If there is no answer within seconds.
    """
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return  # the client fails at once, and finds what is cached
    endpoint = huggingface_hub.constants.ENDPOINT
    try:
        urlopen(Request(endpoint, method="HEAD"), timeout=_PROBE_SECONDS).close()
    except HTTPError:
        pass  # an answer, whatever it says
    except OSError as error:
        raise ConnectionError(
            f"{endpoint}, which has the data of {name}, gave no answer within {_PROBE_SECONDS} s ({error}); {REMEDY}"
        ) from error


def describe_official_result(name: str, raw: dict[str, Any], summary: dict[str, Any]) -> Any:
    """Say a result in the words of the Hub's leaderboards, if it is one of a complete official task.

    Args:
        name: Name of the task.
        raw: mteb's own result.
        summary: nDCG@10 and number of queries.

    Returns:
        An `EvalResultEntry` in per cent, as mteb itself writes them; None for a folder, for data other than the
        pinned revision, or if a split, a subset or a query is missing.
    """
    import mteb
    from huggingface_hub import EvalResultEntry

    try:
        task = mteb.get_task(name)
    except KeyError:
        return None
    wanted, statistics = task.metadata.dataset, task.metadata.descriptive_stats or {}
    complete = all(
        {entry["hf_subset"] for entry in raw["scores"].get(split, [])} >= set(task.hf_subsets)
        for split in task.metadata.eval_splits
    )
    expected = sum(_count_judged(one) for split, one in statistics.items() if split in task.eval_splits)
    if not complete or raw["dataset_revision"] != wanted["revision"] or summary["queries"] < expected:
        return None
    return EvalResultEntry(
        dataset_id=wanted["path"],
        task_id=name,
        value=round(100 * summary["ndcg_at_10"], 5),
        dataset_revision=wanted["revision"],
        date=raw["date"][:10],
        notes=f"mteb {raw['mteb_version']}, nDCG@10 of {summary['queries']:,} queries",
    )


def _count_judged(statistics: dict[str, Any]) -> int:
    """Count the queries of a split that mteb averages over: those with judgements; 0 where it does not say."""
    judged = statistics.get("relevant_docs_statistics")
    if not judged:
        return 0
    n_queries: int = round(judged["num_relevant_docs"] / judged["average_relevant_docs_per_query"])
    # Of some tasks there are judgements of queries that are not there.
    return min(n_queries, int(statistics.get("num_queries", n_queries)))
