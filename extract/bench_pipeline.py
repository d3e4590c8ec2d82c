"""How fast stage one is from end to end, against its forward pass alone and a plain loop, in turn and in one run."""

# Shapes: B batch, N tokens, D token width.

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mgcli.cache import open_cache
from mgcli.extract.backbone import PRECISIONS, Backbone, BackboneError, create_backbone
from mgcli.extract.backbone_mvit import MViTv2S
from mgcli.extract.bench_input import make_input
from mgcli.extract.bench_media import draw_clips, write_interviews
from mgcli.extract.device import choose_batch_size, choose_device, choose_precision, num_cores, on_device
from mgcli.extract.pipeline import extract_modalities
from mgcli.extract.run_clock import RunProfile
from mgcli.extract.video import index_video, plan_decode


@dataclass(frozen=True, kw_only=True)
class PipelineBenchConfig:
    """What is timed; the defaults are the setting that this project's speed is judged by."""

    backbone: str = "mvit_v2_s"
    weights: str = "random:0"  # they hardly matter for speed
    tokens: str | None = "full"
    videos: int = 3
    minutes: float = 2.0  # length of each video
    clips: int = 120
    width_px: int = 1280
    height_px: int = 720
    plain_clips: int = 12  # that the plain loop does; all of them would take the most of an hour
    precision: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    decoder: str = "auto"
    device: str | None = None

    def __post_init__(self) -> None:
        for name in ("videos", "clips", "width_px", "height_px", "plain_clips"):
            if getattr(self, name) < 1:
                raise BackboneError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if not self.minutes > 0:
            raise BackboneError(f"minutes is {self.minutes}; it must be above 0")


@dataclass(frozen=True, kw_only=True)
class PipelineBench:
    """Rates of the three ways, and where the time of stage one went."""

    config: PipelineBenchConfig
    device: str
    cores: int
    precision: str
    clips: int
    forward_s: float  # for all clips, inputs ready on the device, in the precision of the pipeline
    pipeline_s: float  # from videos to a cache, the making of the network included
    plain_clip_s: float  # of the plain loop, in float32, for one clip
    decoded_least: int  # frames from the needed key frames to the last needed ones, each once
    profile: RunProfile

    @property
    def over_forward(self) -> float:
        """Time from end to end over that of the forward pass alone."""
        return self.pipeline_s / self.forward_s

    @property
    def over_plain(self) -> float:
        """How many times as fast as the plain loop."""
        return self.plain_clip_s * self.clips / self.pipeline_s

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        plain = {key: value for key, value in vars(self).items() if key not in ("config", "profile")}
        ratios = {"over_forward": self.over_forward, "over_plain": self.over_plain}
        return {"config": asdict(self.config), **plain, **ratios, "profile": self.profile.to_json()}

    def summary(self) -> str:
        """A small table."""
        config, profile = self.config, self.profile
        plain_clips = min(config.plain_clips, self.clips)
        share = profile.decoded_frames / max(1, self.decoded_least)
        return "\n".join(
            [
                f"{config.backbone} ({config.tokens}), {self.precision}, {self.device}, {self.cores} cores: "
                f"{self.clips} clips of {config.videos} videos, {config.minutes:g} minutes at "
                f"{config.width_px} x {config.height_px}",
                "",
                f"forward pass alone   {self.forward_s:8.1f} s  {self.clips / self.forward_s:8.2f} clips/s",
                f"end to end           {self.pipeline_s:8.1f} s  {self.clips / self.pipeline_s:8.2f} clips/s, "
                f"{self.over_forward:.2f} of the forward pass's time",
                f"plain loop, float32  {self.plain_clip_s * self.clips:8.1f} s  {1 / self.plain_clip_s:8.2f} clips/s "
                f"(from {plain_clips} clips); end to end is {self.over_plain:.1f} times as fast",
                "",
                f"stages, summed over threads and processes: decode {profile.decode_s:.1f} s, convert and shrink "
                f"{profile.convert_s:.1f} s, forward {profile.device_s:.1f} s, write {profile.write_s:.1f} s",
                f"decoded {profile.decoded_frames} frames, {share:.2f} of the least that the clips hang on; "
                f"limited by: {profile.limited_by}",
            ]
        )


