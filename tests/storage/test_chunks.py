from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from st_cluster_batches.storage.chunks import ChunkedArray, MappedRows
from st_cluster_batches.storage.shared_cache import SharedCache


@pytest.fixture
def array(tmp_path: Path) -> ChunkedArray:
    return ChunkedArray(tmp_path / "array", n_rows=103, chunk_rows=10)


ROWS = np.random.default_rng(0).normal(size=(103, 4)).astype(np.float16)


def fill(array: ChunkedArray) -> list[int]:
    """Fill an array, and say which chunks were made."""
    made = []

    def make(chunk: int) -> np.ndarray:
        made.append(chunk)
        return ROWS[slice(*array.bounds(chunk))]

    array.fill(make, SharedCache(array.folder.parent, show_progress_bar=False), "Testing")
    return made


def test_rows_come_back(array: ChunkedArray) -> None:
    assert fill(array) == list(range(11))
    assert np.array_equal(np.concatenate([rows for _, _, rows in array]), ROWS)
    wanted = np.array([0, 9, 10, 55, 102])
    assert np.array_equal(array.take(wanted), ROWS[wanted])


def test_a_bar_is_shown_for_work_alone(array: ChunkedArray, capsys: pytest.CaptureFixture[str]) -> None:
    for expected in (True, False):
        array.fill(lambda chunk: ROWS[slice(*array.bounds(chunk))], SharedCache(array.folder.parent), "Testing")
        assert ("Testing" in capsys.readouterr().err) == expected


@pytest.mark.parametrize(
    ("damage", "is_told"),
    [
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"), True, id="flipped"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-5]), True, id="cut"),
        pytest.param(lambda path: path.write_bytes(b""), True, id="empty"),
        pytest.param(lambda path: path.unlink(), False, id="gone"),
    ],
)
def test_a_chunk_that_does_not_hold_what_was_written_is_made_again(
    array: ChunkedArray, damage: Callable[[Path], object], is_told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    fill(array)
    path = next(array.folder.glob("000003-*.npy"))
    damage(path)
    assert fill(array) == [3]
    assert np.array_equal(np.concatenate([rows for _, _, rows in array]), ROWS)
    assert ("its rows are done again" in caplog.text) == is_told
    assert fill(array) == []


def test_billions_of_rows_make_thousands_of_files() -> None:
    assert ChunkedArray.at(Path("x"), 1_000_000).chunk_rows == 4096
    assert ChunkedArray.at(Path("x"), 10**9).n_chunks == 10_000


def test_more_chunks_are_mapped_than_files_may_be_open(tmp_path: Path) -> None:
    array = ChunkedArray(tmp_path / "array", n_rows=103, chunk_rows=1)
    fill(array)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    n_open = len(list(Path("/dev/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (n_open + 20, hard))
    try:
        rows = MappedRows(array)
        assert np.array_equal(rows.take(np.array([102, 0, 55])), ROWS[[102, 0, 55]])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
