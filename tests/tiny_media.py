"""Tiny video and skeleton files for tests: every frame shows its own number."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange
from PIL import Image

NUM_BITS = 8
KINDS: dict[str, dict[str, Any]] = {  # name -> how it is made
    "h264.mp4": {},
    "h264.mkv": {},
    "h264.ts": {},
    "h264.avi": {},
    "raw.h264": {},
    "mpeg4.mp4": {"codec": "mpeg4"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "colours.gif": {"codec": "gif", "pixels": "rgb8"},
    "odd.gif": {"codec": "gif", "pixels": "rgb8", "size_px": (67, 41)},
    "odd.mp4": {"pixels": "yuv444p", "size_px": (67, 41)},
    "grey.mp4": {"pixels": "gray"},
    "grey.mkv": {"pixels": "gray"},
}


def number_picture(number: int, width_px: int, height_px: int) -> np.ndarray:
    """(H, W, 3) uint8: eight upright bars, the bits of the number from the left; the lower half is darker."""
    bits = [number >> (NUM_BITS - 1 - i) & 1 for i in range(NUM_BITS)]
    columns = np.minimum(np.arange(width_px) * NUM_BITS // width_px, NUM_BITS - 1)
    row = np.array([230 if bit else 20 for bit in bits], dtype=np.uint8)[columns]  # (W,)
    picture = np.repeat(row[None], height_px, axis=0)
    picture[height_px // 2 :] = picture[height_px // 2 :] // 4 * 3
    return np.repeat(picture[..., None], 3, axis=2)


def shown_number(picture: np.ndarray) -> int:
    """The number that a decoded picture shows."""
    height_px, width_px, _ = picture.shape
    centres = ((np.arange(NUM_BITS) + 0.5) * width_px / NUM_BITS).astype(int)
    return int("".join("1" if value > 110 else "0" for value in picture[height_px // 4, centres, 0]), 2)


def make_video(
    path: Path,
    num_frames: int = 30,
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    size_px: tuple[int, int] = (64, 48),
    fps: int = 25,
    ticks: Sequence[int] | None = None,
    key_every: int = 10,
    rotation_deg: int = 0,
    first_number: int = 0,
    codec_options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Write a video whose frame i shows `first_number + i`.

    Args:
        path: its suffix chooses the container.
        num_frames: how many.
        codec: of FFmpeg.
        pixels: format of the encoded pictures.
        size_px: width and height as stored.
        fps: frames per second, and the clock that `ticks` counts in.
        ticks: presentation time of each frame, for a variable rate.
        key_every: frames from one key frame to the next.
        rotation_deg: counter-clockwise turn that a player should make.
        first_number: shown by frame 0.
        codec_options: of the encoder, over the usual ones.
        container_options: of the muxer.
    """
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = size_px
        stream.pix_fmt = pixels
        if codec == "libx264":
            usual = {"g": str(key_every), "bf": "2", "b-adapt": "0", "sc_threshold": "0", "crf": "10"}
            stream.options = usual | (codec_options or {})
        elif codec_options:
            stream.options = codec_options
        if rotation_deg:
            stream.set_display_rotation(rotation_deg)
        for i in range(num_frames):
            frame = av.VideoFrame.from_ndarray(number_picture(first_number + i, *size_px), format="rgb24")
            frame.pts = i if ticks is None else ticks[i]
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path


def draw_video(path: Path, frames: Sequence[np.ndarray], *, codec: str = "libx264", pixels: str = "yuv420p") -> Path:
    """Write a video of given pictures, (H, W, 3) uint8 each."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        if pixels == "gray":
            stream.codec_context.color_range = ColorRange.JPEG  # FFmpeg turns RGB to grey in 0..255
        if codec == "libx264":
            stream.options = {"crf": "10"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def make_grey_jpegs(path: Path, pictures: Sequence[np.ndarray]) -> Path:
    """Write (H, W, 3) pictures as grey JPEGs, one after another: motion JPEG as grey cameras give it."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuvj420p"  # FFmpeg's own encoder knows no grey; what a reader finds is in the JPEGs
        for number, picture in enumerate(pictures):
            content = io.BytesIO()
            Image.fromarray(picture).convert("L").save(content, "JPEG", quality=95)
            packet = av.Packet(content.getvalue())
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.pts = packet.dts = number
            packet.is_keyframe = True
            container.mux(packet)
    return path


def make_audio(path: Path) -> Path:
    """Write half a second of silence and no video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000)
        assert isinstance(stream, av.AudioStream)
        stream.layout = "mono"
        for i in range(8):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 16_000
            frame.pts = 1024 * i
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path


def make_skeleton(path: Path, num_frames: int = 30, num_joints: int = 5, seed: int = 0) -> Path:
    """Write (T, V, 3) joints in pixels, all present."""
    joints = np.random.default_rng(seed).uniform(10, 60, (num_frames, num_joints, 3)).astype(np.float32)
    joints[..., 2] = 0.9
    np.save(path, joints)
    return path


def spoil(path: Path, start: int, num_bytes: int = 300) -> Path:
    """Overwrite a stretch of a file with zeros."""
    content = bytearray(path.read_bytes())
    content[start : start + num_bytes] = bytes(num_bytes)
    path.write_bytes(content)
    return path


def write_bad_file(kind: str, folder: Path) -> Path:
    """A file of that name that is no video: missing, empty, headless, noise, text, audio, folder."""
    path = folder / f"{kind}.mp4"
    if kind == "empty":
        path.touch()
    elif kind == "headless":
        whole = make_video(folder / "whole.mp4").read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "noise":
        path.write_bytes(np.random.default_rng(0).bytes(20_000))
    elif kind == "text":
        path = folder / "text.txt"
        path.write_text("no video at all\n" * 200)
    elif kind == "audio":
        path = make_audio(folder / "audio.m4a")
    elif kind == "folder":
        path.mkdir()
    return path
