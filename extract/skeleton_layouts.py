"""Named joint layouts: joints, edges, left/right pairs, and maps from one layout to another.

A joint has the same name in every layout that has it, so a map is a look-up by name; `neck` and
`mid_hip` are made from the two shoulders or hips where a layout lacks them.

Sources: OpenPose's output format (BODY_25, COCO-18, 70 face points, 21 points a hand); Kinect v2 as in
NTU RGB+D; COCO key points; the iMiGUE release for `imigue22`, `imigue35` and `imigue36`. The graph in
the iMiGUE starter kit is off by one (1-based edges on 0-based joints) and has the hands swapped;
`imigue22` has the corrected edges.
"""

# Shapes: V joints, C channels.

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache

import numpy as np

from mgcli.cache import MgcliError


class SkeletonError(MgcliError):
    """A skeleton file that cannot be read, or does not fit its video."""


class LayoutError(SkeletonError):
    """A joint layout that does not exist, or joints that do not fit one."""


@dataclass(frozen=True, kw_only=True)
class JointLayout:
    """What the V joints of a skeleton are and how they hang together."""

    name: str
    joints: tuple[str, ...]  # V names, in the order of the arrays
    edges: tuple[tuple[int, int], ...]  # inward: (child, parent), one for every joint but the root
    bones: tuple[tuple[int, int], ...] = ()  # (joint, reference), the root its own; default: from edges
    is_3d: bool = False  # channels are (x, y, z), else (x, y, confidence)

    def __post_init__(self) -> None:
        parent = dict(self.edges)
        if len(parent) != len(self.edges) or len(parent) != self.num_joints - 1:
            raise ValueError(f"layout {self.name}: every joint but one needs exactly one parent")
        if not self.bones:
            bones = tuple((joint, parent.get(joint, joint)) for joint in range(self.num_joints))
            object.__setattr__(self, "bones", bones)

    @property
    def num_joints(self) -> int:
        return len(self.joints)

    @property
    def references(self) -> list[int]:
        """Of each joint, the one that its bone starts at."""
        return [reference for _, reference in sorted(self.bones)]

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """(left, right) joints, which change places when the picture is mirrored."""
        place = {joint: index for index, joint in enumerate(self.joints)}
        mirrored = {joint: "right_" + joint.removeprefix("left_") for joint in self.joints if joint.startswith("left_")}
        mirrored |= {f"face_{left:02d}": f"face_{right:02d}" for right, left in _FACE_PAIRS}
        return tuple((place[a], place[b]) for a, b in mirrored.items() if a in place and b in place)

    def index(self, joint: str) -> int:
        """The place of a named joint in the arrays."""
        return self.joints.index(joint)


