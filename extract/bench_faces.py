"""How fast faces are found, followed and aligned in a real video, as it stands."""

# Shapes: H height, W width.

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mgcli.extract.face_crops import FaceCrops
from mgcli.extract.video import VideoError, index_video, plan_decode
from mgcli.extract.video_decode import decode_frames


@dataclass(frozen=True, kw_only=True)
class FaceRate:
    """What a video gives."""

    video: str
    detector: str
    width_px: int
    height_px: int
    frames: int  # looked at
    frames_in_video: int
    frames_with_face: int
    frames_per_s: float  # of detection, following and alignment; decoding is not in it

    def summary(self) -> str:
        """A line for people."""
        some = "" if self.frames == self.frames_in_video else f", the first of {self.frames_in_video}"
        return (
            f"faces in {self.video} by {self.detector}: {self.frames_per_s:.4g} frames/s at "
            f"{self.width_px} x {self.height_px}; {self.frames_with_face} of {self.frames} frames{some} have one"
        )


def time_faces(video: Path, detector: str, device: torch.device, *, seconds: float) -> FaceRate:
    """Look for the main person's face in frame after frame, one at a time, as an extraction does.

    Args:
        video: file; its frames are taken as large as they are, all of them.
        detector: of faces, by its name.
        device: where it runs.
        seconds: after so long of looking, the rest of the video is left out.

    Raises:
        VideoError: the video cannot be read.
        FaceError: the detector cannot be loaded.
    """
    index = index_video(video)
    warm_up, crops = (FaceCrops(index.num_frames, device) for _ in range(2))
    spent_s, looked, with_face = 0.0, 0, 0
    size_px = (0, 0)
    for frame, picture in decode_frames(index, plan_decode(index, range(index.num_frames))):
        place, times_s = np.array([frame]), index.time_s[[frame]]
        if not looked:
            size_px = picture.shape[:2]  # (H, W)
            warm_up.align(0, None, place, times_s, [picture], detector)
        start = time.perf_counter()
        aligned = crops.align(0, None, place, times_s, [picture], detector)
        spent_s += time.perf_counter() - start
        looked += 1
        with_face += bool(aligned.any())
        if spent_s >= seconds:
            break
    if not looked:
        raise VideoError(f"{video}: no frame can be decoded")
    return FaceRate(
        video=str(video),
        detector=detector,
        width_px=size_px[1],
        height_px=size_px[0],
        frames=looked,
        frames_in_video=index.num_frames,
        frames_with_face=with_face,
        frames_per_s=looked / spent_s,
    )
