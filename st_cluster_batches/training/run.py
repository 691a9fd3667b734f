"""From a recipe to a trained model: a stock trainer, filled in."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from datasets import Dataset, DatasetDict
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SparseEncoder,
    SparseEncoderTrainer,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from transformers import TrainerCallback

from st_cluster_batches.batches.card_block import (
    PLAN_FILE,
    carry_block,
    choose_tags,
    describe_batches,
    find_strategy,
)
from st_cluster_batches.clusters.clustering import Clustering
from st_cluster_batches.clusters.description import describe_clustering, name_strategy
from st_cluster_batches.columns import FALSE_NEGATIVE_KEYS, LABEL_COLUMNS, SOURCE, list_parts, map_parts
from st_cluster_batches.data.holdout import HELD_OUT_FOLDER
from st_cluster_batches.losses.guided import Guided
from st_cluster_batches.storage.cache import read_json, write_atomically
from st_cluster_batches.training.checks import load_checked_model
from st_cluster_batches.training.finite import check_weights
from st_cluster_batches.training.folder import (
    ATTACHED_FILE,
    CLUSTERING_FOLDER,
    GUIDED_FILE,
    HUB_IDS_FILE,
    MODEL_FOLDER,
    RECIPE_FILE,
    describe_recipe,
    find_hub_ids,
    publish_values,
)
from st_cluster_batches.training.idle import tell_of_idle_clusters
from st_cluster_batches.training.models import build_loss
from st_cluster_batches.training.pairs import (
    find_labels,
    label_pairs,
    list_manifests,
    list_trained,
    load_pairs,
    tell_of_idle_threshold,
)
from st_cluster_batches.training.prior_measurements import follow_choice, measure_start, warn_of_other_trials
from st_cluster_batches.training.prompts import warn_of_unused_prompts
from st_cluster_batches.training.recipe import Recipe
from st_cluster_batches.training.resuming import begin, find_resumed, hash_pairs, refuse_other_pairs
from st_cluster_batches.training.trainer_arguments import TrainingArguments

if TYPE_CHECKING:
    from transformers import TrainerState

logger = logging.getLogger(__name__)


class _TakingOver(TrainerCallback):  # type: ignore[misc]  # the host library has no types
    """Gives the folder to a run that begins, after the callback of the plan: a refused one leaves it as it was."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Take the folder over from the run before, once the batches have been compared with its own."""
        if state.is_world_process_zero:
            self.run.take_over()


@dataclass
class Run:
    """A run that is ready to start."""

    trainer: SentenceTransformerTrainer | SparseEncoderTrainer
    clustering: Clustering | None
    recipe: Recipe
    hub_ids: list[str]
    checkpoint: str | None = None
    texts: list[str] = field(default_factory=list)

    def train(self) -> Path:
        """Train and save.

        Returns:
            The folder of the model; beside it lie the recipe, what the batches were made of, and the clustering.

        Raises:
            DivergedError: If the weights have become NaN; nothing is saved.
        """
        arguments = self.recipe.training
        output = Path(arguments.output_dir)
        target = output / MODEL_FOLDER
        is_main = self.trainer.is_world_process_zero()
        self.trainer.add_callback(_TakingOver(self))
        arguments.resume_from_checkpoint = None  # no parameter of the model, as a card would have it
        self.trainer.train(resume_from_checkpoint=self.checkpoint)
        check_weights(self.trainer.model)  # before they are saved or pushed: the trainer's log hides a loss of NaN
        if is_main:
            self._tell_card(output / PLAN_FILE)
        if arguments.push_to_hub:
            self.trainer.push_to_hub()
            arguments.push_to_hub = False  # saving would push once more, and the model twice
        self.trainer.save_model(str(target))
        if is_main:
            write_atomically(
                output / RECIPE_FILE, yaml.safe_dump(self.recipe.given, sort_keys=False, allow_unicode=True)
            )
            write_atomically(output / HUB_IDS_FILE, json.dumps(self.hub_ids) + "\n")
            if self.clustering is not None:
                self.clustering.save(output / CLUSTERING_FOLDER)
        return target

    def look_at_start(self, dataset: Dataset | DatasetDict) -> None:
        """Warn where the model is not what its batches were tuned for, its guide is weaker, or its prompts are idle.

        Args:
            dataset: The labelled training pairs.
        """
        columns = list_trained(list_parts(dataset)[0], find_labels(dataset, self.recipe.data))
        warn_of_unused_prompts(self.trainer.model, columns, self.recipe)
        warn_of_other_trials(self.trainer.model, self.recipe)
        measure_start(self.trainer.model, dataset, self.clustering, self.recipe)

    def take_over(self) -> None:
        """Remove what would be taken for this run's, or be pushed with it: a trainer pushes its whole folder."""
        output = Path(self.recipe.training.output_dir)
        if self.recipe.training.strategy == "stock":  # others have written theirs by now
            (output / PLAN_FILE).unlink(missing_ok=True)
        shutil.rmtree(output / CLUSTERING_FOLDER, ignore_errors=True)
        # Without its recipe a run counts as unfinished, also if the model of one before it is there.
        (output / RECIPE_FILE).unlink(missing_ok=True)
        for file in (ATTACHED_FILE, HUB_IDS_FILE, GUIDED_FILE):
            (output / file).unlink(missing_ok=True)
        if self.recipe.training.push_to_hub:
            shutil.rmtree(output / MODEL_FOLDER, ignore_errors=True)
        begin(self.recipe, self.checkpoint, self.texts)

    def _tell_card(self, plan: Path) -> None:
        """Let the model's card tell all that is known of the run."""
        plans = read_json(plan) if plan.is_file() else []
        strategy: str | None = find_strategy(plans) or self.recipe.training.strategy
        reads_labels = strategy == "cluster" or isinstance(self.trainer.loss, Guided)
        is_attached = self.clustering is None
        manifests = list_manifests(self.recipe, self.clustering) if reads_labels or not is_attached else []
        if manifests and is_attached:
            write_atomically(plan.with_name(ATTACHED_FILE), json.dumps(manifests) + "\n")
        strategy = name_strategy(strategy, manifests)
        lines = describe_batches(strategy, plans)
        for manifest in manifests:
            lines += describe_clustering(manifest, has_centroids=not is_attached)
        if isinstance(self.trainer.loss, Guided):
            guided = self.trainer.loss.describe()
            write_atomically(plan.with_name(GUIDED_FILE), json.dumps(guided, indent=1) + "\n")
            lines += guided
        lines += describe_recipe(publish_values(self.recipe.given, self.hub_ids))
        carry_block(self.trainer.model, lines, choose_tags(strategy))


