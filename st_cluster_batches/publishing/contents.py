"""The contents of a card: what training, evaluation and comparison left on disk, without paths and tokens."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from transformers.trainer import TRAINER_STATE_NAME

from st_cluster_batches.batches.card_block import PLAN_FILE, find_strategy
from st_cluster_batches.clusters.artefact import has_clustering, read_manifest
from st_cluster_batches.clusters.choice import CHOICE_FILE
from st_cluster_batches.clusters.description import name_strategy
from st_cluster_batches.clusters.fingerprint import fingerprint_model
from st_cluster_batches.data.holdout import HELD_OUT_FOLDER
from st_cluster_batches.data.naming import name_file, name_files
from st_cluster_batches.evaluation.report import read_results
from st_cluster_batches.evaluation.scores import BY_MODEL_FOLDER, SUMMARY_FILE
from st_cluster_batches.publishing.other_training import list_differences
from st_cluster_batches.refresh.folder import list_checkpoints
from st_cluster_batches.storage.cache import read_json
from st_cluster_batches.training.folder import (
    ATTACHED_FILE,
    CLUSTERING_FOLDER,
    EVALUATION_FOLDER,
    GUIDED_FILE,
    HUB_IDS_FILE,
    MODEL_FOLDER,
    RECIPE_FILE,
    STARTED_FILE,
    is_run,
    publish_values,
    publish_words,
)

logger = logging.getLogger(__name__)

RESULTS = "results"
PUBLISHED_CHOICE = f"{RESULTS}/{CHOICE_FILE}"


@dataclass(frozen=True)
class ModelScores:
    """Results of `evaluate` for one model.

    Args:
        summary: nDCG@10 and number of queries by task.
        per_query: nDCG@10 of every query by task.
        raw: mteb's own results by task.
        held_out: Tasks that are pairs held out of the training data.
    """

    summary: dict[str, dict[str, Any]]
    per_query: dict[str, dict[str, float]]
    raw: dict[str, dict[str, Any]]
    held_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class CardContents:
    """All that the card of a model can say, without paths and tokens of the machine that it was trained on.

    Args:
        recipe: What `train` was given, if it was a recipe.
        plans: What the batches of one epoch were made of, one for each dataset.
        clustering: Manifest of the clustering.
        clustering_folder: Where it lies with its centroids.
        scores: The model's own.
        comparison: `results.json` of `compare`.
        steps: Of a checkpoint from before the end of the training: its step, and how many there were.
        guided: Lines on what the guide did, where the loss had one.
        resumed_from: The step that the training last went on from, if it was resumed.
        attached: Manifests of the clusterings that had labelled the pairs before, whose centroids are elsewhere.
    """

    recipe: dict[str, Any] = field(default_factory=dict)
    plans: list[dict[str, Any]] = field(default_factory=list)
    clustering: dict[str, Any] | None = None
    clustering_folder: Path | None = None
    scores: ModelScores | None = None
    comparison: dict[str, Any] | None = None
    steps: tuple[int, int] | None = None
    guided: list[str] = field(default_factory=list)
    resumed_from: int | None = None
    attached: list[dict[str, Any]] = field(default_factory=list)

    @property
    def choice(self) -> dict[str, Any] | None:
        """What `tune` chose, if the clusters are of that."""
        return None if self.clustering is None else self.clustering.get("tuned")

    @property
    def published_recipe(self) -> dict[str, Any]:
        """The recipe, which names the choice where it is published."""
        named = {"tuned": PUBLISHED_CHOICE} if self.choice is not None and "tuned" in self.recipe else {}
        return {**self.recipe, **named}

    @property
    def strategy(self) -> str | None:
        """The batch strategy: `random`, `source`, `cluster`, or another column that batches share; None if unknown."""
        named = find_strategy(self.plans) or (self.setting("batch_sampler", "cluster") if self.recipe else None)
        return name_strategy(named, self.attached if self.clustering is None else [self.clustering])

    @property
    def other_training(self) -> list[str]:
        """What the comparison trains otherwise than this model was trained, if both have a recipe."""
        return list_differences(self.recipe, self.comparison)

    def setting(self, key: str, default: str | None = None) -> str | None:
        """Return the value of a recipe's key as text."""
        value = self.recipe.get(key, default)
        return None if value is None else str(value)


