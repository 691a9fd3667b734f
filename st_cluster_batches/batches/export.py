"""Write a dataset in the order of its batches, so that a stream of it is the plan.

accelerate gives each process its own run of a stream's files where there are enough of them, so every file is one
process's share of some consecutive steps, and the files of a process stand together in alphabetical order.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from tqdm.auto import tqdm

from st_cluster_batches.batches.plan_messages import tell_of_batches
from st_cluster_batches.batches.run_length import find_unreached
from st_cluster_batches.batches.sampler import ClusterBatchSampler
from st_cluster_batches.columns import FALSE_NEGATIVE_KEYS
from st_cluster_batches.data.dataset_kinds import find_call
from st_cluster_batches.data.roles import find_roles
from st_cluster_batches.plans.options import Distinct, PlanOptions, Strata
from st_cluster_batches.storage.cache import make_folder, read_json, remove_leftovers, write_atomically, write_whole
from st_cluster_batches.storage.numbers import as_count
from st_cluster_batches.storage.processes import ProcessGroup

if TYPE_CHECKING:
    from datasets import Dataset

# Hidden, so that `load_dataset(directory)` sees nothing but parquet.
EXPORT_FILE = ".batch_plan.json"

logger = logging.getLogger(__name__)

_ROW_GROUP = 10_000  # rows that a reader holds at once
_HASHED = 10_000  # rows that are hashed at once


def export_batches(
    dataset: Dataset,
    directory: str | Path,
    batch_size: int,
    world_size: int = 1,
    epochs: int = 1,
    *,
    columns: Sequence[str] | None = None,
    strata: Strata | None = None,
    distinct: Distinct | None = FALSE_NEGATIVE_KEYS,
    random_fraction: float = 0.0,
    rows_per_stratum: int | None = None,
    seed: int = 0,
    rows_per_shard: int = 100_000,
    show_progress_bar: bool = True,
) -> int:
    """Write the batches of several epochs as parquet files, process by process and step by step.

    Trainers ignore batch samplers for an `IterableDataset`. A stream of these files, read with the same batch size on
    the same number of processes, gives every process exactly the batches that `ClusterBatchSampler` would have:

        steps = export_batches(train, "batches", batch_size=128, world_size=8, epochs=2)
        train = load_dataset("batches", split="train", streaming=True)

    with `max_steps=steps`, at most one `dataloader_num_workers` (more would interleave the files), and
    `accelerator_config={"dispatch_batches": False}`: on several processes, and with a static model on one too.
    accelerate cuts every tensor of a stream's batch to the length of the first, and a static model's tokens are one
    tensor without rows: training dies with `offsets[-1] can not be greater than input's length`, or loses the end of
    a batch's last text. Only whole global batches are written. Files are renamed into place one by one, and a second
    call writes only those that are missing. Where several processes make this call, the first one writes and the
    others wait.

    Args:
        dataset: A labelled dataset; the columns that it shows are written, labels left out.
        directory: Folder for the files, of this export alone.
        batch_size: Rows of a batch on one process.
        world_size: Processes that will read the stream.
        epochs: Epochs to write; each has batches of its own.
        columns: Query, positive, negatives, in order; written beside training labels. By default all that it shows.
        strata: As for `ClusterBatchSampler`.
        distinct: As for `ClusterBatchSampler`.
        random_fraction: As for `ClusterBatchSampler`.
        rows_per_stratum: As for `ClusterBatchSampler`.
        seed: Seed of the plan.
        rows_per_shard: Rows of one file, rounded up to whole batches.
        show_progress_bar: Whether to show progress.

    Returns:
        The steps that all epochs take on each process.

    Raises:
        ValueError: If the dataset has no labels or computes its rows by a transform, a number is not positive, a stage
            of strata begins after the last epoch, or the folder holds other batches.
    """
    batch_size, world_size = as_count("batch_size", batch_size), as_count("world_size", world_size)
    epochs, rows_per_shard = as_count("epochs", epochs), as_count("rows_per_shard", rows_per_shard)
    seed = as_count("seed", seed, least=0)
    if late := find_unreached(PlanOptions.check(strata, distinct, random_fraction, rows_per_stratum), None, epochs):
        raise ValueError(f"{', '.join(late)} is never reached: epochs={epochs}, counted from 0; export more of them")
    shown = _choose_columns(dataset, columns)
    if len(shown) < batch_size * world_size:
        raise ValueError(
            f"{len(shown)} rows fill no global batch of {batch_size * world_size} = {batch_size} rows x "
            f"{world_size} processes, and only whole ones are written; lower batch_size, or add data"
        )
    sampler = ClusterBatchSampler(
        shown,
        batch_size,
        drop_last=True,
        seed=seed,
        strata=strata,
        distinct=distinct,
        random_fraction=random_fraction,
        rows_per_stratum=rows_per_stratum,
        world_size=world_size,
    )
    if hidden := [name for name in columns or () if name in sampler.hidden_columns]:
        raise ValueError(
            f"columns={tuple(columns or ())} are to be written, but strata= or distinct= take {hidden} for labels, "
            "which no batch shows; name a copy of the column there: dataset.add_column(...)"
        )
    described = {"columns": None if columns is None else list(columns), "epochs": epochs}
    with ProcessGroup.current("export_batches") as processes:
        return processes.decide(
            lambda: _write(shown, sampler, Path(directory).expanduser(), described, rows_per_shard, show_progress_bar)
        )


def _write(
    shown: Dataset,
    sampler: ClusterBatchSampler,
    directory: Path,
    described: dict[str, Any],
    rows_per_shard: int,
    show_progress_bar: bool,
) -> int:
    """Write the files that are missing, and return the steps that all epochs take."""
    batch_size, epochs = sampler.batch_size, described["epochs"]
    make_folder(directory)
    steps_per_shard = -(-rows_per_shard // batch_size)
    described = {**sampler.describe(), **described, "steps_per_shard": steps_per_shard}
    described["rows"] = _hash_rows(shown, show_progress_bar)
    _claim(directory, described)
    remove_leftovers(directory)
    steps = len(sampler) // sampler.world_size
    tell_of_batches(sampler, None)
    counts = sampler.counts
    shards = list(_list_missing_shards(directory, sampler.world_size, epochs, steps, steps_per_shard))
    for epoch, rank, first, path in tqdm(shards, "Writing batches", unit="file", disable=not show_progress_bar):
        sampler.set_epoch(epoch)
        planned = sampler.plan_epoch()
        batches = planned.order[first : first + steps_per_shard]
        rows = planned.rows[batches, rank * batch_size : (rank + 1) * batch_size].ravel()
        with write_whole(path) as temporary:
            pq.write_table(shown[rows], temporary, row_group_size=_ROW_GROUP)
    content = {**described, "steps": steps, "counts": asdict(counts)}
    write_atomically(directory / EXPORT_FILE, json.dumps(content, indent=2))
    told = "Train on %s with max_steps=%d and per_device_train_batch_size=%d"
    if sampler.world_size > 1:
        told += f", on {sampler.world_size} processes: on fewer, the files of the others would be read by none"
    logger.info(told, directory, epochs * steps, batch_size)
    return int(epochs * steps)


def _choose_columns(dataset: Dataset, columns: Sequence[str] | None) -> Dataset:
    """Return a copy of the dataset that shows, as Arrow tables, what is to be written, and labels."""
    from datasets import Dataset

    if not isinstance(dataset, Dataset):
        raise TypeError(f"export_batches takes one Dataset, not a {type(dataset).__name__}; {_find_call(dataset)}")
    if dataset.format["type"] == "custom":
        transform = dataset.format["format_kwargs"]["transform"]
        name = getattr(getattr(transform, "func", transform), "__qualname__", "of its own")
        raise ValueError(
            f"The dataset has a transform, {name}, which files cannot keep; apply it first: dataset.map(transform, "
            "batched=True), or take it off, as one that a trainer has left there: dataset.with_format(None)"
        )
    # A copy of the view, since the sampler hides the labels of the dataset it is given.
    shown = dataset.with_format("arrow", columns=dataset.format["columns"])
    if columns is None:
        return shown
    roles = find_roles(dataset.with_format(None), columns, [])
    kept = dict.fromkeys([*roles.texts, *roles.targets])
    # All else stays in the data, where options may name it, and is hidden.
    ordered = dataset.with_format(None).select_columns(
        [*kept, *(one for one in dataset.column_names if one not in kept)]
    )
    return ordered.with_format("arrow", columns=list(kept))


def _find_call(given: Any) -> str:
    """Return the calls that export what is no dataset: each of several into a folder of its own."""
    from datasets import Dataset, IterableDataset

    if isinstance(given, Mapping):
        each, folder, held = "for name, part in dataset.items()", "folder / name", list(given.values())
    else:
        each, folder = "for number, part in enumerate(datasets)", "folder / str(number)"
        held = list(given) if isinstance(given, list | tuple) else []
    if not held or not all(isinstance(one, Dataset | IterableDataset) for one in held):
        return find_call(given, "export_batches")
    part = "part" if isinstance(held[0], Dataset) else "Dataset.from_list(list(part))"
    return f"of several, export each into a folder of its own: {each}: export_batches({part}, {folder}, ...)"


def _hash_rows(shown: Dataset, show_progress_bar: bool) -> str:
    """Hash what is to be written: other texts with the same labels have the same plan."""
    state = xxhash.xxh3_128()
    for first in tqdm(range(0, len(shown), _HASHED), "Reading rows", unit="chunk", disable=not show_progress_bar):
        table = shown[first : first + _HASHED].replace_schema_metadata(None).combine_chunks()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        state.update(sink.getvalue())
    return state.hexdigest()


def _claim(directory: Path, described: dict[str, object]) -> None:
    """Write what the folder is to hold, or check that it is the same."""
    path = directory / EXPORT_FILE
    if path.exists():
        kept = read_json(path)
        if changed := [name for name, value in described.items() if kept.get(name) != value]:
            raise ValueError(
                f"{directory} holds batches of another plan ({', '.join(changed)} differ); give a folder of its own"
            )
    elif others := sorted(file.name for file in directory.glob("*.parquet")):
        raise ValueError(f"{directory} holds other files, such as {others[0]}; give a folder of its own")
    else:
        write_atomically(path, json.dumps(described, indent=2))


def _list_missing_shards(
    directory: Path, world_size: int, epochs: int, steps: int, steps_per_shard: int
) -> Iterator[tuple[int, int, int, Path]]:
    """Yield epoch, rank, first step and path of the files that are missing, epoch by epoch to plan each once."""
    for epoch, rank, first in product(range(epochs), range(world_size), range(0, steps, steps_per_shard)):
        path = directory / f"rank{rank:04d}-epoch{epoch:04d}-{first // steps_per_shard:06d}.parquet"
        if not path.exists():
            yield epoch, rank, first, path
