"""Skeletons as networks expect them: missing joints, frame of reference, order of people.

`prenormalize_ntu` and `kinetics_array` are the published preparations of 2s-AGCN (CVPR 2019) for NTU RGB+D
and of ST-GCN (AAAI 2018) for Kinetics, which released checkpoints need. There, a frame, a person or a joint
is absent where its values sum to exactly 0. `normalize_body` is ours, for networks trained here.
"""

# Shapes: T frames, M people, V joints, C channels, F frames in a file, P people in a file.

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mgcli.extract.skeleton_layouts import JointLayout

NTU_CENTRE = 1  # mid spine
NTU_UP = (0, 1)  # base of the spine -> mid spine, turned to +z
NTU_ACROSS = (4, 8)  # left -> right shoulder, turned to +x
MIN_LENGTH = 1e-6  # L1 norm under which a direction counts as none

KINETICS_FRAMES = 300  # every clip is padded or cut to this length
KINETICS_READ = 5  # people read from a frame
KINETICS_KEPT = 2  # people kept, the surest ones


Normalizer = Callable[[np.ndarray, np.ndarray, JointLayout], np.ndarray]


def seen_joints(joints: np.ndarray, layout: JointLayout) -> np.ndarray:
    """Where a joint is known, (...,) bool, from (..., 3): finite, and confidence above 0 or not all zero."""
    finite = np.isfinite(joints).all(axis=-1)
    return finite & ((joints != 0).any(axis=-1) if layout.is_3d else joints[..., 2] > 0)


