from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from st_cluster_batches.storage.claims import claim


def test_a_folder_is_of_one_process_until_that_ends_or_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from st_cluster_batches.storage.claims import claim\n"
        "with claim(Path(sys.argv[1]), 'tune'): print('claimed', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline() == "claimed\n"
    with pytest.raises(OSError, match="Another process is at work in"), claim(tmp_path, "tune"):
        pass
    other.send_signal(signal.SIGKILL)
    other.wait()
    with claim(tmp_path, "tune"):
        pass
    with claim(tmp_path, "tune"):
        pass
