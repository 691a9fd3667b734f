from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examples import make_pairs, make_static_model
from hub_client import HubClient
from loopback_hub import CUT, CUT_AFTER, LoopbackHub, open_black_hole
from sentence_transformers import SentenceTransformer

from st_cluster_batches.publishing.built_files import list_files
from st_cluster_batches.publishing.staging import build_model

MODEL = "alice/model"
TEXTS = ["soup bread", "king rook"]

# One Hub and one process of each kind of client for all tests here: to start one takes seconds.


@pytest.fixture(scope="module")
def module_hub() -> Iterator[LoopbackHub]:
    with LoopbackHub() as hub:
        yield hub


@pytest.fixture
def hub(module_hub: LoopbackHub) -> Iterator[LoopbackHub]:
    yield module_hub
    module_hub.reset()


@pytest.fixture(scope="module")
def clients(module_hub: LoopbackHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, HubClient]]:
    """Make clients that write by git-lfs and by Xet, and one of each that has written nothing and only reads."""

    def make(xet: bool) -> HubClient:
        return HubClient(module_hub.environment(tmp_path_factory.mktemp("home"), xet=xet))

    with make(False) as lfs, make(True) as xet, make(True) as xet_reader:
        yield {"lfs": lfs, "xet": xet, "lfs reader": lfs, "xet reader": xet_reader}


