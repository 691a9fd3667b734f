from __future__ import annotations

from pathlib import Path

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


def test_one_process_waits_for_nobody() -> None:
    with ProcessGroup.current() as processes:
        assert list(processes.share(3)) == [0, 1, 2]
        assert processes.once(lambda: 1, 2) == processes.decide(lambda: 1) == 1
