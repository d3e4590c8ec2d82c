"""Frames of a video by presentation time: what a file holds, and how to decode few of them.

Times count from the first frame of the video, whatever number its container gives that frame, so frame 0 is
at 0 s. The frame "at" a time is the last one shown at or before it: variable frame rates need no other rule.
"""

# Shapes: T frames asked for, F frames in the video, H height, W width.

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import av.container
import numpy as np

from mgcli.cache import MgcliError
from mgcli.extract.media_file import why_unreadable

RESTART_S = 0.5  # decoding times that fall back by more start anew; B-frames leave those in order
FEW_DOUBLED = 0.1  # of the frames, or three, may have the time of one that is not their neighbour
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

    def key_frame_before(self, frame: int) -> int | None:
        """The last key frame that is not shown after a frame; None where none is known, or a video is `counted`."""
        if self.counted or not len(self.key_frames):
            return None
        place = int(np.searchsorted(self.key_frames, frame, side="right")) - 1
        return int(self.key_frames[place]) if place >= 0 else None


@dataclass(frozen=True, eq=False)
class Segment:
    """Frames that one forward run of the decoder gives."""

    frames: np.ndarray  # int64, ascending
    start: int  # frame at which decoding starts: 0 or a key frame
    first_packet: int  # places in the file of the first and the last packet that the decoder is given
    last_packet: int


@dataclass(frozen=True, eq=False)
class DecodePlan:
    """Which frames of a video are needed, and which packets the decoder is given to get them."""

    segments: tuple[Segment, ...]
    num_decoded: int  # frames that this decodes at most: of those that nothing hangs on some are passed over


def index_video(path: Path, *, on_packet: Callable[[], None] | None = None) -> VideoIndex:
    """Presentation times and key frames of a video's first video stream.

    Args:
        path: the file.
        on_packet: called for each packet of the file, a sign of life while a long one is read.

    Raises:
        VideoError: nothing in the file can be shown as a video; the message says why.
    """
    with open_stream(path) as (container, stream):
        packets, readable_s = _read_packets(container, stream, on_packet)
        shown = np.flatnonzero([packet.is_shown for packet in packets])  # (F,) positions in the file
        if not len(shown):
            raise VideoError(f"{path}: no frame can be read; is the file damaged or cut short?")
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        time_base = stream.time_base or 1 / rate
        timed = all(packet.pts is not None for packet in packets)
        if timed:
            _refuse_restarts(path, [packets[position] for position in shown], float(time_base))
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
    """The cheapest way, in order, to the frames of a video, each decoded at most once.

    From the key frame before the needed frames to the last of them, and on from the next key frame that some
    needed frame hangs on: what lies between is never decoded. A `counted` video is decoded from its start.
    """
    needed = np.unique(np.asarray(list(frames), dtype=np.int64))
    place_of = index.decode_position
    segments: list[Segment] = []
    start, first, last_packet = 0, 0, -1
    for place, frame in enumerate(needed.tolist()):
        key = index.key_frame_before(frame)
        if key is not None and place_of[key] > last_packet + 1:
            if place > first:
                segments.append(_segment(index, needed[first:place], start, last_packet))
            start, first, last_packet = key, place, int(place_of[key])
        last_packet = max(last_packet, int(place_of[frame]))
    if len(needed):
        segments.append(_segment(index, needed[first:], start, last_packet))
    num_given = sum(segment.last_packet - segment.first_packet + 1 for segment in segments)
    return DecodePlan(segments=tuple(segments), num_decoded=num_given)


def _segment(index: VideoIndex, frames: np.ndarray, start: int, last_packet: int) -> Segment:
    first_packet = int(index.decode_position[start]) if start > 0 else 0
    return Segment(frames=frames, start=start, first_packet=first_packet, last_packet=last_packet)


@dataclass(frozen=True)
class _Packet:
    """What the index needs to know of one packet of the video stream."""

    pts: int | None
    dts: int | None
    duration: int
    is_key: bool
    is_shown: bool  # False where an edit list hides it


def _read_packets(
    container: av.container.InputContainer, stream: av.VideoStream, on_packet: Callable[[], None] | None
) -> tuple[list[_Packet], float]:
    """The stream's packets in file order, and how many seconds all streams of the file reach."""
    packets: list[_Packet] = []
    first_s: float | None = None
    last_s = 0.0
    try:
        for packet in container.demux():
            if on_packet is not None:
                on_packet()
            if packet.size == 0 or packet.is_corrupt:  # the end marker; a packet that the end of the file cuts
                continue
            if packet.pts is not None and packet.time_base is not None:
                shown_s = float(packet.pts * packet.time_base)
                first_s = shown_s if first_s is None else min(first_s, shown_s)
                last_s = max(last_s, shown_s + float((packet.duration or 0) * packet.time_base))
            if packet.stream.index == stream.index:
                packets.append(
                    _Packet(packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe, not packet.is_discard)
                )
    except av.FFmpegError:
        pass  # what was read before the damage can be used; the header's length tells how much is lost
    return packets, last_s - (first_s or 0.0)


def _refuse_restarts(path: Path, packets: list[_Packet], tick_s: float) -> None:
    """Refuse a video that holds several, one behind another, each with times of its own: most frames would be lost.

    Raises:
        VideoError: it names the time.
    """
    dts = np.array([packet.dts for packet in packets if packet.dts is not None], dtype=np.int64)
    falls = np.flatnonzero(-np.diff(dts) * tick_s > RESTART_S)
    pts = [packet.pts for packet in packets]
    apart = pts[:1] + [time for before, time in pairwise(pts) if time != before]  # the fields of a frame may share one
    doubled = len(apart) - len(set(apart))
    if not len(falls) and doubled <= max(3, FEW_DOUBLED * len(packets)):
        return
    where = f"at {(dts[falls[0]] - dts[0]) * tick_s:.2f} s" if len(falls) else f"for {doubled} frames"
    raise VideoError(f"{path}: its timestamps start anew {where}; remux it: ffmpeg -i FILE -c copy NEW.mkv")


def _stated_length(container: av.container.InputContainer, stream: av.VideoStream) -> float:
    """Seconds that the header promises; 0 if it does not say."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else 0.0


def _typical_step(pts: np.ndarray, rate: Fraction, time_base: Fraction) -> int:
    """Ticks from one frame to the next, for a last frame that does not say how long it lasts."""
    return int(np.median(np.diff(pts))) if len(pts) > 1 else max(1, round(1 / (rate * time_base)))


@contextmanager
def open_stream(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """The file and its first real video stream.

    Raises:
        VideoError: there is none.
    """
    fault = why_unreadable(path)
    if fault:
        raise VideoError(f"{path}: {fault}")
    try:
        if path.stat().st_size == 0:
            raise VideoError(f"{path}: the file is empty (0 bytes)")
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
