"""What reads videos for stage one: in this process, or in one of its own that a bad file may crash.

`decoder_process.py` is the other member; both give the same pictures, made by `needed_pictures`.
"""

# Shapes: H height, W width.

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

import numpy as np

from mgcli.extract.shrink import Look
from mgcli.extract.video import VideoIndex, index_video, plan_decode
from mgcli.extract.video_decode import DecodeCount, decode_frames

Needs = Mapping[int, tuple[Look, ...]]  # frame -> what it is needed as
Pictures = dict[Look, np.ndarray]  # (H, W, 3) uint8 each


class Decoder(Protocol):
    """Reads one video at a time: first its index, then frames of it."""

    def index(self, path: Path) -> VideoIndex:
        """What a video holds.

        Raises:
            VideoError: it cannot be read.
        """
        ...

    def pictures(self, index: VideoIndex, needs: Needs) -> Iterator[tuple[int, Pictures]]:
        """Frames of the video that was last indexed, in order, each as all that it is needed as.

        A frame that cannot be decoded is stood in for by the one shortly before, or left out.

        Raises:
            VideoError: decoding cannot go on.
        """
        ...


class Decoders(Protocol):
    """Lends decoders to threads; closing it ends what they are at."""

    count: DecodeCount  # of all of them

    def borrow(self) -> AbstractContextManager[Decoder]:
        """A decoder for one video."""
        ...

    def close(self) -> None:
        """No decoder is lent any more."""
        ...


class InlineDecoders:
    """Decoding in the caller's own thread: for tests, notebooks and `--workers 0`."""

    def __init__(self, threads: int = 1) -> None:
        """Args: threads: of the decoder."""
        self.count = DecodeCount()
        self._threads = threads

    def borrow(self) -> AbstractContextManager[Decoder]:
        return nullcontext(self)

    def close(self) -> None:
        pass

    def index(self, path: Path) -> VideoIndex:
        return index_video(path)

    def pictures(self, index: VideoIndex, needs: Needs) -> Iterator[tuple[int, Pictures]]:
        return needed_pictures(index, needs, threads=self._threads, count=self.count)


def needed_pictures(
    index: VideoIndex,
    needs: Needs,
    *,
    threads: int,
    count: DecodeCount,
    on_packet: Callable[[], None] | None = None,
) -> Iterator[tuple[int, Pictures]]:
    """Decode, convert and shrink: each frame once, however many clips and backbones need it."""
    plan = plan_decode(index, list(needs))
    for frame, rgb in decode_frames(index, plan, threads=threads, count=count, on_packet=on_packet):
        started = time.perf_counter()
        pictures = {look: rgb if look is None else look(rgb) for look in needs[frame]}
        count.convert_s += time.perf_counter() - started
        yield frame, pictures
