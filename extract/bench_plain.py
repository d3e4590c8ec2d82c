"""The plain loop that stage one is timed against: a clip at a time, opened, decoded, embedded and written."""

# Shapes: T frames, F frames of an interval, H height, W width.

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from mgcli.extract.backbone import Backbone
from mgcli.extract.backbone_mvit import MViTv2S
from mgcli.extract.device import on_device


def plain_forward(backbone: Backbone) -> Callable[[Tensor], Tensor]:
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


def time_plain(backbone: Backbone, forward: Callable[[Tensor], Tensor], rows: Sequence[Any], folder: Path) -> float:
    """Seconds for these rows of a clip table, with one file a clip in a folder."""
    started = time.perf_counter()
    with on_device(backbone.device), torch.inference_mode():
        for row in rows:
            (times_s,) = backbone.windows(row["start_s"], row["end_s"])
            frames, shown_s = _read_interval(Path(row["video"]), row["start_s"], row["end_s"])
            places = np.clip(np.searchsorted(shown_s, times_s + 1e-6, side="right") - 1, 0, None)
            prepared = backbone.prepare(np.stack([frames[place] for place in places]), times_s)  # from (T, H, W, 3)
            tokens = forward(backbone.finish(prepared.inputs[None].to(backbone.device)))
            np.save(folder / f"{row['clip_id']}.npy", tokens[0].cpu().numpy())
    return time.perf_counter() - started


def _read_interval(video: Path, start_s: float, end_s: float) -> tuple[list[np.ndarray], np.ndarray]:
    """All F frames of an interval, (H, W, 3) RGB, and their times, as `torchvision.io.read_video` gave them."""
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
