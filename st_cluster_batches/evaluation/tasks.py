"""Retrieval tasks of mteb: official ones by name, and folders in BEIR layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from st_cluster_batches.data.collection import Collection, read_collection
from st_cluster_batches.evaluation.official import find_official_tasks

_LOCAL = "a folder"


def load_tasks(tasks: Sequence[str | Path]) -> dict[str, Any]:
    """Read folders and look up names; no data of official tasks is loaded yet.

    Args:
        tasks: Folders in BEIR layout, and names of mteb tasks or benchmarks.

    Returns:
        Tasks of mteb by name.

    Raises:
        ValueError: If a collection is dirty, a name is unknown, or two tasks have one name.
        FileNotFoundError: If a folder is incomplete.
    """
    loaded: dict[str, Any] = {}
    for task in tasks:
        path = Path(task)
        found = (
            [_make_task(path.resolve().name, read_collection(path))]
            if path.is_dir()
            else find_official_tasks(str(task))
        )
        for one in found:
            if one.metadata.name in loaded:
                raise ValueError(
                    f"Two tasks are called {one.metadata.name!r}; their results would overwrite one another"
                )
            loaded[one.metadata.name] = one
    return loaded


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
    }


def is_official(task: Any) -> bool:
    """Return whether a task's data comes from the Hub, not from a folder."""
    return bool(task.metadata.dataset["path"] != _LOCAL)


def _make_task(name: str, collection: Collection) -> Any:
    from datasets import Dataset
    from mteb.abstasks import AbsTaskRetrieval
    from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
    from mteb.abstasks.task_metadata import TaskMetadata

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
