"""Backbones small enough for a test, named as a user would name their own: `tiny_backbones:TinyVideo`."""

from __future__ import annotations

import errno
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mgcli.extract import Backbone, Prepared


class TinyVideo(Backbone):
    """Two residual blocks over 4 frames shrunk to 8 x 8: a class token and one token a frame, D = 16."""

    name = "tiny_video"
    reads = "video"
    layouts = ("time", "pooled")

    def __init__(self, *, tokens: str = "time", num_frames: int = 4, delay_s: float = 0.0) -> None:
        super().__init__()
        self.tokens = tokens
        self.embed_dim = 16
        self.num_frames = num_frames
        self.delay_s = delay_s
        self.sampling = {"mode": "uniform", "num_frames": num_frames}
        self.transform = {"resize_px": 8}
        self.stem = nn.Linear(3 * 8 * 8, 16)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)) for _ in range(2)
        )

    def windows(self, start_s: float, end_s: float) -> list[np.ndarray]:
        return [start_s + (np.arange(self.num_frames) + 0.5) * ((end_s - start_s) / self.num_frames)]

    def prepare(self, media: np.ndarray, times_s: np.ndarray) -> Prepared:
        frames = torch.from_numpy(media).permute(0, 3, 1, 2).float() / 255  # (T, C, H, W)
        small = nn.functional.adaptive_avg_pool2d(frames, 8).flatten(1)  # (T, 3 * 8 * 8)
        times = np.concatenate([times_s.mean(keepdims=True), times_s]) if self.tokens == "time" else times_s[:1]
        return Prepared(inputs=small, time_s=times.astype(np.float32), valid=np.ones(len(times), bool))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.delay_s:
            time.sleep(self.delay_s)
        x = self.stem(inputs)  # (B, T, 16)
        for block in self.blocks:
            x = x + block(x)
        class_token = x.mean(dim=1, keepdim=True)  # (B, 1, 16)
        return torch.cat([class_token, x], dim=1) if self.tokens == "time" else class_token


class TinyWindows(TinyVideo):
    """The same over windows of about 0.4 s, as `context` uses it."""

    name = "tiny_windows"

    def windows(self, start_s: float, end_s: float) -> list[np.ndarray]:
        num_windows = max(1, round((end_s - start_s) / 0.4))
        edges_s = np.linspace(start_s, end_s, num_windows + 1)
        return [super(TinyWindows, self).windows(*edges_s[i : i + 2])[0] for i in range(num_windows)]


class NanVideo(TinyVideo):
    """Gives NaN for dark pictures."""

    name = "nan_video"

    def forward(self, inputs: Tensor) -> Tensor:
        dark = inputs.mean(dim=(1, 2), keepdim=True) < 0.1  # (B, 1, 1)
        return super().forward(inputs).masked_fill(dark, torch.nan)


class HungryVideo(TinyVideo):
    """Runs out of memory on a batch of more than one."""

    name = "hungry_video"

    def forward(self, inputs: Tensor) -> Tensor:
        if len(inputs) > 1:
            raise torch.OutOfMemoryError("a batch too many")
        return super().forward(inputs)


class ScreamingVideo(TinyVideo):
    """Stops with a bug at its third batch."""

    name = "screaming_video"
    batches = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.batches += 1
        if self.batches == 3:
            raise ZeroDivisionError("a bug in a user's backbone")
        return super().forward(inputs)


class MortalVideo(TinyVideo):
    """Kills its process at its twentieth batch, once for each file in the folder `deaths`, which goes with it."""

    name = "mortal_video"
    batches = 0

    def __init__(self, *, deaths: str, tokens: str = "time", delay_s: float = 0.0) -> None:
        super().__init__(tokens=tokens, delay_s=delay_s)
        self.deaths = Path(deaths)

    def forward(self, inputs: Tensor) -> Tensor:
        self.batches += 1
        death = next(self.deaths.iterdir(), None)
        if self.batches == 20 and death is not None:
            with suppress(FileNotFoundError):  # another process had it
                death.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(inputs)


class PoisonedVideo(TinyVideo):
    """Kills its process whenever it sees a dark picture."""

    name = "poisoned_video"

    def forward(self, inputs: Tensor) -> Tensor:
        if (inputs.mean(dim=(1, 2)) < 0.1).any():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(inputs)


class CrampedVideo(TinyVideo):
    """Of a machine that has no shared memory."""

    name = "cramped_video"

    def __init__(self, *, tokens: str = "time") -> None:
        super().__init__(tokens=tokens)
        os.memfd_create = self.refuse

    @staticmethod
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no memory for it")


class Impostor(TinyVideo):
    """Calls itself by a name that is taken."""

    name = "mvit_v2_s"


class NotABackbone:
    """Just a class."""
