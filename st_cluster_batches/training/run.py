"""From a recipe to a trained model: a stock trainer, filled in."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import PartialState
from datasets import Dataset, DatasetDict
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SparseEncoder,
    SparseEncoderTrainer,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from st_cluster_batches.batches.card_block import (
    PLAN_FILE,
    carry_block,
    choose_tags,
    describe_batches,
    find_strategy,
)
from st_cluster_batches.batches.sources import has_source_labels
from st_cluster_batches.clusters.attach import cluster_dataset
from st_cluster_batches.clusters.clustering import Clustering
from st_cluster_batches.clusters.description import describe_clustering
from st_cluster_batches.columns import CLUSTER, LABEL_COLUMNS, SOURCE
from st_cluster_batches.data.holdout import HELD_OUT_FOLDER, hold_out
from st_cluster_batches.data.loading import Choice, load_training_data
from st_cluster_batches.data.meaning import check_meaning
from st_cluster_batches.data.naming import name_files
from st_cluster_batches.data.roles import Columns, find_roles, select_roles, tell_roles
from st_cluster_batches.data.sources import read_sources, refuse_text
from st_cluster_batches.storage.cache import write_atomically
from st_cluster_batches.training.folder import (
    CLUSTERING_FOLDER,
    MODEL_FOLDER,
    RECIPE_FILE,
    describe_recipe,
    hide_places,
)
from st_cluster_batches.training.models import build_loss, load_model
from st_cluster_batches.training.recipe import Recipe, TrainingArguments

logger = logging.getLogger(__name__)


@dataclass
class Run:
    """A run that is ready to start."""

    trainer: SentenceTransformerTrainer | SparseEncoderTrainer
    clustering: Clustering | None
    recipe: Recipe

    def train(self) -> Path:
        """Train and save.

        Returns:
            The folder of the model; beside it lie the recipe, what the batches were made of, and the clustering.
        """
        arguments = self.recipe.training
        output = Path(arguments.output_dir)
        target = output / MODEL_FOLDER
        is_main = self.trainer.is_world_process_zero()
        if is_main:
            self._remove_earlier_run(output, target)
        resume = arguments.resume_from_checkpoint  # a folder, or what YAML and a flag make of a switch
        self.trainer.train(resume_from_checkpoint={"True": True, "False": None}.get(str(resume).title(), resume))
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
            if self.clustering is not None:
                self.clustering.save(output / CLUSTERING_FOLDER)
        return target

    def _remove_earlier_run(self, output: Path, target: Path) -> None:
        """Remove what would be taken for this run's, or be pushed with it: a trainer pushes its whole folder."""
        (output / PLAN_FILE).unlink(missing_ok=True)
        shutil.rmtree(output / CLUSTERING_FOLDER, ignore_errors=True)
        if self.recipe.training.push_to_hub:
            shutil.rmtree(target, ignore_errors=True)
            (output / RECIPE_FILE).unlink(missing_ok=True)

    def _tell_card(self, plan: Path) -> None:
        """Let the model's card tell all that is known of the run."""
        plans = json.loads(plan.read_text(encoding="utf-8")) if plan.is_file() else []
        strategy = find_strategy(plans) or self.recipe.training.strategy
        lines = describe_batches(strategy, plans)
        if self.clustering is not None:
            lines += describe_clustering(hide_places(self.clustering.manifest))
        lines += describe_recipe(hide_places(self.recipe.given))
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
    dataset, tasks = load_pairs(recipe, Path(recipe.training.output_dir) / HELD_OUT_FOLDER)
    labelled, clustering = label_pairs(dataset, recipe)
    return build_run(recipe, labelled, clustering), tasks


def load_pairs(recipe: Recipe, held_out: Path) -> tuple[Dataset | DatasetDict, list[str]]:
    """Load the training pairs, and say what the trained model is to be evaluated on.

    Args:
        recipe: All parameters.
        held_out: Folder for collections that are held out of the pairs, if the recipe asks for them.

    Returns:
        The pairs, and the tasks: the recipe's own, or the held-out collections.

    Raises:
        ValueError: If datasets do not fit together.
        FileNotFoundError: If a file is missing.
    """
    data, seed = recipe.data, recipe.training.data_seed or 0
    choice = Choice(
        data.split,
        data.config,
        data.revision,
        data.find(data.queries),
        data.find(data.corpus),
        data.positive_label,
        data.max_negatives,
        None if recipe.clusters.cache_dir is None else str(Path(recipe.clusters.cache_dir) / "rows"),
    )
    has_sources = SOURCE not in (data.columns or ())
    dataset = load_training_data(data.train_data, data.data_dir, data.max_rows_per_source, seed, has_sources, choice)
    dataset = _choose_columns(dataset, data.columns)
    if data.held_out_queries is None:
        return dataset, data.find_tasks()
    if isinstance(dataset, DatasetDict):
        raise ValueError("held_out_queries needs one dataset with a `source` column, not a DatasetDict")
    dataset, collections = hold_out(dataset, data.held_out_queries, data.held_out_documents, seed, data.columns)
    folders = name_files(collections)
    with PartialState().main_process_first():
        for name, collection in collections.items():
            collection.write(held_out / folders[name], name)
    return dataset, [str(held_out / folders[name]) for name in collections]


