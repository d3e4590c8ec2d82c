"""How the tokens of layout `full` lie, and the rules by which the smaller layouts come from them.

Backbones that lay their tokens so say it with a `TokenGrid`; stage one keeps it with the feature set, and
`derive.py` goes by it. The rules, for each window of a clip:

| layout | tokens                                                                                |
|--------|---------------------------------------------------------------------------------------|
| time   | the class tokens, then the mean over places at each time                              |
| joint  | the mean over time at each place                                                      |
| pooled | the class tokens where there are some, otherwise the mean over all times and places   |
"""

# Shapes: W windows, N tokens of a window, R = W * N rows, D token width.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mgcli.cache.errors import CacheError

DERIVED = {"full": ("time", "joint", "pooled"), "time": ("pooled",)}  # layout -> those that come from it
Combine = Callable[[np.ndarray, tuple[int, ...]], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class TokenGrid:
    """The tokens of one window: class tokens first, then those of every time and place, time slowest."""

    class_tokens: int = 0
    times: int
    places: int
    middle: float  # of the window, counted in steps of time from the first one

    def __post_init__(self) -> None:
        counts = (self.class_tokens + 1, self.times, self.places)
        if any(type(count) is not int or count < 1 for count in counts) or not 0 <= self.middle < self.times:
            raise CacheError(
                f"there is no grid of {self.class_tokens} class tokens, {self.times} times and {self.places} places "
                f"with its middle at {self.middle}; times and places are 1 or more, the middle is among the times"
            )

    @property
    def num_tokens(self) -> int:
        """N of a window."""
        return self.class_tokens + self.times * self.places

    def selects(self, layout: str) -> bool:
        """Whether the tokens of a layout are some of the grid's own, so that not a bit differs."""
        return layout == "pooled" and self.class_tokens > 0

    def places_of(self, layout: str, *, class_token: int, no_place: int) -> np.ndarray:
        """The place of each token of one window in a layout, (N,) int64; empty where the rules above do not say.

        Args:
            layout: full, time, joint or pooled.
            class_token: what stands for a class token.
            no_place: what stands for a mean over places.
        """
        first, places = [class_token] * self.class_tokens, list(range(self.places))
        windows = {
            "full": first + places * self.times,
            "time": first + [no_place] * self.times,
            "joint": places,
            "pooled": [no_place] * max(1, self.class_tokens),
        }
        return np.array(windows.get(layout, []), dtype=np.int64)

    def derive(self, rows: np.ndarray, layout: str, combine: Combine) -> np.ndarray:
        """The rows of a layout from those of the whole grid.

        Args:
            rows: (R, ...), one for each token.
            layout: time, joint or pooled.
            combine: makes one of what lies along some axes.

        Returns:
            (R', ...), window after window.
        """
        windows = rows.reshape(-1, self.num_tokens, *rows.shape[1:])  # (W, N, ...)
        first = windows[:, : self.class_tokens]
        if self.selects(layout):
            return first.reshape(-1, *rows.shape[1:])
        cells = windows[:, self.class_tokens :].reshape(len(windows), self.times, self.places, *rows.shape[1:])
        if layout == "joint":
            made = combine(cells, (1,))  # (W, places, ...)
        elif layout == "time":
            made = np.concatenate([first, combine(cells, (2,))], axis=1)  # (W, class_tokens + times, ...)
        else:
            made = combine(cells, (1, 2))[:, None]  # (W, 1, ...)
        return made.reshape(-1, *rows.shape[1:])

    def derive_times(self, time_s: np.ndarray, layout: str) -> np.ndarray:
        """(R',) centre times of the tokens of a layout, from the (R,) of the whole grid."""
        return self.derive(time_s, layout, self._middle_times).astype(np.float32)

    def _middle_times(self, cells: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        """Times of (W, times, places) cells that were combined over some axes."""
        if 1 not in axes:
            return cells[:, :, 0]  # all places of a time are seen at once
        if self.times == 1 and self.middle > 0:
            raise CacheError("one time a window does not tell where its middle lies; extract this layout itself")
        wide = cells.astype(np.float64)
        step_s = (wide[:, -1] - wide[:, 0]) / max(1, self.times - 1)  # (W, places)
        middle_s = wide[:, 0] + self.middle * step_s
        return middle_s[:, 0] if 2 in axes else middle_s
