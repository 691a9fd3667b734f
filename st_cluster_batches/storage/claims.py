"""A folder that one command works in at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]  # exported without `__all__`

_LOCK_FILE = ".lock"
_PATIENCE = 1.0  # seconds


@contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Work in a folder alone; the system gives it up where the process is killed.

    Args:
        folder: The folder; it is there.

    Raises:
        OSError: If another process works in it.
    """
    path = folder / _LOCK_FILE
    with ExitStack() as stack:
        try:
            stack.enter_context(WeakFileLock(path, timeout=_PATIENCE))
        except TimeoutError as error:
            raise OSError(
                f"Another process is at work in {folder}: wait for it, or give another output folder. If there is "
                f"none, remove {path}"
            ) from error
        yield
