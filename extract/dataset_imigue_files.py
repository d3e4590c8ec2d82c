"""Where the files of iMiGUE lie, in both layouts that are given out; VVVV is a video's id.

| layout       | annotations                        | skeletons                                    | videos         |
|--------------|------------------------------------|----------------------------------------------|----------------|
| challenge    | VVVV/VVVV_label.csv                | VVVV/VVVV_light_hand.csv, _light.csv, .xlsx  | VVVV/VVVV.mp4  |
| full release | Label/labels_20200831.csv          | VVVV/VVVV_2.xlsx                             | VVVV/...       |

Files are known by their own names, so the packages' folders may be called and nested as they come.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from mgcli.extract.dataset_files import VIDEO_SUFFIXES, files_below, listed, one_of

PACKAGES = re.compile(r"imigue_(rgb|data|skeleton)_|mg_skeleton|labels?$")

_VIDEO_FOLDER = re.compile(r"\d{4}")
_LABEL_FILE = re.compile(r"(\d{1,4})_label\.csv")
_TABLE_FILE = re.compile(r"labels_\d+\.csv")
_TRACK3_FILE = re.compile(r"(train|validation)_label\.csv")
# Skeleton files of a video, the best first: the default joint layout, imigue22, has fingertips. _light.csv may have
# them as _light_hand.csv does, or only the 25 points of the body; then it comes last.
_SKELETON_ENDINGS = ("_light_hand.csv", "_light.csv", "_openpose.xlsx", "_2.xlsx")
_SKELETON_FILE = re.compile(rf"(\d{{1,4}})({'|'.join(map(re.escape, _SKELETON_ENDINGS))})")
_HAND_COLUMNS = 106  # an index, and 35 points


@dataclass(frozen=True)
class ImigueFiles:
    """What was found; of each video one file of a kind."""

    labels: dict[int, Path]  # of the challenge
    tables: list[Path]  # of the full release: one, unless there are copies
    track3: list[Path]  # emotion labels of the challenge
    skeletons: dict[int, Path]
    videos: dict[int, Path]
    warnings: list[str]

    @property
    def known_videos(self) -> set[int]:
        """Videos of which anything is there."""
        return set(self.labels) | set(self.skeletons) | set(self.videos)


def find_imigue_files(root: Path) -> ImigueFiles:
    """Look through the folders of a data set."""
    labels: dict[int, list[Path]] = defaultdict(list)
    skeletons: dict[int, list[tuple[int, Path]]] = defaultdict(list)
    videos: dict[int, list[Path]] = defaultdict(list)
    tables, track3 = [], []
    warnings: list[str] = []
    for path in files_below(root, PACKAGES, warnings):
        name = path.name.lower()
        if found := _LABEL_FILE.fullmatch(name):
            labels[int(found[1])].append(path)
        elif _TABLE_FILE.fullmatch(name):
            tables.append(path)
        elif _TRACK3_FILE.fullmatch(name):
            track3.append(path)
        elif found := _SKELETON_FILE.fullmatch(name):
            rank = _skeleton_rank(path, found[2])
            if rank is not None:
                skeletons[int(found[1])].append((rank, path))
        elif (video := _video_of(path)) is not None:
            videos[video].append(path)
    return ImigueFiles(
        labels={video: one_of(paths, f"labels of video {video:04d}", warnings) for video, paths in labels.items()},
        tables=tables,
        track3=track3,
        skeletons={video: _best_skeleton(ranked, video, warnings) for video, ranked in skeletons.items()},
        videos={video: file for video, paths in videos.items() if (file := _video_file(video, paths, warnings))},
        warnings=warnings,
    )


def _skeleton_rank(path: Path, ending: str) -> int | None:
    """Place of a skeleton file among those of its video, from 0; None where it is empty or cannot be read."""
    try:
        with path.open("rb") as file:
            first = file.readline()
    except OSError:
        return None
    if not first:
        return None
    if ending == "_light.csv" and first.count(b",") + 1 < _HAND_COLUMNS:
        return len(_SKELETON_ENDINGS)
    return _SKELETON_ENDINGS.index(ending)


def _best_skeleton(ranked: list[tuple[int, Path]], video: int, warnings: list[str]) -> Path:
    best = min(rank for rank, _ in ranked)
    return one_of([path for rank, path in ranked if rank == best], f"skeleton of video {video:04d}", warnings)


def _video_of(path: Path) -> int | None:
    """The video that a media file may show: by its folder, VVVV, or else by its own name."""
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        return None
    place = path.parent.name if _VIDEO_FOLDER.fullmatch(path.parent.name) else path.stem
    return int(place) if _VIDEO_FOLDER.fullmatch(place) else None


def _video_file(video: int, paths: list[Path], warnings: list[str]) -> Path | None:
    """VVVV.mp4 where it is among the files, else the only one of its folder."""
    named = [path for path in paths if path.stem == f"{video:04d}"]
    if not named and len({path.parent for path in paths}) < len(paths):
        names = listed(path.name for path in paths)
        warnings.append(f"{paths[0].parent}: none of its videos is called {video:04d}, so none is used: {names}")
        return None
    return one_of(named or paths, f"video {video:04d}", warnings)
