"""From a recipe to a trained model: a stock trainer, filled in."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from st_cluster_batches.attach import cluster_dataset
from st_cluster_batches.cache import default_cache_dir, write_atomically
from st_cluster_batches.clustering import Clustering
from st_cluster_batches.data import load_training_data
from st_cluster_batches.embedding import STATIC_PREFIX, load_encoder
from st_cluster_batches.labels import CLUSTER, FALSE_NEGATIVE_GROUP, LABEL_COLUMNS
from st_cluster_batches.recipe import ModelArguments, Recipe, TrainingArguments

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

logger = logging.getLogger(__name__)


@dataclass
class Run:
    """A run that is ready to start."""

    trainer: SentenceTransformerTrainer
    clustering: Clustering | None
    recipe: Recipe

    def train(self) -> Path:
        """Train and save.

        Returns:
            The folder of the model; beside it lie the recipe, what the batches were made of, and the clustering.
        """
        arguments = self.recipe.training
        self.trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint)
        output = Path(arguments.output_dir)
        target = output / "model"
        self.trainer.save_model(str(target))
        if self.trainer.is_world_process_zero():
            write_atomically(output / "recipe.yaml", yaml.safe_dump(self.recipe.given, sort_keys=False))
            if self.clustering is not None:
                self.clustering.save(output / "clustering")
        return target


def prepare_run(recipe: Recipe) -> Run:
    """Load the data, label it if the strategy needs it, and build the trainer.

    Args:
        recipe: All parameters.

    Returns:
        A run whose every input has been checked.

    Raises:
        ValueError: If data and parameters do not fit.
        FileNotFoundError: If a file is missing.
    """
    data, clusters, arguments = recipe.data, recipe.clusters, recipe.training
    dataset = load_training_data(data.train_data, data.data_dir, data.max_rows_per_source, arguments.data_seed or 0)
    model = load_model(recipe.model, arguments.seed)
    clustering = None
    if arguments.strategy == CLUSTER and not _has_labels(dataset):
        # Every process takes part: each embeds its share.
        dataset, clustering = cluster_dataset(
            dataset,
            clusters.encoder or recipe.model.model_name_or_path,
            clusters.options(),
            false_negative_threshold=clusters.false_negative_threshold,
            truncate_dim=clusters.truncate_dim,
            batch_size=clusters.encoder_batch_size,
            cache_dir=clusters.cache_dir,
            show_progress_bar=not arguments.disable_tqdm,
        )
    trainer = build_trainer(model, dataset, arguments, recipe.model.loss_scale)
    # Asking for the length makes a sampler check its labels and the batch size, before any training.
    logger.info("%d batches an epoch", len(trainer.get_train_dataloader()))
    return Run(trainer, clustering, recipe)


def build_trainer(
    model: SentenceTransformer, dataset: Dataset | DatasetDict, arguments: TrainingArguments, loss_scale: float = 20.0
) -> SentenceTransformerTrainer:
    """Build a stock trainer with the in-batch negatives loss.

    Args:
        model: The model to train.
        dataset: Pairs or longer tuples; label columns are dropped where the strategy is not to see them.
        arguments: The trainer's arguments with a strategy.
        loss_scale: Inverse temperature.

    Returns:
        A trainer that is ready to train.
    """
    if arguments.strategy == "random":
        hidden = [column for column in _columns(dataset) if column in LABEL_COLUMNS]
        dataset = dataset.remove_columns(hidden)
    return SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        loss=MultipleNegativesRankingLoss(model, scale=loss_scale),
    )


def load_model(arguments: ModelArguments, seed: int) -> SentenceTransformer:
    """Load the model to be trained, or make a new static one.

    Args:
        arguments: Which model.
        seed: Seed of new token embeddings.

    Returns:
        The model.
    """
    name = arguments.model_name_or_path
    if arguments.static_dim is not None:
        tokenizer = SentenceTransformer(name.removeprefix(STATIC_PREFIX)).tokenizer.backend_tokenizer
        model = make_static_model(tokenizer, arguments.static_dim, seed)
    else:
        model = load_encoder(name, default_cache_dir()).train()
    if arguments.max_seq_length is not None:
        model.max_seq_length = arguments.max_seq_length
    return model


def make_static_model(tokenizer: Any, dimensions: int, seed: int) -> SentenceTransformer:
    """Make a model of random static token embeddings.

    Args:
        tokenizer: A tokenizer of the `tokenizers` library.
        dimensions: Length of a vector.
        seed: Seed of the weights.

    Returns:
        A model that averages token vectors.
    """
    weights = torch.randn(tokenizer.get_vocab_size(), dimensions, generator=torch.Generator().manual_seed(seed))
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights * dimensions**-0.5)])


def _has_labels(dataset: Dataset | DatasetDict) -> bool:
    return {CLUSTER, FALSE_NEGATIVE_GROUP} <= set(_columns(dataset))


def _columns(dataset: Any) -> list[str]:
    names = dataset.column_names
    columns: list[str] = next(iter(names.values())) if isinstance(names, dict) else names
    return columns
