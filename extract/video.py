"""Frames of a video by presentation time: what a file holds, which frames are needed, decoding each once.

Times count from the first frame of the video, whatever number its container gives that frame, so frame 0 is
at 0 s. The frame "at" a time is the last one shown at or before it: variable frame rates need no other rule.
"""

# Shapes: T frames asked for, F frames in the video, H height, W width.

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.container
import numpy as np

from mgcli.cache import MgcliError

SEEK_GAIN_FRAMES = 12  # a seek flushes the decoder: worth it when it skips more frames than this
STALE_S = 0.5  # a frame that cannot be decoded is stood in for by the one before, if shown this shortly before
STATED_SLACK_S = 0.5  # a header may overstate the length by this much before the file counts as cut short

_STILL_OR_TEXT = ("tty", "image2")  # what FFmpeg opens as "video" though nobody would call it one


class VideoError(MgcliError):
    """A video that cannot be read: missing, empty, cut short, or not a video."""


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """When each frame of a video is shown, read from its packets without decoding any.

    A file without usable presentation times (raw streams, AVI) is `counted`: its frames are decoded from
    the start and take the times in order.
    """

    path: Path
    time_s: np.ndarray  # (F,) float64, ascending, from 0
    end_s: float  # when the last frame ends
    pts: np.ndarray  # (F,) int64, the same in the stream's own ticks
    tick_s: float
    decode_position: np.ndarray  # (F,) int64, place of each frame's packet in the file
    key_frames: np.ndarray  # int64, frames at which decoding can start, ascending
    counted: bool
    cut_short: bool  # the header promises more frames than the file holds
    stated_s: float  # length that the header promises; 0 if it does not say
    size_px: tuple[int, int]  # width and height as stored, before any turn

    @property
    def num_frames(self) -> int:
        return len(self.time_s)

    def frames_at(self, times_s: np.ndarray) -> np.ndarray:
        """Index of the frame shown at each time; the first frame for times before it.

        Args:
            times_s: (T,) seconds from the first frame.

        Returns:
            (T,) int64 in [0, F).
        """
        # a microsecond of grace: 0.28 s and 7 ticks of 1/25 s are the same moment
        shown = np.searchsorted(self.time_s, np.asarray(times_s) + 1e-6, side="right") - 1
        return np.clip(shown, 0, self.num_frames - 1).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Segment:
    """Frames that one forward run of the decoder gives."""

    frames: np.ndarray  # int64, ascending
    start: int  # frame at which decoding starts: 0 or a key frame


@dataclass(frozen=True, eq=False)
class DecodePlan:
    """Which frames of a video are needed, and between which of them a seek is worth it."""

    segments: tuple[Segment, ...]
    num_decoded: int  # frames that have to be decoded to get them


def index_video(path: Path) -> VideoIndex:
    """Presentation times and key frames of a video's first video stream.

    Raises:
        VideoError: nothing in the file can be shown as a video; the message says why.
    """
    with _open_stream(path) as (container, stream):
        packets, readable_s = _read_packets(container, stream)
        shown = np.flatnonzero([packet.is_shown for packet in packets])  # (F,) positions in the file
        if not len(shown):
            raise VideoError(f"{path}: no frame can be read; is the file damaged or cut short?")
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        time_base = stream.time_base or 1 / rate
        timed = all(packet.pts is not None for packet in packets)
        if timed:
            pts, first = np.unique([packets[position].pts or 0 for position in shown], return_index=True)
            shown = shown[first]  # in order of presentation
        else:
            time_base = 1 / rate
            pts = np.arange(len(shown))
        counted = not timed or container.format.name == "avi"  # AVI numbers packets, not frames shown
        last_ticks = packets[shown[-1]].duration if timed else 1
        end_pts = pts[-1] + (last_ticks or _typical_step(pts, rate, time_base))
        end_s = float((end_pts - pts[0]) * time_base)
        stated_s = _stated_length(container, stream)
        lost_frames = len(packets) < stream.frames if stream.frames else True
        return VideoIndex(
            path=path,
            time_s=(pts - pts[0]) * float(time_base),
            end_s=end_s,
            pts=pts,
            tick_s=float(time_base),
            decode_position=np.sort(shown) if counted else shown,
            key_frames=np.flatnonzero([packets[position].is_key for position in shown]),
            counted=counted,
            cut_short=lost_frames and stated_s > max(end_s, readable_s) + STATED_SLACK_S,
            stated_s=stated_s,
            size_px=(stream.codec_context.width, stream.codec_context.height),
        )


