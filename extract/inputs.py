"""From clips to backbone inputs: one decode pass a video, for all its clips and all backbones together."""

# Shapes: T frames of an input, H height, W width.

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from mgcli.cache import MgcliError
from mgcli.extract.clip_request import ClipEvent, ClipFailed, ClipRequest, ClipWarning, InputReady
from mgcli.extract.decoder import Decoder, Decoders, Pictures
from mgcli.extract.face import FaceError
from mgcli.extract.face_crops import FaceCrops
from mgcli.extract.interval import clip_interval, longest_shown, said
from mgcli.extract.shrink import Look
from mgcli.extract.skeleton import Skeleton, read_skeleton
from mgcli.extract.skeleton_layouts import LayoutError, SkeletonError
from mgcli.extract.unchanged import ReadFaces, ReadSkeleton, WatchedVideo
from mgcli.extract.video import VideoError, VideoIndex

END_SLACK_S = 0.5  # an interval may end this long after its video before that is worth a warning
MAX_SHOWN_S = 60.0  # a frame shown for longer is worth a warning, and a fault where windows outnumber the frames


@dataclass(frozen=True, eq=False)
class _Window:
    request: ClipRequest
    window: int
    of: int
    times_s: np.ndarray  # (T,)
    frames: np.ndarray  # (T,) int64


def by_file(requests: Sequence[ClipRequest]) -> list[list[ClipRequest]]:
    """The requests one list a video, or skeleton file without one, in their order: the jobs of `read_file`."""
    groups: dict[Path | None, list[ClipRequest]] = {}
    for request in requests:
        groups.setdefault(request.video or request.skeleton, []).append(request)
    return list(groups.values())


def read_file(requests: Sequence[ClipRequest], decoders: Decoders) -> Iterator[ClipEvent]:
    """Everything that the clips of one video give: skeletons first, then frames as they are decoded."""
    with decoders.borrow() as decoder:
        yield from _read_file(requests, decoder)


def _read_file(requests: Sequence[ClipRequest], decoder: Decoder) -> Iterator[ClipEvent]:
    video = requests[0].video
    index: VideoIndex | MgcliError | None = None
    watched: WatchedVideo | None = None
    if video is not None and any(_needs_video(each) for each in requests):
        watched = WatchedVideo(video)
        try:
            index = decoder.index(video)
        except VideoError as error:
            index = error
    of_skeleton = [each for each in requests if each.backbone.reads == "skeleton"]
    for _, group in groupby(of_skeleton, key=lambda each: (each.skeleton, each.skeleton_fps, each.modality)):
        yield from _read_skeletons(list(group), index, watched)
    of_video = [each for each in requests if each.backbone.reads in ("video", "face")]
    if of_video:
        yield from _read_video(of_video, index, watched, decoder)


def _needs_video(request: ClipRequest) -> bool:
    return request.backbone.reads != "skeleton" or request.skeleton_fps is None


def _read_skeletons(
    requests: Sequence[ClipRequest], index: VideoIndex | MgcliError | None, watched: WatchedVideo | None
) -> Iterator[ClipEvent]:
    """The inputs of one modality's clips that share a skeleton file."""
    path, fps, backbone = requests[0].skeleton, requests[0].skeleton_fps, requests[0].backbone
    try:
        if path is None:
            raise SkeletonError("the clip table names no skeleton for this clip")
        if fps is None and isinstance(index, MgcliError):
            raise index
        video = index if isinstance(index, VideoIndex) else None
        skeleton = read_skeleton(path, fps=fps, video=video, num_people=backbone.num_people)
        layout = backbone.joints
        if layout is not None:
            skeleton.joints_in(layout, slice(0))  # refused here, once for all clips
    except MgcliError as error:
        stage = "open" if error is index else "skeleton"
        reason = f"{path}: {error}; name its layout with joints=NAME" if isinstance(error, LayoutError) else str(error)
        yield from (ClipFailed(request, stage, reason) for request in requests)
        return

    def joints_of(window: _Window) -> np.ndarray:
        joints = skeleton.joints[window.frames] if layout is None else skeleton.joints_in(layout, window.frames)
        view = window.request.view
        return joints if view is None else view.change_joints(joints, layout or skeleton.layout)

    read = ReadSkeleton(path)
    clock = watched if fps is None else None
    clock_identity = None if clock is None else clock.identity
    for request in requests:
        changed = "" if clock is None else clock.fault(request.video_source, request.interval)
        changed = changed or read.fault(request.file_source, request.interval, fps, clock_identity)
        if changed:
            yield ClipFailed(request, "skeleton", changed)
            continue
        for item in _windows(request, skeleton):
            if isinstance(item, _Window):
                yield _prepare(item, joints_of)
            else:
                yield item


