"""Load pairs from files, folders, `save_to_disk` folders, and the Hub."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from st_cluster_batches.data.collection import is_collection
from st_cluster_batches.data.files import KINDS, explain_cache, find_kind, list_data_files, read_file
from st_cluster_batches.data.forms import keep_positive, read_judged_pairs, spread_lists
from st_cluster_batches.data.header import has_no_rows
from st_cluster_batches.data.ids import join_ids, read_ids, refuse_ids
from st_cluster_batches.data.joining import join_parts, join_places
from st_cluster_batches.data.sources import read_sources
from st_cluster_batches.data.splits import TRAIN, are_splits, choose_splits, name_sources, sort_files
from st_cluster_batches.storage.reaching import probe_hub

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Selection:
    """What to take of data that holds more than one thing.

    Args:
        split: Name of the split, or several joined by `+`; `train` if there are splits and none is named.
        config: Name of the configuration, of a dataset on the Hub or a folder laid out like one.
        revision: Branch, tag or commit on the Hub.
        queries: File of the texts of query ids, or configuration on the Hub, where the data holds ids.
        corpus: The same of passages.
        positive_label: Label of the pairs to keep, where there are others.
        max_negatives: Columns of negatives, where these are lists.
        cache_dir: Where rows are kept as Arrow files; the cache of `datasets` by default.
        tells_sources: Whether files of a folder that have no column `source` get it, with their names.
    """

    split: str | None = None
    config: str | None = None
    revision: str | None = None
    queries: str | None = None
    corpus: str | None = None
    positive_label: str | None = None
    max_negatives: int | None = None
    cache_dir: str | None = None
    tells_sources: bool = True

    def __post_init__(self) -> None:
        if self.max_negatives is not None and self.max_negatives < 0:
            raise ValueError(f"max_negatives={self.max_negatives} must be at least 0")

    @property
    def has_ids(self) -> bool:
        """Whether ids are to be joined with their texts."""
        return self.queries is not None or self.corpus is not None


def load_data(name: str | Path, selection: Selection | None = None) -> Dataset | DatasetDict:
    """Load a dataset.

    Args:
        name: A file, a folder of files, a `save_to_disk` folder, or a Hub id.
        selection: What to take of it; of splits `train` by default. What is left aside is logged.

    Returns:
        The dataset; a DatasetDict whose names are no splits is one of sources, and stays one.

    Raises:
        FileNotFoundError: If the name is a path without data, or no dataset at all.
        ValueError: If files are damaged or do not fit together, or there is no such split.
    """
    from datasets import Dataset

    selection = selection or Selection()
    loaded = _load_rows(name, selection)
    if isinstance(loaded, Dataset):
        return _shape(loaded, selection, str(name))
    if selection.has_ids:
        raise ValueError(f"{name} holds several datasets, {list(loaded)}; choose one: --split {next(iter(loaded))}")
    for part, rows in loaded.items():
        loaded[part] = _shape(rows, selection, f"{name}, {part}")
    return loaded


def _shape(rows: Dataset, selection: Selection, where: str) -> Dataset:
    """Bring rows of another form into that of columns of text."""
    if selection.has_ids:
        rows = join_ids(
            rows, selection.queries, selection.corpus, lambda config: _load_config(where, config, selection), where
        )
    refuse_ids(rows, where)
    if selection.positive_label is not None:
        rows = keep_positive(rows, selection.positive_label, where)
    return spread_lists(rows, selection.max_negatives, where)


def _load_config(name: str, config: str, selection: Selection) -> Dataset | DatasetDict:
    return _load_by_name(name, replace(selection, config=config))


def _load_rows(name: str | Path, selection: Selection) -> Dataset | DatasetDict:
    """Load what lies in a place, as it is."""
    from datasets import load_from_disk

    path = Path(name)
    if path.exists() and selection.revision is not None:
        raise ValueError(f"{name} is here and not on the Hub, and has no revision {selection.revision!r}")
    if path.is_dir() and any((path / file).is_file() for file in ("dataset_info.json", "dataset_dict.json")):
        if selection.config is not None:
            raise ValueError(f"{name} was written by save_to_disk, and has no configuration {selection.config!r}")
        return _take_split(load_from_disk(str(path)), selection, str(name))
    if path.is_file():
        if selection.split is not None:
            raise ValueError(f"{name} is one file and has no splits; leave out --split {selection.split}")
        if selection.config is not None:
            raise ValueError(f"{name} is one file and has no configurations; leave out --config {selection.config}")
        return (read_ids if selection.has_ids else read_file)(path, selection.cache_dir)
    if path.is_dir() and (selection.config is not None or _has_configs(path)):
        return _take_split(_load_by_name(str(path), selection), selection, str(name))
    if path.is_dir() and is_collection(path):
        return read_judged_pairs(path, selection.split or TRAIN)
    if path.is_dir():
        return _load_folder(path, selection)
    return _take_split(_load_by_name(str(name), selection), selection, str(name))


def _load_folder(folder: Path, selection: Selection) -> Dataset:
    """Load the files of a folder: those of one split, of all kinds."""
    files, others = list_data_files(folder)
    if not files:
        raise FileNotFoundError(f"{folder} holds neither a save_to_disk dataset nor files of rows: {KINDS}")
    splits = sort_files([file.relative_to(folder) for file in files])
    chosen = choose_splits({name or "(none)": one for name, one in splits.items()}, selection.split, str(folder))
    taken = [folder / file for files in chosen.values() for file in files]
    aside = [folder / file for file in (set(files) - set(taken))] if len(taken) < len(files) else []
    if aside:
        counts = ", ".join(f"{len(one)} of {name or 'no split'}" for name, one in splits.items() if name not in chosen)
        logger.warning(
            "%s: %d files are read, those of the split %s; left aside are %s, such as %s (--split chooses)",
            folder,
            len(taken),
            "+".join(chosen),
            counts,
            sorted(aside)[0].relative_to(folder),
        )
    if others:
        names = ", ".join(str(file.relative_to(folder)) for file in others[:5])
        logger.warning("%s: %d other files are ignored, such as %s", folder, len(others), names)
    if len(kinds := {find_kind(file) for file in taken}) > 1:
        logger.info("%s: files of several kinds are joined: %s", folder, ", ".join(sorted(map(str, kinds))))
    if without := [file for file in taken if has_no_rows(file)][: len(taken) - 1]:
        logger.warning("%s: %d files without rows are left out, such as %s", folder, len(without), without[0].name)
        taken = [file for file in taken if file not in without]
    parts = [
        (str(file.relative_to(folder)), source, read_file(file, selection.cache_dir))
        for file, source in zip(taken, name_sources([file.relative_to(folder) for file in taken]), strict=True)
    ]
    return join_parts(parts, selection.tells_sources)


def _has_configs(folder: Path) -> bool:
    """Return whether a folder is laid out like a repository of the Hub whose card says which file is what."""
    from huggingface_hub import DatasetCard

    card = folder / "README.md"
    if not card.is_file():
        return False
    try:
        return bool(DatasetCard(card.read_text(encoding="utf-8"), ignore_metadata_errors=True).data.get("configs"))
    except (ValueError, yaml.YAMLError) as error:
        logger.warning("%s cannot be read as a card, and its configurations are ignored: %s", card, _shorten(error))
        return False


def _load_by_name(name: str, selection: Selection) -> Dataset | DatasetDict:
    """Load a dataset of the Hub, or of a folder laid out like one, with all its splits."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    if not Path(name).exists():
        if find_kind(Path(name)) or not _HUB_ID.fullmatch(name):
            raise FileNotFoundError(
                f"{name} is neither a file or folder here nor a dataset that the Hub gives (it is no id such as "
                "user/name)"
            )
        probe_hub(name, "give a file or a folder, or set HF_HUB_OFFLINE=1 if the data has been downloaded before")
    try:
        return load_dataset(name, selection.config, revision=selection.revision, cache_dir=selection.cache_dir)
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"{name} is neither a file or folder here nor a dataset that the Hub gives ({_shorten(error)})"
        ) from error
    except OSError as error:
        raise explain_cache(error, selection.cache_dir) from error
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, OSError):
            raise explain_cache(error.__cause__, selection.cache_dir) from error
        raise ValueError(f"{name} cannot be read: {_shorten(error.__cause__ or error)}") from error
    except ValueError as error:
        hint = "; choose one: --config NAME" if "config" in str(error).lower() else ""
        raise ValueError(f"{name} cannot be loaded: {_shorten(error)}{hint}") from error
    except RuntimeError as error:  # a dataset that is a script
        raise ValueError(
            f"{name} cannot be loaded: {_shorten(error)}. Where it has a version in parquet: "
            "--revision refs/convert/parquet"
        ) from error


