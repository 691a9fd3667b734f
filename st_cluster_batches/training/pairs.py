"""The pairs that a recipe trains on: loaded, some of them held out, and labelled."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

from st_cluster_batches.batches.sources import has_source_labels
from st_cluster_batches.clusters.artefact import MANIFEST_FILE, read_manifest
from st_cluster_batches.clusters.attach import cluster_dataset
from st_cluster_batches.clusters.choice import find_choice, find_tuned
from st_cluster_batches.clusters.clustering import Clustering
from st_cluster_batches.clusters.keys import attach_keys
from st_cluster_batches.columns import CLUSTER, FALSE_NEGATIVE_KEYS, LABEL_COLUMNS, SOURCE, list_parts, map_parts
from st_cluster_batches.data.holdout import hold_out
from st_cluster_batches.data.loading import Selection, cap_sources, load_training_data
from st_cluster_batches.data.meaning import check_meaning, check_text_called_source
from st_cluster_batches.data.naming import name_files
from st_cluster_batches.data.pairs import PairOptions
from st_cluster_batches.data.roles import find_roles, select_roles, tell_roles
from st_cluster_batches.data.sources import read_sources, refuse_text, refuse_text_called_source
from st_cluster_batches.row_keys import NO_TEXT_COLUMNS, check_keys, has_row_keys, list_targets
from st_cluster_batches.storage.processes import ProcessGroup
from st_cluster_batches.target_values import describe_targets, read_targets
from st_cluster_batches.training.arguments import DataArguments
from st_cluster_batches.training.cluster_arguments import AUTO
from st_cluster_batches.training.recipe import Recipe

logger = logging.getLogger(__name__)


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
    selection = Selection(
        data.split,
        data.config,
        data.revision,
        data.find(data.queries),
        data.find(data.corpus),
        data.positive_label,
        data.max_negatives,
        None if recipe.clusters.cache_dir is None else str(Path(recipe.clusters.cache_dir) / "rows"),
        tells_sources=data.named_source == SOURCE,
    )
    dataset = load_training_data(data.train_data, data.data_dir, selection)
    dataset = map_parts(dataset, lambda part: _name_source(part, data))
    if (most := data.max_rows_per_source) is not None:
        dataset = map_parts(dataset, lambda part: cap_sources(part, most, seed, SOURCE in find_labels(part, data)))
    dataset = _choose_columns(dataset, data)
    if data.held_out_queries is None:
        return dataset, data.find_tasks()
    if isinstance(dataset, DatasetDict):
        raise ValueError("held_out_queries needs one dataset with a `source` column, not a DatasetDict")
    texts = list_trained(dataset, find_labels(dataset, data))
    dataset, collections = hold_out(dataset, data.held_out_queries, data.held_out_documents, seed, texts)
    folders = name_files(collections)

    def write() -> None:
        for name, collection in collections.items():
            collection.write(held_out / folders[name], name)

    ProcessGroup.current("holding out queries").once(write, None)
    return dataset, [str(held_out / folders[name]) for name in collections]


def _name_source(part: Dataset, data: DataArguments) -> Dataset:
    """Call the column of sources `source`, as `attach` does, or take one away that is neither a label nor a text."""
    columns, source = data.columns, data.named_source
    found = PairOptions(source, columns=columns).find_source(part.column_names, "The training data")
    is_text = SOURCE in part.column_names and (columns is None or SOURCE in columns)
    if source == SOURCE:
        return part
    if found is not None and CLUSTER in part.column_names:
        raise ValueError(
            f"The pairs have clusters already, which do not know source_column: {found}. Attach them anew, "
            f"--source_column {found} --overwrite, and leave it out here"
        )
    if found is not None and is_text:
        refuse_text_called_source(found)
    part = part if is_text or SOURCE not in part.column_names else part.remove_columns(SOURCE)
    return part if found is None else part.rename_column(found, SOURCE)


def _choose_columns(dataset: Dataset | DatasetDict, data: DataArguments) -> Dataset | DatasetDict:
    """Let rows show query, positive and negatives in this order, whatever the strategy, and log which is which."""
    found = []

    def choose(part: Dataset) -> Dataset:
        check_keys(part)
        labels = find_labels(part, data)
        if SOURCE in labels:
            refuse_text(len(read_sources(part)[0]), len(part), SOURCE)
        roles = find_roles(part, data.columns, labels)
        if not roles.is_given:
            check_meaning(part, roles.texts)
        if not roles.is_given and data.named_source is None:
            check_text_called_source(part, roles.texts, "The training data")
        if targets := list_targets(part):
            values = read_targets(part, targets)
            raise ValueError(
                f"The pairs have the column {describe_targets(values)}. No loss of a recipe reads it: each "
                "would learn every pair as a positive. Keep the pairs that belong together, positive_label: "
                f"{values[0].label}, or save the data without {targets}"
            )
        if len(roles.texts) < 2:
            raise ValueError(
                f"The pairs show one column of text, {roles.texts[0]!r}, and every loss of a recipe takes a query and "
                "its positive; name both, as in `columns: [query, passage]`"
            )
        found.append(roles)
        return select_roles(part, roles, labels)

    chosen: Dataset | DatasetDict = map_parts(dataset, choose)
    tell_roles(found)
    return chosen


def find_labels(dataset: Dataset | DatasetDict, data: DataArguments) -> list[str]:
    """Return the columns of a dataset, or of any in a DatasetDict, that are labels of ours.

    Args:
        dataset: The pairs.
        data: The recipe's: `source` may be a text to it.
    """
    found: set[str] = set()
    for part in list_parts(dataset):
        own = {name for name in LABEL_COLUMNS if name in part.column_names}
        is_text = data.named_source is None or SOURCE in (data.columns or ())
        if is_text or (CLUSTER in own and not has_source_labels(part)):
            own.discard(SOURCE)
        found |= own
    return [name for name in LABEL_COLUMNS if name in found]


def find_source(dataset: Dataset | DatasetDict, data: DataArguments) -> str | None:
    """Return the column of sources of pairs from `load_pairs`, as attaching and tuning take it; None without one."""
    return SOURCE if SOURCE in find_labels(dataset, data) else None


def list_trained(dataset: Dataset, labels: Sequence[str]) -> list[str]:
    """List the columns of pairs from `load_pairs` that are trained on: query, positive and any negatives, in order.

    Args:
        dataset: The pairs.
        labels: From `find_labels`.
    """
    return [name for name in dataset.column_names if name not in (*labels, *NO_TEXT_COLUMNS)]


def label_pairs(dataset: Dataset | DatasetDict, recipe: Recipe) -> tuple[Dataset | DatasetDict, Clustering | None]:
    """Attach what the strategy needs and the pairs do not have: clusters, and the keys of false negatives.

    Args:
        dataset: The training pairs.
        recipe: All parameters.

    Returns:
        The pairs, perhaps labelled, and the clustering that batches or a guide come from, if made.
    """
    clusters, strategy = recipe.clusters, recipe.training.strategy
    if clusters.tuned == AUTO:
        raise ValueError("tuned: auto is for compare; tune first: st-cluster-batches tune DATA ..., then tuned: DIR")
    needs_guide = clusters.guide or recipe.model.is_guided
    needs_keys = strategy != "stock" and recipe.training.keep_false_negatives_apart
    has_clusters = _have(dataset, CLUSTER)
    if recipe.model.is_guided and recipe.model.guide_model is not None and has_clusters:
        raise ValueError(
            f"The pairs have clusters and row keys already, so guide_model: {recipe.model.guide_model} would decide "
            "nothing: attach them anew with --guide_model, and leave it out here"
        )
    if needs_guide and has_clusters and not _has_row_keys(dataset):
        raise ValueError(
            "The pairs have clusters, but no row keys by which a guide's vectors are found: attach them anew with "
            "--guide, or take the column `cluster` out"
        )
    if strategy == "stock" and "keep_false_negatives_apart" in recipe.given:
        logger.warning("batch_sampler: stock knows no keys, so keep_false_negatives_apart decides nothing here")
    if recipe.given.get("guide") and not recipe.model.is_guided:
        logger.warning(
            "guide: true stores the vectors of all pairs, and loss: %s reads none of them; loss: guided does",
            recipe.model.loss,
        )
    clustering = None
    # Near-duplicates are searched within clusters, also where batches are of random rows.
    needs_near = (
        needs_keys and clusters.false_negative_threshold is not None and not _have(dataset, FALSE_NEGATIVE_KEYS)
    )
    if not has_clusters and (strategy == CLUSTER or needs_near or needs_guide):
        # Every process takes part: each embeds its share.
        dataset, clustering = cluster_dataset(
            dataset,
            clusters.encoder or recipe.model.model_name_or_path,
            replace(
                clusters.options(
                    recipe.data.columns, not recipe.training.disable_tqdm, needs_guide, recipe.global_batch_size
                ),
                source_column=find_source(dataset, recipe.data),
                trust_remote_code=recipe.model.trust_remote_code,
                guide_model=recipe.model.guide_model if recipe.model.is_guided else None,
            ),
        )
        clustering = clustering if strategy == CLUSTER or needs_guide else None
    elif strategy == CLUSTER:
        _tell_of_labels(recipe)
    return (_attach_missing_keys(dataset, recipe) if needs_keys else dataset), clustering


def tell_of_idle_threshold(dataset: Dataset | DatasetDict, recipe: Recipe) -> None:
    """Warn of a threshold that finds no near-duplicates, since the pairs have the keys of false negatives already.

    Args:
        dataset: The training pairs, as they were loaded.
        recipe: All parameters.
    """
    threshold = recipe.clusters.false_negative_threshold
    is_read = recipe.training.strategy in ("random", SOURCE) and recipe.training.keep_false_negatives_apart
    if threshold is not None and is_read and _have(dataset, FALSE_NEGATIVE_KEYS):
        logger.warning(
            "The pairs have keys of false negatives already, so false_negative_threshold: %g decides nothing here; "
            "attach them anew with it, or save them without the column %r",
            threshold,
            FALSE_NEGATIVE_KEYS,
        )


def find_manifests(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Return what the clusterings that `attach` wrote beside the training pairs say of themselves, by place."""
    places = [str(recipe.data.find(place)) for place in recipe.data.train_data]
    return {place: read_manifest(Path(place)) for place in places if (Path(place) / MANIFEST_FILE).is_file()}


