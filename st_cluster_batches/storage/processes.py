"""The processes of one launch: what each does of some work, and how all wait for one of them."""

from __future__ import annotations

import atexit
import gc
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from itertools import count
from threading import Timer
from types import GeneratorType, TracebackType
from typing import Any, TypeVar

Value = TypeVar("Value")

logger = logging.getLogger(__name__)

PATIENCE = 30.0  # seconds that a process waits for others before it says so

_LAST_WAIT = timedelta(seconds=10)  # for the others at exit: one that has failed leaves without them
# Embedding and evaluation take hours; the default time-out of a collective is some minutes.
_LONGEST_WAIT = timedelta(days=30)
_calls = count()  # of all processes alike, if all make the same ones
# Generators that are suspended while a process works and the others wait for it: of accelerate and transformers.
_FIRST = ("main_process_first", "local_main_process_first", "_goes_first")


def is_first_process() -> bool:
    """Return whether this process writes and prints: the one that accelerate and torchrun give rank 0."""
    return os.environ.get("RANK", "0") == "0"


@dataclass
class ProcessGroup:
    """The processes of a torchrun or accelerate launch, from one on a laptop to those of many nodes.

    All of them make the same calls of `once` and `wait` in the same order. As a context manager it tells the others
    when this process fails, so that they stop with its message instead of waiting for it. A process that waits for
    long says for which, and in which call.

    Args:
        rank: Number of this process.
        size: How many there are.
        call: What all of them have been asked to do, as the user wrote it.
    """

    rank: int = 0
    size: int = 1
    call: str = "this call"
    _number: int = field(default=-1, repr=False)
    _exchanges: int = field(default=0, repr=False)
    _has_told: bool = field(default=False, repr=False)
    _has_failed: bool = field(default=False, repr=False)

    @classmethod
    def current(cls, call: str = "this call") -> ProcessGroup:
        """Find the processes that this one was launched with; torch.distributed is set up if it is not yet.

        Args:
            call: What all of them are asked to do, for a message on those that do not come.
        """
        n_launched = int(os.environ.get("WORLD_SIZE", "1"))
        if n_launched == 1:
            return cls(call=call)
        _refuse_main_process_first(call)
        import torch
        from accelerate import PartialState

        group = cls(int(os.environ.get("RANK", "0")), n_launched, call, next(_calls))
        with group._telling():
            # Without a hint, accelerate takes two processes on a CPU for two runs that know nothing of each other.
            state = PartialState(cpu=not torch.accelerator.is_available())
        group.rank, group.size = state.process_index, state.num_processes
        if group.size > 1:
            _leave_together_at_exit()
            group._arrive("call")
        return group

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
        self._exchanges += 1
        self._arrive(f"exchange {self._exchanges}")
        with self._telling():
            torch.distributed.all_gather_object(found, (own, value), group=_make_patient_group())
        failures = [(rank, one) for rank, (one, _) in enumerate(found) if one is not None]
        self._has_failed = bool(failures)
        if own is None and failures:
            raise RuntimeError(f"Process {failures[0][0]} of {self.size} failed, so this one stops: {failures[0][1]}")
        return found[0][1]

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Say whom this process waits for, once, if it waits for long."""
        timer = Timer(PATIENCE, self._tell)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _tell(self) -> None:
        if self._has_told:
            return
        self._has_told = True
        missing = self._find_missing("call")
        if missing == []:  # all have come, and some are at work
            others = _name(self._find_missing(f"exchange {self._exchanges}") or [])
            logger.info("Process %d of %d waits in %s for %s at work", self.rank, self.size, self.call, others)
            return
        logger.warning(
            "Process %d of %d has waited %.0f s in %s for %s. Every rank must make this call: not rank 0 alone, and "
            "not within main_process_first(), where the other ranks wait for rank 0 in their turn",
            self.rank,
            self.size,
            PATIENCE,
            self.call,
            "the others" if missing is None else f"{_name(missing)}, not there yet",
        )

    def _arrive(self, where: str) -> None:
        """Leave word for the others that this process has come somewhere."""
        if (store := _find_store()) is not None:
            store.set(self._key(where, self.rank), "1")

    def _find_missing(self, where: str) -> list[int] | None:
        """Return the processes that have not come somewhere; None if there is no way to know."""
        try:
            store = _find_store().clone()  # a connection of its own: the other one may be waiting
            return [rank for rank in range(self.size) if not store.check([self._key(where, rank)])]
        except (AttributeError, RuntimeError, NotImplementedError):
            return None  # no store, or one that cannot be cloned or asked: the message then says "the others"

    def _key(self, where: str, rank: int) -> str:
        return f"st-cluster-batches/{self._number}/{where}/{rank}"


def _name(ranks: Sequence[int]) -> str:
    return f"process{'es' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def _find_store() -> Any:
    """Return where the processes of a launch leave word for each other, or None."""
    try:
        from torch.distributed.distributed_c10d import _get_default_store

        return _get_default_store()
    except (ImportError, ValueError, RuntimeError):
        return None


@cache
def _make_patient_group() -> Any:
    """Make a gloo group whose collectives wait for days; all processes make it together, once."""
    import torch.distributed

    return torch.distributed.new_group(backend="gloo", timeout=_LONGEST_WAIT)


@cache
def _leave_together_at_exit() -> None:
    """Close the groups of this launch once all processes have come to their end.

    Left to the interpreter's exit, or closed while another process still talks to this one, gloo's threads abort one
    launch in five (`terminate called without an active exception`), after all work is done.
    """

    def leave() -> None:
        import torch.distributed

        if not torch.distributed.is_initialized():
            return  # the user has done it
        names = [f"st-cluster-batches/end/{rank}" for rank in range(torch.distributed.get_world_size())]
        try:
            store = _find_store()
            store.set(names[torch.distributed.get_rank()], "1")
            store.wait(names, _LAST_WAIT)
        except (AttributeError, RuntimeError):  # others have failed or are still at work, or the store's host has left
            return
        torch.distributed.destroy_process_group()

    atexit.register(leave)


def _refuse_main_process_first(call: str) -> None:
    """Raise a RuntimeError within `main_process_first()`: there the others wait for this process, and it for them.

    That context manager leaves no trace but its generator, which is suspended while its block runs.
    """
    for one in gc.get_objects():
        # `type`, since `isinstance` asks objects for their class, and torch has some that warn then.
        if type(one) is GeneratorType and one.gi_frame is not None and one.gi_code.co_name in _FIRST:
            raise RuntimeError(
                f"{call} is a call of all ranks together, and within main_process_first() the others wait until this "
                "one has left: make the call outside of it, on every rank"
            )
