"""Load pairs from parquet files, `save_to_disk` folders, and the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from st_cluster_batches.columns import LABEL_COLUMNS, SOURCE

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


def load_data(name: str | Path) -> Dataset | DatasetDict:
    """Load a dataset.

    Args:
        name: A parquet file, a folder of parquet files, a `save_to_disk` folder, or a Hub id.

    Returns:
        The dataset; of a Hub dataset with splits, the split `train`.

    Raises:
        FileNotFoundError: If the name is a path without data, or no dataset at all.
    """
    from datasets import DatasetDict, load_dataset, load_from_disk

    path = Path(name)
    if path.is_dir() and any((path / file).is_file() for file in ("dataset_info.json", "dataset_dict.json")):
        return load_from_disk(str(path))
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path] if path.is_file() else []
    if files:
        if any(file.suffix != ".parquet" for file in files):
            raise ValueError(f"{name} is no parquet file")
        return load_dataset("parquet", data_files=[str(file) for file in files], split="train")
    if path.exists():
        raise FileNotFoundError(f"{name} holds neither parquet files nor a save_to_disk dataset")
    try:
        loaded = load_dataset(str(name))
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(f"{name} is neither a file or folder here nor a dataset that the Hub gives") from error
    return loaded["train"] if isinstance(loaded, DatasetDict) and "train" in loaded else loaded


def load_training_data(
    names: Sequence[str],
    data_dir: str | None = None,
    max_rows_per_source: int | None = None,
    seed: int = 0,
    has_sources: bool = True,
) -> Dataset | DatasetDict:
    """Load pairs from several places as one dataset.

    Args:
        names: As for `load_data`.
        data_dir: Folder that relative names start from.
        max_rows_per_source: Rows to take of each source at most, at random.
        seed: Seed of that choice.
        has_sources: Whether a column `source` names sources; otherwise it is a text.

    Returns:
        One dataset. Where several are joined, one without a column `source` gets it, with its file name.

    Raises:
        FileNotFoundError: If a name leads to no data; before any is loaded.
        ValueError: If datasets to be joined have different columns.
    """
    from datasets import Dataset, concatenate_datasets

    if data_dir is not None:
        if missing := [name for name in names if not (Path(data_dir) / name).exists()]:
            raise FileNotFoundError(f"There is no {missing[0]} in {data_dir}")
        names = [str(Path(data_dir) / name) for name in names]
    loaded = [load_data(name) for name in names]
    if len(loaded) == 1:
        joined = loaded[0]
    else:
        parts = []
        for name, part in zip(names, loaded, strict=True):
            if not isinstance(part, Dataset):
                raise ValueError(f"{name} holds several datasets and cannot be joined with others; give it alone")
            part = part.remove_columns([one for one in LABEL_COLUMNS if one in part.column_names and one != SOURCE])
            parts.append(
                part if SOURCE in part.column_names else part.add_column(SOURCE, [Path(name).stem] * len(part))
            )
        if differing := [part.column_names for part in parts if part.column_names != parts[0].column_names]:
            raise ValueError(f"{names[0]} has the columns {parts[0].column_names}, another one {differing[0]}")
        joined = concatenate_datasets(parts)
    return joined if max_rows_per_source is None else _cap_sources(joined, max_rows_per_source, seed, has_sources)


def _cap_sources(dataset: Dataset | DatasetDict, max_rows: int, seed: int, has_sources: bool) -> Dataset | DatasetDict:
    from datasets import DatasetDict

    if isinstance(dataset, DatasetDict):
        return DatasetDict({name: _cap_sources(part, max_rows, seed, has_sources) for name, part in dataset.items()})
    source = np.zeros(len(dataset), dtype=int)
    if has_sources and SOURCE in dataset.column_names:
        source = np.unique(np.asarray(dataset[SOURCE][:]), return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    kept = [rng.permutation(np.flatnonzero(source == one))[:max_rows] for one in range(source.max(initial=-1) + 1)]
    return dataset.select(np.sort(np.concatenate(kept))) if kept else dataset
