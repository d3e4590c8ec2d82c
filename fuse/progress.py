"""How far a training is: a bar on a terminal, a line now and then in a log; both on stderr."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

_LINE_EVERY_S = 20.0


def warn(message: str) -> None:
    """Print a warning on stderr, above any bar."""
    tqdm.write(f"warning: {message}", file=sys.stderr)


class Progress:
    """Counts epochs over all seeds; use it in a `with` block."""

    def __init__(self, name: str, total: int, *, shown: bool = True) -> None:
        self._name = name
        self._total = total
        self._done = 0
        self._started = self._said_at = time.monotonic()
        is_terminal = sys.stderr.isatty()
        self._bar = tqdm(total=total, unit="epoch", desc=name, file=sys.stderr) if shown and is_terminal else None
        self._says_lines = shown and not is_terminal

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def epoch(self, note: str, epochs: int = 1) -> None:
        """That many more epochs are over, or need not be trained."""
        self._done += epochs
        now = time.monotonic()
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(epochs)
        elif self._says_lines and now - self._said_at >= _LINE_EVERY_S:
            self._said_at = now
            left_s = (now - self._started) / self._done * (self._total - self._done)
            line = f"{self._name}: epoch {self._done}/{self._total}, {note}, at most {left_s:.0f} s left"
            print(line, file=sys.stderr, flush=True)
