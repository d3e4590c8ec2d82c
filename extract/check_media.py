"""The files that a clip table names: which are not there, cannot be read, or are of another rate or size than the rest.

A fault costs clips: an extraction would fail them. Everything else is a warning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from mgcli.cache import PROTOCOLS, MgcliError, Progress
from mgcli.extract.media_file import NO_SUCH_FILE, why_unreadable
from mgcli.extract.skeleton import Skeleton, read_skeleton
from mgcli.extract.skeleton_hands import hand_order
from mgcli.extract.video import VideoError, VideoIndex, index_video

SAMPLE = 20  # files of a kind that are looked into, unless all are asked for
RATE_SLACK = 0.001  # of the rate: 29.97 and 30 frames/s are two rates
UNEVEN = 1.5  # a frame shown so many times as long as the usual one makes the rate uneven
PUBLISHED_RATE_AND_SIZE = {"imigue": (25.0, (1280, 720))}  # data set -> frames/s, width and height (facts: imigue, 1)
HANDS_LAYOUT = "imigue35"  # the layout in which one hand's fingertips come before the other's
_THREADS = 4  # reading packets and files, not computing
_KINDS = ("video", "skeleton", "face")

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something odd about the data."""

    is_fault: bool  # it costs clips
    text: str
    names: tuple[str, ...]  # files, clips or rows

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        return {"fault": self.is_fault, "text": self.text, "names": list(self.names), "count": len(self.names)}


def missing_files(table: pd.DataFrame) -> list[Finding]:
    """Files that are named and not there or cannot be opened, and clips that name nothing to extract from."""
    found = []
    for kind in _KINDS:
        faults = {name: _fault(name, kind) for name in sorted(set(table[kind])) if name}
        absent = [name for name, fault in faults.items() if fault == NO_SUCH_FILE]
        refused = [name for name, fault in faults.items() if fault not in ("", NO_SUCH_FILE)]
        clips = int(table[kind].isin(absent).sum())
        found += finding(True, f"{len(absent)} {kind} files are not there, of {clips} clips", absent)
        clips = int(table[kind].isin(refused).sum())
        text = f"{len(refused)} {kind} files cannot be opened, of {clips} clips"
        found += finding(True, text, [f"{name}: {faults[name]}" for name in refused])
    nothing = (table["video"] == "") & (table["skeleton"] == "")
    found += finding(
        True, f"{nothing.sum()} clips name neither a video nor a skeleton", list(table.loc[nothing, "clip_id"])
    )
    for kind, used in (("video", table["video"] != ""), ("skeleton", table["skeleton"] != "")):
        without = ~used & ~nothing
        if used.any():
            text = f"{without.sum()} of {len(table)} clips name no {kind} file"
            found += finding(False, text, list(table.loc[without, "clip_id"]))
    return found


def look_into_files(
    table: pd.DataFrame, protocol: str | None, *, all_files: bool, seed: int, progress: bool
) -> tuple[list[Finding], dict[str, Any]]:
    """Index videos and read skeletons, a seeded sample of each or all.

    Args:
        table: a checked clip table.
        protocol: its protocol; a published one says which rate and size to expect, else the commonest counts.
        all_files: not only `SAMPLE` of each kind.
        seed: of the sample.
        progress: show it on stderr.

    Returns:
        What is odd, and kind -> how many files were looked into, of how many; of skeletons with fingertips of both
        hands also whose come first.
    """
    videos = _sample(table, "video", all_files, seed)
    skeletons = _sample(table, "skeleton", all_files, seed)
    with Progress("look into files", len(videos) + len(skeletons), unit="file", shown=progress) as bar:
        indices = dict(zip(videos, _each(videos, _index, bar), strict=True))
        found = _of_videos(table, indices, protocol)
        first = table.drop_duplicates("skeleton")
        rate_of = dict(zip(first["skeleton"], first["skeleton_fps"], strict=True))
        video_of = dict(zip(first["skeleton"], first["video"], strict=True))

        def look(name: str) -> _Look:
            return _look(_read(name, rate_of[name], indices.get(video_of[name])))

        looks = dict(zip(skeletons, _each(skeletons, look, bar), strict=True))
    unreadable = {name: look.fault for name, look in looks.items() if look.fault}
    clips = int(table["skeleton"].isin(unreadable).sum())
    text = f"{len(unreadable)} skeleton files cannot be read, of {clips} clips"
    found += finding(True, text, list(unreadable.values()))
    swapped = [name for name, look in looks.items() if look.hands == "right first"]
    text = f"{len(swapped)} skeleton files have the fingertips of the right hand first; {HANDS_LAYOUT} says left first"
    found += finding(False, text, swapped)
    looked: dict[str, Any] = {
        kind: {"looked_into": len(names), "of": sum(not _fault(name, kind) for name in table[kind].unique() if name)}
        for kind, names in (("video", videos), ("skeleton", skeletons))
    }
    looked["skeleton"]["hands"] = dict(Counter(look.hands for look in looks.values() if look.hands))
    return found, looked


