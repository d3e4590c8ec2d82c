"""What a clip looks like: a few small frames, the skeleton and the aligned face in each, for a page to show.

Only these frames are decoded, by presentation time, wherever the clip lies in its video. What is not there (no video
any more, no skeleton) is said in the notes.
"""

# Shapes: T moments that are shown, V joints, H height, W width.

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from mgcli.extract.face import DEFAULT_DETECTOR, FaceError
from mgcli.extract.face_crops import FaceCrops
from mgcli.extract.interval import clip_interval, said
from mgcli.extract.skeleton import Skeleton, read_skeleton
from mgcli.extract.skeleton_layouts import LAYOUTS, JointLayout, LayoutError, SkeletonError, joint_layout
from mgcli.extract.video import VideoError, VideoIndex, index_video, plan_decode
from mgcli.extract.video_decode import decode_frames

NUM_FRAMES = 16  # of a clip
WIDTH_PX = 320
MAX_BYTES = 300_000  # pictures of a clip: 24 clips then stay far below 15 MB, in base64 too
QUALITIES = (80, 65, 50, 35, 20, 5)  # of WebP, tried one after another until the pictures fit
STRAY_SHARE = 0.1  # so many joints outside the frame are worth a note


@dataclass(frozen=True, kw_only=True, eq=False)
class ShownSkeleton:
    """Joints in pixels of the shown frames."""

    layout: JointLayout | None  # None: nobody says what the joints are, so they are points without edges
    joints: np.ndarray  # (T, V, 2) float64, NaN where a joint is missing


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipMedia:
    """What a clip looks like at T moments."""

    clip_id: str
    start_s: float
    end_s: float
    times_s: np.ndarray  # (T,) float64, when each shown frame, or row of the skeleton, is shown in the video
    size_px: tuple[int, int]  # width and height of the shown frames; without video, of the space of the skeleton
    frames: tuple[bytes, ...]  # T WebP files; none where there is no video
    skeleton: ShownSkeleton | None
    faces: tuple[bytes | None, ...]  # T WebP files, None where no face is seen; none at all where nobody looked
    notes: tuple[str, ...]  # what is missing or odd, for people


@dataclass(frozen=True, eq=False)
class _Picture:
    """One decoded frame, made small."""

    frame: int  # of the video
    small: Image.Image
    scale: float  # pixels of `small` for each of the video
    face: Image.Image | None  # aligned; None where none is seen


def view_clip(
    clip: Mapping[str, Any],
    *,
    joints: str | None = None,
    detector: str | None = None,
    num_frames: int = NUM_FRAMES,
    width_px: int = WIDTH_PX,
    max_bytes: int = MAX_BYTES,
) -> ClipMedia:
    """Look at a clip.

    Args:
        clip: a row of a checked clip table.
        joints: layout to show its skeleton in, where there is a map to it; by default the file's own.
        detector: of faces, for a clip whose table names no face file; without it nobody looks for them.
        num_frames: shown at most: the middles of so many equal parts of the clip.
        width_px: of the shown frames at most.
        max_bytes: of all pictures together, about: they get coarser until they fit.
    """
    notes: list[str] = []
    index = _index(clip, notes)
    skeleton = _skeleton(clip, index, notes)
    timeline = index or skeleton
    if timeline is None:
        return _nothing(clip, notes)
    start_s, end_s, _ = clip_interval(*_asked(clip), timeline)
    if not start_s < min(end_s, timeline.end_s):
        notes.append(f"the clip starts at {said(start_s)}; what it is cut from ends at {said(timeline.end_s)}")
        return _nothing(clip, notes)
    middles = start_s + (np.arange(num_frames) + 0.5) * ((end_s - start_s) / num_frames)
    rows = np.unique(timeline.frames_at(middles))
    pictures = [] if index is None else _decode(clip, index, rows, width_px, detector, notes)
    times_s = timeline.time_s[[each.frame for each in pictures] if pictures else rows]
    shown, size_px = None, pictures[0].small.size if pictures else (width_px, width_px)
    if skeleton is not None:
        scale = pictures[0].scale if pictures else None
        shown, size_px = _show_skeleton(skeleton, times_s, joints, scale, size_px, notes)
    frames, faces = _encode(pictures, max_bytes)
    return ClipMedia(
        clip_id=clip["clip_id"],
        start_s=start_s,
        end_s=end_s,
        times_s=times_s,
        size_px=size_px,
        frames=frames,
        skeleton=shown,
        faces=faces if _looked_for_faces(clip, detector) else (),
        notes=tuple(notes),
    )


