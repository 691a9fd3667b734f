"""A Hub on the loopback interface: enough of its protocol to read repositories with the real clients, unmodified.

`HF_ENDPOINT` is read when the clients are imported, so what talks to it runs in a process of its own:

    with LoopbackHub() as hub:
        hub.add("datasets", "mteb/scifact", {"README.md": b"..."}, revision="0228...")
        subprocess.run([...], env={**os.environ, **hub.environment(tmp_path)})
        assert "GET /api/datasets/mteb/scifact" in hub.requests
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]

_NAME = "(?P<name>[^/]+/[^/]+)"
_REPO = f"(?P<kind>models|datasets)/{_NAME}"


class HubError(Exception):
    """An answer that the clients know by its headers."""

    def __init__(self, status: int, code: str, commit: str | None = None) -> None:
        super().__init__(code)
        self.status, self.code, self.commit = status, code, commit


@dataclass
class Repository:
    """The files of every revision; `main` is the newest unless it is named."""

    revisions: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def find(self, revision: str) -> tuple[str, Files]:
        sha = self.branches.get(revision, revision)
        if sha not in self.revisions:
            raise HubError(404, "RevisionNotFound")
        return sha, self.revisions[sha]


@dataclass
class Answer:
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, content: Any) -> Answer:
        return cls(json.dumps(content).encode(), headers={"Content-Type": "application/json"})


class LoopbackHub:
    """Repositories by kind (`models` or `datasets`) and id, served while the context is open."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.requests: list[str] = []
        # Method, pattern of the path, and who answers; named groups are arguments. Writes go here too.
        self.routes = [
            ("GET", f"/api/{_REPO}(/revision/(?P<revision>.+))?", self.info),
            ("GET", f"/api/{_REPO}/tree/(?P<revision>[^/]+)(/(?P<path>.+))?", self.tree),
            ("POST", f"/api/{_REPO}/paths-info/(?P<revision>.+)", self.paths_info),
            ("GET", f"/datasets/{_NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", self.dataset_file),
            ("GET", f"/{_NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", self.model_file),
            ("GET", "/", lambda: Answer(b"a hub")),
        ]

    def add(self, kind: str, name: str, files: Files, revision: str | None = None) -> str:
        """Add a revision, and make it `main`; return its id."""
        sha = revision or hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        repository = self.repositories.setdefault((kind, name), Repository())
        repository.revisions[sha] = files
        repository.branches["main"] = sha
        return sha

    def environment(self, home: Path) -> dict[str, str]:
        """Return the variables that send the clients here, with a cache and a token of their own."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_TOKEN": "hf_of_nobody",
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }

    def __enter__(self) -> LoopbackHub:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def respond(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                answer = hub.answer(self.command, self.path, body)
                status, content = answer.status, answer.body
                total = len(content)
                if status == 200 and (wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")):
                    low, high = int(wanted[1]), min(int(wanted[2] or total - 1), total - 1)
                    status, content = 206, content[low : high + 1]
                    answer.headers["Content-Range"] = f"bytes {low}-{high}/{total}"
                self.send_response(status)
                for key, value in {"Content-Length": str(len(content)), **answer.headers}.items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_HEAD = do_POST = do_PUT = respond

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method: str, target: str, body: bytes) -> Answer:
        """Answer one request."""
        path = unquote(urlsplit(target).path)
        self.requests.append(f"{method} {path}")
        try:
            for known, pattern, respond in self.routes:
                if known == ("GET" if method == "HEAD" else method) and (found := re.fullmatch(pattern, path)):
                    given = {key: value for key, value in found.groupdict().items() if value is not None}
                    return respond(**given, **({"body": body} if method in ("POST", "PUT") else {}))
            raise HubError(404, "EntryNotFound")
        except HubError as error:
            headers = {"X-Error-Code": error.code, "X-Error-Message": error.code}
            if error.commit is not None:
                headers["X-Repo-Commit"] = error.commit
            return Answer(error.code.encode(), error.status, headers)

    def info(self, kind: str, name: str, revision: str = "main") -> Answer:
        sha, files = self._find(kind, name, revision)
        siblings = [{"rfilename": path} for path in files]
        return Answer.json({"id": name, "sha": sha, "private": False, "tags": [], "siblings": siblings})

    def tree(self, kind: str, name: str, revision: str, path: str = "") -> Answer:
        _, files = self._find(kind, name, revision)
        below = [file for file in files if file.startswith(f"{path}/" if path else "")]
        return Answer.json([self._describe(file, files[file]) for file in below])

    def paths_info(self, kind: str, name: str, revision: str, body: bytes) -> Answer:
        _, files = self._find(kind, name, revision)
        wanted = re.findall(r"paths=([^&]+)", body.decode()) or json.loads(body or b"{}").get("paths", [])
        return Answer.json([self._describe(file, files[file]) for file in map(unquote, wanted) if file in files])

    def dataset_file(self, name: str, revision: str, path: str) -> Answer:
        return self._file("datasets", name, revision, path)

    def model_file(self, name: str, revision: str, path: str) -> Answer:
        return self._file("models", name, revision, path)

    def _file(self, kind: str, name: str, revision: str, path: str) -> Answer:
        sha, files = self._find(kind, name, revision)
        if path not in files:
            raise HubError(404, "EntryNotFound", commit=sha)
        etag = f'"{hashlib.sha1(files[path]).hexdigest()}"'
        return Answer(files[path], headers={"ETag": etag, "X-Repo-Commit": sha, "Accept-Ranges": "bytes"})

    def _find(self, kind: str, name: str, revision: str) -> tuple[str, Files]:
        if (kind, name) not in self.repositories:
            raise HubError(404, "RepoNotFound")
        return self.repositories[kind, name].find(revision)

    @staticmethod
    def _describe(path: str, content: bytes) -> dict[str, Any]:
        return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


@contextmanager
def open_black_hole() -> Iterator[str]:
    """Open a port that takes connections and never answers; yield its address."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
