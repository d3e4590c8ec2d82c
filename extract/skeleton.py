"""Skeleton files: one row of joints per video frame, read into (T, V, 3) x, y, confidence."""

# Shapes: T frames, V joints.

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mgcli.cache import MgcliError
from mgcli.extract.video import VideoIndex

LENGTH_SLACK_FRAMES = 5  # rows and video frames may differ by this much, or by 2 %, at the end


class SkeletonError(MgcliError):
    """A skeleton file that cannot be read, or does not fit its video."""


@dataclass(frozen=True, eq=False)
class Skeleton:
    """Joints over time. A missing joint is (0, 0, 0); a present one has a confidence above 0."""

    joints: np.ndarray  # (T, V, 3) float32: x, y in the file's own unit, confidence
    time_s: np.ndarray  # (T,) float64, ascending
    end_s: float

    def frames_at(self, times_s: np.ndarray) -> np.ndarray:
        """Index of the last row at or before each time; the first row for times before it."""
        rows = np.searchsorted(self.time_s, np.asarray(times_s) + 1e-6, side="right") - 1
        return np.clip(rows, 0, len(self.time_s) - 1)


def read_skeleton(path: Path, *, fps: float | None = None, video: VideoIndex | None = None) -> Skeleton:
    """The skeleton in a `.npy` file of shape (T, V, 2) or (T, V, 3), row i for frame i.

    Args:
        path: x, y and, where there is a third number, a confidence. Not a number, confidence 0, or (0, 0)
            without a confidence, marks a missing joint.
        fps: rows per second; the times then need no video.
        video: index of the video whose frames the rows are; used where there is no `fps`.

    Raises:
        SkeletonError: missing, damaged, of another shape, or of another length than the video.
    """
    joints = _read_joints(path)
    num_rows = len(joints)
    if fps is not None:
        return Skeleton(joints=joints, time_s=np.arange(num_rows) / fps, end_s=num_rows / fps)
    if video is None:
        raise SkeletonError(f"{path}: no times: give skeleton_fps in the clip table, or a video")
    if abs(num_rows - video.num_frames) > max(LENGTH_SLACK_FRAMES, 0.02 * video.num_frames):
        raise SkeletonError(
            f"{path} has {num_rows} rows, its video {video.num_frames} frames; "
            "give its rate as skeleton_fps in the clip table"
        )
    shared = min(num_rows, video.num_frames)
    end_s = video.end_s if shared == video.num_frames else float(video.time_s[shared])
    return Skeleton(joints=joints[:shared], time_s=video.time_s[:shared], end_s=end_s)


def _read_joints(path: Path) -> np.ndarray:
    if path.suffix != ".npy":
        raise SkeletonError(f"{path}: skeletons are read from .npy files, shape (frames, joints, 2 or 3)")
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise SkeletonError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError) as error:
        raise SkeletonError(f"{path}: not a .npy array, or cut short ({error})") from error
    if stored.ndim != 3 or stored.shape[2] not in (2, 3) or stored.dtype.kind not in "fiu":
        raise SkeletonError(
            f"{path} holds {stored.dtype} of shape {stored.shape}; expected numbers of shape (frames, joints, 2 or 3)"
        )
    if 0 in stored.shape:
        raise SkeletonError(f"{path} holds no frames or no joints: its shape is {stored.shape}")
    x_y = np.asarray(stored[..., :2], dtype=np.float32)  # (T, V, 2)
    if stored.shape[2] == 3:
        confidence = np.asarray(stored[..., 2], dtype=np.float32)  # (T, V)
    else:
        confidence = (x_y != 0).any(axis=2).astype(np.float32)
    present = np.isfinite(x_y).all(axis=2) & np.isfinite(confidence) & (confidence > 0)
    joints = np.zeros((*present.shape, 3), dtype=np.float32)
    joints[present, :2] = x_y[present]
    joints[present, 2] = confidence[present]
    return joints
