"""Ctrl-C: it is for the first process, which ends its workers; and what a command says that it stopped."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from types import TracebackType
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


class StoppedError(Exception):
    """A command that Ctrl-C ended; the message says what is safe and what to run next."""


@contextmanager
def shielded_children() -> Iterator[None]:
    """A process that is started in this block never hears Ctrl-C, not even while it is still importing.

    A terminal sends it to all processes. This one hears it at the end of the block at the latest. Before it spawns one
    by multiprocessing, the resource tracker of that must be running, as it is once there is a queue: its start lets
    SIGINT through again.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a new process has the mask of who starts it
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class WorkerPool(ProcessPoolExecutor):
    """Spawned processes that do not hear Ctrl-C; in a `with` block it ends them at once, another error lets them end.

    Spawned, not forked: a fork of a process with running threads may hang.
    """

    def __init__(self, processes: int) -> None:
        super().__init__(processes, mp_context=get_context("spawn"))
        self._others = active_children()

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """As the base class does, which starts its processes here."""
        with shielded_children():
            return super().submit(fn, *args, **kwargs)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, KeyboardInterrupt):
            for process in active_children():
                if process not in self._others:
                    process.kill()
        self.shutdown(cancel_futures=error is not None)
