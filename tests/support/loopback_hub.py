"""A Hub on the loopback interface: enough of its protocol to read and write repositories with the real clients.

`HF_ENDPOINT` is read when the clients are imported, so what talks to it runs in a process of its own:

    with LoopbackHub() as hub:
        hub.add("datasets", "mteb/scifact", {"README.md": b"..."}, revision="0228...")
        subprocess.run([...], env={**os.environ, **hub.environment(tmp_path)})
        assert "GET /api/datasets/mteb/scifact" in hub.requests
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote, urlsplit

from loopback_access import HubError, Token, find_token, refuse_hidden, refuse_write
from loopback_xet import XetStore

Files = dict[str, bytes]

CUT, CUT_AFTER, SILENCE = 0, -1, -2  # faults: the connection ends before or after the work is done; no answer

_NAME = "(?P<name>[^/]+/[^/]+)"
_REPO = f"(?P<kind>models|datasets)/{_NAME}"
_ANY_REPO = re.compile(rf"/api/{_REPO}(/.*)?|/(?P<data>datasets/)?(?P<other>[^/]+/[^/]+?)(\.git/info|/resolve)/.*")


@dataclass
class Repository:
    """The files of every revision; `main` is the newest unless it is named."""

    revisions: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    private: bool = False
    requests: list[str] = field(default_factory=list)  # titles of pull requests

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
    """Repositories by kind (`models` or `datasets`) and id, served while the context is open.

    Large files come and go by Xet or by git-lfs, as the client likes.
    """

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.requests: list[str] = []
        self.objects: Files = {}  # large files by sha256
        # Called with the number and the line of each request: returns a status to answer with, or one of the faults.
        self.fault: Callable[[int, str], int | None] = lambda number, line: None
        self._released = threading.Event()  # ends all silence
        # Method, pattern of the path, and who answers; named groups are arguments. Writes go here too.
        self.routes = [
            ("GET", f"/api/{_REPO}(/revision/(?P<revision>.+))?", self.info),
            ("GET", f"/api/{_REPO}/tree/(?P<revision>refs/pr/[0-9]+|[^/]+)(/(?P<path>.+))?", self.tree),
            ("POST", f"/api/{_REPO}/paths-info/(?P<revision>.+)", self.paths_info),
            ("GET", f"/datasets/{_NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", self.dataset_file),
            ("GET", f"/{_NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", self.model_file),
            ("GET", f"/api/{_REPO}/discussions", self.list_requests),
            ("POST", "/api/repos/create", self.create),
            ("POST", "/api/validate-yaml", lambda body: self.validate(body)),
            ("POST", f"/api/{_REPO}/branch/(?P<branch>.+)", self.create_branch),
            ("POST", f"/api/{_REPO}/preupload/(?P<revision>.+)", self.preupload),
            ("POST", f"/api/{_REPO}/commit/(?P<revision>.+)", self.commit),
            ("POST", r"/(datasets/)?[^/]+/[^/]+\.git/info/lfs/objects/batch", self.batch),
            ("PUT", "/lfs/(?P<sha>.+)", self.put_object),
            ("POST", "/verify", lambda body: Answer.json({})),
            ("GET", f"/api/{_REPO}/xet-(?P<access>read|write)-token/(?P<revision>.+)", self.connect_xet),
            ("DELETE", "/api/repos/delete", self.delete),
            ("GET", "/", lambda: Answer(b"a hub")),
        ]

    def add(self, kind: str, name: str, files: Files, revision: str | None = None) -> str:
        """Add a revision, and make it `main`; return its id."""
        sha = revision or hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        repository = self.repositories.setdefault((kind, name), Repository())
        repository.revisions[sha] = files
        repository.branches["main"] = sha
        return sha

    def reset(self) -> None:
        """Forget everything but what the storages hold."""
        self._released.set()
        self._released = threading.Event()
        self.fault = lambda number, line: None
        self.repositories.clear()
        self.requests.clear()
        self.objects.clear()

    def environment(self, home: Path, *, token: str = "hf_alice", xet: bool = False) -> dict[str, str]:
        """Return the variables that send the clients here, with a cache and a token of their own."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_TOKEN": token,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": str(int(not xet)),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }

    def __enter__(self) -> LoopbackHub:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def respond(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                number, line = len(hub.requests), f"{self.command} {self.path}"
                fault = hub.fault(number, line)
                if fault in (CUT, SILENCE):
                    hub.requests.append(line)
                    self.close_connection = True
                    if fault == SILENCE:
                        hub._released.wait(600)
                    return
                if fault is not None and fault > 0:
                    hub.requests.append(line)
                    answer = Answer(b"no", fault)
                else:
                    answer = hub.answer(self.command, self.path, body, self.headers.get("Authorization"))
                if fault == CUT_AFTER:
                    self.close_connection = True
                    return
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

            do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = respond

            def log_message(self, *_: Any) -> None:
                pass

        self._folder = TemporaryDirectory()
        self.xet = XetStore(Path(self._folder.name))
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
        self._folder.cleanup()

    def answer(self, method: str, target: str, body: bytes, authorization: str | None) -> Answer:
        """Answer one request."""
        path = unquote(urlsplit(target).path)
        self.requests.append(f"{method} {path}")
        try:
            token = find_token(authorization)
            if path == "/api/whoami-v2":
                return self.describe_user(token)
            create_pr = "create_pr=1" in target
            self._authorise(token, method, path, body, create_pr)
            for known, pattern, respond in self.routes:
                if known == ("GET" if method == "HEAD" else method) and (found := re.fullmatch(pattern, path)):
                    given = {key: value for key, value in found.groupdict().items() if value is not None}
                    if respond == self.commit:
                        given["create_pr"] = create_pr
                    return respond(**given, **({} if method in ("GET", "HEAD") else {"body": body}))
            raise HubError(404, "EntryNotFound")
        except HubError as error:
            headers = {"X-Error-Code": error.code, "X-Error-Message": error.code}
            if error.commit is not None:
                headers["X-Repo-Commit"] = error.commit
            return Answer(error.code.encode(), error.status, headers)

    def _authorise(self, token: Token | None, method: str, path: str, body: bytes, create_pr: bool) -> None:
        """Refuse what the token may not see or write."""
        if path.startswith("/api/repos/"):
            refuse_write(token, method, path, self._read_name(body)[1])
        elif found := _ANY_REPO.fullmatch(path):
            name = found["name"] or found["other"]
            kind = found["kind"] or ("datasets" if found["data"] else "models")
            if (kind, name) in self.repositories:
                refuse_hidden(token, name, self.repositories[kind, name].private)
            refuse_write(token, method, path, name, create_pr)

    def describe_user(self, token: Token | None) -> Answer:
        if token is None:
            raise HubError(401, "Invalid username or password.")
        orgs = [{"name": name, "type": "org"} for name in sorted(token.namespaces - {token.user})]
        access = {"type": "access_token", "accessToken": {"displayName": "a token", "role": token.role}}
        return Answer.json({"type": "user", "name": token.user, "orgs": orgs, "auth": access})

    def info(self, kind: str, name: str, revision: str = "main") -> Answer:
        sha, files = self._find(kind, name, revision)
        siblings = [{"rfilename": path} for path in files]
        private = self.repositories[kind, name].private
        return Answer.json({"id": name, "sha": sha, "private": private, "tags": [], "siblings": siblings})

    def tree(self, kind: str, name: str, revision: str, path: str = "") -> Answer:
        _, files = self._find(kind, name, revision)
        below = [file for file in files if file.startswith(f"{path}/" if path else "")]
        folders = {parent.as_posix() for file in below for parent in PurePosixPath(file).parents} - {".", path}
        inside = sorted(folder for folder in folders if folder.startswith(f"{path}/" if path else ""))
        entries = [{"type": "directory", "path": folder, "size": 0, "oid": "0" * 40} for folder in inside]
        return Answer.json(entries + [self._describe(file, files[file]) for file in below])

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
        described = self._describe(path, files[path])
        headers = {"ETag": f'"{described["oid"]}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        if "lfs" in described:
            headers |= {"X-Linked-ETag": headers["ETag"], "X-Linked-Size": str(described["size"])}
            if (stored := self.xet.find(described["oid"])) is not None:
                address = f"{self.url}/api/{kind}/{name}/xet-read-token/{sha}"
                headers |= {"X-Xet-Hash": stored[0], "Link": f'<{address}>; rel="xet-auth"'}
        return Answer(files[path], headers=headers)

    def connect_xet(self, kind: str, name: str, access: str, revision: str) -> Answer:
        headers = self.xet.connect(write=access == "write")
        given = {"casUrl": headers["X-Xet-Cas-Url"], "accessToken": headers["X-Xet-Access-Token"]}
        answer = Answer.json({**given, "exp": int(headers["X-Xet-Token-Expiration"])})
        answer.headers |= headers
        return answer

    def _find(self, kind: str, name: str, revision: str) -> tuple[str, Files]:
        if (kind, name) not in self.repositories:
            raise HubError(404, "RepoNotFound")
        return self.repositories[kind, name].find(revision)

    def create(self, body: bytes) -> Answer:
        given, (kind, name) = json.loads(body), self._read_name(body)
        url = {"url": f"{self.url}/{name}", "name": name, "id": name}
        if (kind, name) in self.repositories:
            return Answer(json.dumps(url).encode(), 409)
        self.add(kind, name, {".gitattributes": b"*.safetensors filter=lfs"})
        self.repositories[kind, name].private = bool(given.get("private") or given.get("visibility") == "private")
        return Answer.json(url)

    def delete(self, body: bytes) -> Answer:
        if self.repositories.pop(self._read_name(body), None) is None:
            raise HubError(404, "RepoNotFound")
        return Answer()

    @staticmethod
    def _read_name(body: bytes) -> tuple[str, str]:
        given = json.loads(body)
        return f"{given.get('type') or 'model'}s", f"{given.get('organization') or 'alice'}/{given['name']}"

    def validate(self, body: bytes) -> Answer:
        if "rejected" in json.loads(body)["content"]:
            return Answer(json.dumps({"errors": [{"message": "license is unknown"}], "warnings": []}).encode(), 400)
        return Answer.json({"errors": [], "warnings": []})

    def create_branch(self, kind: str, name: str, branch: str, body: bytes) -> Answer:
        repository = self.repositories[kind, name]
        repository.branches[branch] = json.loads(body or b"{}").get("startingPoint") or repository.branches["main"]
        return Answer.json({})

    def preupload(self, kind: str, name: str, revision: str, body: bytes) -> Answer:
        _, files = self._find(kind, name, revision)
        answers = []
        for one in json.loads(body)["files"]:
            mode = "lfs" if is_large(one["path"]) else "regular"
            oid = self._describe(one["path"], files[one["path"]])["oid"] if one["path"] in files else None
            answers.append({"path": one["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return Answer.json({"files": answers})

    def batch(self, body: bytes) -> Answer:
        objects = []
        for one in json.loads(body)["objects"]:
            actions = {"upload": {"href": f"{self.url}/lfs/{one['oid']}"}, "verify": {"href": f"{self.url}/verify"}}
            objects.append({**one, **({} if one["oid"] in self.objects else {"actions": actions})})
        return Answer.json({"transfer": "basic", "objects": objects})

    def put_object(self, sha: str, body: bytes) -> Answer:
        assert hashlib.sha256(body).hexdigest() == sha
        self.objects[sha] = body
        return Answer()

    def find_object(self, sha: str) -> bytes:
        if sha not in self.objects and self.xet.find(sha) is not None:
            self.objects[sha] = self.xet.read(sha)
            assert hashlib.sha256(self.objects[sha]).hexdigest() == sha
        if sha not in self.objects:
            raise HubError(400, "A file of the commit has not been uploaded.")
        return self.objects[sha]

    def commit(self, kind: str, name: str, revision: str, body: bytes, create_pr: bool = False) -> Answer:
        sha, files = self._find(kind, name, revision)
        changed = dict(files)
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header" and value.get("parentCommit") not in (None, sha):
                raise HubError(412, "the branch has moved")
            if line["key"] == "file":
                changed[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                changed[value["path"]] = self.find_object(value["oid"])
            if line["key"] == "deletedFile":
                del changed[value["path"]]
        repository = self.repositories[kind, name]
        if create_pr:
            repository.requests.append(json.loads(body.splitlines()[0])["value"]["summary"])
            revision = f"refs/pr/{len(repository.requests)}"
        hashes = {path: hashlib.sha256(content).hexdigest() for path, content in sorted(changed.items())}
        new = hashlib.sha1(f"{sha}{revision}{hashes}".encode()).hexdigest()
        repository.revisions[new] = changed
        repository.branches[revision] = new
        url = f"{self.url}/{name}/discussions/{len(repository.requests)}" if create_pr else None
        return Answer.json({"commitUrl": f"{self.url}/{name}/commit/{new}", "commitOid": new, "pullRequestUrl": url})

    def list_requests(self, kind: str, name: str) -> Answer:
        found = [
            {
                "num": at,
                "title": title,
                "status": "open",
                "isPullRequest": True,
                "author": {"name": "alice"},
                "createdAt": "2026-01-01T00:00:00.000Z",
                "repo": {"name": name, "type": kind[:-1]},
            }
            for at, title in enumerate(self.repositories[kind, name].requests, 1)
        ]
        return Answer.json({"discussions": found, "count": len(found), "start": 0})

    @staticmethod
    def _describe(path: str, content: bytes) -> dict[str, Any]:
        oid = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
        described: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": oid}
        if is_large(path):
            sha = hashlib.sha256(content).hexdigest()
            described.update(oid=sha, lfs={"oid": sha, "size": len(content), "pointerSize": 130})
        return described


def is_large(path: str) -> bool:
    return path.endswith((".safetensors", ".parquet", ".png", ".bin"))


@contextmanager
def open_black_hole() -> Iterator[str]:
    """Open a port that takes connections and never answers; yield its address."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
