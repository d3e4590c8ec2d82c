"""Ctrl-C: it is for the first process, which ends its workers; and what a command says that it stopped."""

from __future__ import annotations

import _weakrefset
import signal
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from threading import Timer, get_ident
from types import FrameType, TracebackType
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")
_SWALLOWING = {weakref.__file__, _weakrefset.__file__}  # where callbacks of weak references stand
_AGAIN_S = 0.01


class StoppedError(Exception):
    """A command that Ctrl-C ended; the message says what is safe and what to run next."""


def hear_interrupts() -> None:
    """Have Ctrl-C raise KeyboardInterrupt in this process, also where Python would swallow it.

    What a finalizer or the callback of a weak reference raises is printed and forgotten, and libraries spend some of
    their time in those: such a Ctrl-C is heard a moment later. One that is ignored, as a shell has it for jobs in the
    background, stays ignored.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_name == "__del__" or frame.f_code.co_filename in _SWALLOWING:
            again = Timer(_AGAIN_S, signal.pthread_kill, [get_ident(), number])  # which wakes this thread from a wait
            again.daemon = True
            again.start()
            return
        frame = frame.f_back
    raise KeyboardInterrupt


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