@pytest.fixture(params=["lfs", "xet"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(clients: dict[str, HubClient], mode: str) -> HubClient:
    return clients[mode]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    make_static_model().save(str(folder / "plain"))
    return build_model(folder / "plain", folder / "stage")


@pytest.fixture
def stage(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "stage"))


def files_of(hub: LoopbackHub, repo: str = MODEL, revision: str = "main", kind: str = "models") -> dict[str, bytes]:
    return hub.repositories[kind, repo].find(revision)[1]


def read_folder(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in list_files(folder)}


def assert_published(hub: LoopbackHub, stage: Path, repo: str = MODEL, revision: str = "main") -> None:
    published, staged = files_of(hub, repo, revision), read_folder(stage)
    assert set(published) - {".gitattributes", "published.json"} == set(staged)
    assert all(published[path] == staged[path] for path in set(staged) - {"README.md"})
    assert repo.encode() in published["README.md"]


def count_commits(hub: LoopbackHub) -> int:
    return sum("/commit/" in one for one in hub.requests)


def test_a_push_arrives_byte_for_byte_in_one_commit_and_a_second_changes_nothing(
    hub: LoopbackHub, client: HubClient, mode: str, stage: Path
) -> None:
    done = client.run("publish", stage, MODEL)
    assert done["code"] == 0 and done["stdout"].splitlines()[-1] == f"{hub.url}/{MODEL}", done["stderr"]
    assert_published(hub, stage)
    assert count_commits(hub) == 1
    assert any("xet-write-token" in one for one in hub.requests) == (mode == "xet")
    assert any("/lfs/" in one for one in hub.requests) == (mode == "lfs")
    again = client.run("publish", stage, MODEL)
    assert again["code"] == 0 and "Nothing has changed" in again["stdout"] and count_commits(hub) == 1


@pytest.mark.slow
@pytest.mark.parametrize("reader", ["lfs reader", "xet reader"])
def test_a_model_of_some_megabytes_comes_back_byte_for_byte_whoever_reads(
    hub: LoopbackHub, clients: dict[str, HubClient], mode: str, reader: str, tmp_path: Path
) -> None:
    model = make_static_model(dimensions=24_000)  # 3.5 MB of weights, dozens of Xet's chunks
    model.save(str(tmp_path / "plain"))
    stage = build_model(tmp_path / "plain", tmp_path / "stage")
    assert clients[mode].run("publish", stage, MODEL)["code"] == 0
    assert_published(hub, stage)
    hub.requests.clear()
    folder = clients[reader].call("download", repo=MODEL, kind="model", home=str(tmp_path / "home"))
    assert read_folder(Path(folder)) == files_of(hub)
    by_xet = reader == "xet reader" and mode == "xet"
    assert any("xet-read-token" in one for one in hub.requests) == by_xet
    assert (f"GET /{MODEL}/resolve/{hub.repositories['models', MODEL].branches['main']}/model.safetensors"
            in hub.requests) != by_xet  # fmt: skip
    np.testing.assert_array_equal(clients[reader].call("embed", model=MODEL, texts=TEXTS), model.encode(TEXTS))


@pytest.mark.slow
def test_xet_sends_only_what_is_new_of_a_changed_file(
    hub: LoopbackHub, clients: dict[str, HubClient], tmp_path: Path
) -> None:
    def publish(model: SentenceTransformer) -> None:
        model.save(str(tmp_path / "plain"))
        stage = build_model(tmp_path / "plain", tmp_path / "stage")
        assert clients["xet"].run("publish", stage, MODEL)["code"] == 0
        assert_published(hub, stage)

    def measure() -> int:
        return sum(path.stat().st_size for path in hub.xet.folder.glob("written/xet/xorbs/xorbs/*"))

    model = make_static_model(dimensions=24_000, seed=3)
    before = measure()
    publish(model)
    first = measure() - before
    model[0].embedding.weight.data[-1] += 1.0
    publish(model)
    assert first > 3_000_000 and 0 < measure() - before - first < first / 4


@pytest.mark.slow
def test_labelled_data_comes_back_with_its_clustering(
    hub: LoopbackHub, clients: dict[str, HubClient], mode: str, tmp_path: Path
) -> None:
    from st_cluster_batches.clusters.attach import cluster_dataset
    from st_cluster_batches.clusters.options import AttachOptions, ClusterOptions

    labelled, clustering = cluster_dataset(
        make_pairs(60), make_static_model(), AttachOptions(ClusterOptions(n_clusters=3), cache_dir=tmp_path / "cache")
    )
    labelled.save_to_disk(str(tmp_path / "labelled"))
    clustering.save(tmp_path / "labelled")
    make_static_model().save(str(tmp_path / "encoder"))
    repo = f"alice/pairs-{mode}"  # `load_dataset` keeps what it has read
    done = clients[mode].run("publish", tmp_path / "labelled", repo, "--license", "mit")
    assert done["code"] == 0, done["stderr"]
    published = files_of(hub, repo, kind="datasets")
    assert b"license: mit" in published["README.md"]
    reader = clients[f"{mode} reader"]
    folder = Path(reader.call("download", repo=repo, kind="dataset", home=str(tmp_path / "home")))
    assert read_folder(folder) == published
    back = reader.call("load_clustered", repo=repo, encoder=str(tmp_path / "encoder"))
    assert back["rows"] == back["again"] == labelled.to_dict()
    assert len(back["batches"]) == 8 and sorted(row for batch in back["batches"] for row in batch) == list(range(60))


@pytest.mark.slow
@pytest.mark.parametrize("fault", [CUT, CUT_AFTER])
def test_cut_at_any_request_a_rerun_ends_in_the_one_right_state(
    hub: LoopbackHub, client: HubClient, stage: Path, fault: int
) -> None:
    client.run("publish", stage, MODEL)
    n_requests = len(hub.requests)
    for cut in range(n_requests):
        hub.reset()
        hub.fault = lambda number, _, cut=cut: fault if number == cut else None
        first = client.run("publish", stage, MODEL)
        assert first["code"] in (0, 1) and "Traceback" not in first["stderr"]  # some requests are tried again
        hub.fault = lambda *_: None
        assert client.run("publish", stage, MODEL)["code"] == 0
        assert_published(hub, stage)
        assert len(hub.repositories["models", MODEL].revisions) == 2, cut


def edit(hub: LoopbackHub) -> None:
    hub.add("models", MODEL, {**files_of(hub), "README.md": b"\nMine.\n"})


def when(part: str, act: Callable[[LoopbackHub], Any]) -> Callable[[LoopbackHub], None]:
    """Act once, when a request comes with this in its line; what `act` returns is the fault."""

    def prepare(hub: LoopbackHub) -> None:
        hub.fault = lambda _, line: act(hub) if part in line else None

    return prepare


def answer(status: int, part: str) -> Callable[[LoopbackHub], None]:
    return when(part, lambda _: status)


def have(repo: str, private: bool = False) -> Callable[[LoopbackHub], None]:
    def prepare(hub: LoopbackHub) -> None:
        hub.add("models", repo, {".gitattributes": b""})
        hub.repositories["models", repo].private = private

    return prepare


def do_nothing(hub: LoopbackHub) -> None:
    pass


FAILURES: dict[str, tuple[list[str], str, Callable[[LoopbackHub], None], str]] = {
    # By what is wrong: what is given besides the folder, the token, what is true of the Hub, and what must be said.
    "no token": ([MODEL], "", do_nothing, "There is no token to publish with: run `hf auth login`, or set HF_TOKEN"),
    "bad token": ([MODEL], "hf_wrong", do_nothing, "make one with write access"),
    "token of a reader, new repository": ([MODEL], "hf_alice_reads", do_nothing, "may not write to alice/model: use"),
    "token of a reader": ([MODEL], "hf_alice_reads", have(MODEL), "may not write to alice/model: use"),
    "someone else's namespace": (["bob/model"], "hf_alice", do_nothing, "may not write to bob/model: use"),
    "someone else's repository": (["bob/model"], "hf_alice", have("bob/model"), "--create-pr"),
    "someone else's private one": (["bob/model"], "hf_alice", have("bob/model", private=True), "may not write"),
    "pull request to a private one": (
        ["bob/model", "--create-pr"],
        "hf_alice",
        have("bob/model", private=True),
        "may not write",
    ),
    "public, not private": ([MODEL, "--private"], "hf_alice", have(MODEL), "is public, and nothing was uploaded"),
    "no such name": (["alice/my model"], "hf_alice", do_nothing, "give it as user/name"),
    "revision gone": (
        [MODEL, "--revision", "v1"],
        "hf_alice",
        when("preupload", lambda hub: hub.repositories["models", MODEL].branches.pop("v1", None) and None),
        "has no such revision: name a branch",
    ),
    "edited in between": ([MODEL], "hf_alice", when("/commit/", edit), "nothing was overwritten: look at the change"),
    "repository gone": ([MODEL], "hf_alice", answer(404, "preupload"), "is not there"),
    "conflict": ([MODEL], "hf_alice", answer(409, "/commit/"), "run the same command again"),
    "too large": ([MODEL], "hf_alice", answer(413, "/commit/"), "save the model in smaller shards"),
    "too many requests": ([MODEL], "hf_alice", answer(429, "/commit/"), "wait some minutes"),
    "unavailable": ([MODEL], "hf_alice", answer(503, "/commit/"), "run the same command again later"),
    "dropped at the commit": ([MODEL], "hf_alice", answer(CUT, "/commit/"), "it goes on with what is missing"),
    "dropped before": ([MODEL], "hf_alice", answer(CUT, "/api/repos/create"), "it goes on with what is missing"),
    "Xet forbidden": ([MODEL], "hf_alice", answer(403, "xet-write-token"), "HF_HUB_DISABLE_XET=1"),
    "Xet token of no use": ([MODEL], "hf_alice", answer(401, "xet-write-token"), "HF_HUB_DISABLE_XET=1"),
    "no Xet": ([MODEL], "hf_alice", answer(404, "xet-write-token"), "HF_HUB_DISABLE_XET=1"),
}


def assert_says(done: dict[str, Any], words: str) -> None:
    """Assert that a command failed with one sentence on stderr."""
    assert done["code"] == 1 and not done["stdout"], done
    before, _, said = done["stderr"].partition("st-cluster-batches: error: ")  # before: progress, to be overwritten
    assert words in said and said.count("\n") == 1 and "Traceback" not in before, done["stderr"]


@pytest.mark.parametrize("failure", FAILURES)
def test_every_failure_says_in_a_sentence_what_to_do(
    hub: LoopbackHub, clients: dict[str, HubClient], stage: Path, failure: str
) -> None:
    words, token, prepare, said = FAILURES[failure]
    prepare(hub)
    assert_says(clients["xet"].run("publish", stage, *words, token=token), said)
    assert not any("model.safetensors" in files for files in map(list, find_visible(hub)))
    assert failure != "no token" or not hub.requests


def find_visible(hub: LoopbackHub) -> list[dict[str, bytes]]:
    """Return the files of all branches of all repositories."""
    return [repository.find(branch)[1] for repository in hub.repositories.values() for branch in repository.branches]


def test_a_rejected_card_is_said_and_not_published(
    hub: LoopbackHub, clients: dict[str, HubClient], stage: Path
) -> None:
    (stage / "README.md").write_text((stage / "README.md").read_text() + "\nrejected\n")
    assert_says(clients["xet"].run("publish", stage, MODEL), "The Hub rejects the front matter of README.md: correct")
    assert "README.md" not in files_of(hub)


def test_a_file_too_large_for_git_lfs_is_said(hub: LoopbackHub, clients: dict[str, HubClient], stage: Path) -> None:
    hub.fault = lambda _, line: 413 if line.startswith("PUT /lfs/") else None
    assert_says(clients["lfs"].run("publish", stage, MODEL), "save the model in smaller shards")


@pytest.mark.slow
def test_a_refused_connection_is_said(stage: Path, tmp_path: Path, hub: LoopbackHub) -> None:
    with open_black_hole() as url:
        pass  # nobody listens there any more
    with HubClient({**hub.environment(tmp_path / "home"), "HF_ENDPOINT": url}) as client:
        assert_says(client.run("publish", stage, MODEL), "The connection to the Hub broke: run the same command again")


def test_what_was_edited_on_the_hub_is_not_overwritten(hub: LoopbackHub, client: HubClient, stage: Path) -> None:
    client.run("publish", stage, MODEL)
    edited = {**files_of(hub), "README.md": files_of(hub)["README.md"] + b"\nMine.\n"}
    hub.add("models", MODEL, edited)
    assert_says(client.run("publish", stage, MODEL), "README.md in alice/model was written or edited by someone else")
    assert files_of(hub) == edited


def test_what_a_person_wrote_into_a_staged_card_is_continued_but_not_overwritten(
    hub: LoopbackHub, client: HubClient, stage: Path, built: Path
) -> None:
    def write(line: str) -> None:
        card.write_text(card.read_text().replace("# Sentence", f"# Mine\n\n{line}\n\n# Sentence", 1))

    card = stage / "README.md"
    for line in ("Two weeks of writing.", "And another."):
        write(line)
        assert client.run("publish", stage, MODEL)["code"] == 0
        assert line.encode() in files_of(hub)["README.md"]
    plain = built.parent / "plain"
    done = client.run("publish", plain, MODEL)
    assert_says(done, "README.md in alice/model was written or edited by someone else")
    assert "DIR/README.md, once `st-cluster-batches build FOLDER --output DIR`" in done["stderr"]
    assert "/tmp" not in done["stderr"] and b"Two weeks of writing." in files_of(hub)["README.md"]


def test_a_card_that_nobody_edited_is_replaced(hub: LoopbackHub, client: HubClient, stage: Path, built: Path) -> None:
    assert client.run("publish", stage, MODEL)["code"] == 0
    done = client.run("publish", built.parent / "plain", MODEL, "--language", "en")
    assert done["code"] == 0 and b"language: en" in files_of(hub)["README.md"].replace(b"\n- ", b" "), done["stderr"]


def test_broken_front_matter_is_named_before_anything_is_uploaded(
    hub: LoopbackHub, client: HubClient, stage: Path
) -> None:
    broken = {"README.md": b"---\nlicense: mit\ntags: a: b: c\n---\n\n# Mine\n"}
    hub.add("models", MODEL, broken)
    assert_says(client.run("publish", stage, MODEL), "README.md in alice/model, line 3: the front matter is no YAML")
    assert files_of(hub) == broken
    (stage / "README.md").write_bytes(broken["README.md"])
    done = client.run("publish", stage, MODEL)
    assert done["code"] == 2 and "README.md, line 3: the front matter is no YAML" in done["stderr"]


def test_an_edit_between_look_and_commit_is_not_overwritten(hub: LoopbackHub, client: HubClient, stage: Path) -> None:
    client.run("publish", stage, MODEL)
    (stage / "config.json").write_text("{}")
    when("/commit/", edit)(hub)
    assert_says(client.run("publish", stage, MODEL), "nothing was overwritten")
    assert files_of(hub)["README.md"] == b"\nMine.\n" and files_of(hub).get("config.json") != b"{}"


def test_a_private_repository_is_made_so_and_hidden_from_others(
    hub: LoopbackHub, clients: dict[str, HubClient], stage: Path
) -> None:
    assert clients["xet"].run("publish", stage, "lab/model", "--private")["code"] == 0
    assert hub.repositories["models", "lab/model"].private
    assert_published(hub, stage, "lab/model")
    assert clients["xet"].run("publish", stage, "lab/model", "--private")["code"] == 0
    said = clients["xet"].run("publish", stage, "lab/model", "--dry-run", token="hf_bob")
    assert "model.safetensors would be pushed" in said["stdout"]  # for all that bob can see, it is not there


def test_a_pull_request_leaves_main_alone_and_is_opened_once(hub: LoopbackHub, client: HubClient, stage: Path) -> None:
    hub.add("models", "bob/model", {"README.md": b"theirs"})
    for _ in range(2):
        done = client.run("publish", stage, "bob/model", "--create-pr")
        assert done["stdout"].rstrip().endswith("/discussions/1"), done
    assert files_of(hub, "bob/model") == {"README.md": b"theirs"}
    assert_published(hub, stage, "bob/model", "refs/pr/1")


def test_revision_makes_a_branch_and_dry_run_writes_nothing(hub: LoopbackHub, client: HubClient, stage: Path) -> None:
    assert "README.md would be pushed" in client.run("publish", stage, MODEL, "--dry-run")["stdout"]
    assert not hub.repositories and all(one.startswith("GET") for one in hub.requests)
    assert client.run("publish", stage, MODEL, "--revision", "v1")["code"] == 0
    assert_published(hub, stage, revision="v1")
    assert "model.safetensors" not in files_of(hub)


def test_a_dry_run_without_a_token_lists_what_is_to_be_there_and_asks_the_hub_nothing(
    hub: LoopbackHub, client: HubClient, stage: Path
) -> None:
    with_token = client.run("publish", stage, MODEL, "--dry-run")
    hub.requests.clear()
    done = client.run("publish", stage, MODEL, "--dry-run", token="")
    assert done["code"] == 0 and not hub.requests
    assert done["stdout"] == with_token["stdout"] and "model.safetensors would be pushed" in done["stdout"]
    assert "no token to look at the Hub with" in done["stderr"] and "HF_TOKEN" in done["stderr"]
    assert "no token" not in with_token["stderr"]
    assert_says(client.run("publish", stage, "alice/my model", "--dry-run", token=""), "give it as user/name")


@pytest.mark.parametrize("repo", ["mymodel", "a/b/c", "/model", "alice/"])
def test_an_id_of_nobody_is_refused_before_any_request(
    hub: LoopbackHub, clients: dict[str, HubClient], stage: Path, repo: str
) -> None:
    done = clients["lfs"].run("publish", stage, repo)
    assert done["code"] == 2 and "give it as user/name" in done["stderr"] and not hub.requests
    assert not hub.repositories


def test_excluding_options_are_refused_before_any_request(
    hub: LoopbackHub, clients: dict[str, HubClient], stage: Path
) -> None:
    done = clients["lfs"].run("publish", stage, MODEL, "--create-pr", "--revision", "v1")
    assert (
        done["code"] == 2
        and "--revision: not allowed with argument --create-pr" in done["stderr"]
        and not hub.requests
    )