def read_contents(model: Path, scores: Path | None = None, comparison: Path | None = None) -> CardContents:
    """Read what training left in a model's folder, or in the folder above it.

    Args:
        model: Folder of the model.
        scores: Output folder of `evaluate`, if it is another one.
        comparison: Output folder of `compare`.

    Raises:
        FileNotFoundError: If a folder that is named holds no such thing.
        ValueError: If the scores belong to other weights.
    """
    about = _read_comparison(comparison) if comparison is not None else None
    if scores is not None and not (scores / SUMMARY_FILE).is_file():
        raise FileNotFoundError(f"{scores} has no {SUMMARY_FILE}; `st-cluster-batches evaluate` writes it")
    run = _find_run(model)
    if run is not None and (run / STARTED_FILE).exists() and not (run / RECIPE_FILE).exists():
        raise ValueError(
            f"The last run in {run} is not finished, and {model} is of one before it, if of any. Finish it: "
            "st-cluster-batches train RECIPE --resume_from_checkpoint true; or move the model to a folder of its own"
        )
    steps = _read_steps(model)
    # `train` evaluates the last weights, not those of a checkpoint.
    evaluation = scores or (run / EVALUATION_FOLDER if run and steps is None else None)
    clustering = run / CLUSTERING_FOLDER if run else None
    clustering = clustering if clustering is not None and has_clustering(clustering) else None
    contents = CardContents(
        _read_recipe(run) if run and (run / RECIPE_FILE).exists() else {},
        read_json(run / PLAN_FILE) if run and (run / PLAN_FILE).exists() else [],
        read_manifest(clustering) if clustering else None,
        clustering,
        _read_scores(evaluation, model, run) if evaluation and (evaluation / SUMMARY_FILE).is_file() else None,
        about,
        steps,
        read_json(run / GUIDED_FILE) if run and (run / GUIDED_FILE).exists() else [],
        read_json(run / STARTED_FILE).get("resumed_from") if run and (run / STARTED_FILE).exists() else None,
        read_json(run / ATTACHED_FILE) if run and (run / ATTACHED_FILE).exists() else [],
    )
    if contents.steps:
        logger.warning("%s is of step %d of %d, and the card says so", model, *contents.steps)
    if contents.other_training:
        text = "The recipe of %s is not that of the runs in %s, and the card says so: %s"
        logger.warning(text, model, comparison, "; ".join(contents.other_training))
    return contents


def _find_run(model: Path) -> Path | None:
    """Return the folder of the run that a model is of: its own or the one above, where a run has left its files.

    A recipe alone is no such file: people keep theirs beside other models.
    """
    for folder in (model, model.parent):
        is_trained = is_run(folder)
        # `train` names the folders of its models; what other folders beside them hold is not of this run.
        is_own = folder == model or model.name == MODEL_FOLDER or model in list_checkpoints(folder).values()
        if (is_trained and is_own) or (not is_trained and (folder / PLAN_FILE).exists()):
            return folder
    return None


def _read_steps(model: Path) -> tuple[int, int] | None:
    """Return at which step of how many a checkpoint was saved; None for the last, or for no checkpoint."""
    if not (model / TRAINER_STATE_NAME).is_file():
        return None
    state = read_json(model / TRAINER_STATE_NAME)
    step, last = int(state["global_step"]), int(state["max_steps"])
    return (step, last) if step < last else None


def _read_recipe(run: Path) -> dict[str, Any]:
    """Return the recipe of a run; runs of earlier versions do not know which names were Hub ids."""
    ids = read_json(run / HUB_IDS_FILE) if (run / HUB_IDS_FILE).exists() else []
    return publish_values(yaml.safe_load((run / RECIPE_FILE).read_text(encoding="utf-8")), ids)


def _read_comparison(folder: Path) -> dict[str, Any]:
    """Return the results of a comparison, whose recipe alone holds what people wrote."""
    results = read_results(folder)
    ids = results.get("hub_ids", [])
    if "recipe" in results:
        results["recipe"] = publish_values(results["recipe"], ids)
        results["overrides"] = publish_words(results.get("overrides", []), ids)
    return results


def _read_scores(folder: Path, model: Path, run: Path | None) -> ModelScores:
    # It takes seconds to import, and is not needed where there are no scores.
    from st_cluster_batches.training.models import load_saved

    summary = read_json(folder / SUMMARY_FILE)
    known = [path.name for path in (folder / BY_MODEL_FOLDER).glob("*")]
    own = fingerprint_model(load_saved(model))[:16]
    wanted = {task: folder / BY_MODEL_FOLDER / own / f"{name_file(task)}.json" for task in summary}
    if missing := [task for task, path in wanted.items() if not path.is_file()]:
        raise ValueError(
            f"The scores on {missing[0]} in {folder} are of other weights ({', '.join(known) or 'unknown'}) than "
            f"those of {model} ({own}); evaluate it: st-cluster-batches evaluate {model} --tasks ... --output {folder}"
        )
    kept = {task: read_json(path) for task, path in wanted.items()}
    return ModelScores(
        {
            task: {"ndcg_at_10": one["scores"]["ndcg_at_10"], "queries": len(one["scores"]["per_query"])}
            for task, one in kept.items()
        },
        {task: one["scores"]["per_query"] for task, one in kept.items()},
        {task: one["mteb"] for task, one in kept.items()},
        tuple(task for task, file in name_files(kept).items() if run and (run / HELD_OUT_FOLDER / file).is_dir()),
    )
