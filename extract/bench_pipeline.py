"""How fast stage one is from end to end, against its parts alone and a plain loop, in turn and in one run."""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from mgcli.cache import open_cache, warn
from mgcli.extract.alone import extract_alone
from mgcli.extract.backbone import Backbone, BackboneError, create_backbone
from mgcli.extract.bench_forward import time_forward, warm_up
from mgcli.extract.bench_media import DRAWN_S, FPS, draw_clips, write_interviews
from mgcli.extract.bench_plain import plain_forward, time_plain
from mgcli.extract.bench_ready import decode_alone
from mgcli.extract.decoder import Decoders
from mgcli.extract.decoder_library import choose_library
from mgcli.extract.device import (
    as_run,
    choose_batch_size,
    choose_compile,
    choose_device,
    choose_precision,
    num_cores,
)
from mgcli.extract.modality import clip_requests, modality_configs
from mgcli.extract.plan import Extraction
from mgcli.extract.report import ExtractReport
from mgcli.extract.run import BATCHES_AHEAD, make_decoders, num_readers
from mgcli.extract.run_clock import RunProfile
from mgcli.extract.source import add_sources
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
    compile: str = "auto"
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
    """Rates of the ways and of their parts, and where the time of stage one went."""

    config: PipelineBenchConfig
    device: str
    cores: int
    precision: str
    compiled: bool
    batch_size: int
    clips: int
    forward_s: float  # for all clips, inputs ready on the device, in the precision of the pipeline
    pipeline_s: float  # from videos to a cache, the making of the network included
    plain_clip_s: float  # of the plain loop, in float32, for one clip
    decoded_least: int  # frames from the needed key frames to the last needed ones, each once
    profile: RunProfile
    ready_profile: RunProfile  # of the pipeline with pictures that were decoded before
    decode_profile: RunProfile  # of decoders whose clips nobody waits for

    @property
    def over_forward(self) -> float:
        """Time from end to end over that of the forward pass alone."""
        return self.pipeline_s / self.forward_s

    @property
    def over_plain(self) -> float:
        """How many times as fast as the plain loop."""
        return self.plain_clip_s * self.clips / self.pipeline_s

    @property
    def forward_per_s(self) -> float:
        """Clips a second of the forward pass alone."""
        return self.clips / self.forward_s

    @property
    def slower(self) -> str:
        """Which of the two that a run from H.264 hangs on is the slower one when it is alone."""
        return "forward pass" if self.forward_per_s <= self.decode_profile.inputs_per_s else "decoders"

    def rates(self) -> dict[str, float]:
        """Clips a second, of pipelines and decoders once they are under way, and their shares of one another."""
        forward, decode = self.forward_per_s, self.decode_profile.inputs_per_s
        ready, h264 = self.ready_profile.inputs_per_s, self.profile.inputs_per_s
        return {
            "forward_per_s": forward,
            "ready_per_s": ready,
            "h264_per_s": h264,
            "decode_per_s": decode,
            "ready_of_forward": ready / forward,
            "h264_of_forward": h264 / forward,
            "decode_of_forward": decode / forward,
            "h264_of_slower": h264 / min(forward, decode),
        }

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        plain = {key: value for key, value in vars(self).items() if not isinstance(value, RunProfile)}
        profiles = {key: value.to_json() for key, value in vars(self).items() if isinstance(value, RunProfile)}
        ratios = {"over_forward": self.over_forward, "over_plain": self.over_plain, "slower": self.slower}
        return {**plain, "config": asdict(self.config), **ratios, **self.rates(), **profiles}

    def summary(self) -> str:
        """A small table."""
        config, profile, rates = self.config, self.profile, self.rates()
        plain_clips = min(config.plain_clips, self.clips)
        share = profile.decoded_frames / max(1, self.decoded_least)
        compiled = ", compiled" if self.compiled else ""
        return "\n".join(
            [
                f"{config.backbone} ({config.tokens}), {self.precision}{compiled}, batch {self.batch_size}, "
                f"{self.device}, {self.cores} cores: {self.clips} clips of {config.videos} videos, "
                f"{config.minutes:g} minutes at {config.width_px} x {config.height_px}",
                "",
                f"forward pass alone   {self.forward_s:8.1f} s  {self.forward_per_s:8.2f} clips/s",
                f"end to end           {self.pipeline_s:8.1f} s  {self.clips / self.pipeline_s:8.2f} clips/s, "
                f"{self.over_forward:.2f} of the forward pass's time",
                f"plain loop, float32  {self.plain_clip_s * self.clips:8.1f} s  {1 / self.plain_clip_s:8.2f} clips/s "
                f"(from {plain_clips} clips); end to end is {self.over_plain:.1f} times as fast",
                "",
                "once under way, network made and first batch through:",
                f"from ready frames    {rates['ready_per_s']:8.2f} clips/s, {rates['ready_of_forward']:.2f} of the "
                "forward pass alone",
                f"from H.264           {rates['h264_per_s']:8.2f} clips/s, {rates['h264_of_forward']:.2f} of the "
                f"forward pass alone, {rates['h264_of_slower']:.2f} of the slower of it and the decoders: the "
                f"{self.slower}",
                f"decoders alone       {rates['decode_per_s']:8.2f} clips/s, {rates['decode_of_forward']:.2f} of the "
                f"forward pass alone, from {self.decode_profile.decoded_per_s:.0f} frames/s",
                "",
                f"stages, summed over threads and processes: decode {profile.decode_s:.1f} s, convert and shrink "
                f"{profile.convert_s:.1f} s, forward {profile.device_s:.1f} s, write {profile.write_s:.1f} s",
                f"decoded {profile.decoded_frames} frames, {share:.2f} of the least that the clips hang on; "
                f"limited by: {profile.limited_by}",
            ]
        )


