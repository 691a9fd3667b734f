"""Retrieval tasks of mteb: official ones by name, and folders in BEIR layout."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from st_cluster_batches.data.collection import Collection, Judging, name_collection, read_collection
from st_cluster_batches.evaluation.official import find_official_tasks

logger = logging.getLogger(__name__)

_LOCAL = "a folder"


def load_tasks(tasks: Sequence[str | Path], judging: Judging | None = None) -> dict[str, Any]:
    """Read folders and look up names; no data of official tasks is loaded yet.

    Args:
        tasks: Folders in BEIR layout, and names of mteb tasks or benchmarks.
        judging: How the judgements of folders are taken.

    Returns:
        Tasks of mteb by name; those that aggregate others come after their parts.

    Raises:
        ValueError: If a collection is dirty, a name is unknown, or two tasks have one name.
        FileNotFoundError: If a folder is incomplete.
    """
    loaded: dict[str, Any] = {}
    parts: set[str] = set()
    for task in tasks:
        path = Path(task)
        found = (
            [_make_task(name_collection(path), read_collection(path, judging))]
            if path.is_dir()
            else find_official_tasks(str(task))
        )
        parts.update(part for one in found for part in list_aggregated(one))
        for one in (part for task_found in found for part in _with_parts(task_found)):
            if one.metadata.name in loaded:
                if one.metadata.name in parts and is_official(loaded[one.metadata.name]) and is_official(one):
                    continue  # named by itself, too
                raise ValueError(
                    f"Two tasks are called {one.metadata.name!r}; their results would overwrite one another"
                )
            loaded[one.metadata.name] = one
    return loaded


def list_aggregated(task: Any) -> list[str]:
    """Return the names of the tasks that a task aggregates; none for most."""
    return [part.metadata.name for part in task.tasks] if task.is_aggregate else []


def _with_parts(task: Any) -> list[Any]:
    return [*task.tasks, task] if task.is_aggregate else [task]


def identify_task(task: Any) -> dict[str, Any]:
    """Return what a task's scores depend on beside the model: its data, its splits and its subsets.

    Args:
        task: A task of mteb, or one made of a folder.

    Returns:
        JSON values; the revision of a folder is a hash of its content.
    """
    return {
        "name": task.metadata.name,
        "data": dict(task.metadata.dataset),
        "splits": sorted(task.eval_splits),
        "subsets": sorted(task.hf_subsets or []),
        **({} if is_official(task) else {"ignore_identical_ids": task.ignore_identical_ids}),
    }


def is_official(task: Any) -> bool:
    """Return whether a task's data comes from the Hub, not from a folder."""
    return bool(task.metadata.dataset["path"] != _LOCAL)


def _make_task(name: str, collection: Collection) -> Any:
    from datasets import Dataset
    from mteb.abstasks import AbsTaskRetrieval
    from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
    from mteb.abstasks.task_metadata import TaskMetadata

    are_ignored = _ignore_identical_ids(name, collection)

    class FolderTask(AbsTaskRetrieval):  # type: ignore[misc]  # the host library is not typed
        metadata = TaskMetadata(
            name=name,
            description=f"Local collection {name}",
            type="Retrieval",
            category="t2t",
            modalities=["text"],
            dataset={"path": _LOCAL, "revision": collection.content_hash},  # required, but load_data takes its place
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
        )
        ignore_identical_ids = are_ignored

        def load_data(self, **_: Any) -> None:
            split = RetrievalSplitData(
                corpus=Dataset.from_list(
                    [{"id": key, "title": title, "text": text} for key, (title, text) in collection.corpus.items()]
                ),
                queries=Dataset.from_list([{"id": key, "text": text} for key, text in collection.queries.items()]),
                relevant_docs=collection.qrels,
                top_ranked=None,
            )
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    return FolderTask()


def _ignore_identical_ids(name: str, collection: Collection) -> bool:
    """Return whether a document is left out of the ranking of the query that has its id, as BEIR does.

    There it is the query itself. Where such a document is relevant, queries and documents were numbered apart.
    """
    same = [query for query in collection.queries if query in collection.corpus]
    if not same:
        return False
    if relevant := [query for query in same if collection.qrels[query].get(query, 0) > 0]:
        logger.warning(
            "%s: %d queries have the id of a document, which is relevant to %d of them, such as %s: they were "
            "numbered apart, so that such documents are ranked like all others (BEIR would leave them out)",
            name,
            len(same),
            len(relevant),
            relevant[0],
        )
        return False
    logger.info(
        "%s: %d queries have the id of a document, which is left out of their ranking, as BEIR does", name, len(same)
    )
    return True
