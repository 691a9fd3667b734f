"""Evaluate retrieval with mteb, query by query. The only mteb import.

mteb files a local model's scores under a name that all local models share, so its cache can hand one model the
scores of another. It is never used here.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from accelerate import PartialState

from st_cluster_batches.cache import write_atomically
from st_cluster_batches.collection import Collection, read_collection

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskScores:
    """nDCG@10 of a model on one task.

    Args:
        per_query: nDCG@10 of every query that has a relevant document, as trec_eval averages them.
    """

    per_query: dict[str, float]

    @property
    def ndcg_at_10(self) -> float:
        """Mean over queries."""
        return fmean(self.per_query.values())

    @property
    def queries(self) -> int:
        """Number of queries that were evaluated."""
        return len(self.per_query)


def check_tasks(tasks: Sequence[str | Path]) -> None:
    """Check tasks without a model: folders are read and validated whole, names looked up.

    Raises:
        ValueError: If a collection is dirty, a name is unknown, or two tasks have one name.
        FileNotFoundError: If a folder is incomplete.
    """
    _load_tasks(tasks)


def evaluate(
    model: SentenceTransformer,
    tasks: Sequence[str | Path],
    output_dir: Path | None = None,
    *,
    batch_size: int = 32,
    show_progress_bar: bool = True,
) -> dict[str, TaskScores]:
    """Evaluate a model on retrieval tasks.

    Documents are encoded as title and text, joined by a space. Queries without a relevant document do not count.

    Args:
        model: The model; its query and document prompts are used.
        tasks: Folders in BEIR layout, and names of mteb tasks.
        output_dir: Folder for `summary.json`, `per_query/<task>.json` and mteb's own `mteb/<task>.json`.
        batch_size: Texts that the model sees at once.
        show_progress_bar: Whether to show progress.

    Returns:
        The scores by task name; nothing on processes other than the main one.

    Raises:
        ValueError: If a task is at fault; before anything is encoded.
        ConnectionError: If the data of a named task cannot be had.
    """
    loaded = _load_tasks(tasks)
    state = PartialState()
    if not state.is_main_process:
        # mteb knows nothing of ranks, and two of them corrupt one another's files.
        state.wait_for_everyone()
        return {}
    logger.info("Prompts in use: %s", model.prompts)
    scores = {}
    for name, task in loaded.items():
        scores[name], raw = _run_task(model, name, task, batch_size, show_progress_bar)
        if output_dir is not None:
            for folder, content in (("per_query", scores[name].per_query), ("mteb", raw)):
                (output_dir / folder).mkdir(parents=True, exist_ok=True)
                write_atomically(output_dir / folder / f"{name}.json", json.dumps(content, indent=1) + "\n")
    if output_dir is not None:
        summary = {name: {"ndcg_at_10": one.ndcg_at_10, "queries": one.queries} for name, one in scores.items()}
        write_atomically(output_dir / "summary.json", json.dumps(summary, indent=1) + "\n")
    state.wait_for_everyone()
    return scores


def _load_tasks(tasks: Sequence[str | Path]) -> dict[str, Any]:
    import mteb

    loaded: dict[str, Any] = {}
    for task in tasks:
        path = Path(task)
        if path.is_dir():
            name, value = path.resolve().name, _make_task(path.resolve().name, read_collection(path))
        else:
            try:
                value = mteb.get_task(str(task))
            except KeyError as error:
                raise ValueError(f"{task} is neither a folder here nor the name of an mteb task") from error
            name = value.metadata.name
            if value.metadata.type != "Retrieval":
                raise ValueError(f"{name} is a task of type {value.metadata.type}; only Retrieval is evaluated here")
        if name in loaded:
            raise ValueError(f"Two tasks are called {name!r}; their results would overwrite one another")
        loaded[name] = value
    return loaded


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
            dataset={"path": name, "revision": "local"},  # required, but load_data replaces it
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


def _run_task(
    model: SentenceTransformer, name: str, task: Any, batch_size: int, show_progress_bar: bool
) -> tuple[TaskScores, dict[str, Any]]:
    import mteb

    per_query: dict[str, float] = {}

    def keep_queries(scores: dict[str, Any], qrels: dict[str, Any], *_: Any, **__: Any) -> dict[str, float]:
        # mteb hands over what pytrec_eval gave for every query; it keeps only the rounded mean for itself.
        for query, measures in scores.items():
            if any(score > 0 for score in qrels[query].values()):
                per_query[query] = float(measures["ndcg_cut_10"])
        return {}

    task.task_specific_scores = keep_queries
    try:
        result = mteb.evaluate(
            model,
            task,
            cache=None,
            encode_kwargs={"batch_size": batch_size, "show_progress_bar": show_progress_bar},
            show_progress_bar=show_progress_bar,
            co2_tracker=False,
            raise_error=True,
        ).task_results[0]
    except ConnectionError as error:
        raise ConnectionError(
            f"The data of {name} is not here and the Hub does not give it ({error}); evaluate folders instead, or "
            "download it first where there is a network"
        ) from error
    scores = TaskScores(per_query)
    reported = fmean(entry["ndcg_at_10"] for split in result.scores.values() for entry in split)
    if not per_query:
        raise RuntimeError(f"mteb gave no score per query for {name}; its version may have changed")
    if len(result.scores) == 1 and abs(scores.ndcg_at_10 - reported) > 1e-4:
        raise RuntimeError(
            f"{name}: the mean over queries is {scores.ndcg_at_10:.5f}, but mteb reports {reported:.5f}"
        )
    return scores, json.loads(result.model_dump_json())
