"""Where publishing connects to, and how long it waits there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from examples import make_static_model
from hub_client import HubClient
from loopback_hub import SILENCE, LoopbackHub, open_black_hole

from st_cluster_batches.publishing.staging import build_model

# Python runs this at its start, by the name of sitecustomize: it notes all addresses that are connected or looked up.
WATCH = r"""
import os, sys

def note(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        address = arguments[1] if event == "socket.connect" else arguments
        if isinstance(address, tuple):  # else it is a file's name
            with open(os.environ["NOTES"], "a") as notes:
                notes.write(f"{address[0]}\n")

sys.addaudithook(note)
"""

# Run where there is no network but the loopback interface; the kernel counts what it had no way to send.
SECLUDED = """
import socket, sys
from pathlib import Path

from hub_client import HubClient
from loopback_hub import LoopbackHub

def count_unsent():
    names, counts = (line.split() for line in Path("/proc/net/snmp").read_text().splitlines()[:2])
    return int(counts[names.index("OutNoRoutes")])

stage, home = sys.argv[1:]
with LoopbackHub() as hub, HubClient(hub.environment(Path(home), xet=True)) as client:
    assert client.run("publish", stage, "alice/model")["code"] == 0
    assert client.call("download", repo="alice/model", kind="model", home=home + "/cache")
    assert client.call("embed", model="alice/model", texts=["soup"])
print(count_unsent())
try:
    socket.create_connection(("192.0.2.1", 80), 1)
except OSError:
    print(count_unsent())
"""
SECLUDE = ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]


def run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done


def add_path(folder: Path) -> str:
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


def may_seclude() -> bool:
    try:
        return subprocess.run([*SECLUDE, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_build_makes_no_request_and_publish_none_but_to_the_hub(tmp_path: Path) -> None:
    make_static_model().save(str(tmp_path / "plain"))
    (tmp_path / "sitecustomize.py").write_text(WATCH)
    notes, program = tmp_path / "notes", [sys.executable, "-m", "st_cluster_batches"]
    with LoopbackHub() as hub:
        watched = {**hub.environment(tmp_path / "home"), "NOTES": str(notes), "PYTHONPATH": add_path(tmp_path)}
        run(*program, "build", tmp_path / "plain", "--output", tmp_path / "stage", "--base_model", "a/b", **watched)
        assert not notes.exists() and not hub.requests
        run(*program, "publish", tmp_path / "stage", "alice/model", **watched)
        assert set(notes.read_text().split()) == {"127.0.0.1"} and hub.requests


@pytest.mark.slow
# No other means sees what hf_xet connects to; the test above, which needs no namespaces, watches Python's own sockets.
@pytest.mark.skipif(not may_seclude(), reason="needs Linux, `ip`, and leave to make network namespaces")
def test_publishing_and_reading_send_nothing_beyond_the_loopback_interface(tmp_path: Path) -> None:
    """By Xet: hf_xet is not Python, and connects where no hook of Python sees it."""
    make_static_model().save(str(tmp_path / "plain"))
    stage = build_model(tmp_path / "plain", tmp_path / "stage")
    tests = add_path(Path(__file__).parents[1] / "support")
    done = run(*SECLUDE, sys.executable, "-c", SECLUDED, stage, tmp_path / "home", PYTHONPATH=tests)
    published, probed = map(int, done.stdout.split())
    assert published == 0 and probed > 0


@pytest.mark.slow
def test_a_black_hole_ends_a_push_within_the_bound(tmp_path: Path) -> None:
    make_static_model().save(str(tmp_path / "plain"))
    stage = build_model(tmp_path / "plain", tmp_path / "stage")
    with LoopbackHub() as hub, open_black_hole() as url:
        with HubClient({**hub.environment(tmp_path / "home"), "HF_ENDPOINT": url}) as client:
            client.call("embed", model=str(stage), texts=["soup"])  # not to count imports
            start = time.monotonic()
            said = client.call("push_bounded", stage=str(stage), repo="alice/model", seconds=2.0)
        assert "no answer within 2 s" in said and 2 <= time.monotonic() - start < 4


@pytest.mark.slow
@pytest.mark.parametrize("silent", ["HEAD /alice/model/resolve/", "PUT /lfs/", "POST /api/models/alice/model/commit/"])
def test_a_hub_that_falls_silent_ends_a_push_within_the_bound(tmp_path: Path, silent: str) -> None:
    """The first two are what huggingface_hub tries again most often, with timeouts of its own."""
    make_static_model().save(str(tmp_path / "plain"))
    stage = build_model(tmp_path / "plain", tmp_path / "stage")
    with LoopbackHub() as hub, HubClient(hub.environment(tmp_path / "home")) as client:
        given = {"stage": str(stage), "repo": "alice/model", "seconds": 1.0}
        if "resolve" in silent:  # there is a manifest to read
            client.call("push_bounded", **given)
            edited = hub.repositories["models", "alice/model"].find("main")[1]
            hub.add("models", "alice/model", {**edited, "new.txt": b""})
        heard: list[float] = []

        def fall_silent(_: int, line: str) -> int | None:
            if heard or silent in line:
                heard.append(time.monotonic())
                return SILENCE
            return None

        hub.fault = fall_silent
        said = client.call("push_bounded", **given)
        assert heard and "run the same command again" in said
        assert time.monotonic() - heard[0] < 8 * 1.0 + 30