def bench_extraction(config: PipelineBenchConfig | None = None, *, progress: bool = True) -> PipelineBench:
    """Time all three on generated videos: half of the forward passes, half of the plain loop, stage one, the rest.

    The plain loop opens, seeks and decodes for each clip, gives torchvision's own network one clip at a time in
    float32, and writes one file a clip.

    Raises:
        BackboneError: a setting that makes no sense, no such device.
    """
    config = config or PipelineBenchConfig()
    device = choose_device(config.device)
    exact = create_backbone(config.backbone, weights=config.weights, tokens=config.tokens, device=device)
    if exact.reads != "video":
        raise BackboneError(f"this is timed with a backbone that reads videos; {exact.name} reads {exact.reads}s")
    precision = choose_precision(config.precision, type(exact), device)
    backbone = create_backbone(
        config.backbone, weights=config.weights, tokens=config.tokens, precision=precision, device=device
    )
    batch_size = choose_batch_size(config.batch_size, device)
    with tempfile.TemporaryDirectory(prefix="mgcli-bench-") as name:
        folder, seconds = Path(name), config.minutes * 60
        size_px = (config.width_px, config.height_px)
        videos = write_interviews(folder, videos=config.videos, seconds=seconds, size_px=size_px)
        table = draw_clips(videos, clips=config.clips, seconds=seconds)
        few = np.linspace(0, len(table) - 1, min(config.plain_clips, len(table))).astype(int)
        plain = _plain_forward(exact)
        plain_rows = table.iloc[few].to_dict("records")
        _time_plain(exact, plain, plain_rows[:1], folder)  # all are warmed up
        _time_forward(backbone, batch_size, batch_size)
        forward_s = _time_forward(backbone, batch_size, config.clips // 2)
        plain_s = _time_plain(exact, plain, plain_rows[0::2], folder)
        started = time.perf_counter()
        report = extract_modalities(
            open_cache(folder / "features", create=True),
            table,
            ["video"],
            backbones={"video": config.backbone},
            weights=config.weights,
            tokens=config.tokens,
            precision=precision,
            batch_size=config.batch_size,
            workers=config.workers,
            decoder=config.decoder,
            device=config.device,
            progress=progress,
        )
        pipeline_s = time.perf_counter() - started
        plain_s += _time_plain(exact, plain, plain_rows[1::2], folder)
        forward_s += _time_forward(backbone, batch_size, config.clips - config.clips // 2)
        return PipelineBench(
            config=config,
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
            cores=num_cores(),
            precision=precision,
            clips=report.modalities["video"].done,
            forward_s=forward_s,
            pipeline_s=pipeline_s,
            plain_clip_s=plain_s / len(plain_rows),
            decoded_least=_least_decoded(backbone, table),
            profile=report.profile,
        )


def _time_forward(backbone: Backbone, batch_size: int, count: int) -> float:
    """Seconds for so many inputs that lie on the device, ready."""
    inputs = torch.stack([make_input(backbone, seed)[0] for seed in range(batch_size)])
    ready = backbone.finish(inputs.to(backbone.device)).to(PRECISIONS[backbone.precision])  # (B, ...)
    started = time.perf_counter()
    with on_device(backbone.device), torch.inference_mode():
        for first in range(0, count, batch_size):
            tokens = backbone(ready[: min(batch_size, count - first)])
        tokens.float().cpu()  # a GPU is waited for
    return time.perf_counter() - started


def _plain_forward(backbone: Backbone) -> Callable[[Tensor], Tensor]:
    """A network as its publisher runs it: torchvision's own forward pass for MViTv2-S."""
    if not isinstance(backbone, MViTv2S):
        return backbone
    network = backbone.network
    seen: list[Tensor] = []
    network.get_submodule("norm").register_forward_hook(lambda _, __, tokens: seen.append(tokens))

    def forward(inputs: Tensor) -> Tensor:
        network(inputs)
        return seen.pop()

    return forward


def _time_plain(backbone: Backbone, forward: Callable[[Tensor], Tensor], rows: Sequence[Any], folder: Path) -> float:
    started = time.perf_counter()
    for row in rows:
        (times_s,) = backbone.windows(row["start_s"], row["end_s"])
        frames, shown_s = _read_interval(Path(row["video"]), row["start_s"], row["end_s"])
        places = np.clip(np.searchsorted(shown_s, times_s + 1e-6, side="right") - 1, 0, None)
        prepared = backbone.prepare(np.stack([frames[place] for place in places]), times_s)
        with torch.inference_mode():
            tokens = forward(backbone.finish(prepared.inputs[None].to(backbone.device)))
        np.save(folder / f"{row['clip_id']}.npy", tokens[0].cpu().numpy())
    return time.perf_counter() - started


def _read_interval(video: Path, start_s: float, end_s: float) -> tuple[list[np.ndarray], np.ndarray]:
    """All frames of an interval in RGB with their times, as `torchvision.io.read_video` gave them."""
    frames, times_s = [], []
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        assert stream.time_base is not None
        container.seek(int(start_s / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            if frame.time is not None and frame.time >= end_s:
                break
            if frame.time is not None and frame.time >= start_s - 0.04:  # the frame shown when the clip starts
                frames.append(frame.to_ndarray(format="rgb24"))
                times_s.append(frame.time)
    return frames, np.array(times_s)


def _least_decoded(backbone: Backbone, table: pd.DataFrame) -> int:
    """Frames that the clips of all videos hang on, each once."""
    total = 0
    for video, rows in table.groupby("video"):
        index = index_video(Path(str(video)))
        times_s = [time_s for row in rows.to_dict("records") for time_s in _all_times(backbone, row)]
        total += plan_decode(index, index.frames_at(np.array(times_s))).num_decoded
    return total


def _all_times(backbone: Backbone, row: Any) -> Iterator[float]:
    for times_s in backbone.windows(row["start_s"], row["end_s"]):
        yield from times_s.tolist()
