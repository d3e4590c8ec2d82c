"""A thread that writes while the network goes on: work in order, a bounded number of pieces behind."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from types import TracebackType

MOST_PENDING = 16  # clips that wait to be written; more, and the caller waits


class WriteBehind:
    """Does what it is given, in order, in a thread of its own; use it in a `with` block."""

    def __init__(self) -> None:
        self.busy_s = 0.0  # spent on the work
        self.waited_s = 0.0  # that callers waited for room
        self._work: queue.Queue[Callable[[], None] | None] = queue.Queue(MOST_PENDING)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="mgcli-write", daemon=True)

    def __enter__(self) -> WriteBehind:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish what was given, also when the run ends with an error or Ctrl-C."""
        self._work.put(None)
        self._thread.join()
        if kind is None:
            self._raise()

    def do(self, work: Callable[[], None]) -> None:
        """Hand a piece of work over.

        Raises:
            Exception: what an earlier piece raised; nothing after it was done.
        """
        self._raise()
        started = time.perf_counter()
        self._work.put(work)
        self.waited_s += time.perf_counter() - started

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self) -> None:
        failed = False
        while (work := self._work.get()) is not None:
            started = time.perf_counter()
            try:
                if not failed:
                    work()
            except BaseException as error:  # raised again where the next piece is handed over
                self._error, failed = error, True
            self.busy_s += time.perf_counter() - started
