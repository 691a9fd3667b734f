"""The pairs of a comparison, labelled for each of its variants, and what tells them from others."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from datasets import DatasetDict, concatenate_datasets

from st_cluster_batches.columns import CLUSTER, FALSE_NEGATIVE_KEYS, SOURCE, list_parts
from st_cluster_batches.data.roles import find_roles
from st_cluster_batches.data.texts import check_texts
from st_cluster_batches.row_keys import ROW_KEY, has_row_keys, read_marks
from st_cluster_batches.storage.chunks import hash_array
from st_cluster_batches.training.arguments import DataArguments
from st_cluster_batches.training.pairs import find_labels, label_pairs, tell_of_idle_threshold
from st_cluster_batches.training.recipe import Recipe

if TYPE_CHECKING:
    from datasets import Dataset

    from st_cluster_batches.clusters.clustering import Clustering


@dataclass(frozen=True)
class Labelled:
    """The pairs as a variant trains on them.

    Args:
        dataset: The pairs, perhaps labelled.
        clustering: What labelled them, if it was made for the variant.
        seconds: Wall time of labelling them.
    """

    dataset: Dataset | DatasetDict
    clustering: Clustering | None
    seconds: float


def label_variants(pairs: Dataset | DatasetDict, recipes: dict[str, Recipe]) -> dict[str, Labelled]:
    """Label the pairs for every variant, and time it; all get the same keys unless one says otherwise.

    Near-duplicates are searched within clusters, which differ from variant to variant: where the recipe has one
    threshold for all, the keys of the first variant with clusters are those of all.
    """
    thresholds = {name: recipe.clusters.false_negative_threshold for name, recipe in recipes.items()}
    first = next(
        (name for name, recipe in recipes.items() if recipe.training.strategy == CLUSTER), next(iter(recipes))
    )
    unlabelled = (recipe for recipe in recipes.values() if recipe.training.strategy != CLUSTER)
    if (one := next(unlabelled, None)) is not None:
        tell_of_idle_threshold(pairs, one)
    labelled: dict[str, Labelled] = {}
    for name in sorted(recipes, key=lambda name: name != first):
        recipe, start = recipes[name], time.perf_counter()
        is_shared = name != first and thresholds[name] is not None and thresholds[name] == thresholds[first]
        given = pairs
        if is_shared and recipe.training.strategy in ("random", SOURCE):
            given = _take_keys(pairs, labelled[first].dataset)  # before, since no clusters need be found then
        dataset, clustering = label_pairs(given, recipe)
        if is_shared and recipe.training.strategy == CLUSTER:
            dataset = _take_keys(dataset, labelled[first].dataset)
        labelled[name] = Labelled(dataset, clustering, time.perf_counter() - start)
    return labelled


def _take_keys(dataset: Dataset | DatasetDict, other: Dataset | DatasetDict) -> Dataset | DatasetDict:
    """Return pairs with the keys that the same rows have in another labelling."""
    if isinstance(dataset, DatasetDict):
        return DatasetDict({name: _take_keys(part, other[name]) for name, part in dataset.items()})
    if FALSE_NEGATIVE_KEYS not in other.column_names:
        return dataset
    own = [name for name in dataset.column_names if name != FALSE_NEGATIVE_KEYS]
    keys = other.with_format(None).select_columns(FALSE_NEGATIVE_KEYS)
    return concatenate_datasets([dataset.with_format(None).select_columns(own), keys], axis=1)


def hash_marks(dataset: Dataset | DatasetDict) -> list[str]:
    """Return hashes of which rows mask nothing, where there are such rows."""
    keyed = [part.with_format("arrow", columns=[ROW_KEY]) for part in list_parts(dataset) if has_row_keys(part)]
    marks = [read_marks(part[:][ROW_KEY].to_numpy())[1] for part in keyed]
    return [hash_array(one) for one in marks] if any(one.any() for one in marks) else []


def hash_texts(pairs: Dataset | DatasetDict, data: DataArguments) -> list[dict[str, str]]:
    """Return by column of texts a hash of all of them, of each dataset."""
    found = [(part, find_roles(part, data.columns, find_labels(part, data))) for part in list_parts(pairs)]
    return [check_texts(part, roles.texts, show_progress_bar=False) for part, roles in found]
