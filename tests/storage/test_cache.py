from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from st_cluster_batches.storage.cache import read_seal, remove_leftovers, seal, temporary_name, write_atomically


def test_a_small_file_is_replaced_whole(tmp_path: Path) -> None:
    write_atomically(tmp_path / "x", "old")
    write_atomically(tmp_path / "x", "new")
    assert (tmp_path / "x").read_text() == "new"
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]


def test_what_dead_processes_left_is_removed_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "node[1].local")  # no pattern, though it looks like one
    alive = temporary_name(tmp_path / "x")
    dead = alive.with_name(alive.name.replace(str(os.getpid()), "999999999"))
    others = ["x.node1.local.999999999.tmp", "x.node[1].local.y.tmp", "x.tmp", "x"]
    for path in (alive, dead, *(tmp_path / name for name in others)):
        path.write_text("x")
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {alive.name, *others}


# Root may write anywhere, so whoever runs the tests as root becomes another user first; with all imported before.
OPEN = """
import os, sys
from st_cluster_batches.storage.cache import open_cache
if os.getuid() == 0:
    os.setuid(65534)
open_cache(sys.argv[1])
"""


def test_a_cache_without_write_permission_is_refused_before_any_work(tmp_path: Path) -> None:
    folder = tmp_path / "read_only"
    folder.mkdir(mode=0o555)
    for parent in [tmp_path, *list(tmp_path.parents)[:2]]:
        os.chmod(parent, 0o755)  # of pytest's own, closed to other users
    found = subprocess.run([sys.executable, "-c", OPEN, str(folder)], capture_output=True, text=True, check=False)
    last = found.stderr.splitlines()[-1]
    assert last.startswith("PermissionError") and str(folder) in last
    assert "Nothing can be written to the cache folder (Permission denied); pass cache_dir=" in last
    assert not list(folder.iterdir())


def test_a_damaged_seal_is_named_and_vouches_for_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths, seal_path = [tmp_path / "labels.npy"], tmp_path / "labels.json"
    paths[0].write_bytes(b"labels")
    seal(paths, seal_path, {"rows": 3})
    whole = seal_path.read_text()
    assert read_seal(paths, seal_path) == {"rows": 3} and not caplog.messages
    for damaged in (whole[:9], "{}", "[]", ""):
        seal_path.write_text(damaged)
        assert read_seal(paths, seal_path) is None
        assert caplog.messages.pop().startswith(f"{seal_path} is damaged")
        caplog.clear()


# A limit on the size of files stands for a full disk, and needs no root.
FILL = """
import resource, shutil, sys
from pathlib import Path
import numpy as np
from safetensors.numpy import save_file
from st_cluster_batches.storage.cache import write_whole
given, target = Path(sys.argv[1]) / "given", Path(sys.argv[1]) / "model"
given.mkdir()
(given / "vectors").write_bytes(bytes(1 << 17))
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
with write_whole(target) as temporary:
    if sys.argv[2] == "tensors":
        temporary.mkdir()
        save_file({"x": np.zeros(1 << 16)}, temporary / "model.safetensors")
    else:
        shutil.copytree(given, temporary)
"""


@pytest.mark.parametrize("what", ["tensors", "copies"])
def test_a_disk_that_is_full_is_told_of_in_one_way_whatever_is_written(tmp_path: Path, what: str) -> None:
    words = [sys.executable, "-c", FILL, str(tmp_path), what]
    last = subprocess.run(words, capture_output=True, text=True, check=False).stderr.splitlines()[-1]
    assert "OSError: [Errno 27] No room to write (File too large). What is finished is kept" in last
    assert [path.name for path in tmp_path.iterdir()] == ["given"]
