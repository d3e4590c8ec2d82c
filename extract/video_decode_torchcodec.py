"""The planned frames of a video by torchcodec: on a GPU by its decoder chip (NVDEC), or on the processor.

Each frame is asked for by its presentation time, and what comes is held against the video's index. Where torchcodec
gives no frame, or another one (MPEG-TS, a damaged stretch, files without times), it gives up, and PyAV decodes what is
left of that video: bad files so give the same frames, and fail for the same reasons, as without torchcodec.

Nothing here was ever run on a GPU; what is meant for one is `_refuse_processor` and the device of tensors. The same
code on the processor gives PyAV's pictures bit for bit. Not known of a GPU are its speed, what memory the contexts of
several decoder processes take, and how NVDEC conceals damage that it does not report.
"""

# Shapes: H height, W width; h, w those of a crop.

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torchcodec.decoders import VideoDecoder

from mgcli.extract.decoder import Needs, Pictures
from mgcli.extract.shrink import FramedShrink, Shrink
from mgcli.extract.video import VideoIndex, open_stream
from mgcli.extract.video_decode import DecodeCount

LONGEST_STEP = 250  # frames decoded without a sign of life


class GivesUpError(Exception):
    """torchcodec does not give the next frame; those before it were given. The words say no more than the kind of
    reason, so that a run with many such videos says each once."""


def torchcodec_pictures(
    index: VideoIndex,
    needs: Needs,
    *,
    device: str,
    threads: int,
    count: DecodeCount,
    on_packet: Callable[[], None] | None = None,
) -> Iterator[tuple[int, Pictures]]:
    """The needed frames in order, each as all that it is needed as; shrunk where they are decoded.

    Args:
        index: of the video.
        needs: which frames.
        device: such as cpu or cuda:0.
        threads: of a decoder on the processor.
        count: kept up to date; frames decoded are counted from the key frames, as torchcodec does not tell.
        on_packet: called every now and then, a sign of life.

    Raises:
        GivesUpError: see there.
        VideoError: the file can no longer be opened.
    """
    if index.counted:
        raise GivesUpError("files whose frames bear no times")
    decoder = _open(index, device, threads)
    last = -1
    for frame in sorted(needs):
        started = time.perf_counter()
        start = max(last + 1, index.key_frame_before(frame) or 0)
        for stop in (*range(start + LONGEST_STEP, frame, LONGEST_STEP), frame):
            picture = _frame(decoder, index, stop)  # (H, W, 3)
            if on_packet is not None:
                on_packet()
        if last < 0:  # some versions know only once they have decoded
            _refuse_processor(decoder, device)
        decoded = time.perf_counter()
        pictures = {look: (picture if look is None else shrunk(picture, look)).cpu().numpy() for look in needs[frame]}
        count.decode_s += decoded - started
        count.convert_s += time.perf_counter() - decoded
        count.decoded += frame - start + 1
        count.converted += 1
        last = frame
        yield frame, pictures


def shrunk(picture: Tensor, look: Shrink | FramedShrink) -> Tensor:
    """(H, W, 3) uint8 -> (h, w, 3) uint8 on the same device, with the values that `look` itself gives."""
    if isinstance(look, FramedShrink):
        part = picture[look.framing.part((picture.shape[0], picture.shape[1]))]
        return shrunk(part.flip(1) if look.framing.mirrored else part, look.shrink)
    (top, bottom, down), (left, right, along) = _taps_on((picture.shape[0], picture.shape[1]), look, picture.device)
    down, along = down[:, None, None], along[None, :, None]
    upper, lower = (rows[:, left] * (1 - along) + rows[:, right] * along for rows in (picture[top], picture[bottom]))
    return torch.round(upper * (1 - down) + lower * down).to(torch.uint8)


@lru_cache(64)
def _taps_on(size_px: tuple[int, int], shrink: Shrink, device: torch.device) -> Any:
    return [tuple(torch.from_numpy(each).to(device) for each in axis) for axis in shrink.taps(size_px)]


def _open(index: VideoIndex, device: str, threads: int) -> VideoDecoder:
    with open_stream(index.path) as (_, stream):
        number = stream.index
    try:
        return VideoDecoder(
            str(index.path), stream_index=number, dimension_order="NHWC", num_ffmpeg_threads=threads, device=device
        )
    except (RuntimeError, ValueError) as error:
        raise GivesUpError("files that it does not open") from error


def _refuse_processor(decoder: VideoDecoder, device: str) -> None:
    """Where NVDEC does not take a video, torchcodec itself would turn to the processor, and say nothing."""
    if device.startswith("cuda") and decoder.cpu_fallback:
        raise GivesUpError("files that the GPU cannot decode")


def _frame(decoder: VideoDecoder, index: VideoIndex, number: int) -> Tensor:
    """(H, W, 3) uint8 on the decoder's device: the frame of that time, and no other."""
    at_s = float(index.pts[number]) * index.tick_s
    try:
        frame = decoder.get_frame_played_at(at_s + index.tick_s / 4)  # not on the edge of a frame, for rounding
    except (RuntimeError, IndexError) as error:
        raise GivesUpError("frames that it cannot decode") from error
    if abs(frame.pts_seconds - at_s) > index.tick_s / 2:
        raise GivesUpError("frames in whose place it gives others")
    return frame.data
