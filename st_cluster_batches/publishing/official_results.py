"""Results on official mteb tasks, as the Hub's leaderboards read them."""

from __future__ import annotations

from typing import Any


def describe_official_result(name: str, raw: dict[str, Any], summary: dict[str, Any]) -> Any:
    """Describe a result as the Hub's leaderboards read it, if it is one of a complete official task.

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
    if task.is_aggregate:
        return None  # it has no data of its own; its parts have entries
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
    """Count the queries of a split that mteb averages over: those with judgements; 0 where mteb has no statistics."""
    judged = statistics.get("relevant_docs_statistics")
    if not judged:
        return 0
    n_queries: int = round(judged["num_relevant_docs"] / judged["average_relevant_docs_per_query"])
    # Some tasks have judgements of queries that they do not contain.
    return min(n_queries, int(statistics.get("num_queries", n_queries)))
