"""Times at which backbones look at a clip."""

# Shapes: T times of one window.

from __future__ import annotations

import math

import numpy as np

_SLACK_S = 1e-6


def uniform_times(start_s: float, end_s: float, count: int) -> np.ndarray:
    """(count,) centres of `count` equal parts of the interval."""
    return start_s + (np.arange(count) + 0.5) * ((end_s - start_s) / count)


def window_starts(start_s: float, end_s: float, window_s: float, stride_s: float) -> list[float]:
    """Where windows of one length start so that they cover the interval and never leave it.

    An interval shorter than a window gives one window. A last window is moved up to the end where more than
    half a stride, or half a window, would go unseen.
    """
    last_start_s = end_s - window_s
    if last_start_s <= start_s:
        return [start_s]
    count = math.floor((last_start_s - start_s + _SLACK_S) / stride_s) + 1
    starts_s = [start_s + i * stride_s for i in range(count)]
    if last_start_s - starts_s[-1] > min(stride_s, window_s) / 2:
        starts_s.append(last_start_s)
    return starts_s
