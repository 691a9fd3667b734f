from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import make_pairs, make_static_model
from loopback_hub import LoopbackHub, open_black_hole
from st_cluster_batches.staging import build_model


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    make_static_model().save(str(tmp_path / "plain"))
    return build_model(tmp_path / "plain", tmp_path / "stage")


def run(hub: LoopbackHub, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "st_cluster_batches", *words]
    environment = {**os.environ, **hub.environment(home)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)


# Pushes again and again within one process, since importing the clients takes longest.
PUSH = """
import json, sys
from pathlib import Path
from st_cluster_batches.hub import bound_requests, push
from st_cluster_batches.failures import PublishError
bound_requests(2.0)
stage, repo, options = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
for line in sys.stdin:
    try:
        done = push(stage, repo, **options)
        print(json.dumps([done.url, done.uploaded]), flush=True)
    except (PublishError, ValueError) as error:
        print(json.dumps([type(error).__name__, str(error)]), flush=True)
"""


class Pusher:
    """A process that pushes whenever it is asked to."""

    def __init__(
        self, hub: LoopbackHub, home: Path, stage: Path, repo: str = "alice/model", **options: object
    ) -> None:
        import json

        self.process = subprocess.Popen(
            [sys.executable, "-c", PUSH, str(stage), repo, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **hub.environment(home)},
        )

    def push(self) -> tuple[str, object]:
        import json

        assert self.process.stdin and self.process.stdout
        print("push", file=self.process.stdin, flush=True)
        first, second = json.loads(self.process.stdout.readline())
        return first, second

    def __enter__(self) -> Pusher:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait()


def files_of(hub: LoopbackHub, repo: str = "alice/model", revision: str = "main") -> dict[str, bytes]:
    return hub.repositories["models", repo].find(revision)[1]


def assert_published(hub: LoopbackHub, stage: Path) -> None:
    published = files_of(hub)
    assert published["model.safetensors"] == (stage / "model.safetensors").read_bytes()
    assert b"alice/model" in published["README.md"]
    assert set(published) - {".gitattributes", "published.json"} == {
        path.relative_to(stage).as_posix() for path in stage.rglob("*") if path.is_file()
    }


def test_a_push_arrives_byte_for_byte_in_one_commit_and_a_second_changes_nothing(stage: Path, tmp_path: Path) -> None:
    with LoopbackHub() as hub, Pusher(hub, tmp_path / "home", stage) as pusher:
        url, uploaded = pusher.push()
        assert url == f"{hub.url}/alice/model" and "README.md" in uploaded  # type: ignore[operator]
        assert_published(hub, stage)
        assert sum("/commit/" in one for one in hub.requests) == 1
        assert pusher.push() == (url, [])
        assert sum("/commit/" in one for one in hub.requests) == 1


@pytest.mark.slow
def test_cut_at_any_request_a_rerun_ends_in_the_one_right_state(stage: Path, tmp_path: Path) -> None:
    with LoopbackHub() as hub, Pusher(hub, tmp_path / "home", stage) as pusher:
        pusher.push()
        n_requests = len(hub.requests)
        for after in (0, -1):
            for cut in range(n_requests):
                hub.repositories.clear()
                hub.objects.clear()
                hub.requests.clear()
                hub.fault = lambda number, _, cut=cut, after=after: after if number == cut else None
                pusher.push()
                hub.fault = lambda *_: None
                pusher.push()
                assert_published(hub, stage)
                assert len(hub.repositories["models", "alice/model"].revisions) == 2, (cut, after)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "place", "words"),
    [
        (401, "/api/models/alice/model", "write access"),
        (403, "preupload", "may not write"),
        (404, "preupload", "is not there"),
        (409, "commit", "again"),
        (412, "commit", "nothing was overwritten"),
        (413, "lfs", "too large"),
        (429, "commit", "wait"),
        (503, "commit", "later"),
    ],
)
def test_every_failure_says_in_a_sentence_what_to_do(
    stage: Path, tmp_path: Path, status: int, place: str, words: str
) -> None:
    with LoopbackHub() as hub, Pusher(hub, tmp_path / "home", stage) as pusher:
        hub.fault = lambda _, line: status if place in line else None
        kind, message = pusher.push()
        assert kind == "PublishError" and words in str(message) and "\n" not in str(message)