def finding(is_fault: bool, text: str, names: Sequence[str]) -> list[Finding]:
    """One finding, or none where nothing is named."""
    return [Finding(is_fault=is_fault, text=text, names=tuple(names))] if names else []


def _of_videos(table: pd.DataFrame, indices: dict[str, VideoIndex | VideoError], protocol: str | None) -> list[Finding]:
    good = {name: index for name, index in indices.items() if isinstance(index, VideoIndex)}
    bad = {name: str(error) for name, error in indices.items() if isinstance(error, VideoError)}
    clips = int(table["video"].isin(bad).sum())
    found = finding(True, f"{len(bad)} videos cannot be read, of {clips} clips", list(bad.values()))
    if not good:
        return found
    cut = [name for name, index in good.items() if index.cut_short]
    found += finding(False, f"{len(cut)} videos are cut short: their headers promise more frames", cut)
    uneven = [name for name, index in good.items() if _is_uneven(index)]
    found += finding(False, f"{len(uneven)} videos have an uneven frame rate; times are those of the frames", uneven)
    rates = {name: _rate(index) for name, index in good.items() if name not in uneven}
    sizes = {name: index.size_px for name, index in good.items()}
    published = PUBLISHED_RATE_AND_SIZE.get(PROTOCOLS[protocol].dataset) if protocol in PROTOCOLS else None
    rate, (width_px, height_px) = published or (_commonest(rates) or 0.0, _commonest(sizes))
    who = "as published" if published else "as most have"
    others = [f"{name}: {each:g}" for name, each in rates.items() if abs(each - rate) > RATE_SLACK * rate]
    found += finding(False, f"{len(others)} videos have not {rate:g} frames/s, {who}", others)
    others = [f"{name}: {each[0]}x{each[1]}" for name, each in sizes.items() if each != (width_px, height_px)]
    found += finding(False, f"{len(others)} videos have not {width_px}x{height_px} pixels, {who}", others)
    late = [clip_id for name, index in good.items() for clip_id in _after_the_end(table[table["video"] == name], index)]
    return found + finding(True, f"{len(late)} clips begin after the end of their video", late)


def _after_the_end(clips: pd.DataFrame, index: VideoIndex) -> list[str]:
    late = (clips["start_s"] >= index.end_s) | (clips["start_frame"] >= index.num_frames).fillna(False)
    return list(clips.loc[late.astype(bool), "clip_id"])


def _rate(index: VideoIndex) -> float:
    """Frames a second, to three digits; of one frame by how long it is shown."""
    return round(index.num_frames / index.end_s, 3) if index.end_s > 0 else 0.0


def _is_uneven(index: VideoIndex) -> bool:
    steps = np.diff(index.time_s)
    return len(steps) > 1 and bool((steps > UNEVEN * np.median(steps)).any())


def _commonest(values: dict[str, Any]) -> Any:
    """The value that most have, the first of equals; None where there is none."""
    return Counter(values.values()).most_common(1)[0][0] if values else None


def _sample(table: pd.DataFrame, kind: str, all_files: bool, seed: int) -> list[str]:
    there = sorted(name for name in table[kind].unique() if name and not _fault(name, kind))
    if all_files or len(there) <= SAMPLE:
        return there
    return sorted(np.random.default_rng(seed).choice(there, SAMPLE, replace=False).tolist())


def _fault(name: str, kind: str) -> str:
    return why_unreadable(Path(name), or_folder=kind == "skeleton")


def _each(names: Sequence[str], work: Callable[[str], _T], bar: Progress) -> Iterator[_T]:
    """The work done on each, several at a time, in order."""
    with ThreadPoolExecutor(_THREADS) as pool:
        for result in pool.map(work, names):
            bar.step()
            yield result


def _index(name: str) -> VideoIndex | VideoError:
    try:
        return index_video(Path(name))
    except VideoError as error:
        return error


@dataclass(frozen=True, kw_only=True)
class _Look:
    """What is kept of a skeleton file that was looked into."""

    fault: str = ""  # why it cannot be used; empty where it can
    hands: str = ""  # whose fingertips come first, where its layout has a first hand


def _look(skeleton: Skeleton | MgcliError) -> _Look:
    if isinstance(skeleton, MgcliError):
        return _Look(fault=str(skeleton))
    has_order = skeleton.layout is not None and skeleton.layout.name == HANDS_LAYOUT
    return _Look(hands=hand_order(skeleton.joints) if has_order else "")


def _read(name: str, fps: float, index: VideoIndex | VideoError | None) -> Skeleton | MgcliError:
    video = index if isinstance(index, VideoIndex) else None
    if pd.isna(fps) and video is None:
        fps = 25.0  # its video was not looked into: any rate will do to read it
    try:
        return read_skeleton(Path(name), fps=None if pd.isna(fps) else fps, video=video)
    except MgcliError as error:
        return error
