from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from workers import ROOT, WORKER, finish, list_leftovers, start

from st_cluster_batches.storage.processes import Crew


def launch(cache: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the worker as two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(cache.parent), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, str(WORKER), str(cache), *options],
        env={**environment, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def crews(tmp_path: Path) -> list[Crew]:
    board = tmp_path / "board"
    board.mkdir()
    return [Crew(tmp_path, rank, 2, board) for rank in range(2)]


@pytest.mark.slow
def test_two_processes_embed_disjoint_shares_and_agree_with_one(tmp_path: Path) -> None:
    _, labels = finish(start(tmp_path / "one"))
    done = launch(tmp_path / "two")
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
    done = launch(tmp_path, "--fail_rank", "0")
    assert done.returncode != 0
    assert "ValueError: the encoder has had enough" in done.stderr
    # And those that it kept are not made again.
    again = launch(tmp_path)
    assert again.returncode == 0, again.stderr
    assert sum(int(line.split()[1]) for line in again.stdout.splitlines()) < 600


def test_who_waits_hears_of_a_failure(crews: list[Crew]) -> None:
    heard = []

    def wait() -> None:
        try:
            with crews[1] as crew:
                crew.wait_for("a step")
        except RuntimeError as error:
            heard.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    with pytest.raises(KeyError), crews[0]:
        raise KeyError("no such thing")
    thread.join(timeout=10)
    assert heard == ["Process 0 of 2 failed, so this one stops: KeyError: 'no such thing'"]


def test_one_does_what_all_wait_for(crews: list[Crew]) -> None:
    done = []
    threads = [threading.Thread(target=crew.once, args=("a step", lambda: done.append(True))) for crew in crews]
    for thread in reversed(threads):
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert done == [True]


def test_the_last_to_leave_removes_the_marks(crews: list[Crew]) -> None:
    board = crews[0].board
    assert board is not None
    with crews[0] as crew:
        crew.finish("a step")
    assert board.exists()
    with crews[1]:
        pass
    assert not board.exists()
