from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict, IterableDatasetDict, concatenate_datasets, load_dataset
from examples import label_pairs, make_pairs, make_static_model
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from trainers import make_trainer
from workers import launch

from st_cluster_batches import ClusterBatchSampler, export_batches, fit_clusters
from st_cluster_batches.batches.export import EXPORT_FILE


def export(dataset: Dataset, directory: Path, world_size: int = 1, epochs: int = 1, **options: object) -> int:
    return export_batches(
        dataset, directory, 8, world_size, epochs, rows_per_shard=40, show_progress_bar=False, **options
    )


def read(directory: Path, rank: int = 0) -> list[str]:
    files = sorted(str(path) for path in directory.glob(f"rank{rank:04d}-*.parquet"))
    return [row["query"] for row in load_dataset("parquet", data_files=files, split="train", streaming=True)]


@pytest.mark.parametrize("kind", ["DatasetDict", "IterableDatasetDict", "dict", "list"])
def test_of_several_datasets_or_streams_each_is_exported_as_the_message_says(
    tmp_path: Path, labelled: Dataset, kind: str
) -> None:
    stream = labelled.to_iterable_dataset()
    several: Any = {
        "DatasetDict": DatasetDict(a=labelled),
        "IterableDatasetDict": IterableDatasetDict(a=stream),
        "dict": {"a": labelled},
        "list": [labelled],
    }[kind]
    with pytest.raises(TypeError, match=f"takes one Dataset, not a {kind}; of several, export each into") as refused:
        export(several, tmp_path / "out")
    call = str(refused.value).partition("folder of its own: ")[2].replace("...", "8, show_progress_bar=False")
    names = {"dataset": several, "datasets": several, "folder": tmp_path, "Dataset": Dataset}
    exec(call, {**names, "export_batches": export_batches})
    export(labelled, tmp_path / "whole")
    assert read(tmp_path / ("0" if kind == "list" else "a")) == read(tmp_path / "whole")


def test_a_stream_that_a_clustering_has_labelled_is_exported_once_its_rows_are_taken(
    tmp_path: Path, labelled: Dataset
) -> None:
    clustering = fit_clusters(make_pairs(200), make_static_model(), n_clusters=3)
    stream = clustering.attach(make_pairs(200).to_iterable_dataset())
    export(Dataset.from_list(list(stream)), tmp_path / "stream")
    export(clustering.attach(make_pairs(200)), tmp_path / "rows")
    assert read(tmp_path / "stream") == read(tmp_path / "rows")


@pytest.mark.parametrize("world_size", [1, 3])
def test_each_process_reads_the_batches_that_the_sampler_would_give_it(
    tmp_path: Path, labelled: Dataset, world_size: int
) -> None:
    steps = export(labelled, tmp_path / "out", world_size, epochs=2, seed=3)
    queries = labelled["query"][:]
    sampler = ClusterBatchSampler(labelled, 8, drop_last=True, seed=3, world_size=world_size)
    batches = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        batches += list(sampler)
    assert steps == len(batches) // world_size
    for rank in range(world_size):
        assert read(tmp_path / "out", rank) == [queries[row] for batch in batches[rank::world_size] for row in batch]


def test_load_dataset_takes_the_folder_as_it_is(tmp_path: Path, labelled: Dataset) -> None:
    steps = export(labelled, tmp_path / "out")
    stream = load_dataset(str(tmp_path / "out"), split="train", streaming=True)
    rows = list(stream)
    assert len(rows) == steps * 8
    assert all(set(row) == {"query", "passage"} for row in rows), "labels are left out"
    counts = json.loads((tmp_path / "out" / EXPORT_FILE).read_text())["counts"]
    assert counts["pure"] + counts["pooled"] + counts["mixed"] == steps


def test_an_interrupted_export_writes_what_is_missing_and_nothing_else(tmp_path: Path, labelled: Dataset) -> None:
    export(labelled, tmp_path / "out", 2)
    files = sorted((tmp_path / "out").glob("*.parquet"))
    before = {path.name: path.read_bytes() for path in files}
    files[1].unlink()
    dead = subprocess.Popen(["true"])
    dead.wait()
    half = tmp_path / "out" / f"{files[0].name}.{socket.gethostname()}.{dead.pid}.tmp"
    half.write_bytes(b"half of a file")
    times = {path: path.stat().st_mtime_ns for path in files if path.exists()}
    export(labelled, tmp_path / "out", 2)
    assert {path.name: path.read_bytes() for path in files} == before
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert not half.exists()
    assert not list((tmp_path / "out").glob("*.tmp"))


def test_a_folder_with_other_batches_is_refused(tmp_path: Path, labelled: Dataset) -> None:
    export(labelled, tmp_path / "out")
    with pytest.raises(ValueError, match=r"holds batches of another plan \(seed differ\)"):
        export(labelled, tmp_path / "out", seed=1)
    with pytest.raises(ValueError, match="labels"):
        export(label_pairs(make_pairs(300, seed=9)), tmp_path / "out")
    (tmp_path / "full").mkdir()
    labelled.to_parquet(str(tmp_path / "full" / "train.parquet"))
    with pytest.raises(ValueError, match=r"holds other files, such as train\.parquet"):
        export(labelled, tmp_path / "full")


