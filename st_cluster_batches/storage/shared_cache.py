"""The cache folder as the processes of one launch see it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from st_cluster_batches.storage.cache import open_cache
from st_cluster_batches.storage.processes import ProcessGroup


@dataclass(frozen=True)
class SharedCache:
    """A cache folder, the processes that fill it together, and whether this one shows progress.

    Args:
        folder: The folder; processes of several nodes need to see the same.
        processes: Who shares the work.
        show_progress_bar: Whether this process is to show progress.
    """

    folder: Path
    processes: ProcessGroup = field(default_factory=ProcessGroup)
    show_progress_bar: bool = True

    @classmethod
    @contextmanager
    def open(
        cls, cache_dir: str | Path | None, show_progress_bar: bool = True, call: str = "this call"
    ) -> Iterator[SharedCache]:
        """Open the cache together with the other processes; if one of them fails within, all stop.

        Args:
            cache_dir: The folder; one inside the datasets cache by default.
            show_progress_bar: Whether the first process is to show progress.
            call: What the processes are asked to do, for messages.

        Yields:
            The cache.

        Raises:
            OSError: If the folder cannot be written.
        """
        with ProcessGroup.current(call) as processes:
            yield cls(open_cache(cache_dir), processes, show_progress_bar and processes.is_main)