def joint_layout(name: str) -> JointLayout:
    """The layout of that name.

    Raises:
        LayoutError: there is none.
    """
    if name not in LAYOUTS:
        near = difflib.get_close_matches(name, LAYOUTS, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise LayoutError(f"unknown joint layout '{name}'; {hint}All: {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def convert_joints(joints: np.ndarray, source: JointLayout, target: JointLayout) -> np.ndarray:
    """The same skeletons in another layout.

    Args:
        joints: (..., V, C); NaN where a joint is missing.
        source: layout of `joints`.
        target: wanted layout.

    Returns:
        (..., V', C).

    Raises:
        LayoutError: `source` has no counterpart for some joint of `target`, or another dimension.
    """
    places = _joint_places(source, target)
    if is_selection(source, target):
        return joints[..., [place for (place,) in places], :]
    return np.stack([joints[..., ends, :].mean(axis=-2) for ends in map(list, places)], axis=-2)


def is_selection(source: JointLayout, target: JointLayout) -> bool:
    """Whether the joints of one layout are some of the other's, with none made from two.

    Raises:
        LayoutError: there is no map between them.
    """
    return all(len(ends) == 1 for ends in _joint_places(source, target))


@cache
def _joint_places(source: JointLayout, target: JointLayout) -> tuple[tuple[int, ...], ...]:
    """For each joint of `target` the joints of `source` whose mean it is: itself, or the two that it lies between."""
    if source.is_3d != target.is_3d:
        raise LayoutError(f"no map from '{source.name}' to '{target.name}': one is 3-D, the other is not")
    known = set(source.joints)
    lacking = [j for j in target.joints if j not in known and not set(_MIDPOINTS.get(j, ("",))) <= known]
    if lacking:
        raise LayoutError(f"no map from '{source.name}' to '{target.name}': no {', '.join(lacking)}")
    return tuple(
        (source.index(joint),) if joint in known else tuple(source.index(end) for end in _MIDPOINTS[joint])
        for joint in target.joints
    )


# Joints that may be made from the middle of two others.
_MIDPOINTS = {"neck": ("left_shoulder", "right_shoulder"), "mid_hip": ("left_hip", "right_hip")}

# fmt: off
_BODY_25 = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow",
    "left_wrist", "mid_hip", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee",
    "left_ankle", "right_eye", "left_eye", "right_ear", "left_ear", "left_big_toe", "left_small_toe",
    "left_heel", "right_big_toe", "right_small_toe", "right_heel",
)
_BODY_25_PARENTS = (1, -1, 1, 2, 3, 1, 5, 6, 1, 8, 9, 10, 8, 12, 13, 0, 0, 15, 16, 14, 19, 14, 11, 22, 11)

# 70 face points: 0-16 jaw from the person's right to the left, 17-26 brows, 27-35 nose, 36-47 eyes,
# 48-59 outer and 60-67 inner lips, 68-69 pupils. Parents make a tree that leaves the tip of the nose (30).
_FACE_PARENTS = (
    1, 2, 3, 4, 5, 6, 7, 8, 57, 8, 9, 10, 11, 12, 13, 14, 15,      # jaw, hung on the chin (8)
    18, 19, 20, 21, 27, 27, 22, 23, 24, 25,                        # brows, hung on the nose bridge (27)
    28, 29, 30, -1, 32, 33, 30, 33, 34,                            # nose
    37, 38, 39, 27, 39, 40, 27, 42, 43, 44, 47, 42,                # eyes, hung on the nose bridge
    49, 50, 51, 33, 51, 52, 53, 56, 57, 66, 57, 58,                # outer lips, hung below the nose (33)
    61, 62, 51, 62, 63, 66, 62, 66,                                # inner lips
    39, 42,                                                        # pupils, hung on the inner eye corners
)
# (right, left), as the person's sides.
_FACE_PAIRS = (
    *((i, 16 - i) for i in range(8)), *((i, 43 - i) for i in range(17, 22)), (31, 35), (32, 34),
    (36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46), (48, 54), (49, 53), (50, 52), (59, 55),
    (58, 56), (60, 64), (61, 63), (67, 65), (68, 69),
)
_FINGERS = ("thumb", "index", "middle", "ring", "pinky")
_HAND_21 = ("hand", *(f"{finger}_{joint}" for finger in _FINGERS for joint in (1, 2, 3, "tip")))
_HAND_21_PARENTS = (-1, 0, 1, 2, 3, 0, 5, 6, 7, 0, 9, 10, 11, 0, 13, 14, 15, 0, 17, 18, 19)

_KINECT_25 = (
    "spine_base", "spine_mid", "neck", "head", "left_shoulder", "left_elbow", "left_wrist", "left_hand",
    "right_shoulder", "right_elbow", "right_wrist", "right_hand", "left_hip", "left_knee", "left_ankle",
    "left_foot", "right_hip", "right_knee", "right_ankle", "right_foot", "spine_shoulder",
    "left_hand_tip", "left_thumb", "right_hand_tip", "right_thumb",
)
_COCO_17 = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder",
    "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee",
    "right_knee", "left_ankle", "right_ankle",
)
_COCO_18 = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow",
    "left_wrist", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle",
    "right_eye", "left_eye", "right_ear", "left_ear",
)
# fmt: on


def _inward(parents: tuple[int, ...], first: int = 0) -> tuple[tuple[int, int], ...]:
    """(child, parent) edges of a block of joints that starts at `first`; -1 marks its root."""
    return tuple((first + joint, first + parent) for joint, parent in enumerate(parents) if parent >= 0)


