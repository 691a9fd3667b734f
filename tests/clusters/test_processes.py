from __future__ import annotations

from pathlib import Path

import pytest
from workers import WORKER, finish, launch, list_leftovers, start


@pytest.mark.slow
def test_two_processes_embed_disjoint_shares_and_agree_with_one(tmp_path: Path) -> None:
    _, labels = finish(start(tmp_path / "one"))
    done = launch(WORKER, tmp_path / "two")
    assert done.returncode == 0, done.stderr
    lines = sorted(line.split() for line in done.stdout.splitlines())
    assert [line[0] for line in lines] == ["0", "1"]
    assert {line[2] for line in lines} == {labels}
    assert [int(line[1]) for line in lines] == [312, 288], "the 19 chunks are dealt out"
    assert list_leftovers(tmp_path / "two") == []
    # What two processes left is a cache hit for one.
    assert finish(start(tmp_path / "two")) == (0, labels)


@pytest.mark.slow
def test_a_failed_process_stops_the_others_with_its_message(tmp_path: Path) -> None:
    done = launch(WORKER, tmp_path, "--fail_rank", "0")
    assert done.returncode != 0
    assert "ValueError: the encoder has had enough" in done.stderr
    # And those that it kept are not made again.
    again = launch(WORKER, tmp_path)
    assert again.returncode == 0, again.stderr
    assert sum(int(line.split()[1]) for line in again.stdout.splitlines()) < 600


@pytest.mark.slow
def test_two_processes_share_the_groups_that_are_cut_into_communities(tmp_path: Path) -> None:
    options = ("--communities", "100")
    _, labels = finish(start(tmp_path / "one", *options))
    done = launch(WORKER, tmp_path / "two", *options)
    assert done.returncode == 0, done.stderr
    assert {line.split()[2] for line in done.stdout.splitlines()} == {labels}
    kept = sorted(str(path.relative_to(tmp_path / "two")) for path in (tmp_path / "two").glob("communities-*/[0-9]*"))
    assert len(kept) == 6, kept  # four groups of one source, two of the other
    assert list_leftovers(tmp_path / "two") == []
