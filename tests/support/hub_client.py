"""A process that publishes and reads whenever it is asked to.

The clients read the Hub's address when they are imported, and that takes seconds: so one process for many tests.

    with HubClient(hub.environment(home)) as client:
        done = client.call("run", words=["publish", str(stage), "alice/model"])
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class HubClient:
    """Calls the functions below in a process with the given environment."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = {**os.environ, **environment}
        self.process: subprocess.Popen[str] | None = None

    def call(self, function: str, **given: Any) -> Any:
        if self.process is None:  # only now: not every test needs every client
            self.process = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=self.environment,
            )
        assert self.process.stdin and self.process.stdout
        print(json.dumps([function, given]), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def run(self, *words: object, token: str = "hf_alice") -> Any:
        return self.call("run", words=[str(word) for word in words], token=token)

    def __enter__(self) -> HubClient:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.kill()  # it has nothing to put away
            self.process.communicate()


def run(words: list[str], token: str) -> dict[str, Any]:
    """Run a command as a shell would."""
    from contextlib import redirect_stderr, redirect_stdout
    from io import StringIO
    from traceback import print_exc

    from st_cluster_batches.__main__ import main

    os.environ["HF_TOKEN"] = token
    stdout, stderr = StringIO(), StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr):
        try:
            code = main(words)
        except Exception:  # as the interpreter would
            print_exc()
            code = 1
    return {"code": code, "stdout": stdout.getvalue(), "stderr": stderr.getvalue()}


def push_bounded(stage: str, repo: str, seconds: float) -> str:
    """Push with a bound on silence, and return what came of it."""
    from st_cluster_batches.publishing.failures import PublishError
    from st_cluster_batches.publishing.hub import bound_requests, push

    bound_requests(seconds)
    try:
        return push(Path(stage), repo).url
    except PublishError as error:
        return str(error)


def download(repo: str, kind: str, home: str) -> str:
    """Download a repository into a cache of its own, and return the folder."""
    from huggingface_hub import snapshot_download

    return snapshot_download(repo, repo_type=kind, cache_dir=home)


def embed(model: str, texts: list[str]) -> list[list[float]]:
    from sentence_transformers import SentenceTransformer

    vectors: list[list[float]] = SentenceTransformer(model, device="cpu").encode(texts).tolist()
    return vectors


def load_clustered(repo: str, encoder: str) -> dict[str, Any]:
    """Load labelled data and its clustering, label the data again and plan batches."""
    from datasets import load_dataset

    from st_cluster_batches import ClusterBatchSampler, Clustering

    train = load_dataset(repo)["train"]
    again = Clustering.load(repo, encoder=encoder).attach(train, overwrite=True)
    batches = list(ClusterBatchSampler(train, batch_size=8, drop_last=False))
    return {"rows": train.to_dict(), "again": again.to_dict(), "batches": batches}


def try_private_model(stage: str, texts: list[str]) -> dict[str, Any]:
    """Push a private model to the user's own namespace, twice, read it back, and delete it."""
    from uuid import uuid4

    from huggingface_hub import HfApi

    from st_cluster_batches.publishing.hub import bound_requests, push

    bound_requests()
    api = HfApi()
    repo = f"{api.whoami()['name']}/st-cluster-batches-test-{uuid4().hex[:8]}"
    try:
        found: dict[str, Any] = {"uploaded": push(Path(stage), repo, private=True).uploaded}
        found["uploaded again"] = push(Path(stage), repo, private=True).uploaded
        found["private"] = api.model_info(repo).private
        folder = Path(api.snapshot_download(repo))
        from st_cluster_batches.publishing.built_files import list_files

        files = [path.relative_to(stage) for path in list_files(Path(stage))]
        found["different"] = [
            str(path) for path in files if (folder / path).read_bytes() != Path(stage, path).read_bytes()
        ]
        found["embeddings"] = embed(repo, texts)
    finally:
        api.delete_repo(repo, missing_ok=True)
    return {**found, "deleted": not api.repo_exists(repo)}


def serve(functions: Mapping[str, Callable[..., Any]]) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else writes to stdout
    for line in sys.stdin:
        function, given = json.loads(line)
        print(json.dumps(functions[function](**given)), file=answers, flush=True)


if __name__ == "__main__":
    serve({one.__name__: one for one in (run, push_bounded, download, embed, load_clustered, try_private_model)})
