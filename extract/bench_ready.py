"""Decoding without the network, and the network without decoding: what decoders gave, given again from memory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from mgcli.extract.clip_request import ClipRequest, InputReady
from mgcli.extract.decoder import Decoder, Decoders, Needs, Pictures
from mgcli.extract.inputs import by_file, read_file
from mgcli.extract.read_ahead import read_ahead
from mgcli.extract.run_clock import RunProfile
from mgcli.extract.shrink import Look
from mgcli.extract.video import VideoIndex
from mgcli.extract.video_decode import DecodeCount


def decode_alone(
    requests: Sequence[ClipRequest], decoders: Decoders, *, workers: int, lookahead: int, repeats_after: int
) -> tuple[RunProfile, ReadyPictures]:
    """Bring clips to the point at which the network would take them, and no further.

    Args:
        requests: for a backbone that reads videos.
        decoders: closed at the end.
        workers: videos read at once.
        lookahead: as for `read_ahead`.
        repeats_after: frames after which the videos, all of them alike, begin anew.

    Returns:
        how long that took, the first clip for itself; and the pictures.
    """
    ready = ReadyPictures(repeats_after)
    started = time.perf_counter()
    first_s, inputs = 0.0, 0
    read = partial(read_file, decoders=_Keeping(decoders, ready))
    events = read_ahead(by_file(requests), read, workers=workers, lookahead=lookahead)
    with closing(events), closing(decoders):
        for event in events:
            assert isinstance(event, InputReady), event
            inputs += 1
            first_s = first_s or time.perf_counter() - started
    count = decoders.count
    profile = RunProfile(
        seconds=time.perf_counter() - started,
        inputs=inputs,
        first_s=first_s,
        first_inputs=1,
        decoded_frames=count.decoded,
        converted_frames=count.converted,
        decode_s=count.decode_s,
        convert_s=count.convert_s,
    )
    return profile, ready


class ReadyPictures:
    """Gives what real decoders gave for the same clips (a `Decoders`, and the `Decoder` that it lends).

    What is the same in many places of made-up videos is kept once: no more memory is held, or read, than a decoder
    would fill again and again.
    """

    def __init__(self, repeats_after: int) -> None:
        self.count = DecodeCount()  # stays at nothing
        self._repeats_after = repeats_after
        self._indexes: dict[Path, VideoIndex] = {}
        self._pictures: dict[Path, list[tuple[int, Pictures]]] = {}
        self._distinct: dict[tuple[Look, int], np.ndarray] = {}

    def borrow(self) -> nullcontext[ReadyPictures]:
        return nullcontext(self)

    def close(self) -> None:
        pass

    def index(self, path: Path) -> VideoIndex:
        return self._indexes[path]

    def pictures(self, index: VideoIndex, needs: Needs) -> Iterator[tuple[int, Pictures]]:
        kept = self._pictures[index.path]
        assert len(kept) == len(needs)
        return iter(kept)

    def keep(self, index: VideoIndex, frame: int, pictures: Pictures) -> None:
        """Keep the next pictures of a video."""
        self._indexes[index.path] = index
        distinct = {look: self._once(look, frame, picture) for look, picture in pictures.items()}
        self._pictures.setdefault(index.path, []).append((frame, distinct))

    def _once(self, look: Look, frame: int, picture: np.ndarray) -> np.ndarray:
        known = self._distinct.setdefault((look, frame % self._repeats_after), picture)
        return known if np.array_equal(known, picture) else picture


class _Keeping:
    """Lends the decoders of others, and keeps what they give (a `Decoders`)."""

    def __init__(self, decoders: Decoders, ready: ReadyPictures) -> None:
        self.count = decoders.count
        self._decoders, self._ready = decoders, ready

    @contextmanager
    def borrow(self) -> Iterator[Decoder]:
        with self._decoders.borrow() as decoder:
            yield _KeepingDecoder(decoder, self._ready)

    def close(self) -> None:
        self._decoders.close()


@dataclass(frozen=True)
class _KeepingDecoder:
    decoder: Decoder
    ready: ReadyPictures

    def index(self, path: Path) -> VideoIndex:
        return self.decoder.index(path)

    def pictures(self, index: VideoIndex, needs: Needs) -> Iterator[tuple[int, Pictures]]:
        for frame, pictures in self.decoder.pictures(index, needs):
            self.ready.keep(index, frame, pictures)
            yield frame, pictures
