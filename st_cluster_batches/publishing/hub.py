"""Push a staged folder to the Hub in one verified commit that overwrites no file that someone else wrote.

Which files of a repository are ours, and as we left them, is written in the repository itself, in `MANIFEST`. A file
that differs from it was changed on the Hub since, and is not overwritten.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx2
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    get_session,
    get_token,
    set_client_factory,
)
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # exported without `__all__`

from st_cluster_batches.batches.card_block import remove_block
from st_cluster_batches.publishing.built_files import list_files
from st_cluster_batches.publishing.card import is_edited, renew_mark
from st_cluster_batches.publishing.failures import PublishError, explain
from st_cluster_batches.publishing.fingerprint import Fingerprint
from st_cluster_batches.publishing.front_matter import check_front_matter
from st_cluster_batches.publishing.model_files import CARD
from st_cluster_batches.publishing.staging import refuse_private_content

logger = logging.getLogger(__name__)

Kind = Literal["model", "dataset"]

MANIFEST = "published.json"
TITLE = "Publish with st-cluster-batches"
LONGEST_SILENCE = 30.0  # seconds

_PLACEHOLDER = "sentence_transformers_model_id"  # where sentence-transformers leaves room for the repository's id

_bound: float | None = None


@dataclass(frozen=True)
class Published:
    """The outcome of a push.

    Args:
        url: Of the repository, its branch or the pull request.
        commit: Its newest commit; None of a dry run on a repository that is not there, or was not looked at.
        uploaded: Files that were, or in a dry run would be, added or replaced; all of them where none was looked at.
        removed: Files of an earlier push that are no longer part of it.
    """

    url: str
    commit: str | None
    uploaded: list[str]
    removed: list[str]


def bound_requests(seconds: float = LONGEST_SILENCE) -> None:
    """Set a time limit on every request to the Hub from this process; huggingface_hub itself has none.

    A Hub that never answers ends a push after `seconds`. One that falls silent on the way ends it after eight times
    that and half a minute at most, since huggingface_hub tries some requests again, with pauses of 23 s in all. What
    hf_xet sends has its own bounds: 300 s a request, and five more tries. The variables HF_XET_CLIENT_READ_TIMEOUT
    and HF_XET_CLIENT_RETRY_MAX_ATTEMPTS change them.

    It changes huggingface_hub for the whole process, so only the command line calls it.
    """
    global _bound
    _bound = seconds
    hooks = get_session().event_hooks["request"]

    def bound(request: httpx2.Request) -> None:
        given = request.extensions.get("timeout") or {}
        request.extensions["timeout"] = {
            kind: min(given.get(kind) or seconds, seconds) for kind in ("connect", "read", "write", "pool")
        }

    set_client_factory(
        lambda: httpx2.Client(event_hooks={"request": [*hooks, bound]}, follow_redirects=True, timeout=seconds)
    )


def push(
    stage: Path,
    repo_id: str,
    *,
    kind: Kind = "model",
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    dry_run: bool = False,
) -> Published:
    """Publish a staged folder. A second call uploads only what is missing or has changed.

    Args:
        stage: Folder that `build` filled.
        repo_id: `user/name`; it is created if it is not there.
        kind: What kind of repository.
        private: Whether it must be private; checked before anything is uploaded.
        revision: Branch to commit to; it is made from `main` if it is not there.
        create_pr: Open a pull request instead.
        dry_run: Only say what would be done; without a token, which files the repository is to hold.

    Returns:
        What was done.

    Raises:
        ValueError: If a file holds a token or a local path, the card's front matter is no YAML, the id is none, or
            options exclude one another; before any request.
        PublishError: If it could not be published, with what to do.
    """
    if create_pr and revision is not None:
        raise ValueError(f"--create-pr opens a pull request to `main`; it cannot go to --revision {revision} too")
    if repo_id.count("/") != 1 or repo_id.startswith("/") or repo_id.endswith("/"):
        # The Hub would make NAME as USER/NAME, and then know no NAME.
        raise ValueError(f"{repo_id!r} does not say whose repository it is: give it as user/name")
    if not (stage / CARD).is_file():
        raise ValueError(f"{stage} has no {CARD}; fill a folder first: st-cluster-batches build MODEL --output DIR")
    refuse_private_content(stage)
    check_front_matter((stage / CARD).read_text(encoding="utf-8"), str(stage / CARD))
    has_token = get_token() is not None
    if not (has_token or dry_run):
        raise PublishError("There is no token to publish with: run `hf auth login`, or set HF_TOKEN")
    try:
        one = _Push(HfApi(), stage, repo_id, kind, private, revision, create_pr, dry_run)
        return one.run() if has_token else one.list_unseen()
    except PublishError:
        raise
    # RuntimeError by both storages of large files.
    except (HfHubHTTPError, httpx2.HTTPError, OSError, ValueError, RuntimeError) as error:
        raise PublishError(explain(error, repo_id, _bound)) from error


@dataclass(frozen=True)
class _Push:
    api: HfApi
    stage: Path
    repo_id: str
    kind: Kind
    private: bool
    revision: str | None
    create_pr: bool
    dry_run: bool

    def run(self) -> Published:
        parent = self._find_parent()
        contents, local = self._read_contents()
        remote = {} if parent is None else self._list_remote(parent)
        known = self._read_manifest(parent) if MANIFEST in remote else {}
        uploaded = sorted(path for path, one in local.items() if path not in remote or not one.matches(remote[path]))
        removed = sorted(
            path for path in set(known) - set(local) if path in remote and known[path].matches(remote[path])
        )
        if not self.create_pr:
            self._refuse_edited([path for path in uploaded if path in remote], remote, known, parent)
        if self.dry_run or not (uploaded or removed):
            return Published(self._url(), parent, uploaded, removed)
        if self.create_pr and (number := self._find_open_request(local)) is not None:
            return Published(f"{self._url()}/discussions/{number}", parent, [], [])
        operations: list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete] = [
            *(CommitOperationAdd(path, contents[path]) for path in uploaded),
            *(CommitOperationDelete(path) for path in removed),
        ]
        commit = self.api.create_commit(
            self.repo_id,
            operations,
            commit_message=TITLE,
            repo_type=self.kind,
            revision=self.revision,
            create_pr=self.create_pr,
            parent_commit=parent,
        )
        self._verify(commit.oid, local)
        return Published(commit.pr_url or self._url(), commit.oid, uploaded, removed)

    def list_unseen(self) -> Published:
        """List all that the repository is to hold, without a look at what it holds."""
        validate_repo_id(self.repo_id)  # as the first request would
        logger.warning(
            "There is no token to look at the Hub with: these are all files that %s is to hold, those too that it may "
            "hold already, and nothing says whether you may write to it. To look, run `hf auth login`, or set "
            "HF_TOKEN",
            self.repo_id,
        )
        return Published(self._url(), None, sorted(self._read_contents()[1]), [])

    def _find_parent(self) -> str | None:
        """Make repository and branch if they are not there, and return the newest commit."""
        try:
            info = self.api.repo_info(self.repo_id, repo_type=self.kind)
        except RepositoryNotFoundError:
            if self.dry_run:
                return None
            self.api.create_repo(self.repo_id, repo_type=self.kind, private=self.private or None, exist_ok=True)
            info = self.api.repo_info(self.repo_id, repo_type=self.kind)
        if self.private and not info.private:
            raise PublishError(
                f"{self.repo_id} is public, and nothing was uploaded: make it private in its settings on the Hub, or "
                "publish without --private"
            )
        if self.revision is None:
            return str(info.sha)
        try:
            return str(self.api.repo_info(self.repo_id, repo_type=self.kind, revision=self.revision).sha)
        except RevisionNotFoundError:
            if not self.dry_run:
                self.api.create_branch(
                    self.repo_id, branch=self.revision, revision=info.sha, repo_type=self.kind, exist_ok=True
                )
            return str(info.sha)

    def _read_contents(self) -> tuple[dict[str, bytes | Path], dict[str, Fingerprint]]:
        """List the files that the repository is to hold, with their hashes; the manifest is made of these."""
        paths = list_files(self.stage)
        contents: dict[str, bytes | Path] = {path.relative_to(self.stage).as_posix(): path for path in paths}
        contents[CARD] = self._read_card()
        hashes = {path: Fingerprint.of(content) for path, content in contents.items()}
        manifest = {path: {"oid": one.oid, "sha256": one.sha256} for path, one in hashes.items()}
        contents[MANIFEST] = (json.dumps(manifest, indent=1) + "\n").encode()
        return contents, {**hashes, MANIFEST: Fingerprint.of(contents[MANIFEST])}

    def _read_card(self) -> bytes:
        text = (self.stage / CARD).read_bytes().decode()
        named = text.replace(_PLACEHOLDER, self.repo_id)
        return (named if is_edited(text) else renew_mark(named)).encode()

    def _list_remote(self, revision: str) -> dict[str, Any]:
        tree = self.api.list_repo_tree(self.repo_id, recursive=True, revision=revision, repo_type=self.kind)
        return {entry.path: entry for entry in tree if hasattr(entry, "blob_id")}

    def _read_manifest(self, revision: str | None) -> dict[str, Fingerprint]:
        content = json.loads(self._download(MANIFEST, revision))
        return {path: Fingerprint(one["oid"], one["sha256"]) for path, one in content.items()}

    def _download(self, path: str, revision: str | None) -> str:
        found = self.api.hf_hub_download(self.repo_id, path, revision=revision, repo_type=self.kind)
        return Path(found).read_text(encoding="utf-8")

    def _refuse_edited(
        self, replaced: list[str], remote: dict[str, Any], known: dict[str, Fingerprint], parent: str | None
    ) -> None:
        """Raise a PublishError if a file that would be replaced is not as an earlier build and push left it."""
        for path in replaced:
            is_known = path in known and known[path].matches(remote[path])
            if path == MANIFEST or (is_known and path != CARD):
                continue
            place = "the folder of the model or of the data"
            if path == CARD:
                ours, theirs = self._read_card().decode(), self._download(CARD, parent)
                if remove_block(theirs) == remove_block(ours):
                    continue  # only our block differs
                # What a person wrote into a staged folder was pushed by us; it is continued there, or would be lost.
                if is_known and (is_edited(ours) or not is_edited(theirs)):
                    continue
                try:  # else the next build, with their text, would be the first to say so
                    check_front_matter(theirs, f"{CARD} in {self.repo_id}")
                except ValueError as error:
                    raise PublishError(f"Nothing was uploaded. {error} on the Hub, then take it over") from error
                place = f"DIR/{CARD}, once `st-cluster-batches build FOLDER --output DIR` has filled DIR"
            raise PublishError(
                f"{path} in {self.repo_id} was written or edited by someone else, and nothing was overwritten: take "
                f"their text into {place}, build again and publish DIR, or propose yours with --create-pr"
            )

    def _find_open_request(self, local: dict[str, Fingerprint]) -> int | None:
        """Return the number of an open pull request with this content: an earlier call may have lost its answer."""
        found = self.api.get_repo_discussions(
            self.repo_id, repo_type=self.kind, discussion_type="pull_request", discussion_status="open"
        )
        for request in found:
            if request.title == TITLE:
                remote = self._list_remote(f"refs/pr/{request.num}")
                if all(path in remote and one.matches(remote[path]) for path, one in local.items()):
                    return int(request.num)
        return None

    def _verify(self, commit: str, local: dict[str, Fingerprint]) -> None:
        remote = self._list_remote(commit)
        if wrong := sorted(path for path, one in local.items() if path not in remote or not one.matches(remote[path])):
            raise PublishError(
                f"{wrong[0]} on the Hub is not what was uploaded (commit {commit[:7]}): run the same command again"
            )

    def _url(self) -> str:
        kind = "" if self.kind == "model" else f"{self.kind}s/"
        branch = "" if self.revision is None else f"/tree/{self.revision}"
        return f"{self.api.endpoint}/{kind}{self.repo_id}{branch}"
