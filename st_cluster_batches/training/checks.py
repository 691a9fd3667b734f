"""What is at fault with model, pairs and options of a recipe together, found before anything is embedded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.base.sampler import MultiDatasetBatchSamplers
from sentence_transformers.sentence_transformer.modules import Router, StaticEmbedding
from torch.optim import SGD
from transformers import Trainer, get_scheduler
from transformers.integrations import get_reporting_integration_callbacks

from st_cluster_batches.batches.targets import explain_no_negatives
from st_cluster_batches.columns import SOURCE, list_parts
from st_cluster_batches.training.models import load_model
from st_cluster_batches.training.pairs import find_labels, list_trained
from st_cluster_batches.training.recipe import Recipe
from st_cluster_batches.training.trainer_arguments import TrainingArguments


def load_checked_model(recipe: Recipe, dataset: Dataset | DatasetDict) -> SentenceTransformer | SparseEncoder:
    """Load the model of a recipe, and check it and the pairs against all else that the recipe says.

    A trainer finds most of this out itself, but not before clusters have been made.

    Args:
        recipe: All parameters.
        dataset: The training pairs, labelled or not.

    Returns:
        The model to be trained.

    Raises:
        ValueError: If an option does not fit the model or the pairs.
    """
    check_pairs(recipe, dataset)
    model = load_model(recipe.model, recipe.training.seed, recipe.clusters.cache_dir)
    _check_loss(recipe.model.loss, model)
    _check_routes(recipe.training, model)
    _check_learning_rates(recipe.training, model)
    _check_parts_of_trainer(recipe.training, model)
    return model


def _check_loss(loss: str, model: SentenceTransformer | SparseEncoder) -> None:
    """Refuse a loss that embeds a batch in parts for a model that embeds it at once, as its host would later."""
    if loss.startswith("cached_") and isinstance(model[0], StaticEmbedding):
        raise ValueError(
            f"loss: {loss} embeds a batch in parts, to save memory, and a static model embeds all of it at once; take "
            f"loss: {loss.removeprefix('cached_')}"
        )


def _check_routes(arguments: TrainingArguments, model: SentenceTransformer | SparseEncoder) -> None:
    """Refuse routes that a model has not: one without any takes no notice, a Router stops at the first step."""
    mapping: dict[str, Any] = arguments.router_mapping or {}
    routers = [module for module in model if isinstance(module, Router)]
    if mapping and not routers:
        raise ValueError(
            f"router_mapping={mapping} decides nothing: the model has no Router, which takes queries "
            "and documents different ways; leave it out"
        )
    wanted = [route for own in mapping.values() for route in (own.values() if isinstance(own, dict) else [own])]
    for router in routers:
        known = [*router.sub_modules, *(task for task, _ in router.route_mappings)]
        # A mapping of None is one of any route.
        if None not in known and (unknown := [route for route in wanted if route not in known]):
            raise ValueError(
                f"router_mapping: {unknown[0]!r} is none of {', '.join(dict.fromkeys(known))}, the routes of the model"
            )


def check_pairs(recipe: Recipe, dataset: Dataset | DatasetDict) -> None:
    """Check pairs against what a recipe says of their batches and prompts.

    Args:
        recipe: All parameters.
        dataset: The training pairs, labelled or not.

    Raises:
        ValueError: If an option does not fit them.
    """
    labels = find_labels(dataset, recipe.data)
    _check_sources(recipe.training, dataset, labels)
    _check_negatives(recipe, dataset, labels)
    for option, what in (("prompts", "have a prompt"), ("router_mapping", "be routed")):
        _check_columns(option, getattr(recipe.training, option), what, dataset, labels)
    _check_route_levels(recipe.training, dataset)


def _check_sources(arguments: TrainingArguments, dataset: Dataset | DatasetDict, labels: Sequence[str]) -> None:
    if arguments.strategy == SOURCE and SOURCE not in labels:
        raise ValueError("batch_sampler: source, but the pairs have no column 'source' of where a row comes from")
    if isinstance(dataset, DatasetDict):
        return
    several: dict[str, Any] = {"source_alpha": arguments.source_alpha}
    if arguments.strategy == "stock":
        own = arguments.multi_dataset_batch_sampler
        several["multi_dataset_batch_sampler"] = getattr(own, "value", own)
    for name, given in several.items():
        if given not in (1, MultiDatasetBatchSamplers.PROPORTIONAL):
            raise ValueError(
                f"{name}={given} is for several datasets, and the pairs are one: leave it out, or train on a "
                "DatasetDict"
            )


def _check_negatives(recipe: Recipe, dataset: Dataset | DatasetDict, labels: Sequence[str]) -> None:
    """Refuse one pair in a batch: every loss of a recipe compares a pair with others."""
    for part in list_parts(dataset):
        n_texts = len(list_trained(part, labels))
        batch_size = recipe.training.per_device_train_batch_size
        if explanation := explain_no_negatives(len(part), n_texts, batch_size, recipe.rows_compared):
            raise ValueError(explanation)


def _check_columns(option: str, given: Any, what: str, dataset: Dataset | DatasetDict, labels: Sequence[str]) -> None:
    """Refuse what is said of columns or datasets that are not there: a trainer passes over any other name."""
    parts = dict(dataset) if isinstance(dataset, DatasetDict) else {}
    columns = sorted({name for part in parts.values() or [dataset] for name in part.column_names} - {*labels})
    for name, own in given.items() if isinstance(given, dict) else ():
        known = [*parts, *columns]
        if name in parts and isinstance(own, dict):
            name, known = next((one for one in own if one not in columns), name), [*columns, name]
        if name not in known:
            raise ValueError(f"{option}: {name!r} is none of {', '.join(known)}, which are there to {what}")


def _check_route_levels(arguments: TrainingArguments, dataset: Dataset | DatasetDict) -> None:
    """Refuse routes by column and by dataset at once: a trainer takes all for what the first one is."""
    mapping: dict[str, Any] = arguments.router_mapping or {}
    parts = dict(dataset) if isinstance(dataset, DatasetDict) else {}
    columns = {name for part in parts.values() or [dataset] for name in part.column_names}
    is_nested = [isinstance(own, dict) for own in mapping.values()]
    if not (mapping.keys() <= parts.keys() if all(is_nested) else mapping.keys() <= columns and not any(is_nested)):
        raise ValueError(
            f"router_mapping={mapping} says routes neither by column alone nor by dataset alone, and a trainer would "
            "pass over some in silence: give {column: route}, or of a DatasetDict {dataset: {column: route}}"
        )


def _check_learning_rates(arguments: TrainingArguments, model: SentenceTransformer | SparseEncoder) -> None:
    """Refuse learning rates for parameters that are not there."""
    names = [f"model.{name}" for name, _ in model.named_parameters()]  # the trainer takes the names of the loss
    for pattern in arguments.learning_rate_mapping:
        try:
            fits = any(re.search(pattern, name) for name in names)
        except re.error as error:
            raise ValueError(f"learning_rate_mapping: {pattern!r} is no regular expression: {error}") from error
        if not fits:
            raise ValueError(
                f"learning_rate_mapping: {pattern!r} fits the name of no parameter; there are {', '.join(names[:10])}"
            )


def _check_parts_of_trainer(arguments: TrainingArguments, model: SentenceTransformer | SparseEncoder) -> None:
    """Refuse trackers, optimizers and schedules that a trainer cannot make: it would find out when it starts."""
    given = f"report_to={arguments.report_to}"
    try:
        for tracker in get_reporting_integration_callbacks(arguments.report_to):
            tracker()
        given = f"optim={arguments.optim.value}, optim_args={arguments.optim_args}"
        Trainer.get_optimizer_cls_and_kwargs(arguments, model)
        given = (
            f"lr_scheduler_type={arguments.lr_scheduler_type.value}, "
            f"lr_scheduler_kwargs={arguments.lr_scheduler_kwargs}"
        )
        get_scheduler(
            arguments.lr_scheduler_type,
            SGD([torch.nn.Parameter(torch.zeros(1))]),
            num_warmup_steps=1,
            num_training_steps=2,
            scheduler_specific_kwargs=arguments.lr_scheduler_kwargs,
        )
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{given} cannot be made by the trainer: {error}") from error
