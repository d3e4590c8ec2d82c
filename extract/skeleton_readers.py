"""Skeleton files of data sets and pose estimators, each brought to joints, layout and, where it is known, rate.

| what                          | how it is known              | layout                                   |
|-------------------------------|------------------------------|------------------------------------------|
| OpenPose, a folder of JSON    | a folder                     | openpose25, openpose137 or kinetics18    |
| iMiGUE, `*_openpose.xlsx`     | .xlsx, 411 columns           | openpose137                              |
| iMiGUE, `*_light_hand.csv`    | .csv, 105 columns, a header  | imigue35 (openpose25 where it has 75)    |
| SMG, `*_skeleton.csv`         | .csv, 275 columns            | ntu25                                    |
| NTU RGB+D                     | .skeleton                    | ntu25                                    |
| pyskl and mmaction2           | .pkl                         | by the number of joints                  |
| plain arrays                  | .npy, (T, V, C)              | not known                                |
"""

# Shapes: T frames, M people, V joints, C channels.

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mgcli.cache import read_plain_pickle
from mgcli.extract.media_file import why_unreadable
from mgcli.extract.skeleton_csv import mixed_confidence, read_csv_points
from mgcli.extract.skeleton_layouts import LAYOUTS, JointLayout, SkeletonError
from mgcli.extract.skeleton_xlsx import read_sheet

NTU_NUMBERS = 12  # a joint: x, y, z in metres, 8 of pixel places and orientation, tracking state
PICKLED_LAYOUTS = {17: "coco17", 18: "kinetics18", 25: "ntu25"}  # joints -> layout, as pyskl uses them
_MAX_NUMBERS = 1 << 29  # two whole people for seven hours at 25 frames/s; a name that claims more is a mistake
_JSON_FRAME = re.compile(r"(\d+)(?:_keypoints)?\.json$")
_JSON_PARTS = ("pose_keypoints_2d", "face_keypoints_2d", "hand_left_keypoints_2d", "hand_right_keypoints_2d")
_JSON_LAYOUTS = {18: "kinetics18", 25: "openpose25", 137: "openpose137"}


@dataclass(frozen=True, eq=False)
class SkeletonFile:
    """What a file holds. Missing joints, people and frames are zeros.

    A joint is missing where a number is none, or where there is no confidence: 0 or below.
    """

    joints: np.ndarray  # (T, M, V, 3) float32: x, y, confidence in the file's own unit, or x, y, z
    layout: JointLayout | None  # None: the file does not say
    name: str = ""  # of the clip, where a file holds several


def read_skeleton_file(path: Path) -> SkeletonFile:
    """The skeletons of one video or clip, in any of the known ways.

    Raises:
        SkeletonError: missing, damaged, or of an unknown kind.
    """
    fault = why_unreadable(path, or_folder=True)
    if fault:
        raise SkeletonError(f"{path}: {fault}")
    read = read_openpose if path.is_dir() else _READERS.get(path.suffix.lower())
    if read is None:
        raise SkeletonError(f"{path}: not a known skeleton file; known: a folder of JSON, {', '.join(_READERS)}")
    try:
        stored = read(path)
    except OSError as error:
        raise SkeletonError(f"{path}: cannot be read ({error.strerror})") from error
    return replace(stored, joints=_clean(stored.joints, stored.layout))


def read_openpose(folder: Path) -> SkeletonFile:
    """OpenPose's JSON files, one a frame, numbered in their names; numbers left out are frames without people."""
    files: dict[int, Path] = {}
    for path in sorted(folder.glob("*.json")):
        number = _JSON_FRAME.search(path.name)
        if number is not None:
            files[int(number[1])] = path
    if not files:
        raise SkeletonError(f"{folder}: no OpenPose files (NAME_000000000000_keypoints.json) in this folder")
    people = {frame: _openpose_people(path) for frame, path in files.items()}
    widths = {len(person) for of_frame in people.values() for person in of_frame}
    if len(widths) > 1 or not widths <= set(_JSON_LAYOUTS):
        raise SkeletonError(f"{folder}: people of {sorted(widths)} joints; known: {', '.join(map(str, _JSON_LAYOUTS))}")
    layout = LAYOUTS[_JSON_LAYOUTS[widths.pop() if widths else 25]]
    most = max(1, *(len(of_frame) for of_frame in people.values()))
    shape = (max(files) + 1, most, layout.num_joints, 3)
    if math.prod(shape) > _MAX_NUMBERS:
        raise SkeletonError(f"{folder}: a file is numbered {max(files)}, but there are {len(files)}")
    joints = np.zeros(shape, dtype=np.float32)
    for frame, of_frame in people.items():
        for slot, person in enumerate(of_frame):
            joints[frame, slot] = person
    return SkeletonFile(joints, layout)


def read_annotations(path: Path) -> Iterator[SkeletonFile]:
    """Every clip of a pyskl or mmaction2 pickle: a list of annotations, or a dict with one under `annotations`."""
    content = read_plain_pickle(path, error=SkeletonError)
    annotations = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(annotations, list):
        raise SkeletonError(f"{path}: no list of annotations in it")
    for place, annotation in enumerate(annotations):
        try:
            yield _annotation(annotation)
        except (KeyError, TypeError, ValueError) as error:
            raise SkeletonError(f"{path}: annotation {place} is not as pyskl writes them ({error!r})") from error


