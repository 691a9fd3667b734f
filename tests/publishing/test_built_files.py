from __future__ import annotations

import os
from pathlib import Path

import pytest

from st_cluster_batches.publishing.built_files import list_built_files, refuse_other_files
from st_cluster_batches.storage.cache import recover_folder, replace_folder


@pytest.fixture
def built(tmp_path: Path) -> Path:
    folder = tmp_path / "built"
    (folder / "results").mkdir(parents=True)
    (folder / "README.md").write_text("card")
    (folder / "results" / "summary.json").write_text("{}")
    list_built_files(folder)
    return folder


def test_what_a_build_left_may_be_replaced_and_its_card_edited(built: Path) -> None:
    refuse_other_files(built, "README.md")
    (built / "README.md").write_text("card, with a person's words")
    (built / "results" / "summary.json").unlink()
    refuse_other_files(built, "README.md")
    refuse_other_files(built / "new", "README.md")


@pytest.mark.parametrize("name", [".git/config", "notes.txt", "results/mine.json"])
def test_a_persons_own_file_stops_a_build(built: Path, name: str) -> None:
    (built / name).parent.mkdir(exist_ok=True)
    (built / name).write_text("mine")
    with pytest.raises(ValueError, match=f"holds {name}, which no build left there"):
        refuse_other_files(built, "README.md")


def test_a_changed_file_an_unlisted_folder_and_a_file_stop_a_build(built: Path, tmp_path: Path) -> None:
    (built / "results" / "summary.json").write_text("changed")
    with pytest.raises(ValueError, match="was changed since it was built"):
        refuse_other_files(built, "README.md")
    (tmp_path / "mine" / "empty").mkdir(parents=True)
    with pytest.raises(ValueError, match="folders that no build left"):
        refuse_other_files(tmp_path / "mine", "README.md")
    with pytest.raises(ValueError, match="is a file"):
        refuse_other_files(built / "README.md", "README.md")


def test_a_failed_replacement_leaves_the_old_folder_whole(built: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in built.rglob("*"))
    with pytest.raises(FileNotFoundError), replace_folder(built, lambda _: True):
        pass  # nothing is written that could take its place
    assert sorted(path.name for path in built.rglob("*")) == before
    with replace_folder(built, lambda _: True) as new:
        new.mkdir()
        (new / "a").write_text("a")
    assert [path.name for path in built.iterdir()] == ["a"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["built"]


@pytest.mark.parametrize("was_renamed", [False, True])
def test_a_replacement_clears_up_after_one_that_was_killed(built: Path, tmp_path: Path, was_renamed: bool) -> None:
    host = os.uname().nodename
    (built / "mine.txt").write_text("mine")
    built.rename(tmp_path / f"built.old.{host}.999999999.tmp")
    (built if was_renamed else tmp_path / f"built.{host}.999999999.tmp").mkdir()
    recover_folder(built)  # as those do who look into the folder first; what is to be kept they do not know
    with replace_folder(built, lambda path: path.name != "mine.txt") as new:
        new.mkdir()
    assert [path.name for path in built.iterdir()] == ["mine.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["built"]
