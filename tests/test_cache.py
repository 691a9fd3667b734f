from __future__ import annotations

from pathlib import Path

from st_cluster_batches.cache import write_atomically


def test_a_small_file_is_replaced_whole(tmp_path: Path) -> None:
    write_atomically(tmp_path / "x", "old")
    write_atomically(tmp_path / "x", "new")
    assert (tmp_path / "x").read_text() == "new"
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]
