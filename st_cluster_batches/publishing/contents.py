"""What is known of a trained model: the files that training, evaluation and comparison left, without places."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from st_cluster_batches.clusters.clustering import CENTROIDS_FILE, MANIFEST_FILE
from st_cluster_batches.clusters.encoder import STATIC_PREFIX, fingerprint_model
from st_cluster_batches.evaluation.report import RESULTS_FILE

PLAN_FILE = "batch_plan.json"
RECIPE_FILE = "recipe.yaml"
CLUSTERING_FOLDER = "clustering"
EVALUATION_FOLDER = "evaluation"
SUMMARY_FILE = "summary.json"

# Keys that say where things lie on one machine, or who may write to the Hub.
_PRIVATE_KEYS = {"data_dir", "output_dir", "cache_dir", "logging_dir", "hub_token", "push_to_hub_token", "run_name"}
_PLACE = re.compile(r"(/|~|\./|\.\./|[A-Za-z]:[\\/])")


@dataclass(frozen=True)
class Scores:
    """Results of `evaluate` for one model.

    Args:
        summary: nDCG@10 and number of queries by task.
        per_query: nDCG@10 of every query by task.
        raw: mteb's own results by task.
    """

    summary: dict[str, dict[str, Any]]
    per_query: dict[str, dict[str, float]]
    raw: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Evidence:
    """All that a card can say of a model, with nothing of the machine it was made on.

    Args:
        recipe: What `train` was given, if it was a recipe.
        plans: What the batches of one epoch were made of, one for each dataset.
        clustering: Manifest of the clustering.
        clustering_folder: Where it lies with its centroids.
        scores: The model's own.
        comparison: `results.json` of `compare`.
    """

    recipe: dict[str, Any] = field(default_factory=dict)
    plans: list[dict[str, Any]] = field(default_factory=list)
    clustering: dict[str, Any] | None = None
    clustering_folder: Path | None = None
    scores: Scores | None = None
    comparison: dict[str, Any] | None = None

    @property
    def strategy(self) -> str | None:
        """Who shared a batch: `random` rows, one `source`, one `cluster`, or other columns; None if unknown."""
        if self.plans:
            columns = list(self.plans[0]["strata"].values())[-1]
            return str(columns[-1])
        return self.setting("batch_sampler", "cluster") if self.recipe else None

    def setting(self, key: str, default: str | None = None) -> str | None:
        """Return the value of a recipe's key as text."""
        value = self.recipe.get(key, default)
        return None if value is None else str(value)


def read_evidence(model: Path, scores: Path | None = None, comparison: Path | None = None) -> Evidence:
    """Read what lies in a model's folder, or in the folder above it, where training leaves it.

    Args:
        model: Folder of the model.
        scores: Output folder of `evaluate`, if it is another one.
        comparison: Output folder of `compare`.

    Raises:
        FileNotFoundError: If a folder that is named holds no such thing.
        ValueError: If the scores are those of other weights.
    """
    if comparison is not None and not (comparison / RESULTS_FILE).is_file():
        raise FileNotFoundError(f"{comparison} has no {RESULTS_FILE}; `st-cluster-batches compare` writes it")
    if scores is not None and not (scores / SUMMARY_FILE).is_file():
        raise FileNotFoundError(f"{scores} has no {SUMMARY_FILE}; `st-cluster-batches evaluate` writes it")
    run = next(
        (one for one in (model, model.parent) if (one / PLAN_FILE).exists() or (one / RECIPE_FILE).exists()), None
    )
    evaluation = scores or (run / EVALUATION_FOLDER if run else None)
    clustering = run / CLUSTERING_FOLDER if run else None
    if clustering is None or not all((clustering / file).is_file() for file in (MANIFEST_FILE, CENTROIDS_FILE)):
        clustering = None
    recipe = yaml.safe_load((run / RECIPE_FILE).read_text()) if run and (run / RECIPE_FILE).exists() else {}
    return Evidence(
        hide_places(recipe),
        json.loads((run / PLAN_FILE).read_text()) if run and (run / PLAN_FILE).exists() else [],
        hide_places(json.loads((clustering / MANIFEST_FILE).read_text())) if clustering else None,
        clustering,
        _read_scores(evaluation, model) if evaluation and (evaluation / SUMMARY_FILE).is_file() else None,
        hide_places(json.loads((comparison / RESULTS_FILE).read_text())) if comparison else None,
    )


def hide_places(value: Any) -> Any:
    """Replace paths by names, and leave out the keys that hold folders or tokens, in JSON values of any depth."""
    if isinstance(value, dict):
        return {key: hide_places(one) for key, one in value.items() if key not in _PRIVATE_KEYS}
    if isinstance(value, list):
        return [hide_places(one) for one in _drop_private_words(value)]
    if not isinstance(value, str):
        return value
    flag = re.match(r"--[\w-]+=", value)
    prefix = flag[0] if flag else STATIC_PREFIX if value.startswith(STATIC_PREFIX) else ""
    if prefix.startswith("--"):
        return prefix + hide_places(value.removeprefix(prefix))
    rest = value.removeprefix(prefix)
    return prefix + re.split(r"[\\/]", rest.rstrip("\\/"))[-1] if _PLACE.match(rest) and " " not in rest else value


def _drop_private_words(values: Sequence[Any]) -> list[Any]:
    """Leave out `--output_dir DIR` and its like from words of a command line."""
    kept: list[Any] = []
    skipping = False
    for value in values:
        is_flag = isinstance(value, str) and value.startswith("--")
        if is_flag:
            name = value[2:].split("=")[0].replace("-", "_")
            skipping = name in _PRIVATE_KEYS and "=" not in value
            if name in _PRIVATE_KEYS:
                continue
        elif skipping:
            continue
        kept.append(value)
    return kept


def _read_scores(folder: Path, model: Path) -> Scores:
    summary = json.loads((folder / SUMMARY_FILE).read_text())
    known = [path.name for path in (folder / "by_model").glob("*")]
    own = fingerprint_model(load_saved(model))[:16]
    wanted = {task: folder / "by_model" / own / f"{task}.json" for task in summary}
    if missing := [task for task, path in wanted.items() if not path.is_file()]:
        raise ValueError(
            f"The scores on {missing[0]} in {folder} are of other weights ({', '.join(known) or 'unknown'}) than "
            f"those of {model} ({own}); evaluate it: st-cluster-batches evaluate {model} --tasks ... --output {folder}"
        )
    kept = {task: json.loads(path.read_text()) for task, path in wanted.items()}
    return Scores(
        {
            task: {"ndcg_at_10": one["scores"]["ndcg_at_10"], "queries": len(one["scores"]["per_query"])}
            for task, one in kept.items()
        },
        {task: one["scores"]["per_query"] for task, one in kept.items()},
        {task: one["mteb"] for task, one in kept.items()},
    )


def load_saved(folder: Path) -> Any:
    """Load a model that has been saved, of whichever kind, without asking the Hub for anything.

    Args:
        folder: Folder of the model.

    Returns:
        A SentenceTransformer or a SparseEncoder.
    """
    from sentence_transformers import SentenceTransformer, SparseEncoder

    config = folder / "config_sentence_transformers.json"
    kind = json.loads(config.read_text()).get("model_type") if config.is_file() else None
    model = SparseEncoder if kind == "SparseEncoder" else SentenceTransformer
    return model(str(folder), device="cpu", local_files_only=True)
