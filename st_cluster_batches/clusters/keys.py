"""Attach the keys of false negatives alone, for batches that take no clusters: random or single-source ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from st_cluster_batches.clusters.false_negatives import hash_pairs, tell_of_keys
from st_cluster_batches.columns import CLUSTER, FALSE_NEGATIVE_KEYS, SOURCE, join_labels, write_labels
from st_cluster_batches.data.pairs import PairOptions, Pairs, as_datasets, prepare_parts
from st_cluster_batches.data.roles import Columns
from st_cluster_batches.storage.cache import hash_values, read_seal, seal
from st_cluster_batches.storage.shared_cache import SharedCache

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

AnyDataset = TypeVar("AnyDataset", "Dataset", "DatasetDict")

_KEY_VERSION = 1  # to be raised by any change here that changes keys or what is reported of them


def attach_keys(
    dataset: AnyDataset,
    *,
    columns: Columns | None = None,
    source_column: str | None = SOURCE,
    overwrite: bool = False,
    cache_dir: str | Path | None = None,
    show_progress_bar: bool = True,
) -> AnyDataset:
    """Label every row with the keys that it shares with its false negatives, and with no cluster.

    Nothing is embedded: keys are hashes of texts, those that `attach_clusters` attaches too. With them
    `ClusterBatchSampler.configure(strata=())` fills random batches, and `strata=("source",)` single-source ones, in
    which no text meets itself: what cluster batches are fairly compared to. Near-duplicates need vectors, and
    `attach_clusters(..., false_negative_threshold=)`.

    Args:
        dataset: Pairs, triplets or longer tuples of text, with clusters or without; they stay.
        columns: Query, positive, negatives, in order; see `attach_clusters`.
        source_column: Column that names the source of a row, which then is no text.
        overwrite: Whether to replace keys that the dataset has.
        cache_dir: Where keys are kept; a folder in the datasets cache by default.
        show_progress_bar: Whether to show progress.

    Returns:
        The dataset with a column `false_negative_keys` after its own, a list of int64 keys. Pairs with labels or
        scores, whose losses take no in-batch negatives, get none.

    Raises:
        ValueError: If rows or columns do not fit.
    """
    from datasets import DatasetDict

    dataset = as_datasets(dataset, "attach_keys")
    options = PairOptions(source_column, overwrite=overwrite, columns=columns, keeps_clusters=True)
    with SharedCache.open(cache_dir, show_progress_bar, "attach_keys") as cache:
        parts = prepare_parts(dataset, options, cache.show_progress_bar)
        named = {part.name: _label(part, cache) for part in parts}
    return DatasetDict(named) if isinstance(dataset, DatasetDict) else named[""]


def _label(pairs: Pairs, cache: SharedCache) -> Dataset:
    """Attach the keys of one dataset, made by the first process or found in the cache."""
    name = f"keys-{hash_values(pairs.text_hash, pairs.targets, _KEY_VERSION)}"
    path, seal_path = cache.folder / f"{name}.arrow", cache.folder / f"{name}.json"

    def write() -> None:
        report: dict[str, Any] = {}
        if not pairs.targets and (report := read_seal([path], seal_path) or {}) == {}:
            keys, report = hash_pairs(pairs, cache.show_progress_bar)
            write_labels(path, len(pairs), {FALSE_NEGATIVE_KEYS: keys.to_arrow})
            seal([path], seal_path, report)
        tell_of_keys(pairs, report)

    cache.processes.once(write, None)
    if pairs.targets:
        return pairs.given
    clusters = [name for name in (CLUSTER,) if name in pairs.given.column_names]
    shown = None if pairs.roles.shown is None else [*pairs.roles.shown, *clusters]
    return join_labels(pairs.given, path, shown, SOURCE if pairs.has_sources else None, pairs.given_names)
