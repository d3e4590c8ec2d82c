"""Ctrl-C while Python still imports mgcli: the same line as later, and no traceback. Imports next to nothing itself."""

from __future__ import annotations

import os
import signal
import sys

EXIT_STOPPED = 130
NOTHING_LEFT = "nothing half-written is left; run the same command again"


class LeaveOnInterrupt:
    """In this block Ctrl-C ends the process at once: nothing has begun yet, and an import would swallow an exception.

    A Ctrl-C that is ignored, as in a shell's background, stays ignored; a thread other than the first changes nothing.
    """

    def __enter__(self) -> None:
        self._before = signal.getsignal(signal.SIGINT)
        self._replaced = False
        if self._before is signal.default_int_handler:
            try:
                signal.signal(signal.SIGINT, _leave)
                self._replaced = True
            except ValueError:  # signals are for the first thread
                pass

    def __exit__(self, *error: object) -> None:
        if self._replaced:
            signal.signal(signal.SIGINT, self._before)


def say_stopped(what_is_safe: str) -> None:
    """The line; Ctrl-C once more is the end."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    print(f"mgcli: stopped; {what_is_safe}", file=sys.stderr, flush=True)


def _leave(number: int, frame: object) -> None:
    say_stopped(NOTHING_LEFT)
    os._exit(EXIT_STOPPED)
