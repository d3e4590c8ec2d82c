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

from mgcli.cache import warn
from mgcli.extract.decoder_library import PYAV, Library
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

    def __init__(self, threads: int = 1, library: Library = PYAV, say: Callable[[str], None] = warn) -> None:
        """Args: threads: of the decoder; library: that decodes; say: told what a person should know."""
        self.count = DecodeCount()
        self._threads, self._library, self._say = threads, library, say

    def borrow(self) -> AbstractContextManager[Decoder]:
        return nullcontext(self)

    def close(self) -> None:
        pass

    def index(self, path: Path) -> VideoIndex:
        return index_video(path)

    def pictures(self, index: VideoIndex, needs: Needs) -> Iterator[tuple[int, Pictures]]:
        return needed_pictures(
            index, needs, library=self._library, threads=self._threads, count=self.count, say=self._say
        )


def needed_pictures(
    index: VideoIndex,
    needs: Needs,
    *,
    library: Library,
    threads: int,
    count: DecodeCount,
    say: Callable[[str], None],
    on_packet: Callable[[], None] | None = None,
) -> Iterator[tuple[int, Pictures]]:
    """Decode, convert and shrink: each frame once, however many clips and backbones need it."""
    frames = sorted(needs)
    done = -1
    if library.name == "torchcodec":
        from mgcli.extract.video_decode_torchcodec import GivesUpError, torchcodec_pictures  # torch loads here

        try:
            for frame, pictures in torchcodec_pictures(
                index, needs, device=library.device, threads=threads, count=count, on_packet=on_packet
            ):
                yield frame, pictures
                done = frame
            return
        except GivesUpError as error:
            left = [frame for frame in frames if frame > done]
            count.handed_over += len(left)
            # from the key frame on, so that damage is met, and stood in for, as if PyAV had decoded all
            frames = [frame for frame in frames if frame >= (index.key_frame_before(left[0]) or 0)]
            say(f"torchcodec gives up on {error}; PyAV decodes those")
    plan = plan_decode(index, frames)
    for frame, rgb in decode_frames(index, plan, threads=threads, count=count, on_packet=on_packet):
        if frame <= done:
            continue
        started = time.perf_counter()
        pictures = {look: rgb if look is None else look(rgb) for look in needs[frame]}
        count.convert_s += time.perf_counter() - started
        yield frame, pictures
