"""The processes of one launch: what each does of some work, and how all wait for one of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from types import TracebackType
from typing import Any, TypeVar

Value = TypeVar("Value")

# Embedding and evaluation take hours; the default time-out of a collective is some minutes.
_LONGEST_WAIT = timedelta(days=30)


@dataclass
class ProcessGroup:
    """The processes of a torchrun or accelerate launch, from one on a laptop to those of many nodes.

    All of them make the same calls of `once` and `wait` in the same order. As a context manager it tells the others
    when this process fails, so that they stop with its message instead of waiting for it.

    Args:
        rank: Number of this process.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1
    _has_failed: bool = field(default=False, repr=False)

    @classmethod
    def current(cls) -> ProcessGroup:
        """Find the processes that this one was launched with; torch.distributed is set up if it is not yet."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        import torch
        from accelerate import PartialState

        # Without a hint, accelerate takes two processes on a CPU for two runs that know nothing of each other.
        state = PartialState(cpu=not torch.accelerator.is_available())
        return cls(state.process_index, state.num_processes)

    def __enter__(self) -> ProcessGroup:
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        if not self._has_failed:
            self._meet(error)

    @property
    def is_main(self) -> bool:
        """Whether this is the first process, which does what cannot be shared."""
        return self.rank == 0

    def share(self, n_chunks: int) -> range:
        """Return the chunks that are this process's to make."""
        return range(self.rank, n_chunks, self.size)

    def once(self, work: Callable[[], Value], otherwise: Value) -> Value:
        """Do some work in the first process while the others wait for it, for days if need be.

        Args:
            work: What the first process does.
            otherwise: What the other processes return.

        Returns:
            What `work` returned, or `otherwise`.

        Raises:
            RuntimeError: In the other processes, if the first one failed, with its message.
        """
        value = self._work(work) if self.is_main else otherwise
        self.wait()
        return value

    def decide(self, work: Callable[[], Value]) -> Value:
        """Return in all processes what the first one finds, so that all take the same way."""
        value = self._meet(None, self._work(work) if self.is_main else None)
        return value  # type: ignore[no-any-return]

    def wait(self) -> None:
        """Wait until all processes have come here.

        Raises:
            RuntimeError: If another process has failed, with its message.
        """
        self._meet(None)

    def _work(self, work: Callable[[], Value]) -> Value:
        """Do some work of the first process; if it fails, the others hear of it."""
        try:
            return work()
        except BaseException as error:
            if not self._has_failed:
                self._meet(error)
            raise

    def _meet(self, error: BaseException | None, value: Any = None) -> Any:
        """Exchange failures with the other processes; return the value of the first one."""
        if self.size == 1:
            return value
        import torch.distributed

        found: list[tuple[str | None, Any]] = [(None, None)] * self.size
        own = None if error is None else f"{type(error).__name__}: {error}"
        self._has_failed = True  # also if the exchange itself fails, since another process has died
        torch.distributed.all_gather_object(found, (own, value), group=_make_patient_group())
        failures = [(rank, one) for rank, (one, _) in enumerate(found) if one is not None]
        self._has_failed = bool(failures)
        if own is None and failures:
            raise RuntimeError(f"Process {failures[0][0]} of {self.size} failed, so this one stops: {failures[0][1]}")
        return found[0][1]


@cache
def _make_patient_group() -> Any:
    """Make a gloo group whose collectives wait for days; all processes make it together, once."""
    import torch.distributed

    return torch.distributed.new_group(backend="gloo", timeout=_LONGEST_WAIT)
