"""Where a clip lies in its video or skeleton, in seconds, and how such a time is said to people."""

from __future__ import annotations

import numpy as np

from mgcli.extract.skeleton import Skeleton
from mgcli.extract.video import VideoIndex

_LONGEST_S = 1e6  # twelve days; a time beyond is a mistake, and its digits would fill a page


def clip_interval(
    seconds: tuple[float, float] | None, frames: tuple[int, int] | None, timeline: VideoIndex | Skeleton
) -> tuple[float, float, float]:
    """Start and end of a clip within its video, and the end that was asked for, in seconds.

    Args:
        seconds: [start, end) of the clip; None with `frames` None: the whole video.
        frames: [start, end), instead.
        timeline: of the video.
    """
    if seconds is not None:
        start_s, asked_s = seconds
    elif frames is not None:
        start_s, asked_s = (_frame_time(timeline, frame) for frame in frames)
    else:
        start_s, asked_s = 0.0, timeline.end_s
        if isinstance(timeline, VideoIndex) and timeline.cut_short:
            asked_s = timeline.stated_s
    return start_s, min(asked_s, timeline.end_s), asked_s


def longest_shown(timeline: VideoIndex | Skeleton, start_s: float, end_s: float) -> tuple[float, float]:
    """From when to when, within a part of a video, the frame is shown that is shown longest."""
    first, last = timeline.frames_at(np.array([start_s, end_s])).tolist()
    changes_s = np.concatenate([[start_s], timeline.time_s[first + 1 : last + 1], [end_s]]).clip(start_s, end_s)
    longest = int(np.diff(changes_s).argmax())
    return float(changes_s[longest]), float(changes_s[longest + 1])


def said(time_s: float) -> str:
    """`2.40 s`, or `1e+308 s`."""
    return f"{time_s:.2f} s" if abs(time_s) < _LONGEST_S else f"{time_s:g} s"


def _frame_time(timeline: VideoIndex | Skeleton, frame: int) -> float:
    """When a frame is shown; frames past the end are counted on at the average rate."""
    count = len(timeline.time_s)
    if frame < count:
        return float(timeline.time_s[frame])
    return timeline.end_s + (frame - count) * timeline.end_s / count