def bench_extraction(config: PipelineBenchConfig | None = None, *, progress: bool = True) -> PipelineBench:
    """Time all ways in turn on generated videos, with half of the forward passes and of the plain loop at either end.

    Between them: decoders alone; stage one with the pictures that they gave, from the readers of the videos to the
    cache; stage one from the videos. The plain loop opens, seeks and decodes for each clip, gives torchvision's own
    network one clip at a time in float32, and writes one file a clip.

    Raises:
        BackboneError: a setting that makes no sense, no such device, a network that cannot be compiled.
    """
    config = config or PipelineBenchConfig()
    device = choose_device(config.device)
    library, _ = choose_library(config.decoder, device)
    make = partial(create_backbone, config.backbone, weights=config.weights, tokens=config.tokens, device=device)
    exact = make()
    if exact.reads != "video":
        raise BackboneError(f"this is timed with a backbone that reads videos; {exact.name} reads {exact.reads}s")
    precision = choose_precision(config.precision, type(exact), device)
    backbone = make(precision=precision)
    compiled = choose_compile(config.compile, device, config.clips)
    network = as_run(backbone, compiled)
    batch_size = choose_batch_size(config.batch_size, device, backbone.in_lanes)
    with tempfile.TemporaryDirectory(prefix="mgcli-bench-") as name:
        folder, seconds = Path(name), config.minutes * 60
        size_px = (config.width_px, config.height_px)
        videos = write_interviews(folder, videos=config.videos, seconds=seconds, size_px=size_px)
        table = draw_clips(videos, clips=config.clips, seconds=seconds)
        few = np.linspace(0, len(table) - 1, min(config.plain_clips, len(table))).astype(int)
        plain = plain_forward(exact)
        plain_rows = table.iloc[few].to_dict("records")
        time_plain(exact, plain, plain_rows[:1], folder)  # all are warmed up
        warm_up(backbone, network, batch_size)
        forward_s = time_forward(backbone, network, batch_size, config.clips // 2)
        plain_s = time_plain(exact, plain, plain_rows[0::2], folder)
        workers = num_readers(_extraction(config, precision), len(videos))
        decode_profile, ready = decode_alone(
            clip_requests(add_sources(table), backbone, "video"),
            make_decoders(workers, library, warn),
            workers=workers,
            lookahead=BATCHES_AHEAD * batch_size,
            repeats_after=FPS * DRAWN_S,
        )
        ready_profile = _run(config, precision, folder / "ready", table, progress, ready).profile
        started = time.perf_counter()
        report = _run(config, precision, folder / "features", table, progress, None)
        pipeline_s = time.perf_counter() - started
        plain_s += time_plain(exact, plain, plain_rows[1::2], folder)
        forward_s += time_forward(backbone, network, batch_size, config.clips - config.clips // 2)
        return PipelineBench(
            config=config,
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
            cores=num_cores(),
            precision=precision,
            compiled=compiled,
            batch_size=batch_size,
            clips=report.modalities["video"].done,
            forward_s=forward_s,
            pipeline_s=pipeline_s,
            plain_clip_s=plain_s / len(plain_rows),
            decoded_least=_least_decoded(backbone, table),
            profile=report.profile,
            ready_profile=ready_profile,
            decode_profile=decode_profile,
        )


def _extraction(config: PipelineBenchConfig, precision: str) -> Extraction:
    configs = modality_configs(
        ["video"],
        backbones={"video": config.backbone},
        weights=config.weights,
        tokens=config.tokens,
        precision=precision,
    )
    return Extraction(
        configs=configs,
        batch_size=config.batch_size,
        workers=config.workers,
        compile=config.compile,
        decoder=config.decoder,
    )


def _run(
    config: PipelineBenchConfig,
    precision: str,
    folder: Path,
    table: pd.DataFrame,
    progress: bool,
    decoders: Decoders | None,
) -> ExtractReport:
    """Stage one into a new cache."""
    cache, extraction = open_cache(folder, create=True), _extraction(config, precision)
    return extract_alone(cache, table, extraction, device=config.device, show_progress=progress, decoders=decoders)


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
