"""How far an extraction is: a bar on a terminal, a line now and then in a log; both on stderr."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

LINE_EVERY_S = 10.0


class Progress:
    """Counts clips that are done or failed; use it in a `with` block."""

    def __init__(self, total: int, *, shown: bool = True) -> None:
        self._total = total
        self._done = 0
        self._inputs = 0
        self._started = self._said_at = time.monotonic()
        is_terminal = sys.stderr.isatty()
        self._bar = tqdm(total=total, unit="clip", desc="extract", file=sys.stderr) if shown and is_terminal else None
        self._says_lines = shown and not is_terminal

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._says_lines:
            self._say()

    def input(self) -> None:
        """One more input is on its way: a sign of life while a long clip goes on."""
        self._inputs += 1
        if self._bar is not None:
            self._bar.set_postfix_str(f"{self._inputs} inputs", refresh=False)
            self._bar.update(0)
        elif self._says_lines and time.monotonic() - self._said_at >= LINE_EVERY_S:
            self._say()

    def clip(self) -> None:
        """One more clip is over, done or failed."""
        self._done += 1
        if self._bar is not None:
            self._bar.update(1)

    def warn(self, message: str) -> None:
        """Print a line above the bar."""
        tqdm.write(f"warning: {message}", file=sys.stderr)

    def _say(self) -> None:
        now = time.monotonic()
        self._said_at = now
        rate = self._done / max(now - self._started, 1e-6)
        left = f"{(self._total - self._done) / rate:.0f} s left" if rate else "time left unknown"
        print(
            f"extract: {self._done}/{self._total} clips, {self._inputs} inputs, {rate:.2f} clips/s, {left}",
            file=sys.stderr,
            flush=True,
        )
