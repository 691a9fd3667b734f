"""Attach clusters in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

WORKER = Path(__file__).parent / "attach_worker.py"


ROOT = WORKER.parents[2]


def start(cache: Path, *options: str, **popen: object) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(ROOT), str(WORKER.parent)])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [sys.executable, str(WORKER), str(cache), *options]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **popen
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Return how many rows the run embedded, and the hash of its labels."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    _, n_rows, labels = out.split()
    return int(n_rows), labels


def list_leftovers(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if ".tmp" in path.name or path.name == "probe"]


def launch(script: Path, cache: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a script as two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(cache.parent), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, str(script), str(cache), *options],
        env={**environment, "PYTHONPATH": f"{ROOT}:{WORKER.parent}", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
