"""Augmented views of a clip for training: what is drawn, and what is done to times, pictures, faces and joints.

A view changes what a backbone's `prepare` is given, so every backbone has views, a user's own too, without doing
anything for it. Everything that is drawn for a view is a hash of clip id, view and seed: no batch, order, worker,
shard or modality changes it. All modalities of a clip see a view at the same times, and all of them mirrored or none.

The kinds of change are those usual in training: a part of the time and of the picture (Szegedy et al., "Going deeper
with convolutions", CVPR 2015, Sec. 6; the same as random resized crop), mirroring, and turned and scaled skeletons as
in `train_pose_clips.Augmentation`. The ranges are ours, and milder than where a network is trained: the backbones are
frozen, and a gesture must not be cut off.

Labels. A view has its clip's label, so mirroring must not change it. No class of iMiGUE or SMG names a side (lists of
32 and 17 classes in the data sets' own papers and label tables), nor does an emotion: those need no table of classes
that change places. Where a data set has a class whose name says left or right, no view of it is mirrored at all,
which is right for every label and every protocol that may use the tokens; `--no-view-flip` says the same of classes
whose names do not show it.
"""

# Shapes: T times of a window, V joints, M people.

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from mgcli.cache import TASKS, MgcliError
from mgcli.extract.face import FaceJitter
from mgcli.extract.shrink import Framing
from mgcli.extract.skeleton_layouts import LAYOUTS, JointLayout, SkeletonError
from mgcli.extract.skeleton_prepare import seen_joints

MOST_VIEWS = 32767  # that the cache can number
RECIPE_VERSION = 1  # to be counted up with any change of what a view does
MIRROR_CHANCE = 0.5
TIME_SHARE = (0.75, 1.0)  # of a window's length that is looked at, in as many frames
TIME_REACH = 0.25  # of a window's length: how far beyond it a view may look, within the clip
PICTURE_AREA = (0.7, 1.0)  # share of the picture that is seen, in the picture's own shape
FACE_ZOOM = (0.9, 1.1)
FACE_SHIFT = 0.05  # of the aligned face's side, at most, either way
TURN_RAD = 0.1  # at most, either way; in the picture's plane, or about each axis in 3-D
SCALE = 0.1  # at most, either way

_RANGES: dict[str, dict[str, Any]] = {  # what a backbone reads -> what is done to that
    "video": {"picture_area": list(PICTURE_AREA)},
    "face": {"zoom": list(FACE_ZOOM), "shift": FACE_SHIFT},
    "skeleton": {"turn_rad": TURN_RAD, "scale": SCALE},
}
_SIDE = re.compile(r"(?<![a-z])(left|right)(?![a-z])", re.IGNORECASE)


class ViewError(MgcliError):
    """Views that cannot be asked for."""


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """Which augmented views are asked for."""

    count: int = 0  # views 1..count
    seed: int = 0
    flip: bool = True  # some views are mirrored
    of_all: bool = False  # not of training clips alone; see `views_for`

    def __post_init__(self) -> None:
        if type(self.count) is not int or not 0 <= self.count <= MOST_VIEWS:
            raise ViewError(f"views is {self.count!r}; it must be a whole number from 0 to {MOST_VIEWS}")
        if type(self.seed) is not int:
            raise ViewError(f"view_seed is {self.seed!r}; it must be a whole number")
        if type(self.flip) is not bool:
            raise ViewError(f"view_flip is {self.flip!r}; it must be true or false")

    def recipe(self, reads: str) -> dict[str, Any]:
        """All that decides a view besides the spec, the clip and the view's number; plain values."""
        return {
            "version": RECIPE_VERSION,
            "seed": self.seed,
            "flip": self.flip,
            "time_share": list(TIME_SHARE),
            "time_reach": TIME_REACH,
            **_RANGES[reads],
        }

    def view(self, clip_id: str, number: int) -> ClipView | None:
        """What a view of a clip is; None for the plain one."""
        return ClipView.draw(clip_id, number, self) if number else None

    def wanted(self, clips: pd.DataFrame) -> np.ndarray:
        """(n,) bool: the clips that views are made of; those of other splits are only ever shown as they are."""
        return np.array(self.of_all | (clips["split"] == "train"), dtype=bool)