def _read_video(
    requests: Sequence[ClipRequest],
    index: VideoIndex | MgcliError | None,
    watched: WatchedVideo | None,
    decoder: Decoder,
) -> Iterator[ClipEvent]:
    """The inputs of clips that share a video, as soon as the last frame of each is decoded."""
    if watched is None or not isinstance(index, VideoIndex):
        reason = "the clip table names no video for this clip" if index is None else str(index)
        yield from (ClipFailed(request, "open", reason) for request in requests)
        return
    face_crops = FaceCrops(index.num_frames, requests[0].backbone.device)
    read: dict[Path, ReadFaces] = {}
    windows: list[_Window] = []
    for request in requests:
        changed = watched.fault(request.video_source, request.interval)
        if changed:
            yield ClipFailed(request, "open", changed)
            continue
        path = request.face if request.backbone.reads == "face" else None
        if path is not None:
            try:
                face_crops.open(path)
            except FaceError as error:
                yield ClipFailed(request, "face", str(error))
                continue
            if path not in read:
                read[path] = ReadFaces(path)
            changed = read[path].fault(request.file_source, request.interval, watched.identity)
            if changed:
                yield ClipFailed(request, "face", changed)
                continue
        for item in _windows(request, index):
            if isinstance(item, _Window):
                windows.append(item)
            else:
                yield item
    windows.sort(key=lambda window: (window.frames[-1], window.request.number, window.window))
    still_needed = Counter(frame for window in windows for frame in set(window.frames.tolist()))
    decoded: dict[int, Pictures] = {}  # frames that a later window needs

    def media_of(window: _Window) -> np.ndarray:
        request, view = window.request, window.request.view
        pictures = [decoded[frame][request.look] for frame in window.frames.tolist()]
        if request.backbone.reads == "face":
            times_s = index.time_s[window.frames]
            detector, jitter = request.backbone.detector, None if view is None else view.face
            return face_crops.align(request.number, request.face, window.frames, times_s, pictures, detector, jitter)
        if view is not None and request.look is None:
            pictures = [view.framing(picture) for picture in pictures]
        return _stacked(pictures, index, window.frames)

    def complete(window: _Window) -> ClipEvent:
        frames, request = window.frames.tolist(), window.request
        missing = next((frame for frame in frames if frame not in decoded), None)
        changed = watched.fault(request.video_source, request.interval)
        if changed:
            event: ClipEvent = ClipFailed(request, "decode", changed)
        elif missing is not None:
            reason = f"{index.path}: the frame at {said(index.time_s[missing])} cannot be decoded"
            event = ClipFailed(request, "decode", reason)
        else:
            event = _prepare(window, media_of)
        for frame in set(frames):
            still_needed[frame] -= 1
            if still_needed[frame] == 0:
                decoded.pop(frame, None)
        return event

    place = 0
    try:
        for frame, pictures in decoder.pictures(index, _needs(windows)):
            while place < len(windows) and windows[place].frames[-1] < frame:  # its last frame was left out
                yield complete(windows[place])
                place += 1
            decoded[frame] = pictures
            while place < len(windows) and windows[place].frames[-1] == frame:
                yield complete(windows[place])
                place += 1
        for window in windows[place:]:
            yield complete(window)
    except VideoError as error:
        yield from (ClipFailed(window.request, "decode", str(error)) for window in windows[place:])