def _annotation(annotation: dict[str, Any]) -> SkeletonFile:
    points = np.asarray(annotation["keypoint"], dtype=np.float32)  # (M, T, V, 2 or 3)
    if "keypoint_score" in annotation:
        score = np.asarray(annotation["keypoint_score"], dtype=np.float32)  # (M, T, V)
        points = np.concatenate([points[..., :2], score[..., None]], axis=-1)
    if points.ndim != 4 or points.shape[-1] != 3:
        raise ValueError(f"key points of shape {points.shape}")
    layout = LAYOUTS.get(PICKLED_LAYOUTS.get(points.shape[2], ""))
    return SkeletonFile(points.transpose(1, 0, 2, 3), layout, name=str(annotation["frame_dir"]))


def _read_pickle(path: Path) -> SkeletonFile:
    clips = list(read_annotations(path))
    if len(clips) != 1:
        raise SkeletonError(f"{path}: holds {len(clips)} clips; give each clip its own file")
    return clips[0]


def _read_imigue_sheet(path: Path) -> SkeletonFile:
    layout = LAYOUTS["openpose137"]
    joints = _rows_of_points(read_sheet(path), layout, path)
    mixed = mixed_confidence(joints[:, 0])
    if mixed is not None:
        row, point = mixed
        raise SkeletonError(
            f"{path}, row {row + 1}: the confidence of point {point} is {joints[row, 0, point, 2]:.6g}, others are "
            "within 0..1; are columns out of order, or is it a header? Row 1 of the sheet is frame 0"
        )
    return SkeletonFile(joints, layout)


def _read_csv(path: Path) -> SkeletonFile:
    points, layout = read_csv_points(path)  # (T, V, 3)
    return SkeletonFile(points[:, None], layout)


def _read_ntu(path: Path) -> SkeletonFile:
    """NTU RGB+D: for each frame a count of bodies; for each body a line with its id, a count of joints, and those."""
    num_joints = LAYOUTS["ntu25"].num_joints
    try:
        text = path.read_text(encoding="utf-8").split("\n")
        lines = iter(text)
        num_frames = int(next(lines))
        if num_frames > len(text):
            raise ValueError(f"{num_frames} frames in {len(text)} lines")
        bodies: dict[str, np.ndarray] = {}
        for frame in range(num_frames):
            for _ in range(int(next(lines))):
                body = bodies.setdefault(next(lines).split()[0], np.zeros((num_frames, num_joints, 3), np.float32))
                rows = [next(lines).split() for _ in range(int(next(lines)))]
                if len(rows) != num_joints or any(len(row) != NTU_NUMBERS for row in rows):
                    raise ValueError(f"frame {frame}: expected {num_joints} joints of {NTU_NUMBERS} numbers")
                body[frame] = np.array([row[:3] for row in rows], dtype=np.float32)
    except (ValueError, IndexError, StopIteration, UnicodeDecodeError) as error:
        raise SkeletonError(f"{path}: not an NTU RGB+D skeleton, or cut short ({error})") from error
    if not num_frames:
        raise SkeletonError(f"{path}: holds no frames")
    longest = sorted(bodies.values(), key=lambda joints: -joints.any(axis=(1, 2)).sum())  # ghosts come last
    joints = np.stack(longest or [np.zeros((num_frames, num_joints, 3), np.float32)], axis=1)
    return SkeletonFile(joints, LAYOUTS["ntu25"])


def _read_npy(path: Path) -> SkeletonFile:
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SkeletonError(f"{path}: not a .npy array, or cut short ({error})") from error
    if stored.ndim != 3 or stored.shape[2] not in (2, 3) or stored.dtype.kind not in "fiu":
        raise SkeletonError(
            f"{path} holds {stored.dtype} of shape {stored.shape}; expected numbers of shape (frames, joints, 2 or 3)"
        )
    if 0 in stored.shape:
        raise SkeletonError(f"{path} holds no frames or no joints: its shape is {stored.shape}")
    joints = np.asarray(stored, dtype=np.float32)
    if joints.shape[2] == 2:
        confidence = (joints != 0).any(axis=2, keepdims=True)
        joints = np.concatenate([joints, confidence.astype(np.float32)], axis=2)
    return SkeletonFile(joints[:, None], None)


def _rows_of_points(values: np.ndarray, layout: JointLayout, path: Path) -> np.ndarray:
    """(T, 1, V, 3) from rows of three numbers a point, NaN where there is none."""
    if values.shape[1] != 3 * layout.num_joints:
        raise SkeletonError(
            f"{path}: {len(values)} rows of {values.shape[1]} numbers; {layout.name} has rows of "
            f"{layout.num_joints} x 3"
        )
    return values.reshape(len(values), 1, layout.num_joints, 3)


def _clean(joints: np.ndarray, layout: JointLayout | None) -> np.ndarray:
    """Zeros wherever a joint is missing: not a number, or without confidence."""
    present = np.isfinite(joints).all(axis=-1)
    if layout is None or not layout.is_3d:
        present &= joints[..., 2] > 0
    return np.where(present[..., None], joints, np.float32(0))


def _openpose_people(path: Path) -> list[np.ndarray]:
    """(V, 3) of each person in one frame: the body, then the face and the hands where all three are there."""
    fault = why_unreadable(path)
    if fault:
        raise SkeletonError(f"{path}: {fault}")
    try:
        people = json.loads(path.read_text(encoding="utf-8"))["people"]
        parts = [[np.array(person.get(part) or [], dtype=np.float32) for part in _JSON_PARTS] for person in people]
        whole = [np.concatenate(of_person if all(map(len, of_person)) else of_person[:1]) for of_person in parts]
        return [person.reshape(-1, 3) for person in whole]
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise SkeletonError(f"{path}: not an OpenPose file, or cut short ({error!r})") from error


_READERS: dict[str, Callable[[Path], SkeletonFile]] = {  # ending -> reader
    ".npy": _read_npy,
    ".xlsx": _read_imigue_sheet,
    ".csv": _read_csv,
    ".skeleton": _read_ntu,
    ".pkl": _read_pickle,
}
