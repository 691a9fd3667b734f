from __future__ import annotations

from pathlib import Path

import pytest
from workers import launch

from st_cluster_batches.storage.processes import ProcessGroup

SCRIPT = """
import os, sys
from st_cluster_batches.storage.processes import ProcessGroup

processes = ProcessGroup.current()
with processes:
    found = processes.decide(lambda: f"by {processes.rank}")
    done = processes.once(lambda: "done", "waited")
    sys.stdout.write(f"{processes.rank} {list(processes.share(5))} {found} {done}\\n")
    sys.stdout.flush()
    try:
        with processes:
            if os.environ["RANK"] == sys.argv[2]:
                raise KeyError("no such thing")
            processes.wait()
    except Exception as error:
        sys.stderr.write(f"{processes.rank} {type(error).__name__} {error}\\n")
        os._exit(3)
"""


def test_who_waits_hears_of_a_failure_and_one_does_what_all_wait_for(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = launch(tmp_path / "script.py", tmp_path / "cache", "1")
    assert sorted(done.stdout.splitlines()) == ["0 [0, 2, 4] by 0 done", "1 [1, 3] by 0 waited"]
    assert "1 KeyError 'no such thing'" in done.stderr
    assert "0 RuntimeError Process 1 of 2 failed, so this one stops: KeyError: 'no such thing'" in done.stderr


WAITING = """
import logging, os, sys, threading, time
from accelerate import PartialState
from st_cluster_batches.storage import processes

logging.basicConfig(level=logging.INFO, format=f"rank {os.environ['RANK']} %(levelname)s %(message)s")
processes.PATIENCE = 1.0
rank = int(os.environ["RANK"])


def call():
    from examples import make_pairs, make_static_model
    from st_cluster_batches import attach_clusters

    threading.Timer(4, os._exit, [3]).start()  # else it would wait for days
    attach_clusters(make_pairs(50), make_static_model(), n_clusters=2, cache_dir=sys.argv[1], show_progress_bar=False)


if sys.argv[2] == "alone" and rank == 0:
    call()
elif sys.argv[2] == "first":
    with PartialState(cpu=True).main_process_first():
        call()
elif sys.argv[2] == "at work":
    with processes.ProcessGroup.current("attach_clusters") as group:
        group.once(lambda: time.sleep(2.5), None)
        group.once(lambda: time.sleep(1.5), None)
    os._exit(0)
time.sleep(60)
"""


@pytest.mark.slow
def test_who_waits_in_vain_says_for_whom_and_that_all_must_call(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(WAITING)
    done = launch(tmp_path / "script.py", tmp_path / "cache", "alone")
    line = "rank 0 WARNING Process 0 of 2 has waited 1 s in attach_clusters for the others. Every rank must"
    assert done.stderr.count(line) == 1, done.stderr
    assert done.stderr.count("has waited") == 1


@pytest.mark.slow
def test_a_call_within_main_process_first_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(WAITING)
    done = launch(tmp_path / "script.py", tmp_path / "cache", "first")
    assert done.returncode != 0
    assert "attach_clusters is a call of all ranks together, and within main_process_first()" in done.stderr


def test_who_waits_for_one_at_work_gives_no_warning(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(WAITING)
    done = launch(tmp_path / "script.py", tmp_path / "cache", "at work")
    assert done.returncode == 0 and "WARNING" not in done.stderr
    assert done.stderr.count("rank 1 INFO Process 1 of 2 waits in attach_clusters for process 0 at work") == 1


ENDING = """
import sys, time
from st_cluster_batches.storage.processes import ProcessGroup

with ProcessGroup.current() as processes:
    processes.wait()
if processes.rank == 1:
    time.sleep(1.0)  # else both are closed at once, and abort in one case of five only
sys.stdout.write(f"{processes.rank} is done\\n")
"""


def test_processes_that_are_done_leave_without_an_abort(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(ENDING)
    done = launch(tmp_path / "script.py", tmp_path / "cache")
    assert done.returncode == 0 and "terminate called" not in done.stderr, done.stderr
    assert sorted(done.stdout.splitlines()) == ["0 is done", "1 is done"]


def test_one_process_waits_for_nobody() -> None:
    with ProcessGroup.current() as processes:
        assert list(processes.share(3)) == [0, 1, 2]
        assert processes.once(lambda: 1, 2) == processes.decide(lambda: 1) == 1


UNWRITABLE = """
import os, sys
from pathlib import Path
from st_cluster_batches.storage.shared_cache import SharedCache

folder = Path(sys.argv[1])
folder.mkdir(exist_ok=True)
(folder / "file").touch()
try:
    with SharedCache.open(folder / ("file" if os.environ["RANK"] == "1" else "cache")) as cache:
        cache.processes.wait()
except Exception as error:
    sys.stderr.write(f"{os.environ['RANK']} {type(error).__name__} {error}\\n")
    os._exit(3)
"""


@pytest.mark.slow
def test_a_process_that_cannot_write_its_cache_stops_the_others(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(UNWRITABLE)
    done = launch(tmp_path / "script.py", tmp_path / "folder")
    assert "0 RuntimeError Process 1 of 2 failed" in done.stderr and "1 FileExistsError" in done.stderr