def _nothing(clip: Mapping[str, Any], notes: Sequence[str]) -> ClipMedia:
    """A clip of which there is nothing to see; its interval is what the table says."""
    seconds, _ = _asked(clip)
    start_s, end_s = seconds or (0.0, 0.0)
    return ClipMedia(
        clip_id=clip["clip_id"],
        start_s=start_s,
        end_s=end_s,
        times_s=np.zeros(0),
        size_px=(0, 0),
        frames=(),
        skeleton=None,
        faces=(),
        notes=tuple(notes),
    )


def _asked(clip: Mapping[str, Any]) -> tuple[tuple[float, float] | None, tuple[int, int] | None]:
    """The clip's interval in seconds or in frames, as the table gives it."""
    seconds = None if pd.isna(clip["start_s"]) else (float(clip["start_s"]), float(clip["end_s"]))
    frames = None if pd.isna(clip["start_frame"]) else (int(clip["start_frame"]), int(clip["end_frame"]))
    return seconds, frames


def _index(clip: Mapping[str, Any], notes: list[str]) -> VideoIndex | None:
    if not clip["video"]:
        notes.append("no frames: the clip table names no video for this clip")
        return None
    try:
        return index_video(Path(clip["video"]))
    except VideoError as error:
        notes.append(f"no frames: {error}")
        return None


def _skeleton(clip: Mapping[str, Any], index: VideoIndex | None, notes: list[str]) -> Skeleton | None:
    if not clip["skeleton"]:
        notes.append("no skeleton: the clip table names none for this clip")
        return None
    fps = None if pd.isna(clip["skeleton_fps"]) else float(clip["skeleton_fps"])
    try:
        skeleton = read_skeleton(Path(clip["skeleton"]), fps=fps, video=index)
    except SkeletonError as error:
        notes.append(f"no skeleton: {error}")
        return None
    if skeleton.layout is not None and skeleton.layout.is_3d:
        notes.append(f"no skeleton: joints of layout {skeleton.layout.name} are in space, not in the picture")
        return None
    return skeleton


def _looked_for_faces(clip: Mapping[str, Any], detector: str | None) -> bool:
    return bool(clip["face"]) or detector is not None


def _decode(
    clip: Mapping[str, Any],
    index: VideoIndex,
    rows: np.ndarray,
    width_px: int,
    detector: str | None,
    notes: list[str],
) -> list[_Picture]:
    """The frames of `rows`, one after another; a large one is gone before the next one comes."""
    path = Path(clip["face"]) if clip["face"] else None
    crops: FaceCrops | None = None
    if _looked_for_faces(clip, detector):
        crops = FaceCrops(index.num_frames, torch.device("cpu"))
        try:
            crops.open(path)
        except FaceError as error:
            notes.append(f"no face: {error}")
            crops = None
    else:
        notes.append("no face: the clip table names no face file, and the cache has no tokens of detected faces")
    pictures = []
    try:
        for frame, rgb in decode_frames(index, plan_decode(index, rows)):
            scale = min(1.0, width_px / rgb.shape[1])
            size_px = (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale)))
            small = Image.fromarray(rgb).resize(size_px, Image.Resampling.LANCZOS)
            face = None
            if crops is not None:
                place, time_s = np.array([frame]), index.time_s[[frame]]
                aligned = crops.align(0, path, place, time_s, [rgb], detector or DEFAULT_DETECTOR)[0]
                face = Image.fromarray(aligned) if aligned.any() else None
            pictures.append(_Picture(frame, small, scale, face))
    except (VideoError, FaceError) as error:
        notes.append(str(error))
    if len(pictures) < len(rows):
        notes.append(f"{len(rows) - len(pictures)} of {len(rows)} frames cannot be decoded")
    return pictures