def _hand(side: str, joints: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{side}_{joint}" for joint in joints)


def _subset(name: str, joints: tuple[str, ...], of: JointLayout) -> JointLayout:
    """Some joints of a layout; each hangs on its nearest ancestor that is kept."""
    parent = dict(of.edges)
    edges = []
    for joint in joints:
        above = parent.get(of.index(joint))
        while above is not None and of.joints[above] not in joints:
            above = parent.get(above)
        if above is not None:
            edges.append((joints.index(joint), joints.index(of.joints[above])))
    return JointLayout(name=name, joints=joints, edges=tuple(edges))


_OPENPOSE_25 = JointLayout(name="openpose25", joints=_BODY_25, edges=_inward(_BODY_25_PARENTS))
_FACE, _LEFT_HAND, _RIGHT_HAND = 25, 95, 116  # first point of each block in a row of 137
_OPENPOSE_137 = JointLayout(
    name="openpose137",
    joints=(
        *_BODY_25,
        *(f"face_{point:02d}" for point in range(70)),
        *_hand("left", _HAND_21),
        *_hand("right", _HAND_21),
    ),
    edges=(
        *_inward(_BODY_25_PARENTS),
        (_FACE + 30, _BODY_25.index("nose")),
        *_inward(_FACE_PARENTS, _FACE),
        (_LEFT_HAND, _BODY_25.index("left_wrist")),
        *_inward(_HAND_21_PARENTS, _LEFT_HAND),
        (_RIGHT_HAND, _BODY_25.index("right_wrist")),
        *_inward(_HAND_21_PARENTS, _RIGHT_HAND),
    ),
)
_TIPS = tuple(f"{finger}_tip" for finger in _FINGERS)
_UPPER_BODY = (*_BODY_25[:8], *_BODY_25[15:19])  # nose, neck, arms, eyes, ears
# The 12 face points of `imigue36`: jaw, brows, nose bridge, lips.
_FACE_12 = tuple(f"face_{point:02d}" for point in (2, 4, 8, 12, 14, 19, 24, 27, 48, 51, 54, 57))

LAYOUTS: dict[str, JointLayout] = {
    layout.name: layout
    for layout in (
        _OPENPOSE_25,
        _OPENPOSE_137,
        # The arrays of the iMiGUE starter kit.
        _subset("imigue22", (*_UPPER_BODY, *_hand("left", _TIPS), *_hand("right", _TIPS)), _OPENPOSE_137),
        # The rows of iMiGUE's *_light_hand.csv.
        _subset("imigue35", (*_BODY_25, *_hand("left", _TIPS), *_hand("right", _TIPS)), _OPENPOSE_137),
        # The subset of MM-Gesture, first in MiGA 2025 track 1 (arXiv 2507.08344).
        _subset(
            "imigue36",
            (*_UPPER_BODY, *_FACE_12, *_hand("left", ("hand", *_TIPS)), *_hand("right", ("hand", *_TIPS))),
            _OPENPOSE_137,
        ),
        JointLayout(
            name="ntu25",
            joints=_KINECT_25,
            edges=_inward((1, 20, 20, 2, 20, 4, 5, 6, 20, 8, 9, 10, 0, 12, 13, 14, 0, 16, 17, 18, -1, 22, 7, 24, 11)),
            is_3d=True,
        ),
        JointLayout(
            name="coco17",
            joints=_COCO_17,
            edges=_inward((-1, 0, 0, 1, 2, 0, 0, 5, 6, 7, 8, 5, 6, 11, 12, 13, 14)),
        ),
        JointLayout(
            name="kinetics18",
            joints=_COCO_18,
            edges=_inward((1, -1, 1, 2, 3, 1, 5, 6, 2, 8, 9, 5, 11, 12, 0, 0, 14, 15)),
            # The released bones hang on the nose, the graph on the neck.
            bones=((0, 0), (1, 0), *_inward((-1, -1, 1, 2, 3, 1, 5, 6, 2, 8, 9, 5, 11, 12, 0, 0, 14, 15))),
        ),
    )
}