def fill_missing(joints: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Joints with gaps bridged in straight lines over time, and held at both ends.

    Args:
        joints: (T, ..., C).
        seen: (T, ...) bool. A joint that is never seen stays as it is.
    """
    frames = np.arange(len(joints))
    filled = joints.copy()
    for place in np.argwhere(seen.any(axis=0) & ~seen.all(axis=0)):
        at = (slice(None), *place)
        known = seen[at].nonzero()[0]
        for channel in range(joints.shape[-1]):
            filled[(*at, channel)] = np.interp(frames, known, joints[(*at, channel)][known])
    return filled


def normalize_body(joints: np.ndarray, seen: np.ndarray, layout: JointLayout) -> np.ndarray:
    """Skeletons seen from the middle of the first person's shoulders, whose distance becomes 1.

    Both are medians over the clip, so that its movements stay. Missing coordinates are filled from the frames
    around; a joint that is never seen lies at the origin. A confidence stays as it was, 0 where missing.

    Args:
        joints: (T, M, V, 3); coordinates are the first two channels, or all three of a 3-D layout.
        seen: (T, M, V) bool.
        layout: with left_shoulder and right_shoulder.

    Returns:
        (T, M, V, 3) float32, a new array.
    """
    normalized = joints.astype(np.float32)
    if not seen.any():
        return normalized
    person = int(seen.any(axis=(0, 2)).argmax())
    left, right = layout.index("left_shoulder"), layout.index("right_shoulder")
    both = seen[:, person, left] & seen[:, person, right]  # (T,)
    dims = 3 if layout.is_3d else 2
    if both.any():
        ends = joints[both, person][:, [left, right], :dims].astype(np.float64)  # (frames, 2, dims)
        centre = np.median(ends.mean(axis=1), axis=0)
        scale = float(np.median(np.linalg.norm(ends[:, 0] - ends[:, 1], axis=-1)))
    else:  # no shoulders: about as wide as the joints spread
        known = joints[:, person][seen[:, person]][:, :dims].astype(np.float64)
        centre = np.median(known, axis=0)
        scale = float(np.sqrt(((known - centre) ** 2).sum(axis=-1).mean()))
    coordinates = np.where(seen[..., None], (joints[..., :dims] - centre) / max(scale, MIN_LENGTH), 0.0)
    normalized[..., :dims] = fill_missing(coordinates, seen)
    return normalized


def prenormalize_ntu(joints: np.ndarray) -> np.ndarray:
    """NTU RGB+D skeletons with frames filled, centred on the first person, upright and facing front.

    Args:
        joints: (T, M, V, 3) camera space, V = 25; zeros where nobody is.

    Returns:
        (T, M, V, 3) float32, a new array.
    """
    people = [_fill_frames(person) for person in np.moveaxis(joints.astype(np.float32), 1, 0)]
    filled = np.stack(people, axis=1)  # (T, M, V, 3)
    seen = filled.sum(axis=-1, keepdims=True) != 0  # (T, M, V, 1)
    centre = filled[:, :1, NTU_CENTRE : NTU_CENTRE + 1]  # (T, 1, 1, 3)
    turned = np.where(seen, filled - centre, np.float32(0)).astype(np.float64)
    for (start, end), axis in ((NTU_UP, (0.0, 0.0, 1.0)), (NTU_ACROSS, (1.0, 0.0, 0.0))):
        rotation = _rotation_between(turned[0, 0, end] - turned[0, 0, start], np.array(axis))
        turned = turned @ rotation.T  # absent people and frames are zeros and stay so
    return turned.astype(np.float32)


def kinetics_array(
    xy: np.ndarray,
    score: np.ndarray,
    person_count: Sequence[int],
    frame_index: Sequence[int],
    num_frames: int = KINETICS_FRAMES,
) -> np.ndarray:
    """OpenPose skeletons of one Kinetics clip, surest people first in every frame.

    Args:
        xy: (F, P, V, 2) in 0..1 of the picture's width and height.
        score: (F, P, V) confidence.
        person_count: (F,) how many of the P rows are people.
        frame_index: (F,) row of the result that each frame goes to.

    Returns:
        (T, M, V, 3) float32: x to the right and y upwards from the centre, and the score. A person's slot
        may change from frame to frame.
    """
    people = np.zeros((num_frames, KINETICS_READ, xy.shape[2], 3), dtype=np.float32)
    for frame, count, row in zip(range(len(xy)), person_count, frame_index, strict=True):
        if row < num_frames:
            read = min(count, KINETICS_READ)
            people[row, :read, :, :2] = xy[frame, :read]
            people[row, :read, :, 2] = score[frame, :read]
    people = centre_picture(people)
    surest = np.argsort(-people[..., 2].sum(axis=-1), axis=1, kind="stable")[:, :KINETICS_KEPT]  # (T, M)
    return np.take_along_axis(people, surest[:, :, None, None], axis=1)


def centre_picture(joints: np.ndarray) -> np.ndarray:
    """(..., 3) x, y in 0..1 and score, with x to the right and y upwards from the centre; 0 without a score."""
    x, y, score = np.moveaxis(joints.astype(np.float32), -1, 0)
    return np.stack([np.where(score == 0, 0, x - 0.5), np.where(score == 0, 0, 0.5 - y), score], axis=-1)


def _fill_frames(person: np.ndarray) -> np.ndarray:
    """One person, (T, V, C), moved to the first frame and repeated from there until T is filled.

    A person absent from the first frame loses all absent frames; otherwise gaps in the middle stay.
    """
    if person.sum() == 0:
        return person
    live = person.sum(axis=(1, 2)) != 0  # (T,)
    seen = person[: live.nonzero()[0][-1] + 1] if live[0] else person[live]
    return seen[np.arange(len(person)) % len(seen)]


def _rotation_between(vector: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """(3, 3) rotation of `vector` onto the unit vector `axis`; the identity where it is not defined."""
    normal = np.cross(vector, axis)
    if np.abs(vector).sum() < MIN_LENGTH or np.abs(normal).sum() < MIN_LENGTH:
        return np.eye(3)
    cosine = np.clip(vector @ axis / np.linalg.norm(vector), -1.0, 1.0)
    x, y, z = normal / np.linalg.norm(normal)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + np.sqrt(1.0 - cosine**2) * cross + (1.0 - cosine) * cross @ cross  # Rodrigues


def _ntu(joints: np.ndarray, seen: np.ndarray, layout: JointLayout) -> np.ndarray:
    return prenormalize_ntu(joints)


def _kinetics(joints: np.ndarray, seen: np.ndarray, layout: JointLayout) -> np.ndarray:
    return centre_picture(joints)


def _none(joints: np.ndarray, seen: np.ndarray, layout: JointLayout) -> np.ndarray:
    return joints


NORMALIZERS: dict[str, Normalizer] = {  # name -> what is done to the (T, M, V, 3) joints of a window
    "body": normalize_body,
    "ntu": _ntu,
    "kinetics": _kinetics,
    "none": _none,
}
