"""Skeletons over time: one row of joints per video frame, (T, V, 3) x, y, confidence, or x, y, z."""

# Shapes: T frames, M people, V joints.

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mgcli.extract.skeleton_layouts import JointLayout, LayoutError, SkeletonError, convert_joints, is_selection
from mgcli.extract.skeleton_store import load_skeleton
from mgcli.extract.video import VideoIndex

LENGTH_SLACK_FRAMES = 5  # rows and video frames may differ by this much, or by 2 %, at the end
MAX_MOVE = 0.5  # a followed person moves at most so many of their own sizes until they are seen again
MAX_GAP_ROWS = 25  # after so many rows without the main person, the surest one becomes the main person


@dataclass(frozen=True, eq=False)
class Skeleton:
    """Joints over time. A missing joint is (0, 0, 0); a present one of a 2-D layout has a confidence above 0."""

    joints: np.ndarray  # (T, V, 3) float32 in the file's own unit; (T, M, V, 3) where several people were asked for
    time_s: np.ndarray  # (T,) float64, ascending
    end_s: float
    layout: JointLayout | None = None  # None: the file does not say

    def frames_at(self, times_s: np.ndarray) -> np.ndarray:
        """Index of the last row at or before each time; the first row for times before it."""
        rows = np.searchsorted(self.time_s, np.asarray(times_s) + 1e-6, side="right") - 1
        return np.clip(rows, 0, len(self.time_s) - 1)

    def joints_in(self, layout: JointLayout, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """`joints` in another layout, all rows of them or some.

        Raises:
            LayoutError: there is no map to it.
        """
        joints = self.joints[rows]
        if self.layout is not None and is_selection(self.layout, layout):
            return convert_joints(joints, self.layout, layout)
        if self.layout is not None:
            missing = ~joints.any(axis=-1, keepdims=True)
            converted = convert_joints(np.where(missing, np.nan, joints), self.layout, layout)
            return np.nan_to_num(converted).astype(np.float32)
        if joints.shape[-2] != layout.num_joints:
            raise LayoutError(
                f"the skeleton has {joints.shape[-2]} joints, layout '{layout.name}' has {layout.num_joints}"
            )
        return joints


def read_skeleton(
    path: Path, *, fps: float | None = None, video: VideoIndex | None = None, num_people: int = 1
) -> Skeleton:
    """The skeleton in a file of any kind that `skeleton_readers` knows, row i for frame i.

    Args:
        path: of the file, or of a folder of OpenPose files. Not a number, confidence 0, or (0, 0) without a
            confidence, marks a missing joint.
        fps: rows per second; the times then need no video.
        video: index of the video whose frames the rows are; used where there is no `fps`.
        num_people: 1, the main person; more: so many of the file's, in its order, zeros for absent ones.

    Raises:
        SkeletonError: missing, damaged, of another shape, or of another length than the video.
    """
    stored = load_skeleton(path)
    people = stored.joints  # (T, M, V, 3)
    if num_people == 1:
        joints = main_person(people, is_3d=stored.layout is not None and stored.layout.is_3d)
    else:
        absent = max(0, num_people - people.shape[1])
        joints = np.pad(people[:, :num_people], ((0, 0), (0, absent), (0, 0), (0, 0)))
    num_rows = len(joints)
    if fps is not None:
        return Skeleton(joints, np.arange(num_rows) / fps, num_rows / fps, stored.layout)
    if video is None:
        raise SkeletonError(f"{path}: no times: give skeleton_fps in the clip table, or a video")
    if abs(num_rows - video.num_frames) > max(LENGTH_SLACK_FRAMES, 0.02 * video.num_frames):
        raise SkeletonError(
            f"{path} has {num_rows} rows, its video {video.num_frames} frames; "
            "give its rate as skeleton_fps in the clip table"
        )
    shared = min(num_rows, video.num_frames)
    end_s = video.end_s if shared == video.num_frames else float(video.time_s[shared])
    return Skeleton(joints[:shared], video.time_s[:shared], end_s, stored.layout)


def main_person(joints: np.ndarray, *, is_3d: bool = False) -> np.ndarray:
    """One person of several: the surest in the first frame with anyone, then whoever is nearest to them.

    Someone else is not taken for them while they are out of sight, unless that lasts for `MAX_GAP_ROWS` frames.

    Args:
        joints: (T, M, V, 3) x, y, confidence, or x, y, z; zeros where missing.
        is_3d: the third number is no confidence; the first with the most joints is the surest.

    Returns:
        (T, V, 3), zeros where the main person is not seen.
    """
    if joints.shape[1] == 1:
        return joints[:, 0]
    seen = np.any(joints, axis=3)  # (T, M, V)
    chosen = np.zeros((len(joints), *joints.shape[2:]), dtype=joints.dtype)
    last_frame, size = -MAX_GAP_ROWS, 0.0  # of the main person when last seen, and at their largest
    middle = np.zeros(2)
    for frame in np.flatnonzero(np.any(seen, axis=(1, 2))).tolist():
        slots = np.flatnonzero(np.any(seen[frame], axis=1))
        places = [joints[frame, slot][seen[frame, slot], :2] for slot in slots]  # (V', 2) each
        middles = np.array([np.median(place, axis=0) for place in places])
        if frame - last_frame >= MAX_GAP_ROWS:
            sure = seen[frame, slots] if is_3d else joints[frame, slots, :, 2]
            pick, size = int(sure.sum(axis=1).argmax()), 0.0
        else:
            moves = np.linalg.norm(middles - middle, axis=1)
            pick = int(moves.argmin())
            if size and moves[pick] > MAX_MOVE * size:
                continue
        chosen[frame], last_frame, middle = joints[frame, slots[pick]], frame, middles[pick]
        size = max(size, float(np.ptp(places[pick], axis=0).max()))
    return chosen