def _show_skeleton(
    skeleton: Skeleton,
    times_s: np.ndarray,
    joints: str | None,
    scale: float | None,
    size_px: tuple[int, int],
    notes: list[str],
) -> tuple[ShownSkeleton, tuple[int, int]]:
    """The skeleton at some moments, and the size of the space that it lies in.

    Args:
        skeleton: in pixels of its video.
        times_s: (T,) the moments.
        joints: layout to show it in, where there is a map to it.
        scale: shown pixels for each pixel of the video; None: no video, so it is made to fill the space.
        size_px: width and height of the frames, or of the space.
        notes: added to.
    """
    rows = skeleton.frames_at(times_s)
    layout, found = _layout_of(skeleton, joints), skeleton.joints[rows]
    if layout is not None and layout is not skeleton.layout:
        found = skeleton.joints_in(layout, rows)
    present = found.any(axis=-1)  # (T, V)
    places = np.where(present[..., None], found[..., :2].astype(np.float64), np.nan)
    if scale is not None:
        places *= scale
        _note_strays(places, size_px, notes)
    elif present.any():
        low, high = np.nanmin(places, axis=(0, 1)), np.nanmax(places, axis=(0, 1))
        fill = 0.9 * size_px[0] / max(float((high - low).max()), 1e-6)
        size_px = (size_px[0], max(1, round((high - low)[1] * fill + 0.1 * size_px[0])))
        places = (places - (low + high) / 2) * fill + np.array(size_px) / 2
    return ShownSkeleton(layout=layout, joints=places), size_px


def _layout_of(skeleton: Skeleton, wanted: str | None) -> JointLayout | None:
    """The layout to show: the wanted one where it fits, else the file's own, else the one with so many joints."""
    if wanted is not None:
        try:
            layout = joint_layout(wanted)
            skeleton.joints_in(layout, slice(0))
        except LayoutError:
            pass
        else:
            return layout
    if skeleton.layout is not None:
        return skeleton.layout
    fitting = [each for each in LAYOUTS.values() if each.num_joints == skeleton.joints.shape[-2] and not each.is_3d]
    return fitting[0] if len(fitting) == 1 else None


def _note_strays(places: np.ndarray, size_px: tuple[int, int], notes: list[str]) -> None:
    """Say where joints lie outside the frames: the skeleton may be of another video, or of another size."""
    present = ~np.isnan(places[..., 0])
    outside = ((places < 0) | (places > np.array(size_px))).any(axis=-1) & present
    if outside.sum() > STRAY_SHARE * max(1, present.sum()):
        share = 100 * outside.sum() / present.sum()
        notes.append(
            f"{share:.0f} % of the joints lie outside the frame: is the skeleton of this video, in its pixels?"
        )


def _encode(pictures: Sequence[_Picture], max_bytes: int) -> tuple[tuple[bytes, ...], tuple[bytes | None, ...]]:
    """Frames and faces as WebP files, as fine as they may be."""
    frames: tuple[bytes, ...] = ()
    faces: tuple[bytes | None, ...] = ()
    for quality in QUALITIES:
        frames = tuple(_webp(each.small, quality) for each in pictures)
        faces = tuple(None if each.face is None else _webp(each.face, quality) for each in pictures)
        if sum(map(len, frames)) + sum(len(each) for each in faces if each is not None) <= max_bytes:
            break
    return frames, faces


def _webp(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "webp", quality=quality)
    return file.getvalue()
