"""Evaluate retrieval with mteb, query by query, and never twice.

mteb files a local model's scores under a name that all local models share, so its cache can hand one model the
scores of another. It is never used here: scores are kept under a fingerprint of the weights.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from st_cluster_batches.clusters.encoder import fingerprint_model
from st_cluster_batches.data.collection import Collection, read_collection
from st_cluster_batches.evaluation.official import REMEDY, find_official_tasks, probe_hub
from st_cluster_batches.evaluation.scores import ScoreStore, TaskScores
from st_cluster_batches.storage.processes import ProcessGroup

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

_LOCAL = "a folder"


def evaluate(
    model: SentenceTransformer,
    tasks: Sequence[str | Path],
    output_dir: Path | None = None,
    *,
    batch_size: int = 32,
    show_progress_bar: bool = True,
) -> dict[str, TaskScores]:
    """Evaluate a model on retrieval tasks.

    Documents are encoded as title and text, joined by a space. In folders, queries without a relevant document do
    not count. Under `accelerate launch` the main process evaluates, and the others wait for it.

    Args:
        model: The model; its query and document prompts are used.
        tasks: Folders in BEIR layout, and names of mteb tasks or benchmarks, of which the retrieval tasks are taken.
        output_dir: Folder for `summary.json`, `per_query/<task>.json` and mteb's own `mteb/<task>.json`. Beside
            them, `by_model/` keeps all scores by weights, data and versions: a rerun goes on with the missing tasks.
        batch_size: Texts that the model sees at once.
        show_progress_bar: Whether to show progress.

    Returns:
        The scores by task name; nothing on processes other than the main one.

    Raises:
        ValueError: If a task is at fault; before anything is encoded.
        ConnectionError: If the data of a named task cannot be had; at the first such task.
    """
    loaded = load_tasks(tasks)

    def evaluate_all() -> dict[str, TaskScores]:
        if prompts := {name: prompt for name, prompt in model.prompts.items() if prompt}:
            logger.info("Prompts in use: %s", prompts)
        store = None if output_dir is None else ScoreStore(output_dir, fingerprint_model(model))
        scores = {}
        for name, task in loaded.items():
            kept = store.load(name, task) if store else None
            if kept is None:
                kept = _run_task(model, name, task, batch_size, show_progress_bar)
                if store:
                    store.save(name, task, kept)
            scores[name] = kept[0]
            if store:
                store.publish(scores, name, kept[1])
        if store:
            store.remove_others(scores)
        return scores

    return ProcessGroup.current().once(evaluate_all, {})


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


def _run_task(
    model: SentenceTransformer, name: str, task: Any, batch_size: int, show_progress_bar: bool
) -> tuple[TaskScores, dict[str, Any]]:
    import mteb

    by_subset: dict[tuple[str, str], dict[str, float]] = {}
    own_scores = task.task_specific_scores

    def keep_queries(
        scores: dict[str, Any], qrels: dict[str, Any], results: dict[str, Any], hf_split: str, hf_subset: str
    ) -> dict[str, float]:
        # mteb hands over what pytrec_eval gave for every query; it keeps only the rounded mean for itself.
        by_subset[hf_split, hf_subset] = {query: float(one["ndcg_cut_10"]) for query, one in scores.items()}
        specific: dict[str, float] = own_scores(scores, qrels, results, hf_split, hf_subset)
        return specific

    if task.metadata.dataset["path"] != _LOCAL:
        probe_hub(name)
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
            f"The data of {name} is not here and the Hub does not give it ({error}); {REMEDY}"
        ) from error
    finally:
        task.task_specific_scores = own_scores
    reported = fmean(entry["ndcg_at_10"] for split in result.scores.values() for entry in split)
    return _join_subsets(name, by_subset, reported), json.loads(result.model_dump_json())


def _join_subsets(name: str, by_subset: dict[tuple[str, str], dict[str, float]], reported: float) -> TaskScores:
    """Join the queries of all splits and subsets, and see that mteb came to the same mean."""
    if not by_subset or not all(by_subset.values()):
        raise RuntimeError(f"mteb gave no score per query for {name}; its version may have changed")
    mean = fmean(fmean(one.values()) for one in by_subset.values())
    if abs(mean - reported) > 1e-4:
        raise RuntimeError(f"{name}: the mean over queries is {mean:.5f}, but mteb reports {reported:.5f}")
    per_query = {
        query if len(by_subset) == 1 else f"{split}/{subset}/{query}": score
        for (split, subset), one in by_subset.items()
        for query, score in one.items()
    }
    return TaskScores(per_query, mean)
