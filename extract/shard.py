"""A share of a run's videos, the same on every machine: by the clip table alone, whatever is done already."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

# What is not in the table is taken to be usual: it only has to be the same for every shard.
_USUAL_FRAMES_PER_S = 25.0
_USUAL_VIDEO_S = 180.0  # an interview whose clip names no interval
_CLIP_S = 1.0  # embedding a clip takes about as long as decoding so much video

Span = tuple[float, float]  # seconds [start, end) of a video


@dataclass(frozen=True)
class Shard:
    """One of several equal shares of the work."""

    index: int  # from 0
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(
                f"there is no shard {self.index}/{self.count}: shards count from 0, so the last one of {self.count} is "
                f"{self.count - 1}/{self.count}"
                if self.count > 0
                else f"there is no shard {self.index}/{self.count}: give I/N, with 1 or more shards"
            )

    @classmethod
    def parse(cls, text: str) -> Shard:
        """A shard as a flag names it, such as 0/3.

        Raises:
            ValueError: it is not one.
        """
        match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
        if match is None:
            raise ValueError(f"{text!r} is no shard; give I/N, counted from 0, such as 0/3")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def share_of(clips: Sequence[pd.DataFrame], shard: Shard) -> set[str]:
    """The files (see `files_of`) that are this shard's; each file is one shard's, whole, so that it is decoded once.

    The file with the most work goes first, each to the shard that has the least so far.

    Args:
        clips: of each modality of the run, from one table with its rows in one order.
        shard: which share.
    """
    spans: dict[str, list[Span]] = {}
    for of_it in clips:
        for file, row in zip(files_of(of_it), of_it.to_dict("records"), strict=True):
            seconds = None if pd.isna(row["start_s"]) else (row["start_s"], row["end_s"])
            frames = None if pd.isna(row["start_frame"]) else (row["start_frame"], row["end_frame"])
            spans.setdefault(file, []).append(span_of(seconds, frames))
    work = {file: work_s(of_it) for file, of_it in spans.items()}
    load = [0.0] * shard.count
    mine = set()
    for file in sorted(work, key=lambda file: -work[file]):  # of equal ones the first in the table comes first
        index = load.index(min(load))
        load[index] += work[file]
        if index == shard.index:
            mine.add(file)
    return mine


def files_of(clips: pd.DataFrame) -> list[str]:
    """The file that each clip is read from: its video, or its skeleton where there is none."""
    return [video or skeleton for video, skeleton in zip(clips["video"], clips["skeleton"], strict=True)]


def span_of(seconds: tuple[float, float] | None, frames: tuple[int, int] | None) -> Span:
    """Where in its video a clip lies, about; the interval is in seconds, in frames, or the whole video."""
    if seconds is not None:
        return seconds
    if frames is not None:
        return frames[0] / _USUAL_FRAMES_PER_S, frames[1] / _USUAL_FRAMES_PER_S
    return 0.0, _USUAL_VIDEO_S


def work_s(spans: Iterable[Span]) -> float:
    """How much work the clips of a file are, in seconds of video: what they span, once, and some for each clip."""
    total_s = reached_s = 0.0
    for start_s, end_s in sorted(spans):
        total_s += _CLIP_S + max(0.0, end_s - max(start_s, reached_s))
        reached_s = max(reached_s, end_s)
    return total_s
