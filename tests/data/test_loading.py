from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict
from examples import make_pairs

from st_cluster_batches.data.loading import load_data, load_training_data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_pairs(30, 0).to_parquet(str(tmp_path / "a.parquet"))
    make_pairs(20, 1).to_parquet(str(tmp_path / "b.parquet"))
    make_pairs(10, 2).save_to_disk(str(tmp_path / "saved"))
    return tmp_path


@pytest.mark.parametrize(("name", "n_rows"), [("a.parquet", 30), ("", 50), ("saved", 10)])
def test_files_folders_and_saved_datasets_load(folder: Path, name: str, n_rows: int) -> None:
    assert len(load_data(folder / name)) == n_rows


def test_joined_data_names_the_source_of_every_row(folder: Path) -> None:
    joined = load_training_data(["a.parquet", "b.parquet", "saved"], str(folder))
    assert joined["source"][:] == ["a"] * 30 + ["b"] * 20 + ["saved"] * 10
    assert joined.column_names == ["query", "passage", "source"]


def test_large_sources_are_capped_at_random_and_reproducibly(folder: Path) -> None:
    capped = load_training_data(["a.parquet", "b.parquet"], str(folder), max_rows_per_source=12)
    assert [capped["source"][:].count(name) for name in "ab"] == [12, 12]
    again = load_training_data(["a.parquet", "b.parquet"], str(folder), max_rows_per_source=12)
    assert capped["query"][:] == again["query"][:] != make_pairs(30, 0)["query"][:12]


@pytest.mark.parametrize("name", ["missing.parquet", "no/such-dataset"])
def test_missing_data_is_named(folder: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=name):
        load_data(name)
    with pytest.raises(FileNotFoundError, match=name):
        load_training_data(["a.parquet", name], str(folder))


def test_other_files_and_empty_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"notes\.txt is no parquet file"):
        load_data(tmp_path / "notes.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds neither parquet files nor"):
        load_data(tmp_path / "empty")


def test_data_that_does_not_fit_together_is_refused(folder: Path) -> None:
    Dataset.from_dict({"question": ["x"], "answer": ["y"]}).to_parquet(str(folder / "c.parquet"))
    with pytest.raises(ValueError, match=r"another one \['question', 'answer', 'source'\]"):
        load_training_data(["a.parquet", "c.parquet"], str(folder))
    DatasetDict({"x": make_pairs(5), "y": make_pairs(5)}).save_to_disk(str(folder / "several"))
    with pytest.raises(ValueError, match="holds several datasets"):
        load_training_data(["a.parquet", "several"], str(folder))
