"""Atomic files and folders: a reader finds them whole or not at all, after a kill, a full disk, or another process."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import logging
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import xxhash
from safetensors import SafetensorError

logger = logging.getLogger(__name__)

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OLD = ".old"  # a folder whose place is being taken; its name is that of a temporary one, too


def default_cache_dir() -> Path:
    """Return the folder for embeddings, labels and distilled models: one inside the datasets cache."""
    from datasets import config

    return Path(config.HF_DATASETS_CACHE) / "st_cluster_batches"


def open_cache(cache_dir: str | Path | None) -> Path:
    """Make the cache folder ready: create it, check that it can be written, and remove what killed runs left.

    Args:
        cache_dir: The folder; `default_cache_dir` if None.

    Returns:
        The folder.

    Raises:
        OSError: If nothing can be written there; before any work.
    """
    cache = default_cache_dir() if cache_dir is None else Path(cache_dir).expanduser()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with write_whole(cache / "probe") as temporary:
            temporary.touch()
        (cache / "probe").unlink(missing_ok=True)
    except OSError as error:
        raise type(error)(
            error.errno, f"Nothing can be written to the cache folder ({error.strerror}); pass cache_dir=", str(cache)
        ) from error
    remove_leftovers(cache)
    return cache


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Give a temporary name to write a file or a folder to, and rename it once all is written.

    Raises:
        OSError: If the disk is full, with what to do about it; nothing half-written is left.
    """
    temporary = temporary_name(path)
    try:
        yield temporary
        if temporary.is_dir() and path.exists():
            shutil.rmtree(temporary)  # another process was faster; a folder cannot replace one
        else:
            os.replace(temporary, path)
    except BaseException as error:
        _remove(temporary)
        _explain_lack_of_room(error, path)
        raise


def _explain_lack_of_room(error: BaseException, path: Path) -> None:
    """Raise what says what to do, where the system has said that there is no room; some hide that in text."""
    numbers: list[int | None] = [error.errno] if isinstance(error, OSError) and error.filename != str(path) else []
    hidden_as = "(os error {})" if isinstance(error, SafetensorError) else "[Errno {}]"
    if isinstance(error, SafetensorError | shutil.Error):
        numbers += [one for one in NO_ROOM if hidden_as.format(one) in str(error)]
    for number in [one for one in NO_ROOM if one in numbers]:
        raise OSError(
            number,
            f"No room to write ({os.strerror(number)}). What is finished is kept: free some space and call again, or "
            "give a folder on a larger disk, for the cache as cache_dir=",
            str(path),
        ) from error


@contextmanager
def replace_folder(path: Path, is_own: Callable[[Path], bool]) -> Iterator[Path]:
    """Give a temporary name to write a folder to, and put it in the place of an earlier one once all is written.

    Args:
        path: The folder. A reader finds the old one or the new one whole.
        is_own: Whether a file or folder of the old one is replaced or removed; all others are kept.

    Raises:
        OSError: If the disk is full; the old folder is left as it was.
    """
    path = path.resolve()  # a link to a folder stays one
    recover_folder(path, is_own)
    old = temporary_name(path.with_name(f"{path.name}{_OLD}"))
    temporary = temporary_name(path)
    try:
        yield temporary
        if path.exists():
            path.rename(old)
        try:
            temporary.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
    except BaseException as error:
        _remove(temporary)
        _explain_lack_of_room(error, path)
        raise
    if old.exists():
        _take_others(old, path, is_own)


def read_json(path: Path) -> Any:
    """Read a file of JSON.

    Raises:
        ValueError: If it holds none, with its name: a full disk or a copy may have cut it off.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged: it holds no JSON ({error}). Restore it, or make its folder anew"
        ) from error


def write_atomically(path: Path, text: str) -> None:
    """Write a small file such that a reader finds the old text or the new, never a part."""
    with write_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def hash_values(*values: Any) -> str:
    """Hash JSON values to 32 hexadecimal digits, to name what was made of them."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:32]


def seal(paths: list[Path], seal_path: Path, report: dict[str, Any]) -> None:
    """Write the checksums of some files, with a report, into a file beside them."""
    digests = {path.name: _digest_file(path) for path in paths}
    write_atomically(seal_path, json.dumps({"digests": digests, "report": report}))


def read_seal(paths: list[Path], seal_path: Path) -> dict[str, Any] | None:
    """Return the report beside some files if their checksums are right, or None."""
    if not (seal_path.exists() and all(path.exists() for path in paths)):
        return None
    try:
        sealed = json.loads(seal_path.read_text(encoding="utf-8"))
        digests, report = dict(sealed["digests"]), dict(sealed["report"])
    except (ValueError, KeyError, TypeError) as error:
        logger.warning("%s is damaged (%s); what it vouches for is made again", seal_path, error)
        return None
    return report if digests == {path.name: _digest_file(path) for path in paths} else None


def _digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_64).hexdigest()


def temporary_name(path: Path) -> Path:
    """Name a temporary file or folder after this machine and process."""
    return path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")


def _read_temporary_name(name: str) -> tuple[str, int] | None:
    """Return what a name stands for, and the process that gave it; None if it is none that this machine has given."""
    found = re.fullmatch(rf"(.*)\.{re.escape(socket.gethostname())}\.(\d+)\.tmp", name, re.DOTALL)
    return None if found is None else (found[1], int(found[2]))


def make_folder(path: Path) -> None:
    """Make a folder, and find out by a trial whether files can be written there.

    Permissions do not say: root has all of them, also in a file system that takes no files.

    Raises:
        ValueError: If a file has that name.
        OSError: If it cannot be made, or nothing can be written to it.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; a folder is needed")
    try:
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path):
            pass
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
        message = f"Nothing can be written to {path} ({error.strerror}); name another place"
        raise type(error)(error.errno, message) from error


def _take_others(old: Path, new: Path, is_own: Callable[[Path], bool]) -> None:
    """Move what is to be kept of an old folder into the new one, and remove the rest."""
    for kept in old.iterdir():
        if not is_own(kept) and not (new / kept.name).exists():
            shutil.move(kept, new / kept.name)
    _remove(old)


def recover_folder(path: Path, is_own: Callable[[Path], bool] | None = None) -> None:
    """Clear up what a killed `replace_folder` left: if it was just about to rename, the old folder comes back.

    Args:
        path: The folder. Who looks into it before `replace_folder` does, calls this first.
        is_own: As `replace_folder` takes it. If it is not known, an old folder beside the new one stays, since it may
            hold what is to be kept.
    """
    path = path.resolve()
    for one in path.parent.glob(f"{glob.escape(path.name)}.*.tmp"):
        name, process = _read_temporary_name(one.name) or ("", 0)
        if name not in (path.name, f"{path.name}{_OLD}") or _is_alive(process):
            continue
        if name == path.name:
            _remove(one)
        elif not path.exists():
            one.rename(path)
        elif is_own is not None:
            _take_others(one, path, is_own)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of processes that ran on this machine and are dead."""
    for path in folder.glob("*.tmp"):
        found = _read_temporary_name(path.name)
        if found is not None and not _is_alive(found[1]):
            _remove(path)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's, and alive
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