def plan_decode(index: VideoIndex, frames: Iterable[int] | np.ndarray) -> DecodePlan:
    """The cheapest way, in order, to the frames of a video, each decoded at most once."""
    needed = np.unique(np.asarray(list(frames), dtype=np.int64))
    deepest = np.maximum.accumulate(index.decode_position)  # (F,) packets read once frame i is out
    segments: list[Segment] = []
    start, first, reached, num_decoded = 0, 0, -1, 0
    for place, frame in enumerate(needed):
        key = _key_frame_before(index, frame)
        if key is not None and index.decode_position[key] - (reached + 1) > SEEK_GAIN_FRAMES:
            if place > first:
                segments.append(Segment(frames=needed[first:place], start=start))
            start, first = key, place
            reached = int(index.decode_position[key]) - 1
        num_decoded += max(0, int(deepest[frame]) - reached)
        reached = max(reached, int(deepest[frame]))
    if len(needed):
        segments.append(Segment(frames=needed[first:], start=start))
    return DecodePlan(segments=tuple(segments), num_decoded=num_decoded)


def decode_frames(index: VideoIndex, plan: DecodePlan, *, threads: int = 1) -> Iterator[tuple[int, np.ndarray]]:
    """The planned frames in order, upright, as (frame, (H, W, 3) uint8 RGB).

    A frame that cannot be decoded is replaced by the one before it if that was shown up to `STALE_S` earlier,
    and left out otherwise.

    Raises:
        VideoError: the file can no longer be opened, or the decoder gives up.
    """
    done = -1
    try:
        with _open_stream(index.path) as (container, stream):
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = threads
            for segment in plan.segments:
                if segment.start > 0:
                    container.seek(int(index.pts[segment.start]), stream=stream, backward=True)
                for frame, rgb in _decode_segment(container, stream, index, segment):
                    yield frame, rgb
                    done = frame
        return
    except (_SeekMissedError, av.FFmpegError):
        pass
    # this container cannot seek exactly, or not at all: decode what is left from the start
    left = np.concatenate([segment.frames for segment in plan.segments])
    left = left[left > done]
    with _open_stream(index.path) as (container, stream):
        try:
            yield from _decode_segment(container, stream, index, Segment(frames=left, start=0))
        except av.FFmpegError as error:
            raise VideoError(f"{index.path}: decoding stopped ({error.strerror})") from error


class _SeekMissedError(Exception):
    """A seek that came down after the key frame it was meant for."""


def _decode_segment(
    container: av.container.InputContainer, stream: av.VideoStream, index: VideoIndex, segment: Segment
) -> Iterator[tuple[int, np.ndarray]]:
    wanted = iter(segment.frames.tolist())
    want = next(wanted, None)
    previous: tuple[int, av.VideoFrame] | None = None
    for ticks, frame in _frames_with_pts(container, stream, index, segment):
        while want is not None and ticks > index.pts[want]:  # it was passed over, or could not be decoded
            yield from _stand_in(index, want, previous)
            want = next(wanted, None)
        if want is not None and ticks == index.pts[want]:
            yield want, _upright_rgb(frame)
            want = next(wanted, None)
        if want is None:
            return
        previous = (ticks, frame)
    if want is not None:
        for late in (want, *wanted):
            yield from _stand_in(index, late, previous)


