"""Killed, out of room, out of luck: what is finished is kept, and the labels are those of a quiet run."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from workers import finish, list_leftovers, start


def kill_when(process: subprocess.Popen[str], cache: Path, n_chunks: int) -> None:
    """Kill a run once it has so many chunks."""
    deadline = time.monotonic() + 60
    while len(list(cache.glob("vectors-*/*.npy"))) < n_chunks:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The hash of the labels of an uninterrupted run."""
    return finish(start(tmp_path_factory.mktemp("quiet")))[1]


def test_a_killed_run_loses_one_chunk_and_gives_the_same_labels(tmp_path: Path, quiet: str) -> None:
    kill_when(start(tmp_path, "--pause", "0.1"), tmp_path, n_chunks=5)
    n_kept = 32 * len(list(tmp_path.glob("vectors-*/*.npy")))
    (tmp_path / "x.npy.elsewhere.1.tmp").touch()  # of another machine, where its process may be alive
    n_rows, labels = finish(start(tmp_path))
    assert labels == quiet
    assert n_rows == 600 - n_kept
    assert [path.name for path in list_leftovers(tmp_path)] == ["x.npy.elsewhere.1.tmp"]


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_nothing(tmp_path: Path, quiet: str) -> None:
    rng = random.Random(0)
    for _ in range(10):
        process = start(tmp_path, "--pause", "0.05")
        # From the imports, which take some five seconds, to the writing of labels.
        time.sleep(rng.uniform(3.0, 8.0))
        process.kill()
        process.communicate()
    assert finish(start(tmp_path))[1] == quiet
    assert list_leftovers(tmp_path) == []
    assert finish(start(tmp_path)) == (0, quiet)


@pytest.mark.slow
def test_a_damaged_chunk_and_damaged_labels_are_done_again(tmp_path: Path, quiet: str) -> None:
    assert finish(start(tmp_path)) == (600, quiet)
    for pattern in ("vectors-*/000004-*.npy", "labels-*.arrow", "clustering-*/centroids.safetensors"):
        for path in tmp_path.glob(pattern):
            content = bytearray(path.read_bytes())
            content[-20] ^= 255
            path.write_bytes(content)
    assert finish(start(tmp_path)) == (32, quiet)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1000, 2500])
def test_no_room_is_said_and_what_is_finished_is_kept(tmp_path: Path, quiet: str, size: int) -> None:
    """A chunk has 1,152 bytes and the labels some 5,000, so that one limit stops either."""
    process = start(tmp_path, "--file_size", str(size))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and out == ""
    assert "No room to write (File too large). What is finished is kept: free some space" in err.splitlines()[-1]
    assert list_leftovers(tmp_path) == []
    n_rows, labels = finish(start(tmp_path))
    assert labels == quiet
    assert n_rows == (600 if size == 1000 else 0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 32 pages: the row keys take 19, a file each chunk, so that it is full amid the embeddings."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)], capture_output=True).returncode:
        # The test above fills a limit on file sizes instead of a disk, and needs no root.
        pytest.skip("only root can mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_a_full_disk_can_be_grown_and_the_run_goes_on(small_disk: Path, quiet: str) -> None:
    process = start(small_disk)
    _, err = process.communicate(timeout=60)
    assert "No room to write (No space left on device)" in err.splitlines()[-1]
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    n_rows, labels = finish(start(small_disk))
    assert labels == quiet and n_rows < 600


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_is_refused_before_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    process = start(tmp_path / "file" / "cache")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Nothing can be written to the cache folder (Not a directory); pass cache_dir=" in err.splitlines()[-1]


@pytest.mark.slow
def test_two_jobs_at_once_share_a_cache(tmp_path: Path, quiet: str) -> None:
    for delay in (0.0, 0.5, 1.0):
        cache = tmp_path / str(delay)
        jobs = [start(cache, "--pause", "0.02")]
        time.sleep(delay)
        jobs.append(start(cache))
        killed = start(cache, "--pause", "0.05")
        time.sleep(4)
        killed.kill()
        killed.communicate()
        assert [finish(job)[1] for job in jobs] == [quiet, quiet]
        assert finish(start(cache)) == (0, quiet)