def test_what_was_edited_on_the_hub_is_not_overwritten(stage: Path, tmp_path: Path) -> None:
    with LoopbackHub() as hub, Pusher(hub, tmp_path / "home", stage) as pusher:
        pusher.push()
        edited = {**files_of(hub), "README.md": files_of(hub)["README.md"] + b"\nMine.\n"}
        hub.add("models", "alice/model", edited)
        kind, message = pusher.push()
        assert kind == "PublishError" and "README.md" in str(message)
        assert files_of(hub)["README.md"].endswith(b"Mine.\n")


@pytest.mark.slow
def test_private_is_checked_before_anything_is_uploaded(stage: Path, tmp_path: Path) -> None:
    with LoopbackHub() as hub:
        with Pusher(hub, tmp_path / "home", stage, private=True) as pusher:
            pusher.push()
            assert hub.repositories["models", "alice/model"].private
        hub.add("models", "alice/public", {})
        with Pusher(hub, tmp_path / "home", stage, "alice/public", private=True) as pusher:
            kind, message = pusher.push()
        assert kind == "PublishError" and "public" in str(message) and not files_of(hub, "alice/public")


def test_a_pull_request_leaves_main_alone_and_is_opened_once(stage: Path, tmp_path: Path) -> None:
    with LoopbackHub() as hub:
        hub.add("models", "alice/model", {"README.md": b"theirs"})
        with Pusher(hub, tmp_path / "home", stage, create_pr=True) as pusher:
            assert str(pusher.push()[0]).endswith("/discussions/1")
            assert str(pusher.push()[0]).endswith("/discussions/1")
        assert files_of(hub) == {"README.md": b"theirs"}
        assert "model.safetensors" in files_of(hub, revision="refs/pr/1")


@pytest.mark.slow
def test_revision_makes_a_branch_and_dry_run_writes_nothing(stage: Path, tmp_path: Path) -> None:
    with LoopbackHub() as hub:
        with Pusher(hub, tmp_path / "home", stage, dry_run=True) as pusher:
            assert "README.md" in pusher.push()[1]  # type: ignore[operator]
        assert not hub.repositories and all(one.startswith("GET") for one in hub.requests)
        with Pusher(hub, tmp_path / "home", stage, revision="v1") as pusher:
            pusher.push()
        assert "model.safetensors" in files_of(hub, revision="v1") and "model.safetensors" not in files_of(hub)


@pytest.mark.slow
def test_a_black_hole_ends_within_the_bound(stage: Path, tmp_path: Path) -> None:
    with LoopbackHub() as hub, open_black_hole() as url:
        hub.url = url
        with Pusher(hub, tmp_path / "home", stage) as pusher:
            kind, message = pusher.push()
        assert kind == "PublishError" and "no answer within 2 s" in str(message)


def test_excluding_options_are_refused_before_any_request(stage: Path, tmp_path: Path) -> None:
    with LoopbackHub() as hub:
        done = run(hub, tmp_path / "home", "publish", str(stage), "alice/model", "--create-pr", "--revision", "v1")
        assert done.returncode == 2 and "exclude" in done.stderr and not hub.requests


def test_labelled_data_comes_back_with_its_clustering(tmp_path: Path) -> None:
    from st_cluster_batches.attach import cluster_dataset
    from st_cluster_batches.options import ClusterOptions

    labelled, clustering = cluster_dataset(
        make_pairs(60), make_static_model(), ClusterOptions(n_clusters=3), cache_dir=tmp_path / "cache"
    )
    labelled.save_to_disk(str(tmp_path / "labelled"))
    clustering.save(tmp_path / "labelled")
    make_static_model().save(str(tmp_path / "encoder"))
    code = (
        "from datasets import load_dataset; from st_cluster_batches import ClusterBatchSampler, Clustering\n"
        "train = load_dataset('alice/pairs')['train']\n"
        f"clustering = Clustering.load('alice/pairs', encoder={str(tmp_path / 'encoder')!r})\n"
        "again = clustering.attach(train, overwrite=True)\n"
        "assert again['cluster'] == train['cluster'] and len(train) == 60\n"
        "print(len(list(ClusterBatchSampler(train, batch_size=8, drop_last=False))))\n"
    )
    with LoopbackHub() as hub:
        done = run(hub, tmp_path / "home", "publish", str(tmp_path / "labelled"), "alice/pairs", "--license", "mit")
        assert done.returncode == 0, done.stderr
        assert b"license: mit" in hub.repositories["datasets", "alice/pairs"].find("main")[1]["README.md"]
        environment = {**os.environ, **hub.environment(tmp_path / "other")}
        back = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert back.stdout.strip() == "8", back.stderr
