"""A folder that one command works in at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]  # exported without `__all__`

from st_cluster_batches.storage.processes import ProcessGroup

LOCK_FILE = "_lock"  # a trainer pushes its folder but for what begins so
_PATIENCE = 1.0  # seconds


@contextmanager
def claim(folder: Path, call: str) -> Iterator[None]:
    """Work in a folder alone, with all processes of a call; the system gives it up where the first one is killed.

    Args:
        folder: The folder; it is there.
        call: The name of the call.

    Raises:
        OSError: If another call works in it.
    """
    path = folder / LOCK_FILE
    with ExitStack() as stack:

        def lock() -> None:
            try:
                stack.enter_context(WeakFileLock(path, timeout=_PATIENCE))
            except TimeoutError as error:
                raise OSError(
                    f"Another process is at work in {folder}: wait for it, or give another output folder. If there "
                    f"is none, remove {path}"
                ) from error

        ProcessGroup.current(call).once(lock, None)
        yield
