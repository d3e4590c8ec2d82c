"""How far a long run is: a bar on a terminal, a line now and then in a log; both on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

LINE_EVERY_S = 10.0

_T = TypeVar("_T")


def warn(message: str) -> None:
    """Print a warning on stderr, above any bar."""
    tqdm.write(f"warning: {message}", file=sys.stderr)


class Progress:
    """Counts what is over; use it in a `with` block."""

    def __init__(self, name: str, total: int, *, unit: str, shown: bool = True) -> None:
        """Start with nothing done.

        Args:
            name: of the run, in front of each line.
            total: how many there are.
            unit: what is counted: clip, epoch.
            shown: False says nothing at all.
        """
        self._name, self._unit = name, unit
        self._total, self._done = total, 0
        self._started = self._said_at = time.monotonic()
        is_terminal = sys.stderr.isatty()
        self._bar = tqdm(total=total, unit=unit, desc=name, file=sys.stderr) if shown and is_terminal else None
        self._says_lines = shown and not is_terminal

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def step(self, note: str = "", count: int = 1) -> None:
        """That many more are over, done or failed; 0 is a sign of life while a long one goes on.

        Args:
            note: how it stands, in a few words.
            count: how many.
        """
        self._done += count
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        elif self._says_lines:
            now = time.monotonic()
            if now - self._said_at >= LINE_EVERY_S:
                self._said_at = now
                print(self._line(note, now - self._started), file=sys.stderr, flush=True)

    def _line(self, note: str, passed_s: float) -> str:
        rate = self._done / max(passed_s, 1e-6)
        left = f"{(self._total - self._done) / rate:.0f} s left" if rate else "time left unknown"
        middle = f" {note}," if note else ""
        return f"{self._name}: {self._done}/{self._total} {self._unit}s,{middle} {rate:.2f} {self._unit}s/s, {left}"


def shown_progress(name: str, unit: str) -> Callable[[Sequence[_T]], Iterator[_T]]:
    """Wraps a list so that going through it shows how far it is."""

    def through(items: Sequence[_T]) -> Iterator[_T]:
        with Progress(name, len(items), unit=unit) as progress:
            for item in items:
                yield item
                progress.step()

    return through
