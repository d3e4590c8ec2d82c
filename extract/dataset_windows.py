"""Whole videos cut into windows of one length, as clips to predict labels for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mgcli.extract.dataset import DatasetError
from mgcli.extract.video import VideoError, index_video
from mgcli.extract.windows import window_starts


def check_windows(window_s: Any, stride_s: Any) -> tuple[float, float] | None:
    """Window and stride in seconds, by default one behind the other; None where no windows are asked for.

    Raises:
        DatasetError: a length that is none, or a stride without a window.
    """
    for name, value in (("window_s", window_s), ("stride_s", stride_s)):
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if value is not None and not (is_number and value > 0):
            raise DatasetError(f"{name} is {value!r}; it must be a number of seconds above 0")
    if window_s is None:
        if stride_s is not None:
            raise DatasetError(f"stride_s is {stride_s}, but there is no window_s; give both, or window_s alone")
        return None
    return float(window_s), float(stride_s if stride_s is not None else window_s)


def cut_windows(table: pd.DataFrame, window_s: float, stride_s: float) -> pd.DataFrame:
    """Every clip as windows `CLIP_0`, `CLIP_1`, ... of its video or of its interval in seconds; labels are kept.

    The windows cover all of it: a short clip is one window, and the last one is moved up to the end. A video that
    cannot be read stays one clip, so that extraction fails it with the reason; `attrs["warnings"]` names it.

    Raises:
        DatasetError: a clip without a video, or with an interval in frames, or two windows of one name.
    """
    ends_s: dict[str, float] = {}
    notes = list(table.attrs.get("warnings", []))
    for video in table["video"].unique():
        try:
            ends_s[video] = index_video(Path(video)).end_s if video else 0.0
        except VideoError as error:
            notes.append(f"not cut into windows: {error}")
    cut = []
    for row in table.to_dict("records"):
        if not row["video"]:
            raise DatasetError(f"window_s: clip {row['clip_id']!r} has no video to cut")
        if not pd.isna(row["start_frame"]):
            raise DatasetError(
                f"window_s: clip {row['clip_id']!r} has an interval in frames; give it in seconds, or leave it empty"
            )
        end_s = ends_s.get(row["video"])
        if end_s is None:
            cut.append(row)
            continue
        is_whole = pd.isna(row["start_s"])
        first_s, last_s = (0.0, end_s) if is_whole else (row["start_s"], min(row["end_s"], end_s))
        if first_s >= last_s:
            cut.append(row)  # past the end of its video, as extraction will say
            continue
        for k, start_s in enumerate(window_starts(first_s, last_s, window_s, stride_s)):
            window = {"start_s": round(start_s, 6), "end_s": round(min(start_s + window_s, last_s), 6)}
            cut.append(row | {"clip_id": f"{row['clip_id']}_{k}"} | window)
    refuse_doubled([row["clip_id"] for row in cut], [row["video"] for row in cut])
    windows = pd.DataFrame(cut, columns=table.columns).astype(dict(table.dtypes))
    windows.attrs = table.attrs | {"warnings": notes}
    return windows


def refuse_doubled(clip_ids: Sequence[str], videos: Sequence[str | Path]) -> None:
    """Refuse two clips of one name, such as those of `a.mp4` and `a.avi`, or of `a_0.mp4` and the windows of `a.mp4`.

    Raises:
        DatasetError: it names their videos.
    """
    video_of: dict[str, str | Path] = {}
    for clip_id, video in zip(clip_ids, videos, strict=True):
        if clip_id in video_of:
            raise DatasetError(
                f"{video_of[clip_id]} and {video} both give a clip {clip_id!r}; rename or move one of them"
            )
        video_of[clip_id] = video