def _choose_columns(dataset: Dataset | DatasetDict, columns: Columns | None) -> Dataset | DatasetDict:
    """Let rows show query, positive and negatives in this order, whatever the strategy, and log which is which."""
    found = []

    def choose(part: Dataset) -> Dataset:
        labels = find_labels(part, columns)
        if SOURCE in labels:
            refuse_text(len(read_sources(part)[0]), len(part), SOURCE)
        roles = find_roles(part, columns, labels)
        if not roles.is_given:
            check_meaning(part, roles.texts)
        found.append(roles)
        return select_roles(part, roles, labels)

    chosen = (
        DatasetDict({name: choose(part) for name, part in dataset.items()})
        if isinstance(dataset, DatasetDict)
        else choose(dataset)
    )
    tell_roles(found)
    return chosen


def find_labels(dataset: Dataset | DatasetDict, columns: Columns | None) -> list[str]:
    """Return the columns of a dataset, or of any in a DatasetDict, that are labels of ours.

    Args:
        dataset: The pairs.
        columns: The columns that the recipe names as texts, if it does: `source` may be one.
    """
    found: set[str] = set()
    for part in dataset.values() if isinstance(dataset, DatasetDict) else [dataset]:
        own = {name for name in LABEL_COLUMNS if name in part.column_names}
        if SOURCE in (columns or ()) or (CLUSTER in own and not has_source_labels(part)):
            own.discard(SOURCE)
        found |= own
    return [name for name in LABEL_COLUMNS if name in found]


def label_pairs(dataset: Dataset | DatasetDict, recipe: Recipe) -> tuple[Dataset | DatasetDict, Clustering | None]:
    """Attach clusters if the strategy needs them and the pairs have none.

    Args:
        dataset: The training pairs.
        recipe: All parameters.

    Returns:
        The pairs, perhaps labelled, and the clustering that labelled them.
    """
    clusters = recipe.clusters
    if recipe.training.strategy != CLUSTER or _has_labels(dataset):
        unused = [one.name for one in fields(clusters) if one.name in recipe.given]
        if recipe.training.strategy == CLUSTER and unused:
            logger.warning("The pairs have labels already, so %s of the recipe decide nothing here", unused)
        return dataset, None
    # Every process takes part: each embeds its share.
    return cluster_dataset(
        dataset,
        clusters.encoder or recipe.model.model_name_or_path,
        clusters.options(recipe.data.columns, show_progress_bar=not recipe.training.disable_tqdm),
    )


def build_run(recipe: Recipe, dataset: Dataset | DatasetDict, clustering: Clustering | None = None) -> Run:
    """Build the trainer of a recipe on pairs that are ready.

    Args:
        recipe: All parameters.
        dataset: The training pairs, labelled if the strategy needs it; left as they are.
        clustering: What labelled them, to be kept with the model.

    Returns:
        A run whose labels and batch size have been checked.
    """
    model = load_model(recipe.model, recipe.training.seed)
    # Copies, since samplers hide the label columns of the dataset they are given.
    plain = (
        DatasetDict({name: part.with_format(None) for name, part in dataset.items()})
        if isinstance(dataset, DatasetDict)
        else dataset.with_format(None)
    )
    labels = find_labels(plain, recipe.data.columns)
    trainer = build_trainer(model, plain, recipe.training, build_loss(model, recipe.model), labels)
    # Asking for the length makes a sampler check its labels and the batch size, before any training.
    logger.info("%d batches an epoch", len(trainer.get_train_dataloader()))
    return Run(trainer, clustering, recipe)


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
        dataset: Pairs or longer tuples; label columns are dropped where the strategy is not to see them.
        arguments: The trainer's arguments with a strategy.
        loss: A loss; the in-batch negatives loss by default.
        labels: The columns that are labels; the others are trained on.

    Returns:
        A trainer that is ready to train.

    Raises:
        ValueError: If batches are to be of one source, and there is none.
    """
    if arguments.strategy == SOURCE and SOURCE not in labels:
        raise ValueError("batch_sampler: source, but the pairs have no column 'source' of where a row comes from")
    if arguments.strategy == "random":
        dataset = _drop(dataset, labels)
    trainer = SparseEncoderTrainer if isinstance(model, SparseEncoder) else SentenceTransformerTrainer
    return trainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        loss=MultipleNegativesRankingLoss(model) if loss is None else loss,
    )


def _drop(dataset: Dataset | DatasetDict, labels: Sequence[str]) -> Dataset | DatasetDict:
    """Drop label columns from every dataset that has them: a collator would take what is left for texts."""
    if isinstance(dataset, DatasetDict):
        return DatasetDict({name: _drop(part, labels) for name, part in dataset.items()})
    return dataset.remove_columns([name for name in dataset.column_names if name in labels])


def _has_labels(dataset: Dataset | DatasetDict) -> bool:
    parts = dataset.values() if isinstance(dataset, DatasetDict) else [dataset]
    return all(CLUSTER in part.column_names for part in parts)


def find_columns(dataset: Any) -> list[str]:
    """Return the columns of a dataset, or of the first one in a DatasetDict."""
    names = dataset.column_names
    columns: list[str] = next(iter(names.values())) if isinstance(names, dict) else names
    return columns
