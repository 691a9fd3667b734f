"""Retrieval evaluated with mteb, query by query; what has been evaluated once is not evaluated again.

mteb files a local model's scores under a name that all local models share, so its cache can hand one model the
scores of another. It is never used here: scores are kept under a fingerprint of the weights.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from st_cluster_batches.clusters.encoder import STATIC_PREFIX, load_encoder
from st_cluster_batches.clusters.fingerprint import fingerprint_model
from st_cluster_batches.clusters.output import refuse_rows
from st_cluster_batches.clusters.saved_models import is_classifier, naming_model, read_kind, warn_of_raw
from st_cluster_batches.data.collection import Judging
from st_cluster_batches.evaluation.official import REMEDY
from st_cluster_batches.evaluation.prompts import tell_prompts
from st_cluster_batches.evaluation.scores import ScoreStore, TaskScores
from st_cluster_batches.evaluation.tasks import is_official, list_aggregated, load_tasks
from st_cluster_batches.storage.cache import default_cache_dir
from st_cluster_batches.storage.numbers import as_count
from st_cluster_batches.storage.processes import ProcessGroup
from st_cluster_batches.storage.reaching import probe_hub
from st_cluster_batches.training.finite import check_weights, checking_vectors

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer, SparseEncoder

logger = logging.getLogger(__name__)


def load_evaluated(name: str, trust_remote_code: bool = False) -> SentenceTransformer | SparseEncoder:
    """Load a model to be evaluated as what it was saved as: made another kind, it would get the scores of another.

    Args:
        name: Its folder or Hub id; with `static:` before it, it is distilled first, as `train` and `attach` do.
        trust_remote_code: Whether code that comes with the model may run.

    Raises:
        TypeError: If it gives no vector of each text.
        FileNotFoundError: If it is nowhere.
    """
    from sentence_transformers import SentenceTransformer, SparseEncoder

    if name.startswith(STATIC_PREFIX):
        return load_encoder(name, default_cache_dir(), trust_remote_code)
    with naming_model(name):
        kind = read_kind(name) or ("CrossEncoder" if is_classifier(name) else None)
        if kind in ("CrossEncoder", "MultiVectorEncoder"):
            raise TypeError(
                f"{name} is a {kind}, and what is evaluated here ranks by one vector of each text: give a "
                f"SentenceTransformer or a SparseEncoder, or evaluate the {kind} with mteb itself: "
                "mteb.evaluate(model, tasks)"
            )
        warn_of_raw(name)
        model = SparseEncoder if kind == "SparseEncoder" else SentenceTransformer
        return model(name, trust_remote_code=trust_remote_code)


def evaluate(
    model: SentenceTransformer | SparseEncoder,
    tasks: Sequence[str | Path] | Mapping[str, Any],
    output_dir: Path | None = None,
    *,
    judging: Judging | None = None,
    batch_size: int = 32,
    show_progress_bar: bool = True,
) -> dict[str, TaskScores]:
    """Evaluate a model on retrieval tasks.

    Documents are encoded as title and text, joined by a space. In folders, queries without a relevant document do
    not count. Under `accelerate launch` the main process evaluates, and the others wait for it.

    Args:
        model: The model; its query and document prompts are used.
        tasks: Folders in BEIR layout, and names of mteb tasks or benchmarks, of which the retrieval tasks are taken;
            or what `load_tasks` made of these.
        output_dir: Folder for `summary.json`, `per_query/<task>.json` and mteb's own `mteb/<task>.json`. Beside
            them, `by_model/` keeps all scores by weights, data and versions: a rerun goes on with the missing tasks.
        judging: How the judgements of folders are taken.
        batch_size: Texts that the model sees at once.
        show_progress_bar: Whether to show progress.

    Returns:
        The scores by task name; nothing on processes other than the main one.

    Raises:
        ValueError: If a task, the size or the folder is at fault; before anything is encoded.
        DivergedError: If a weight or a vector of the model is not finite.
        ConnectionError: If the data of a named task cannot be had; at the first such task.
    """
    batch_size = as_count("batch_size", batch_size)
    if output_dir is not None:
        refuse_rows(output_dir)
    loaded = tasks if isinstance(tasks, Mapping) else load_tasks(tasks, judging)

    def evaluate_all() -> dict[str, TaskScores]:
        check_weights(model)
        tell_prompts(model, [*loaded.values()])
        store = None if output_dir is None else ScoreStore(output_dir, fingerprint_model(model))
        if store:
            store.begin(loaded)
        scores: dict[str, TaskScores] = {}
        raw: dict[str, dict[str, Any]] = {}
        for name, task in loaded.items():
            kept = store.load(name, task) if store and not task.is_aggregate else None
            if task.is_aggregate:
                kept = _aggregate(task, scores, raw)
                if store:
                    store.save(name, task, kept)
            elif kept is None:
                with checking_vectors(model):
                    kept = _run_task(model, name, task, batch_size, show_progress_bar)
                if store:
                    store.save(name, task, kept)
            scores[name], raw[name] = kept
            if store:
                store.publish(scores, name, kept[1])
        return scores

    return ProcessGroup.current("evaluate").once(evaluate_all, {})


def _aggregate(
    task: Any, scores: dict[str, TaskScores], raw: dict[str, dict[str, Any]]
) -> tuple[TaskScores, dict[str, Any]]:
    """Return the scores of a task that aggregates others: the mean of their means, as mteb has it."""
    from mteb import TaskResult

    parts = list_aggregated(task)
    combined = task.combine_task_results([TaskResult.model_validate(raw[part]) for part in parts])
    mean = fmean(scores[part].ndcg_at_10 for part in parts)
    per_query = {f"{part}/{query}": one for part in parts for query, one in scores[part].per_query.items()}
    return TaskScores(per_query, mean, parts), json.loads(combined.model_dump_json())


def _run_task(
    model: SentenceTransformer | SparseEncoder, name: str, task: Any, batch_size: int, show_progress_bar: bool
) -> tuple[TaskScores, dict[str, Any]]:
    import mteb

    by_subset: dict[tuple[str, str], dict[str, float]] = {}
    own_scores = task.task_specific_scores

    def keep_queries(
        scores: dict[str, Any], qrels: dict[str, Any], results: dict[str, Any], hf_split: str, hf_subset: str
    ) -> dict[str, float]:
        # mteb passes pytrec_eval's scores of every query to this function, and keeps the rounded mean alone.
        by_subset[hf_split, hf_subset] = {query: float(one["ndcg_cut_10"]) for query, one in scores.items()}
        specific: dict[str, float] = own_scores(scores, qrels, results, hf_split, hf_subset)
        return specific

    if is_official(task):
        probe_hub(f"the data of {name}", REMEDY)
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
    """Join the queries of all splits and subsets, and check that mteb has the same mean."""
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
