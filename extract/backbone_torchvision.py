"""The video models of torchvision, with their own transforms, as `torchvision:NAME`.

MViTv2-S is a backbone of its own, `mvit_v2_s`; MViTv1, the other one without a pooled map, is left out.
"""

# Shapes: B batch, T frames, H, W height and width, C channels, N tokens, D token width.

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights, list_models, video

from mgcli.cache import TokenGrid
from mgcli.extract.backbone import Backbone, BackboneError, Prepared, scale_pictures
from mgcli.extract.shrink import Shrink
from mgcli.extract.weights import PublishedWeights
from mgcli.extract.weights_checkpoint import load_weights
from mgcli.extract.windows import uniform_times

LICENCE = "BSD-3-Clause (torchvision); trained on Kinetics-400"
LEFT_OUT = ("mvit_v1_b", "mvit_v2_s")
_FILE_HASH = re.compile(r"-([0-9a-f]{8})\.pth$")  # torchvision's file names end in 8 digits of their SHA-256


class TorchvisionVideo(Backbone):
    """The last feature map of a video network, before its pooling.

    Layouts, for a map of t x h x w places:
        time: (t, D), the mean over places at each time.
        full: (t * h * w, D), time slowest.
        pooled: (1, D), the mean over all.
    """

    reads = "video"
    layouts = ("time", "full", "pooled")
    model_name: ClassVar[str]
    shrink: Shrink
    network: Any  # one of several classes with an `avgpool`

    def __init__(self, *, tokens: str = "time", num_frames: int = 16) -> None:
        """Build the network.

        Args:
            tokens: layout.
            num_frames: sampled uniformly from the clip.

        Raises:
            BackboneError: fewer frames than the network can take.
        """
        super().__init__()
        weights = get_model_weights(self.model_name).DEFAULT
        least = weights.meta.get("min_temporal_size", 1)
        if num_frames < least:
            raise BackboneError(f"num_frames is {num_frames}; {self.name} needs {least} or more")
        self.tokens = tokens
        self.num_frames = num_frames
        # with channels last s3d takes 0.89 of the time, r3d_18 0.99 (float32 on one core; not measured on a GPU)
        self.network = get_model(self.model_name, weights=None).eval().to(memory_format=torch.channels_last_3d)
        transform = weights.transforms()
        size_px = transform.resize_size
        self.shrink = Shrink(size_px[0] if len(size_px) == 1 else tuple(size_px), tuple(transform.crop_size))
        self.embed_dim, *self._grid = _map_shape(self.network, num_frames, transform.crop_size)
        times, rows, columns = self._grid
        self.token_grid = TokenGrid(times=times, places=rows * columns, middle=(times - 1) / 2)
        self.sampling = {"mode": "uniform", "num_frames": num_frames}
        self.transform = {
            "resize_px": list(transform.resize_size),
            "crop_px": list(transform.crop_size),
            "mean": list(transform.mean),
            "std": list(transform.std),
        }

    @classmethod
    def member_names(cls) -> list[str]:
        """All NAMEs of `torchvision:NAME`."""
        return [name for name in list_models(module=video) if name not in LEFT_OUT]

    @classmethod
    def member(cls, model_name: str) -> type[TorchvisionVideo]:
        """The backbone class of one torchvision video model.

        Raises:
            BackboneError: there is no such model, or it is a backbone of its own.
        """
        names = cls.member_names()
        if model_name not in names:
            near = difflib.get_close_matches(model_name, names, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise BackboneError(f"torchvision has no video model {model_name!r} here; {hint}All: {', '.join(names)}")
        default = get_model_weights(model_name).DEFAULT
        url = default.url
        mebibytes = default.meta.get("_file_size")
        digits = _FILE_HASH.search(url)
        published = PublishedWeights(
            file=url.rpartition("/")[2],
            sha256=digits[1] if digits else "",
            url=url,
            licence=LICENCE,
            size_mb=round(mebibytes * 1.048576, 1) if mebibytes else None,
        )
        members = {"name": f"torchvision:{model_name}", "model_name": model_name, "published": published}
        return type("TorchvisionVideo", (cls,), {**members, "__doc__": cls.__doc__})

    def load_checkpoint(self, path: Path) -> None:
        """Fill every parameter, the unused classifier's too, from torchvision's own file.

        Raises:
            WeightsError: it is damaged, or of another network.
        """
        load_weights(self.network, path)

    def windows(self, start_s: float, end_s: float) -> list[np.ndarray]:
        """One window over the clip."""
        return [uniform_times(start_s, end_s, self.num_frames)]

    def prepare(self, media: np.ndarray, times_s: np.ndarray) -> Prepared:
        """(T, H, W, 3) uint8 RGB -> (T, height, width, 3) uint8, the official transform up to its scaling."""
        pictures = torch.from_numpy(np.ascontiguousarray(self.shrink.all(media)))
        steps, rows, columns = self._grid
        ends = np.linspace(0, len(times_s), steps + 1)  # the map's times are equal parts of the window
        per_time = np.interp((ends[:-1] + ends[1:]) / 2 - 0.5, np.arange(len(times_s)), times_s)
        time_s = {
            "time": per_time,
            "full": np.repeat(per_time, rows * columns),
            "pooled": per_time.mean(keepdims=True),
        }[self.tokens].astype(np.float32)
        return Prepared(inputs=pictures, time_s=time_s, valid=np.ones(len(time_s), dtype=bool))

    def finish(self, inputs: Tensor) -> Tensor:
        """(B, T, height, width, 3) uint8 -> (B, 3, T, height, width) float32, the rest of it."""
        return scale_pictures(inputs, self.transform["mean"], self.transform["std"])

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, 3, T, height, width) -> (B, N, D)."""
        features = _map_of(self.network, inputs)  # (B, C, t, h, w)
        if self.tokens == "full":
            return features.flatten(2).transpose(1, 2)
        if self.tokens == "time":
            return features.mean(dim=(3, 4)).transpose(1, 2)
        return features.mean(dim=(2, 3, 4))[:, None]


def _map_of(network: Any, inputs: Tensor) -> Tensor:
    """What reaches a network's pooling, (B, C, t, h, w)."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, args: tuple[Tensor]) -> None:
        seen.append(args[0])

    with network.avgpool.register_forward_pre_hook(keep):
        network(inputs)
    return seen[0]


@torch.inference_mode()
def _map_shape(network: Any, num_frames: int, size_px: Sequence[int]) -> tuple[int, ...]:
    """C, t, h and w of the map, found without computing it."""
    inputs = torch.zeros(1, 3, num_frames, *size_px, device="meta")
    return tuple(_map_of(copy.deepcopy(network).to("meta"), inputs).shape[1:])