def _frames_with_pts(
    container: av.container.InputContainer, stream: av.VideoStream, index: VideoIndex, segment: Segment
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Decoded frames with the presentation time that the index gives them."""
    landed = segment.start == 0
    count = 0
    for packet in container.demux(stream):
        if packet.size and not landed:
            if packet.pts is None or packet.pts > index.pts[segment.start]:
                raise _SeekMissedError
            landed = True
        if packet.is_corrupt:
            continue
        try:
            frames = packet.decode()
        except av.FFmpegError:  # a damaged packet costs its own frame
            continue
        for frame in frames:
            if index.counted:
                if count < index.num_frames:
                    yield int(index.pts[count]), frame
                count += 1
            elif frame.pts is not None:
                yield frame.pts, frame


def _stand_in(
    index: VideoIndex, want: int, previous: tuple[int, av.VideoFrame] | None
) -> Iterator[tuple[int, np.ndarray]]:
    """The frame before a missing one, if it was shown shortly before."""
    if previous is not None and (index.pts[want] - previous[0]) * index.tick_s <= STALE_S:
        yield want, _upright_rgb(previous[1])


def _upright_rgb(frame: av.VideoFrame) -> np.ndarray:
    rgb = frame.to_ndarray(format="rgb24")  # (H, W, 3)
    quarter_turns = round(frame.rotation / 90) % 4  # the display matrix turns counter-clockwise, as rot90 does
    return np.ascontiguousarray(np.rot90(rgb, quarter_turns)) if quarter_turns else rgb


@dataclass(frozen=True)
class _Packet:
    """What the index needs to know of one packet of the video stream."""

    pts: int | None
    duration: int
    is_key: bool
    is_shown: bool  # False where an edit list hides it


def _read_packets(container: av.container.InputContainer, stream: av.VideoStream) -> tuple[list[_Packet], float]:
    """The stream's packets in file order, and how many seconds all streams of the file reach."""
    packets: list[_Packet] = []
    first_s: float | None = None
    last_s = 0.0
    try:
        for packet in container.demux():
            if packet.size == 0 or packet.is_corrupt:  # the end marker; a packet that the end of the file cuts
                continue
            if packet.pts is not None and packet.time_base is not None:
                shown_s = float(packet.pts * packet.time_base)
                first_s = shown_s if first_s is None else min(first_s, shown_s)
                last_s = max(last_s, shown_s + float((packet.duration or 0) * packet.time_base))
            if packet.stream.index == stream.index:
                packets.append(_Packet(packet.pts, packet.duration or 0, packet.is_keyframe, not packet.is_discard))
    except av.FFmpegError:
        pass  # what was read before the damage can be used; the header's length tells how much is lost
    return packets, last_s - (first_s or 0.0)


def _stated_length(container: av.container.InputContainer, stream: av.VideoStream) -> float:
    """Seconds that the header promises; 0 if it does not say."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else 0.0


def _key_frame_before(index: VideoIndex, frame: int) -> int | None:
    if index.counted or not len(index.key_frames):
        return None
    place = int(np.searchsorted(index.key_frames, frame, side="right")) - 1
    return int(index.key_frames[place]) if place >= 0 else None


def _typical_step(pts: np.ndarray, rate: Fraction, time_base: Fraction) -> int:
    """Ticks from one frame to the next, for a last frame that does not say how long it lasts."""
    return int(np.median(np.diff(pts))) if len(pts) > 1 else max(1, round(1 / (rate * time_base)))


@contextmanager
def _open_stream(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """The file and its first real video stream.

    Raises:
        VideoError: there is none.
    """
    if not path.exists():
        raise VideoError(f"{path}: no such file")
    if path.is_dir():
        raise VideoError(f"{path}: is a folder, not a video")
    if path.stat().st_size == 0:
        raise VideoError(f"{path}: the file is empty (0 bytes)")
    try:
        container = av.open(str(path))
    except av.InvalidDataError as error:
        raise VideoError(f"{path}: not a video, or cut short before its table of contents") from error
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{path}: cannot be opened ({error.strerror})") from error
    with container:
        if container.format.name in _STILL_OR_TEXT or container.format.name.endswith("_pipe"):
            raise VideoError(f"{path}: not a video (read as {container.format.name})")
        cover = av.stream.Disposition.attached_pic  # an audio file's cover picture is no video
        streams = [stream for stream in container.streams.video if not stream.disposition & cover]
        if not streams:
            kind = "only audio" if container.streams.audio else "no video"
            raise VideoError(f"{path}: the file holds {kind}")
        if streams[0].codec_context is None:
            raise VideoError(f"{path}: no decoder for its video; convert it to H.264")
        yield container, streams[0]
