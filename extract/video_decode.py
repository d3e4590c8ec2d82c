"""The planned frames of a video, decoded: only what is needed is converted, and what nothing hangs on is passed over.

The frames are the same bits whatever else is asked for, by any plan and number of threads.
"""

# Shapes: H height, W width.

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import av
import av.container
import numpy as np

from mgcli.extract.video import DecodePlan, Segment, VideoError, VideoIndex, open_stream

SEEK_GAIN_PACKETS = 50  # fewer than these are read and thrown away rather than sought over
STALE_S = 0.5  # a frame that cannot be decoded is stood in for by the one before, if shown this shortly before
# codecs in which a frame that is marked as no reference is one for no other frame at all
_MARKS_REFERENCES = ("h264", "mpeg4", "mpeg2video")


@dataclass
class DecodeCount:
    """What decoding took; counted up while it goes on."""

    decoded: int = 0  # frames that the decoder put out
    converted: int = 0  # frames brought to RGB
    handed_over: int = 0  # of those: left to PyAV by torchcodec
    decode_s: float = 0.0  # reading and decoding
    convert_s: float = 0.0  # to RGB, and what a caller adds for making pictures smaller


def decode_frames(
    index: VideoIndex,
    plan: DecodePlan,
    *,
    threads: int = 1,
    count: DecodeCount | None = None,
    on_packet: Callable[[], None] | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """The planned frames in order, upright, as (frame, (H, W, 3) uint8 RGB).

    A frame that cannot be decoded is replaced by the one before it if that was shown up to `STALE_S` earlier,
    and left out otherwise.

    Args:
        index: of the video.
        plan: which frames.
        threads: of the decoder.
        count: kept up to date.
        on_packet: called for each packet that is read, a sign of life where a frame is long in coming.

    Raises:
        VideoError: the file can no longer be opened, or the decoder gives up.
    """
    run = _Run(index, threads, count or DecodeCount(), on_packet or _nothing)
    done = -1
    try:
        for frame, rgb in run.frames(plan.segments):
            yield frame, rgb
            done = frame
        return
    except (_SeekMissedError, av.FFmpegError):
        pass
    # this container cannot seek exactly, or not at all: decode what is left from the start
    left = np.concatenate([segment.frames for segment in plan.segments])
    rest = Segment(left[left > done], start=0, first_packet=0, last_packet=int(index.decode_position.max()))
    try:
        yield from run.frames((rest,))
    except av.FFmpegError as error:
        raise VideoError(f"{index.path}: decoding stopped ({error.strerror})") from error


def _nothing() -> None:
    pass


class _SeekMissedError(Exception):
    """A seek that came down after the key frame it was meant for."""


@dataclass(frozen=True, eq=False)
class _Run:
    """One opening of a video, through some segments."""

    index: VideoIndex
    threads: int
    count: DecodeCount
    on_packet: Callable[[], None]

    def frames(self, segments: tuple[Segment, ...]) -> Iterator[tuple[int, np.ndarray]]:
        with open_stream(self.index.path) as (container, stream):
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = self.threads
            reader = _PacketReader(container, stream, self.index, self.on_packet)
            for segment in segments:
                yield from self._segment(reader, stream.codec_context, segment)
                stream.codec_context.flush_buffers()

    def _segment(
        self, reader: _PacketReader, codec: av.VideoCodecContext, segment: Segment
    ) -> Iterator[tuple[int, np.ndarray]]:
        """The segment's frames as they come, and stand-ins for those that do not."""
        index = self.index
        wanted = iter(segment.frames.tolist())
        want = next(wanted, None)
        previous: tuple[int, av.VideoFrame] | None = None
        for ticks, frame in self._decoded(reader, codec, segment):
            while want is not None and ticks > index.pts[want]:  # it was passed over, or could not be decoded
                yield from self._stand_in(want, previous)
                want = next(wanted, None)
            if want is not None and ticks == index.pts[want]:
                yield want, self._upright_rgb(frame)
                want = next(wanted, None)
            if want is None:
                return
            previous = (ticks, frame)
        if want is not None:
            for late in (want, *wanted):
                yield from self._stand_in(late, previous)

    def _decoded(
        self, reader: _PacketReader, codec: av.VideoCodecContext, segment: Segment
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decoded frames with the presentation time that the index gives them."""
        index, count = self.index, self.count
        needed = set(index.pts[segment.frames].tolist())
        may_skip = codec.name in _MARKS_REFERENCES and not index.counted
        counted = 0
        packets = reader.packets(segment)
        while True:
            started = time.perf_counter()
            packet = next(packets, None)
            if may_skip:
                codec.skip_frame = "DEFAULT" if packet is None or packet.pts in needed else "NONREF"
            try:
                frames = codec.decode(packet)  # None: those that the decoder still holds
            except av.FFmpegError:  # a damaged packet costs its own frame
                frames = []
            count.decode_s += time.perf_counter() - started
            count.decoded += len(frames)
            for frame in frames:
                if index.counted:
                    if counted < index.num_frames:
                        yield int(index.pts[counted]), frame
                    counted += 1
                elif frame.pts is not None:
                    yield frame.pts, frame
            if packet is None:
                return

    def _stand_in(self, want: int, previous: tuple[int, av.VideoFrame] | None) -> Iterator[tuple[int, np.ndarray]]:
        """The frame before a missing one, if it was shown shortly before."""
        if previous is not None and (self.index.pts[want] - previous[0]) * self.index.tick_s <= STALE_S:
            yield want, self._upright_rgb(previous[1])

    def _upright_rgb(self, frame: av.VideoFrame) -> np.ndarray:
        started = time.perf_counter()
        rgb: np.ndarray = frame.to_ndarray(format="rgb24")  # (H, W, 3)
        quarter_turns = round(frame.rotation / 90) % 4  # the display matrix turns counter-clockwise, as rot90 does
        if quarter_turns:
            rgb = np.ascontiguousarray(np.rot90(rgb, quarter_turns))
        self.count.convert_s += time.perf_counter() - started
        self.count.converted += 1
        return rgb


class _PacketReader:
    """Hands on the packets of segment after segment, and knows which packet of the file each is."""

    def __init__(
        self,
        container: av.container.InputContainer,
        stream: av.VideoStream,
        index: VideoIndex,
        on_packet: Callable[[], None],
    ) -> None:
        self._container, self._stream, self._index, self._on_packet = container, stream, index, on_packet
        self._packets = container.demux(stream)
        self._next = 0  # place in the file of the packet that comes next, counted as the index counts

    def packets(self, segment: Segment) -> Iterator[av.Packet]:
        """Those that a segment's frames hang on."""
        index = self._index
        landed = segment.start == 0
        start_pts = int(index.pts[segment.start])
        if segment.first_packet - self._next > SEEK_GAIN_PACKETS:
            self._container.seek(start_pts, stream=self._stream, backward=True)
            self._packets = self._container.demux(self._stream)
        dropped_before = None  # frames shown before this are dropped
        while not landed or self._next <= segment.last_packet or index.counted:
            packet = next(self._packets, None)
            self._on_packet()
            if packet is None or packet.size == 0:
                if not landed:
                    raise _SeekMissedError
                return
            if packet.is_corrupt:
                continue
            if not landed:
                if packet.pts is None or (packet.is_keyframe and packet.pts > start_pts):
                    raise _SeekMissedError
                if packet.pts != start_pts:
                    continue
                landed, self._next = True, segment.first_packet
            if packet.is_keyframe and packet.pts is not None and not index.counted:
                dropped_before = None if self._needs_leading(segment, packet.pts) else packet.pts
            self._next += 1
            if dropped_before is None or packet.pts is None or packet.pts >= dropped_before:
                yield packet

    def _needs_leading(self, segment: Segment, key_pts: int) -> bool:
        """Whether a needed frame comes after the key frame in the file, and is shown before it.

        Such frames hang on the key frame and on the one before; no frame that is shown later hangs on them.
        """
        after = self._index.decode_position[segment.frames] > self._next
        return bool(np.any(after & (self._index.pts[segment.frames] < key_pts)))
