"""Scores of models on disk: those of the last evaluation at the top, and all by weights, data and versions."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

from st_cluster_batches.data.naming import name_file, show_line
from st_cluster_batches.evaluation.tasks import identify_task
from st_cluster_batches.storage.cache import read_json, write_atomically

logger = logging.getLogger(__name__)

SUMMARY_FILE = "summary.json"
BY_MODEL_FOLDER = "by_model"


@dataclass(frozen=True)
class TaskScores:
    """nDCG@10 of a model on one task.

    Args:
        per_query: nDCG@10 of every query that mteb averages over. Queries of a task with several splits or subsets
            have these before their id.
        ndcg_at_10: Mean over queries; for several splits or subsets the mean of their means, as mteb has it.
        parts: The tasks that it aggregates, if any.
    """

    per_query: dict[str, float]
    ndcg_at_10: float
    parts: list[str] = field(default_factory=list)

    @property
    def queries(self) -> int:
        """Number of queries that were evaluated."""
        return len(self.per_query)


def summarise_scores(scores: dict[str, TaskScores]) -> dict[str, Any]:
    """Return what `summary.json` holds: nDCG@10 and the number of queries by task, and the parts of an aggregate."""
    return {
        name: {
            "ndcg_at_10": one.ndcg_at_10,
            "queries": one.queries,
            **({"parts": one.parts} if one.parts else {}),
        }
        for name, one in scores.items()
    }


def describe_scores(scores: dict[str, Any]) -> str:
    """Return what `summarise_scores` gives as a table for a terminal."""
    if not scores:
        return ""
    lines = [f"{'task':<32}{'queries':>10}{'nDCG@10':>10}"]
    lines += [
        f"{show_line(task, 31):<32}{one['queries']:>10,}{one['ndcg_at_10']:>10.4f}" for task, one in scores.items()
    ]
    parts = {part for one in scores.values() for part in one.get("parts", ())}  # they count in their aggregate
    mean = fmean(one["ndcg_at_10"] for task, one in scores.items() if task not in parts)
    return "\n".join([*lines, f"{'mean':<32}{'':>10}{mean:>10.4f}\n"])


class ScoreStore:
    """The output folder of `evaluate`.

    Args:
        folder: The output folder of `evaluate`.
        fingerprint: Hash of the model, by `fingerprint_model`.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder
        self.fingerprint = fingerprint

    def load(self, name: str, task: Any) -> tuple[TaskScores, dict[str, Any]] | None:
        """Return the scores of the same weights on the same data, and mteb's own result; None if there are none."""
        path = self._path(name)
        content = _read_undamaged(path, "the task is evaluated again")
        if content is None or content["key"] != self._key(task):
            return None
        logger.info("%s has been evaluated with this model before", name)
        return TaskScores(**content["scores"]), content["mteb"]

    def save(self, name: str, task: Any, result: tuple[TaskScores, dict[str, Any]]) -> None:
        """Keep a result for later evaluations of the same weights on the same data."""
        content = {"key": self._key(task), "scores": asdict(result[0]), "mteb": result[1]}
        _write_json(self._path(name), content)

    def publish(self, scores: dict[str, TaskScores], name: str, raw: dict[str, Any]) -> None:
        """Write the newest result, and the summary of all so far."""
        _write_json(self.folder / "per_query" / f"{name_file(name)}.json", scores[name].per_query)
        _write_json(self.folder / "mteb" / f"{name_file(name)}.json", raw)
        _write_json(self.folder / SUMMARY_FILE, summarise_scores(scores))

    def begin(self, tasks: Iterable[str]) -> None:
        """Remove what the last call left outside `by_model/`: if this one fails, it passes for nothing of this model.

        Args:
            tasks: The names of all that is to be evaluated; a warning tells of other tasks that had results.
        """
        summary = self.folder / SUMMARY_FILE
        earlier = _read_undamaged(summary, "it is written anew") or {}
        if others := [name for name in earlier if name not in {*tasks}]:
            logger.warning(
                "%s had results of %s, which this call does not evaluate, and gets those of this call alone: name all "
                "tasks in one call, or give another output folder. What has been evaluated stays in %s/, and is not "
                "evaluated again",
                self.folder,
                ", ".join(others),
                BY_MODEL_FOLDER,
            )
        for path in [summary, *self.folder.glob("per_query/*.json"), *self.folder.glob("mteb/*.json")]:
            path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / BY_MODEL_FOLDER / self.fingerprint[:16] / f"{name_file(name)}.json"

    def _key(self, task: Any) -> dict[str, Any]:
        versions = {name: version(name) for name in ("mteb", "sentence-transformers")}
        return {"model": self.fingerprint, "task": identify_task(task), "versions": versions}


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _read_undamaged(path: Path, remedy: str) -> Any:
    """Read a file of JSON; None if it is not there, and, with a warning, if a full disk or a copy has cut it off."""
    try:
        return read_json(path) if path.is_file() else None
    except ValueError as error:
        logger.warning("%s; %s", error, remedy)
        return None
