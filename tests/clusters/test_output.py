from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, load_from_disk
from examples import make_pairs

from st_cluster_batches import Clustering
from st_cluster_batches.__main__ import main
from st_cluster_batches.clusters.output import check_names, check_output, write_output


def attach(workspace: Path, data: str | Path, *words: str) -> int:
    return main(["attach", str(data), f"{workspace}/out", "--encoder", f"{workspace}/encoder", *words])


@pytest.fixture
def out(workspace: Path) -> Path:
    assert attach(workspace, workspace / "pairs.parquet", "--n_clusters", "3") == 0
    return workspace / "out"


def read_all(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_that_is_read_can_be_written(workspace: Path, out: Path) -> None:
    before = load_from_disk(str(out))["cluster"][:]
    assert attach(workspace, out, "--n_clusters", "2", "--overwrite") == 0
    again = load_from_disk(str(out))
    assert len(again) == 120 and again["cluster"][:] != before
    assert Clustering.load(out).centroids["all"].shape == (2, 16)


def test_rows_of_other_texts_that_are_replaced_are_told_of(
    workspace: Path, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert attach(workspace, workspace / "pairs.parquet", "--n_clusters", "2") == 0
    assert "which these replace" not in caplog.text
    make_pairs(40, seed=5).to_parquet(workspace / "others.parquet")
    assert attach(workspace, workspace / "others.parquet", "--n_clusters", "2") == 0
    assert f"{out} held 120 labelled rows of other texts, which these replace" in caplog.text
    (out / "clustering.json").write_text("{")
    assert attach(workspace, workspace / "pairs.parquet", "--n_clusters", "2") == 0
    assert "clustering.json is damaged" in caplog.text and len(load_from_disk(str(out))) == 120


def test_a_write_that_fails_leaves_the_old_folder_whole(
    workspace: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_all(out)

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Dataset, "save_to_disk", fail)
    assert attach(workspace, workspace / "pairs.parquet", "--n_clusters", "2") == 1, "no fault of the input"
    assert read_all(out) == before
    assert not list(workspace.glob("out.*"))


def test_a_run_killed_between_two_names_brings_the_old_folder_back(out: Path) -> None:
    before = read_all(out)
    host = os.uname().nodename
    out.rename(out.with_name(f"out.old.{host}.999999999.tmp"))
    out.with_name(f"out.{host}.999999999.tmp").mkdir()
    check_output(out)
    assert read_all(out) == before and not list(out.parent.glob("out.*"))


def test_what_else_lies_in_the_folder_stays(workspace: Path, out: Path) -> None:
    (out / "report.html").write_text("mine", encoding="utf-8")
    (out / "cache-1234.arrow").write_bytes(b"stale")
    assert attach(workspace, workspace / "pairs.parquet", "--n_clusters", "2") == 0
    assert (out / "report.html").read_text(encoding="utf-8") == "mine"
    assert not (out / "cache-1234.arrow").exists()


def test_a_folder_of_something_else_is_refused_before_work(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace / "out").mkdir()
    (workspace / "out" / "thesis.tex").write_text("years of work", encoding="utf-8")
    assert attach(workspace, workspace / "pairs.parquet") == 2
    assert "such as thesis.tex" in capsys.readouterr().err
    assert (workspace / "out" / "thesis.tex").exists()


def test_a_parent_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises((ValueError, OSError), match="file"):
        check_output(tmp_path / "file")


def test_build_refuses_rows_beside_the_clustering_of_others(
    workspace: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", str(out), "--output", f"{workspace}/staged"]) == 0
    kept = workspace / "kept"
    shutil.copytree(out, kept)
    make_pairs(90, seed=5).to_parquet(str(workspace / "pairs.parquet"))
    assert attach(workspace, workspace / "pairs.parquet", "--n_clusters", "3") == 0
    for name in ("clustering.json", "centroids.safetensors"):
        shutil.copy(out / name, kept / name)
    assert main(["build", str(kept), "--output", f"{workspace}/staged"]) == 2
    assert "do not belong together" in capsys.readouterr().err


def test_a_selection_of_the_rows_still_belongs(workspace: Path, out: Path) -> None:
    data: Dataset = load_from_disk(str(out))
    write_output(workspace / "fewer", data.select(range(50)), Clustering.load(out))
    assert main(["build", f"{workspace}/fewer", "--output", f"{workspace}/staged"]) == 0


@pytest.mark.parametrize("name", ["../../up", "/abs", "microsoft/docs", "c:\\docs", ".."])
def test_a_dataset_whose_name_is_no_folder_is_refused_before_work(name: str) -> None:
    with pytest.raises(ValueError, match="rename it before it is labelled"):
        check_names(DatasetDict({name: make_pairs(3)}))
    check_names(DatasetDict({"train": make_pairs(3)}))
    check_names(make_pairs(3))