@dataclass(frozen=True, kw_only=True)
class ClipView:
    """One augmented view of one clip."""

    number: int  # 1 and up
    mirrored: bool
    share: float  # of a window's length, see TIME_SHARE
    place: float  # of that share within its room, 0 at the start and 1 at the end
    framing: Framing  # of pictures
    face: FaceJitter
    turns_rad: tuple[float, float, float]  # of joints, about x, y and z; in 2-D the last
    scale: float  # of joints

    @classmethod
    def draw(cls, clip_id: str, number: int, config: ViewConfig) -> ClipView:
        """The view of this number of a clip."""

        def draw(what: str, low: float = 0.0, high: float = 1.0) -> float:
            digest = hashlib.sha256(json.dumps([clip_id, number, config.seed, what]).encode()).digest()
            return low + (high - low) * int.from_bytes(digest[:8]) / 2**64

        mirrored = config.flip and draw("mirror") < MIRROR_CHANCE
        framing = Framing(
            side=math.sqrt(draw("area", *PICTURE_AREA)), down=draw("down"), along=draw("along"), mirrored=mirrored
        )
        shift = complex(draw("face x", -FACE_SHIFT, FACE_SHIFT), draw("face y", -FACE_SHIFT, FACE_SHIFT))
        turns = [draw(f"turn {axis}", -TURN_RAD, TURN_RAD) for axis in "xyz"]
        return cls(
            number=number,
            mirrored=mirrored,
            share=draw("share", *TIME_SHARE),
            place=draw("place"),
            framing=framing,
            face=FaceJitter(zoom=draw("face zoom", *FACE_ZOOM), shift=shift, mirrored=mirrored),
            turns_rad=(turns[0], turns[1], turns[2]),
            scale=1 + draw("scale", -SCALE, SCALE),
        )

    def times(self, windows: Sequence[np.ndarray], start_s: float, end_s: float) -> list[np.ndarray]:
        """The windows' times, (T,) each, at which this view looks: a share of each window, somewhere in it or near it.

        Args:
            windows: of the clip, as its backbone has them.
            start_s: of the clip; no time lies before it.
            end_s: of the clip; no time lies at or after it.
        """
        return [self._times(times_s, start_s, end_s, (end_s - start_s) / len(windows)) for times_s in windows]

    def _times(self, times_s: np.ndarray, start_s: float, end_s: float, room_s: float) -> np.ndarray:
        count = len(times_s)
        step_s = (times_s[-1] - times_s[0]) / (count - 1) if count > 1 else room_s
        length_s, first_s = step_s * count, times_s[0] - step_s / 2
        low_s = max(start_s, first_s - TIME_REACH * length_s)
        high_s = min(end_s, first_s + (1 + TIME_REACH) * length_s)
        begin_s = low_s + self.place * max(0.0, high_s - low_s - self.share * length_s)
        moved = begin_s + self.share * (times_s - first_s)
        return np.clip(moved, start_s, np.nextafter(end_s, start_s))

    def change_joints(self, joints: np.ndarray, layout: JointLayout | None) -> np.ndarray:
        """Joints mirrored or not, then turned and scaled about their middle; missing ones stay (0, 0, 0).

        Args:
            joints: (T, V, 3) or (T, M, V, 3), zeros where missing.
            layout: of the joints; None where the file does not say: x, y and a confidence.

        Returns:
            the same shape and type, a new array.

        Raises:
            SkeletonError: joints are to be mirrored, and nobody knows which are left and right.
        """
        if self.mirrored:
            joints = mirror_joints(joints, layout)
        dims = 3 if layout is not None and layout.is_3d else 2
        seen = _seen(joints, layout)
        changed = joints.copy()
        if seen.any():
            middle = _middle(joints, seen, dims)
            matrix = self.scale * _rotation(self.turns_rad[-1:] if dims == 2 else self.turns_rad)  # (dims, dims)
            changed[seen, :dims] = (joints[seen, :dims] - middle) @ matrix.T + middle
        return changed


def mirror_joints(joints: np.ndarray, layout: JointLayout | None) -> np.ndarray:
    """Skeletons as in a mirror: left and right joints change places, about the middle of those that are seen.

    Args:
        joints: (T, V, 3) or (T, M, V, 3), zeros where missing.
        layout: of the joints.

    Raises:
        SkeletonError: no layout, so that nobody knows which joints are left and right.
    """
    if layout is None:
        fitting = [f"joints={each.name}" for each in LAYOUTS.values() if each.num_joints == joints.shape[-2]]
        name_it = f"name their layout (--option {' or '.join(fitting)}), or " if fitting else ""
        raise SkeletonError(
            f"the skeleton file does not say which of its {joints.shape[-2]} joints are left and right, so they cannot "
            f"be mirrored; {name_it}make views that are not: --no-view-flip"
        )
    order = np.arange(layout.num_joints)
    for left, right in layout.pairs:
        order[left], order[right] = right, left
    mirrored = joints[..., order, :]
    seen = _seen(mirrored, layout)
    if seen.any():
        middle = _middle(mirrored, seen, 1)
        mirrored[seen, 0] = 2 * middle[0] - mirrored[seen, 0]
    return mirrored


def views_for(config: ViewConfig, table: pd.DataFrame) -> ViewConfig:
    """The views that are asked for, as they are made for a clip table, whatever share of it a run has.

    None is mirrored where a class names a side; all clips have views where none has a split.
    """
    return replace(config, flip=config.flip and not sided_classes(table), of_all=bool((table["split"] == "").all()))


def sided_classes(table: pd.DataFrame) -> list[str]:
    """The classes of a clip table that a mirror would change: those whose names say left or right."""
    names = {str(name) for task in TASKS for name in table[task].unique()}
    return sorted(name for name in names if _SIDE.search(name))


def _seen(joints: np.ndarray, layout: JointLayout | None) -> np.ndarray:
    """(..., V) bool: where a joint is known."""
    return joints[..., 2] > 0 if layout is None else seen_joints(joints, layout)


def _middle(joints: np.ndarray, seen: np.ndarray, dims: int) -> np.ndarray:
    """(dims,) median place of the joints that are seen, over all frames."""
    return np.median(joints[seen][:, :dims].astype(np.float64), axis=0)


def _rotation(turns_rad: Sequence[float]) -> np.ndarray:
    """(2, 2) of one angle; (3, 3) of angles about x, y and z, one after another."""
    if len(turns_rad) == 1:
        cos, sin = math.cos(turns_rad[0]), math.sin(turns_rad[0])
        return np.array([[cos, -sin], [sin, cos]])
    matrix = np.eye(3)
    for turn, (i, j) in zip(turns_rad, ((1, 2), (2, 0), (0, 1)), strict=True):
        one = np.eye(3)
        one[i, i] = one[j, j] = math.cos(turn)
        one[i, j], one[j, i] = -math.sin(turn), math.sin(turn)
        matrix = one @ matrix
    return matrix
