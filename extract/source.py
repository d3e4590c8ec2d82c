"""What a clip's tokens are made from, as 16 hex digits: a changed file or interval is a new source."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd

from mgcli.cache import ClipTableError
from mgcli.extract.media_file import why_unreadable
from mgcli.extract.skeleton_store import content_identity, skeleton_identity

_END_BYTES = 64 << 10
_INTERVAL = ("start_s", "end_s", "start_frame", "end_frame")

Interval = dict[str, float | None]  # column -> its number


def add_sources(table: pd.DataFrame) -> pd.DataFrame:
    """The clip table with its source columns filled in; empty where a file is not there.

    A video is known by its size and its first and last 64 KiB (it may be many gigabytes), a skeleton file, or a
    folder of them, by all of it, since filling a gap in the middle leaves size and ends as they were; what the store of
    parsed skeletons has read and the file system calls unchanged is not read again.
    """
    videos = {path: video_identity(Path(path)) for path in table["video"].unique() if path}
    skeletons = {path: skeleton_identity(Path(path)) for path in table["skeleton"].unique() if path}
    faces = {path: content_identity(Path(path)) for path in table["face"].unique() if path}
    video_sources, skeleton_sources, face_sources = [], [], []
    for row in table.to_dict("records"):
        interval = {key: None if pd.isna(row[key]) else float(row[key]) for key in _INTERVAL}
        video, skeleton, face = videos.get(row["video"]), skeletons.get(row["skeleton"]), faces.get(row["face"])
        fps = None if pd.isna(row["skeleton_fps"]) else float(row["skeleton_fps"])
        video_sources.append(video_source(video, interval))
        skeleton_sources.append(skeleton_source(skeleton, interval, fps, video))
        face_sources.append("" if row["face"] and face is None else face_source(face, interval, video))
    return table.assign(video_source=video_sources, skeleton_source=skeleton_sources, face_source=face_sources)


def expect_media(clips: pd.DataFrame, reads: str, modality: str) -> None:
    """Refuse clips none of which names a file of the kind that all of them would be read from.

    Args:
        clips: of a checked clip table.
        reads: video, skeleton or face, as a backbone says; faces are looked for in videos.
        modality: for the message.

    Raises:
        ClipTableError: it names the table and its columns.
    """
    column = "skeleton" if reads == "skeleton" else "video"
    if (clips[column] != "").any():
        return
    where, given = clips.attrs.get("where", "clip table"), clips.attrs.get("columns_given", [column])
    if column in given:
        raise ClipTableError(f"{where}: no clip has a {column}, which modality {modality!r} is extracted from")
    raise ClipTableError(
        f"{where} has no column {column!r}, which modality {modality!r} is extracted from (it has: {', '.join(given)})"
    )


def interval_of(seconds: tuple[float, float] | None, frames: tuple[int, int] | None) -> Interval:
    """That of a clip that has one of them, or none and is the whole video."""
    bounds = *(seconds or (None, None)), *(frames or (None, None))
    return {key: None if bound is None else float(bound) for key, bound in zip(_INTERVAL, bounds, strict=True)}


def video_source(video: str | None, interval: Interval) -> str:
    """The source column of a clip of a video with this identity; empty for a video without one."""
    return _source(video, interval)


def skeleton_source(skeleton: str | None, interval: Interval, fps: float | None, video: str | None) -> str:
    """The same of a clip of a skeleton file, which takes its times from the video where it has no rate."""
    clock = fps if fps is not None else video
    return _source(skeleton, interval, clock) if clock is not None else ""


def face_source(face: str | None, interval: Interval, video: str | None) -> str:
    """The same of the faces in a clip of a video: those that a file gives, or (`face` None) that are looked for."""
    return _source(video, interval, "face", face)


def _source(identity: str | None, *parts: Any) -> str:
    if identity is None:
        return ""
    return hashlib.sha256(json.dumps([identity, *parts], sort_keys=True).encode()).hexdigest()[:16]


def video_identity(path: Path) -> str | None:
    """SHA-256 of a video's size and ends; None where it cannot be read."""
    if why_unreadable(path):
        return None
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_END_BYTES)
            file.seek(max(0, size - _END_BYTES))
            return hashlib.sha256(str(size).encode() + head + file.read(_END_BYTES)).hexdigest()
    except OSError:
        return None
