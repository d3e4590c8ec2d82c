"""The main person's aligned face in the frames that clips of one video need: as the data set gives it, or detected."""

# Shapes: T frames of an input, H, W height and width.

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mgcli.extract.face import (
    ALIGNED_PX,
    DEFAULT_DETECTOR,
    Face,
    FaceError,
    FaceFollower,
    FaceJitter,
    align_face,
    load_detector,
    read_faces,
)

LENGTH_SLACK_FRAMES = 5  # rows of a face file and video frames may differ by this much, or by 2 %, at the end


class FaceCrops:
    """Finds, follows and aligns; a frame is searched once for all clips, and each clip has its own main person."""

    def __init__(self, num_frames: int, device: torch.device) -> None:
        """Start with nothing seen.

        Args:
            num_frames: of the video.
            device: where detectors run.
        """
        self._num_frames = num_frames
        self._device = device
        self._given: dict[Path, list[Face | None]] = {}
        self._found: dict[tuple[str, int], list[Face]] = {}  # detector and frame -> all faces in it
        self._followers: dict[int, FaceFollower] = {}
        self._picked: dict[tuple[int, int], Face | None] = {}

    def open(self, path: Path | None) -> None:
        """Read a face file, if one is given.

        Raises:
            FaceError: missing, damaged, or of another length than the video.
        """
        if path is None or path in self._given:
            return
        faces = read_faces(path)
        if abs(len(faces) - self._num_frames) > max(LENGTH_SLACK_FRAMES, 0.02 * self._num_frames):
            raise FaceError(f"{path} has {len(faces)} rows, its video {self._num_frames} frames")
        self._given[path] = faces

    def align(
        self,
        clip: int,
        path: Path | None,
        frames: np.ndarray,
        times_s: np.ndarray,
        pictures: Sequence[np.ndarray],
        detector: str = DEFAULT_DETECTOR,
        jitter: FaceJitter | None = None,
    ) -> np.ndarray:
        """Aligned faces of one clip.

        Args:
            clip: number of the clip, or of a view of it; its frames are asked for in ascending order, all of one
                detector.
            path: face file that was opened; None detects.
            frames: (T,) int64, of the video.
            times_s: (T,) of the frames.
            pictures: T of (H, W, 3) uint8 RGB.
            detector: that finds faces where no file gives them.
            jitter: of an augmented view.

        Returns:
            (T, 112, 112, 3) uint8 RGB, black where there is no face.

        Raises:
            FaceError: the detector cannot be loaded.
        """
        crops = np.zeros((len(frames), ALIGNED_PX, ALIGNED_PX, 3), dtype=np.uint8)
        for row, (frame, time_s, picture) in enumerate(zip(frames.tolist(), times_s.tolist(), pictures, strict=True)):
            if path is not None:
                face = self._given[path][frame] if frame < len(self._given[path]) else None
            else:
                face = self._follow(clip, frame, time_s, picture, detector)
            crops[row] = align_face(picture, face, jitter)
        return crops

    def _follow(self, clip: int, frame: int, time_s: float, picture: np.ndarray, detector: str) -> Face | None:
        if (clip, frame) not in self._picked:
            if (detector, frame) not in self._found:
                self._found[detector, frame] = load_detector(detector, self._device).detect([picture])[0]
            follower = self._followers.setdefault(clip, FaceFollower())
            self._picked[clip, frame] = follower.pick(self._found[detector, frame], time_s)
        return self._picked[clip, frame]