def _needs(windows: Sequence[_Window]) -> dict[int, tuple[Look, ...]]:
    """What each frame of a video is needed as, the same in every run."""
    needs: dict[int, dict[Look, None]] = {}
    for window in windows:
        look = window.request.look
        for frame in window.frames.tolist():
            needs.setdefault(frame, {})[look] = None
    return {frame: tuple(looks) for frame, looks in needs.items()}


def _stacked(pictures: Sequence[np.ndarray], index: VideoIndex, frames: np.ndarray) -> np.ndarray:
    """(T, H, W, 3), or (T, h, w, 3) as the backbone has them shrunk, from T pictures.

    Raises:
        VideoError: the pictures are of several sizes.
    """
    sizes = [picture.shape[:2] for picture in pictures]
    other = next((place for place, size in enumerate(sizes) if size != sizes[0]), None)
    if other is None:
        return np.stack(pictures)
    before, after = (f"{width}x{height}" for height, width in (sizes[0], sizes[other]))
    raise VideoError(
        f"{index.path}: the picture changes its size before {said(index.time_s[frames[other]])}, from {before} to "
        f"{after} pixels; end the clip before, or convert the video to one size"
    )


def _prepare(window: _Window, media_of: Callable[[_Window], np.ndarray]) -> InputReady | ClipFailed:
    try:
        prepared = window.request.backbone.prepare(media_of(window), window.times_s)
    except FaceError as error:
        return ClipFailed(window.request, "face", str(error))
    except VideoError as error:
        return ClipFailed(window.request, "decode", str(error))
    except MgcliError as error:
        return ClipFailed(window.request, "prepare", str(error))
    return InputReady(window.request, window.window, window.of, prepared)


def _windows(request: ClipRequest, timeline: VideoIndex | Skeleton) -> Iterator[_Window | ClipFailed | ClipWarning]:
    """The windows of a clip with the frames or rows they need, or why there are none."""
    start_s, end_s, asked_s = clip_interval(request.seconds, request.frames, timeline)
    if start_s >= timeline.end_s:
        yield ClipFailed(
            request, "interval", f"the clip starts at {said(start_s)}, after the end at {said(timeline.end_s)}"
        )
        return
    if start_s >= end_s:
        yield ClipFailed(request, "interval", f"the clip starts at {said(start_s)} and ends at {said(end_s)}")
        return
    if isinstance(timeline, VideoIndex) and timeline.cut_short and asked_s > timeline.end_s:
        yield ClipFailed(
            request,
            "interval",
            f"{timeline.path}: cut short: its header says {said(timeline.stated_s)}, but its frames end at "
            f"{said(timeline.end_s)}, before the clip does",
        )
        return
    is_past_end = asked_s > timeline.end_s + END_SLACK_S and bool(request.seconds or request.frames)
    if is_past_end and request.view is None:
        yield ClipWarning(
            request, f"the clip ends at {said(asked_s)}, its video at {said(timeline.end_s)}; what is there is used"
        )
    windows = request.backbone.windows(start_s, end_s)
    from_s, to_s = longest_shown(timeline, start_s, end_s)
    if to_s - from_s > MAX_SHOWN_S:
        stuck = (
            f"one frame is shown from {said(from_s)} to {said(to_s)}; if a timestamp is wrong, end the clip before, or "
            "convert the video"
        )
        if len(windows) > len(np.unique(timeline.frames_at(np.concatenate(windows)))):
            yield ClipFailed(request, "interval", stuck)
            return
        if request.view is None:
            yield ClipWarning(request, stuck)
    if request.view is not None:
        windows = request.view.times(windows, start_s, end_s)
    for number, times_s in enumerate(windows):
        yield _Window(request, number, len(windows), times_s, timeline.frames_at(times_s))
