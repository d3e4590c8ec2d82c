"""Made-up interviews for timing: a few seconds are drawn and encoded in H.264, and their packets repeated."""

# Shapes: H height, W width.

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pandas as pd

from mgcli.cache import check_clip_table

FPS = 25
DRAWN_S = 10  # one group of pictures at x264's usual setting
CLIP_S = (1.0, 4.0)  # shortest and longest gesture clip


def write_interviews(folder: Path, *, videos: int, seconds: float, size_px: tuple[int, int]) -> list[Path]:
    """Write H.264 files of someone who moves before a still background, 25 frames a second.

    Args:
        folder: where.
        videos: how many; their pictures are the same.
        seconds: length of each.
        size_px: width and height.
    """
    drawn = folder / "drawn.mp4"
    with av.open(str(drawn), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = size_px
        stream.pix_fmt = "yuv420p"
        for picture in _pictures(round(min(seconds, DRAWN_S) * FPS), size_px):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    paths = [folder / f"interview{i}.mp4" for i in range(videos)]
    for path in paths:
        repeat_video(drawn, path, seconds)
    return paths


def repeat_video(source: Path, target: Path, seconds: float) -> None:
    """Write a video's packets again and again, without decoding any, until it is that long."""
    with av.open(str(source)) as given, av.open(str(target), "w") as container:
        stream = given.streams.video[0]
        copied = container.add_stream_from_template(stream)
        assert stream.time_base is not None
        packets = [packet for packet in given.demux(stream) if packet.size]
        step = round(Fraction(1, FPS) / stream.time_base)
        for number in range(round(seconds * FPS)):
            turn, place = divmod(number, len(packets))
            packet = av.Packet(bytes(packets[place]))
            packet.pts = (packets[place].pts or 0) + turn * step * len(packets)
            packet.dts = (packets[place].dts or 0) + turn * step * len(packets)
            packet.duration, packet.time_base = step, stream.time_base
            packet.is_keyframe = packets[place].is_keyframe
            packet.stream = copied
            container.mux(packet)


def draw_clips(videos: list[Path], *, clips: int, seconds: float, seed: int = 0) -> pd.DataFrame:
    """A table of gesture clips at random places of the videos, in turn; many overlap."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(clips):
        length_s = min(float(rng.uniform(*CLIP_S)), seconds)
        start_s = float(rng.uniform(0, seconds - length_s))
        video = videos[number % len(videos)]
        interval = {"start_s": round(start_s, 2), "end_s": round(start_s + length_s, 2)}
        rows.append({"clip_id": f"clip{number}", "video": str(video), **interval, "gesture": str(number % 32)})
    return check_clip_table(pd.DataFrame(rows).sort_values(["video", "start_s"], ignore_index=True))


def _pictures(count: int, size_px: tuple[int, int]) -> Iterator[np.ndarray]:
    """(H, W, 3) uint8: waves of colour with grain, a patch that moves, and noise as of a camera."""
    width, height = size_px
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = [120 + 60 * np.sin(x * 13 / width + c) + 40 * np.cos(y * 12 / height + c) for c in range(3)]
    wall = np.stack(waves, axis=2) + rng.normal(0, 10, (height, width, 3))
    half_height, half_width = height // 7, width // 20
    for number in range(count):
        picture = wall.copy()
        row = int(height * (0.5 + 0.1 * np.cos(number / 13)))
        column = int(width * (0.5 + 0.15 * np.sin(number / 20)))
        patch = np.s_[row - half_height : row + half_height, column - half_width : column + half_width]
        picture[patch] = np.roll(wall[patch], 3 * number, axis=0)[..., ::-1]
        yield np.clip(picture + rng.integers(-3, 4, (height, width, 1)), 0, 255).astype(np.uint8)
