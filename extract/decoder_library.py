"""Which library decodes the videos of a run: PyAV, on the processor, or torchcodec, which can on a GPU.

It is not in the fingerprint. Both give the same frame for a time, and on a processor the same bits. What a GPU's own
conversion of colours adds is rounding: a probe on the very device refuses one whose pictures are more than
`MOST_LEVELS_OFF` of 255 away from PyAV's anywhere, or `MOST_ON_AVERAGE`. So a run on a GPU may add to what was begun
without one; `spec.json` names all decoders that its tokens come from.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np

from mgcli.cache import MgcliError
from mgcli.extract.video import index_video, plan_decode
from mgcli.extract.video_decode import DecodeCount, decode_frames

if TYPE_CHECKING:
    import torch

DECODERS = ("auto", "pyav", "torchcodec")
MOST_LEVELS_OFF = 3  # that a pixel of a probe may differ by from PyAV's, of 255
MOST_ON_AVERAGE = 1.0  # MViTv2-S's tokens (random weights) so move by 4 % of the largest; bfloat16 moves them by 2 %

_OLDEST = (0, 12)  # those before suit a single version of torch each; pyproject.toml says the same
_PROBE_SIZE_PX = (256, 144)  # no smaller than what NVDEC takes
_PROBE_FRAMES = 12


class DecoderChoiceError(MgcliError):
    """A decoder that is unknown, not installed, or does not work here."""


@dataclass(frozen=True)
class Library:
    """What pictures are decoded with; a plain value, for every process that decodes."""

    name: str  # pyav or torchcodec
    device: str = "cpu"

    @cached_property
    def label(self) -> str:
        """For people and for the provenance, such as `torchcodec 0.17.0 on cuda`."""
        if self.name == "pyav":
            return f"PyAV {version('av')}"
        return f"torchcodec {version('torchcodec')} on {self.device.partition(':')[0]}"


PYAV = Library("pyav")


def check_decoder(decoder: str) -> None:
    """Refuse what is no decoder.

    Raises:
        DecoderChoiceError: it is unknown.
    """
    if decoder not in DECODERS:
        raise DecoderChoiceError(f"unknown decoder {decoder!r}; known: {', '.join(DECODERS)}")


def choose_library(decoder: str, device: torch.device) -> tuple[Library, str]:
    """The decoder asked for; for "auto" torchcodec where there is a GPU and it works there, else PyAV.

    Returns:
        the library, and what kept "auto" from decoding on the GPU that there is; empty where nothing did.

    Raises:
        DecoderChoiceError: torchcodec is asked for by name and does not work on this device.
    """
    check_decoder(decoder)
    if decoder == "pyav" or (decoder == "auto" and device.type != "cuda"):
        return PYAV, ""
    library = Library("torchcodec", str(device))
    try:
        _probe(library)
    except DecoderChoiceError as error:
        if decoder == "torchcodec":
            raise
        return PYAV, f"PyAV decodes on the processor: {error}"
    return library, ""


def _probe(library: Library) -> None:
    """Decode a small H.264 video with both libraries and compare.

    Raises:
        DecoderChoiceError: torchcodec is not there, does not work, or gives other pictures.
    """
    try:
        installed = version("torchcodec")
    except PackageNotFoundError:
        raise DecoderChoiceError("torchcodec is not installed: pip install 'mgcli[torchcodec]'") from None
    if tuple(map(int, installed.split(".")[:2])) < _OLDEST:
        raise DecoderChoiceError(
            f"torchcodec {installed} is too old: pip install 'mgcli[torchcodec]' takes a newer one, which needs torch "
            f"2.11 or newer (here is {version('torch')})"
        )
    try:
        from mgcli.extract.video_decode_torchcodec import torchcodec_pictures

        with tempfile.TemporaryDirectory(prefix="mgcli-probe-") as folder:
            index = index_video(_write_probe(Path(folder) / "probe.mp4"))
            frames = range(0, _PROBE_FRAMES, 3)
            needs = dict.fromkeys(frames, (None,))
            expected = dict(decode_frames(index, plan_decode(index, frames)))
            found = dict(torchcodec_pictures(index, needs, device=library.device, threads=1, count=DecodeCount()))
    except Exception as error:  # of a native library: ImportError, OSError, RuntimeError, as its versions will have it
        raise DecoderChoiceError(
            f"torchcodec {installed} does not work on {library.device} ({_in_a_line(error)}); it needs torch 2.11 or "
            f"newer (here is {version('torch')}), and the shared libraries of FFmpeg, 4 or newer: apt install ffmpeg, "
            "or conda install ffmpeg"
        ) from error
    off = np.abs(np.stack([found[frame][None].astype(int) - expected[frame] for frame in frames]))
    if off.max() > MOST_LEVELS_OFF or off.mean() > MOST_ON_AVERAGE:
        raise DecoderChoiceError(
            f"torchcodec's pictures on {library.device} are up to {off.max()} levels of 255 away from PyAV's, "
            f"{off.mean():.2f} on average; {MOST_LEVELS_OFF} and {MOST_ON_AVERAGE:g} are taken for rounding"
        )


def _in_a_line(error: Exception) -> str:
    """What a native library says, without the place in its source."""
    first = next(iter(str(error.__cause__ or error).strip().splitlines()), type(error).__name__)
    return re.sub(r"^\w+, \S+:\d+, ", "", first).rstrip(":. ").removesuffix(". Likely causes")


def _write_probe(path: Path) -> Path:
    """A short H.264 video of all colours, in motion."""
    width_px, height_px = _PROBE_SIZE_PX
    across, down = np.meshgrid(np.arange(width_px), np.arange(height_px))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width_px, height_px, "yuv420p"
        for number in range(_PROBE_FRAMES):
            picture = np.stack([across + 8 * number, down * 255 // height_px, 255 - across], axis=2) % 256
            frame = av.VideoFrame.from_ndarray(picture.astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
