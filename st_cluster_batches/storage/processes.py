"""The processes of one launch that work on one shared folder: who does what, and who waits for whom.

They talk through small files and not through collectives. A collective gives up after a time-out, and then says
nothing of what went wrong on the other side; embedding takes hours, and a file can carry a message.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from st_cluster_batches.storage.cache import open_cache, temporary_name, write_atomically

_FAILED = "failed"
_LEFT = "left"
_LONGEST_PAUSE = 1.0  # seconds between two looks


@dataclass(frozen=True)
class Crew:
    """The processes of one launch, from one on a laptop to those of many nodes with one file system.

    Args:
        cache: The shared folder.
        rank: Number of this process.
        size: How many there are.
        board: Folder for this run's marks; None where there is but one process.
        show_progress_bar: Whether this process is to show progress.
    """

    cache: Path
    rank: int = 0
    size: int = 1
    board: Path | None = None
    show_progress_bar: bool = True

    @classmethod
    def join(cls, cache_dir: str | Path | None, show_progress_bar: bool = True) -> Crew:
        """Open the cache and meet the other processes of a torchrun or accelerate launch, if there are any.

        Raises:
            OSError: If the cache folder cannot be written.
        """
        cache = open_cache(cache_dir)
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls(cache, show_progress_bar=show_progress_bar)
        import torch
        from accelerate import PartialState
        from accelerate.utils import broadcast_object_list

        # Without a hint, accelerate takes two processes on a CPU for two runs that know nothing of each other.
        state = PartialState(cpu=not torch.accelerator.is_available())
        # Named by the first process, so that no mark of an earlier run is taken for one of this.
        board = temporary_name(cache / f"run-{time.time_ns()}")
        if state.process_index == 0:
            board.mkdir()
        named = [str(board.name)]
        broadcast_object_list(named)
        show_progress_bar = show_progress_bar and state.process_index == 0
        return cls(cache, state.process_index, state.num_processes, cache / named[0], show_progress_bar)

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        """Tell the others of a failure; the last to leave removes the marks."""
        if self.board is None:
            return
        if error is not None and self.board.exists():
            self._mark(_FAILED, f"{type(error).__name__}: {error}")
        elif error is None:
            self._mark(_LEFT)
            if all(self._has(_LEFT, rank) for rank in range(self.size)):
                shutil.rmtree(self.board, ignore_errors=True)

    @property
    def is_main(self) -> bool:
        """Whether this is the first process, which does what cannot be shared."""
        return self.rank == 0

    def share(self, n_chunks: int) -> range:
        """Return the chunks that are this process's to make."""
        return range(self.rank, n_chunks, self.size)

    def once(self, step: str, work: Callable[[], None]) -> None:
        """Do some work in the first process while the others wait for it."""
        if self.is_main:
            work()
            self.finish(step)
        else:
            self.wait_for(step, [0])

    def finish(self, step: str) -> None:
        """Tell the others that this process is done with a step."""
        if self.board is not None:
            self._mark(step)

    def wait_for(self, step: str, ranks: Iterable[int] | None = None) -> None:
        """Wait until some processes, or all, are done with a step.

        Raises:
            RuntimeError: If another process has failed, with its message.
        """
        if self.board is None:
            return
        pause = 0.01
        for rank in range(self.size) if ranks is None else ranks:
            while not self._has(step, rank):
                self._raise_failure_of_others()
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _raise_failure_of_others(self) -> None:
        for rank in range(self.size):
            if rank != self.rank and self._has(_FAILED, rank):
                message = self._path(_FAILED, rank).read_text()
                raise RuntimeError(f"Process {rank} of {self.size} failed, so this one stops: {message}")

    def _mark(self, step: str, message: str = "") -> None:
        write_atomically(self._path(step, self.rank), message)

    def _has(self, step: str, rank: int) -> bool:
        return self._path(step, rank).exists()

    def _path(self, step: str, rank: int) -> Path:
        assert self.board is not None, "a single process leaves no marks"
        return self.board / f"{step}-{rank}"