def test_a_folder_with_the_same_batches_of_other_texts_is_refused(tmp_path: Path, labelled: Dataset) -> None:
    export(labelled, tmp_path / "out")
    changed = labelled.with_format(None).map(lambda row: {"passage": row["passage"].upper()})
    with pytest.raises(ValueError, match=r"another plan \(rows differ\)"):
        export(changed, tmp_path / "out")
    parts = [labelled.with_format(None).select(range(at, at + 100)) for at in (0, 100, 200)]
    export(concatenate_datasets(parts), tmp_path / "out")  # the same rows, in other pieces


def test_the_given_dataset_is_left_as_it_is(tmp_path: Path, labelled: Dataset) -> None:
    before = labelled.format
    export(labelled, tmp_path / "out")
    assert labelled.format == before


def test_the_transform_that_a_trainer_leaves_is_named_with_the_call_that_takes_it_off(
    tmp_path: Path, labelled: Dataset
) -> None:
    parts = DatasetDict(a=labelled, b=label_pairs(make_pairs(60, 1)))
    model = make_static_model()
    losses = {name: MultipleNegativesRankingLoss(model) for name in parts}
    make_trainer(tmp_path, parts, model=model, loss=losses).train()
    with pytest.raises(ValueError, match=r"add_dataset_name_transform.*that a trainer has left.*with_format\(None\)"):
        export(labelled, tmp_path / "out")
    export(labelled.with_format(None), tmp_path / "out")


def test_what_cannot_be_written_is_refused_before_anything_is(tmp_path: Path, labelled: Dataset) -> None:
    with pytest.raises(ValueError, match=r"has a transform.*dataset\.map"):
        export(labelled.with_transform(lambda batch: batch), tmp_path / "out")
    with pytest.raises(TypeError, match=r"not a IterableDataset; take all rows: Dataset.from_list\(list\(stream\)\)"):
        export(labelled.to_iterable_dataset(), tmp_path / "out")
    with pytest.raises(ValueError, match="epochs=0"):
        export(labelled, tmp_path / "out", epochs=0)
    with pytest.raises(ValueError, match=r"attach_clusters\(dataset, encoder\)"):
        export(make_pairs(100), tmp_path / "out")
    assert not (tmp_path / "out").exists()


EXPORT = """
import sys
from pathlib import Path
from examples import label_pairs, make_pairs
from st_cluster_batches import export_batches

steps = export_batches(label_pairs(make_pairs(300)), sys.argv[1], 8, 2, 3, rows_per_shard=16, show_progress_bar=False)
assert steps == 3 * 18, steps
assert len(list(Path(sys.argv[1]).glob("*.parquet"))) == 2 * 3 * 9, "all is there when the call returns, on any rank"
"""


def test_rows_that_fill_no_whole_batch_are_counted(
    tmp_path: Path, labelled: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    export_batches(labelled, tmp_path / "whole", batch_size=16, show_progress_bar=False)
    left = len(labelled) % 16
    assert f"{left} of {len(labelled)} rows are in no batch: they fill no whole global batch of 16" in caplog.text
    with pytest.raises(ValueError, match=r"fill no global batch of 512 = 512 rows x 1 processes.*lower batch_size"):
        export_batches(labelled, tmp_path / "none", batch_size=512, show_progress_bar=False)


@pytest.mark.slow
def test_two_processes_that_make_the_same_call_write_what_one_would(tmp_path: Path) -> None:
    script = tmp_path / "export.py"
    script.write_text(EXPORT)
    done = launch(script, tmp_path / "together")
    assert done.returncode == 0, done.stderr
    pairs = label_pairs(make_pairs(300))
    export_batches(pairs, tmp_path / "alone", 8, 2, 3, rows_per_shard=16, show_progress_bar=False)
    together, alone = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("together", "alone")
    )
    assert together == alone


def test_a_static_model_reads_a_stream_whole_only_if_accelerate_does_not_dispatch(
    tmp_path: Path, labelled: Dataset
) -> None:
    longer = labelled.map(lambda row: {"passage": f"{row['passage']} and more of it"})
    steps = export(longer, tmp_path / "out")
    stream = load_dataset(str(tmp_path / "out"), split="train", streaming=True)
    # The sampler itself is for datasets that are no streams.
    options = {"max_steps": steps, "per_device_train_batch_size": 8, "batch_sampler": "batch_sampler"}
    whole = make_trainer(tmp_path, stream, accelerator_config={"dispatch_batches": False}, **options)
    whole.train()
    assert whole.state.global_step == steps
    # What the documentation warns of; once the host has mended it, the warning can go.
    with pytest.raises(RuntimeError, match=r"offsets\[-1\] can not be greater than input's length"):
        make_trainer(tmp_path, stream, **options).train()


def test_a_place_that_is_no_folder_or_in_the_home_is_known(
    tmp_path: Path, labelled: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file is a file; a folder is needed"):
        export(labelled, tmp_path / "file")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    export(labelled, Path("~/out"))
    assert (tmp_path / "out" / EXPORT_FILE).is_file() and not (tmp_path / "~").exists()