def prepare_run(recipe: Recipe) -> tuple[Run, list[str]]:
    """Load the data, label it if the strategy needs it, and build the trainer.

    Args:
        recipe: All parameters.

    Returns:
        A run whose every input has been checked, and the tasks to evaluate the model on.

    Raises:
        ValueError: If data and parameters do not fit.
        FileNotFoundError: If a file is missing.
    """
    checkpoint = find_resumed(recipe)
    tell_of_idle_clusters(recipe)
    dataset, tasks = load_pairs(recipe, Path(recipe.training.output_dir) / HELD_OUT_FOLDER)
    texts = hash_pairs(dataset)
    refuse_other_pairs(checkpoint, texts)
    model = load_checked_model(recipe, dataset)
    tell_of_idle_threshold(dataset, recipe)
    labelled, clustering = label_pairs(dataset, recipe)
    run = build_run(recipe, labelled, clustering, model)
    run.look_at_start(labelled)
    return replace(run, checkpoint=checkpoint, texts=texts), tasks


def build_run(
    recipe: Recipe,
    dataset: Dataset | DatasetDict,
    clustering: Clustering | None = None,
    model: SentenceTransformer | SparseEncoder | None = None,
) -> Run:
    """Build the trainer of a recipe on pairs that are ready.

    Args:
        recipe: All parameters.
        dataset: The training pairs, labelled if the strategy needs it; left as they are.
        clustering: What labelled them, to be kept with the model.
        model: The model to be trained, from `load_checked_model`; loaded here by default.

    Returns:
        A run whose labels and batch size have been checked.

    Raises:
        ValueError: If model, pairs and options do not fit.
    """
    model = load_checked_model(recipe, dataset) if model is None else model
    # Copies, since samplers hide the label columns of the dataset they are given.
    plain: Dataset | DatasetDict = map_parts(dataset, lambda part: part.with_format(None))
    labels = find_labels(plain, recipe.data)
    trainer = build_trainer(model, plain, recipe.training, build_loss(model, follow_choice(recipe), plain), labels)
    # Asking for the length makes a sampler check its labels and the batch size, before any training.
    logger.info("%d batches an epoch", len(trainer.get_train_dataloader()))
    return Run(trainer, clustering, recipe, find_hub_ids(recipe))


def build_trainer(
    model: SentenceTransformer | SparseEncoder,
    dataset: Dataset | DatasetDict,
    arguments: TrainingArguments,
    loss: torch.nn.Module | None = None,
    labels: Sequence[str] = LABEL_COLUMNS,
) -> SentenceTransformerTrainer | SparseEncoderTrainer:
    """Build a stock trainer.

    Args:
        model: The model to train.
        dataset: Pairs or longer tuples; of their label columns those are dropped that the strategy is not to see.
        arguments: The trainer's arguments with a strategy.
        loss: A loss; the in-batch negatives loss by default.
        labels: The columns that are labels; the others are trained on.

    Returns:
        A trainer that is ready to train.
    """
    if arguments.strategy in ("random", "stock"):
        kept = [FALSE_NEGATIVE_KEYS] if arguments.strategy == "random" else []
        kept += [SOURCE] if arguments.refresh_every is not None else []  # clusters to come lie within sources
        # A collator would take what is left for texts.
        dropped = {*labels} - {*kept}
        dataset = map_parts(dataset, lambda part: part.remove_columns(sorted(dropped & {*part.column_names})))
    trainer = SparseEncoderTrainer if isinstance(model, SparseEncoder) else SentenceTransformerTrainer
    return trainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        loss=MultipleNegativesRankingLoss(model) if loss is None else loss,
    )