def list_manifests(recipe: Recipe, clustering: Clustering | None) -> list[dict[str, Any]]:
    """Return what the clustering that was made for a run says of itself, or those that its pairs came with."""
    return [*find_manifests(recipe).values()] if clustering is None else [clustering.manifest]


def _tell_of_labels(recipe: Recipe) -> None:
    """Warn of what pairs that have clusters make idle."""
    tuned = find_choice(recipe.clusters.tuned)
    read = ("tuned", "cache_dir", "encoder_batch_size")  # also where nothing is clustered
    if unused := [one.name for one in fields(recipe.clusters) if one.name in recipe.given and one.name not in read]:
        logger.warning("The pairs have labels already, so %s of the recipe decide nothing here", unused)
    attached = [find_tuned(one) for one in find_manifests(recipe).values()]
    if tuned is not None and (not attached or any(one != tuned for one in attached)):
        logger.warning(
            "The pairs have labels already, that were not made as tuned: %s says: its rows_per_stratum and margin are "
            "followed, its sizes of clusters are not. Attach them anew: "
            "st-cluster-batches attach DATA OUT --encoder E --tuned %s",
            recipe.clusters.tuned,
            recipe.clusters.tuned,
        )


def _have(dataset: Dataset | DatasetDict, column: str) -> bool:
    """Return whether the pairs, or all of a DatasetDict, have a column of labels."""
    return all(column in part.column_names for part in list_parts(dataset))


def _attach_missing_keys(dataset: Dataset | DatasetDict, recipe: Recipe) -> Dataset | DatasetDict:
    """Attach keys to the pairs, or to those of a DatasetDict, that have none."""
    parts = dict(dataset) if isinstance(dataset, DatasetDict) else {"": dataset}
    without = DatasetDict({name: part for name, part in parts.items() if FALSE_NEGATIVE_KEYS not in part.column_names})
    if not without:
        return dataset
    labelled = attach_keys(
        without,
        columns=recipe.data.columns,
        source_column=find_source(dataset, recipe.data),
        cache_dir=recipe.clusters.cache_dir,
        show_progress_bar=not recipe.training.disable_tqdm,
    )
    parts = {**parts, **labelled}
    return DatasetDict(parts) if isinstance(dataset, DatasetDict) else parts[""]


def _has_row_keys(dataset: Dataset | DatasetDict) -> bool:
    return all(map(has_row_keys, list_parts(dataset)))