def _shorten(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _take_split(loaded: Any, selection: Selection, where: str) -> Dataset | DatasetDict:
    """Take the splits that are asked for; a DatasetDict of sources stays one."""
    from datasets import Dataset, concatenate_datasets

    if isinstance(loaded, Dataset):
        if selection.split is not None:
            raise ValueError(f"{where} has no splits; leave out --split {selection.split}")
        return loaded
    if selection.split is None and not are_splits(loaded) and not (TRAIN in loaded and not Path(where).exists()):
        return loaded
    chosen = choose_splits(dict(loaded), selection.split, where)
    if aside := {name: f"{len(one):,} rows" for name, one in loaded.items() if name not in chosen}:
        logger.warning(
            "%s: the split %s is taken, %s rows; left aside are %s (--split chooses)",
            where,
            "+".join(chosen),
            f"{sum(map(len, chosen.values())):,}",
            ", ".join(f"{name} with {rows}" for name, rows in aside.items()),
        )
    (first, own), *others = chosen.items()
    for name, one in others:  # else the host would fill with None what a split has not
        if set(one.column_names) != set(own.column_names):
            raise ValueError(
                f"{where}: the split {first!r} has the columns {', '.join(own.column_names)}, {name!r} has "
                f"{', '.join(one.column_names)}; take one of them (--split {first}), or give them the same columns"
            )
    return concatenate_datasets([*chosen.values()]) if others else own


def load_training_data(
    names: Sequence[str], data_dir: str | None = None, selection: Selection | None = None
) -> Dataset | DatasetDict:
    """Load pairs from several places as one dataset.

    Args:
        names: As for `load_data`.
        data_dir: Folder that relative names start from.
        selection: What to take of each.

    Returns:
        One dataset. Where several are joined, one without a column `source` gets it, with its file name.

    Raises:
        FileNotFoundError: If a name leads to no data; before any is loaded.
        ValueError: If datasets to be joined have different columns.
    """
    if data_dir is not None:
        if missing := [name for name in names if not (Path(data_dir) / name).exists()]:
            raise FileNotFoundError(f"There is no {missing[0]} in {data_dir}")
        names = [str(Path(data_dir) / name) for name in names]
    loaded = [load_data(name, selection) for name in names]
    return loaded[0] if len(loaded) == 1 else join_places(names, loaded, selection is None or selection.tells_sources)


def cap_sources(dataset: Dataset, max_rows: int, seed: int, has_sources: bool) -> Dataset:
    """Take so many rows of each source at most, at random.

    Args:
        dataset: The rows.
        max_rows: Rows of a source.
        seed: Seed of the choice.
        has_sources: Whether the column `source` names them; else all rows are of one.
    """
    source = np.zeros(len(dataset), dtype=int)
    if has_sources:
        source = read_sources(dataset)[1].astype(int)
    rng = np.random.default_rng(seed)
    kept = [rng.permutation(np.flatnonzero(source == one))[:max_rows] for one in range(source.max(initial=-1) + 1)]
    return dataset.select(np.sort(np.concatenate(kept))) if kept else dataset
