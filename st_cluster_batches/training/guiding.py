"""Whether a guide knows more than the model that it is to guide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sentence_transformers import SentenceTransformer

from st_cluster_batches.clusters.encoder import Encoder
from st_cluster_batches.clusters.strength import Strength, measure_strength, warn_of_weak_guide
from st_cluster_batches.data.pairs import PairOptions, prepare_parts
from st_cluster_batches.storage.shared_cache import SharedCache
from st_cluster_batches.training.recipe import Recipe

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

    from st_cluster_batches.clusters.clustering import Clustering


def measure_start(model: Any, dataset: Dataset | DatasetDict, clustering: Clustering | None, recipe: Recipe) -> None:
    """Measure the model before training as its guide was measured, and warn where the guide is the weaker one.

    Args:
        model: The model to be trained.
        dataset: The labelled training pairs.
        clustering: What labelled them; its manifest has the figures of the guide.
        recipe: All parameters.
    """
    guide = {} if clustering is None else clustering.manifest.get("guide", {})
    if not (recipe.model.is_guided and guide and isinstance(model, SentenceTransformer)):
        return
    found: dict[str, Strength] = {}
    was_training, bar = model.training, not recipe.training.disable_tqdm
    with SharedCache.open(recipe.clusters.cache_dir, bar, "train") as cache:
        encoder = Encoder(model, cache.folder)
        options = PairOptions(
            overwrite=True, columns=None if recipe.data.columns is None else tuple(recipe.data.columns)
        )
        for part in prepare_parts(dataset, options, cache.show_progress_bar):
            found |= measure_strength(
                part.dataset, part.text_columns, part.sources, part.source_of_row, encoder, cache
            )
    model.train(was_training)
    warn_of_weak_guide({name: Strength(**one) for name, one in guide.items()}, found)
