"""MViTv2-S: improved multiscale vision transformer, torchvision's network and Kinetics-400 weights.

Li et al., "MViTv2: Improved Multiscale Vision Transformers for Classification and Detection",
arXiv 2112.01526. The network, its transform and its sampling (16 frames at 7.5 frames/s) are torchvision's
`MViT_V2_S_Weights.KINETICS400_V1`; the classifier is kept, so that checkpoints load strictly, and not used.
"""

# Shapes: B batch, T frames, H height, W width, C channels, N tokens, D token width.

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.models.video import mvit_v2_s

from mgcli.cache import TokenGrid
from mgcli.extract.backbone import Backbone, BackboneError, Prepared, scale_pictures
from mgcli.extract.backbone_mvit_forward import FusedForward
from mgcli.extract.shrink import Shrink
from mgcli.extract.weights import PublishedWeights
from mgcli.extract.weights_checkpoint import load_weights
from mgcli.extract.windows import uniform_times, window_starts

NUM_FRAMES = 16
FRAMES_PER_S = 7.5  # KINETICS400_V1, "frame_rate"
WINDOW_S = NUM_FRAMES / FRAMES_PER_S  # 2.133 s
GRID = (8, 7, 7)  # time, height, width of the last block's tokens
FRAMES_PER_TIME = NUM_FRAMES // GRID[0]
MEAN, STD = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)
SAMPLINGS = ("official", "uniform", "windows")


class MViTv2S(Backbone):
    """MViTv2-S tokens after the final norm, D = 768.

    Layouts, for each window of 16 frames:
        time: (9, 768), the class token, then the mean over the 7 x 7 grid at each of 8 times.
        full: (393, 768), the class token, then 8 x 7 x 7 tokens, time slowest.
        pooled: (1, 768), the class token.
    """

    name = "mvit_v2_s"
    reads = "video"
    shrink: Shrink
    layouts = ("time", "full", "pooled")
    in_lanes = True
    published = PublishedWeights(
        file="mvit_v2_s-ae3be167.pth",
        sha256="ae3be167",
        url="https://download.pytorch.org/models/mvit_v2_s-ae3be167.pth",
        licence="BSD-3-Clause (torchvision); trained on Kinetics-400",
        size_mb=138.3,
    )

    def __init__(
        self, *, tokens: str = "time", sampling: str = "official", window_stride_s: float | None = None
    ) -> None:
        """Build the network.

        Args:
            tokens: layout.
            sampling: official, one window of 16 frames at 7.5 frames/s in the middle of the clip; uniform, 16
                frames at the centres of 16 equal parts of the clip; windows, official windows over all of it.
            window_stride_s: from the start of one window to the next; only for `windows`, where the default
                is a window's length.

        Raises:
            BackboneError: an option that does not exist or does not fit.
        """
        super().__init__()
        if sampling not in SAMPLINGS:
            raise BackboneError(f"{self.name} has no sampling {sampling!r}; it offers: {', '.join(SAMPLINGS)}")
        if window_stride_s is not None and sampling != "windows":
            raise BackboneError(f"window_stride_s needs sampling 'windows' (modality context), not {sampling!r}")
        if window_stride_s is not None and not window_stride_s > 0:
            raise BackboneError(f"window_stride_s is {window_stride_s}; it must be above 0")
        self.tokens = tokens
        self.embed_dim = 768
        self.token_grid = TokenGrid(
            class_tokens=1, times=GRID[0], places=GRID[1] * GRID[2], middle=(NUM_FRAMES - 1) / 2 / FRAMES_PER_TIME
        )
        self.window_stride_s = WINDOW_S if window_stride_s is None else float(window_stride_s)
        self.sampling = {"mode": sampling, "num_frames": NUM_FRAMES}
        if sampling != "uniform":
            self.sampling["frames_per_s"] = FRAMES_PER_S
        if sampling == "windows":
            self.sampling["window_stride_s"] = round(self.window_stride_s, 6)
        self.transform = {
            "resize_px": 256,  # short side, bilinear without antialiasing, rounded to uint8
            "crop_px": 224,
            "mean": list(MEAN),
            "std": list(STD),
        }
        self.network = mvit_v2_s(weights=None)
        self.fused_forward = FusedForward(self.network)
        self.shrink = Shrink(resize_px=256, crop_px=(224, 224))

    def load_checkpoint(self, path: Path) -> None:
        """Take torchvision's own file, whose keys are those of the bare network."""
        load_weights(self.network, path)

    def windows(self, start_s: float, end_s: float) -> list[np.ndarray]:
        """Times of 16 frames a window; never outside the clip."""
        if self.sampling["mode"] == "uniform" or end_s - start_s < WINDOW_S:
            return [uniform_times(start_s, end_s, NUM_FRAMES)]
        if self.sampling["mode"] == "official":
            return [_official_times((start_s + end_s) / 2)]
        starts_s = window_starts(start_s, end_s, WINDOW_S, self.window_stride_s)
        return [_official_times(each + WINDOW_S / 2) for each in starts_s]

    def prepare(self, media: np.ndarray, times_s: np.ndarray) -> Prepared:
        """(16, H, W, 3) uint8 RGB -> (16, 224, 224, 3) uint8, the official transform up to its scaling."""
        time_s = self._token_times(times_s).astype(np.float32)
        pictures = torch.from_numpy(np.ascontiguousarray(self.shrink.all(media)))
        return Prepared(inputs=pictures, time_s=time_s, valid=np.ones(len(time_s), dtype=bool))

    def finish(self, inputs: Tensor) -> Tensor:
        """(B, 16, 224, 224, 3) uint8 -> (B, 3, 16, 224, 224) float32, the rest of it; floating inputs as they are."""
        return inputs if inputs.is_floating_point() else scale_pictures(inputs, MEAN, STD)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, 3, 16, 224, 224) -> (B, N, 768)."""
        full = self.fused_forward(self.network, inputs)  # (B, 1 + 8*7*7, 768), class token first
        return arrange_tokens(full, self.tokens)

    def _token_times(self, times_s: np.ndarray) -> np.ndarray:
        """(N,) centre time of each token: token t of 8 is centred at frame 2t (stem of stride 2, padding 1)."""
        middle_s = times_s.mean(keepdims=True)
        if self.tokens == "pooled":
            return middle_s
        per_time = times_s[::2] if self.tokens == "time" else np.repeat(times_s[::2], GRID[1] * GRID[2])
        return np.concatenate([middle_s, per_time])


def arrange_tokens(full: Tensor, layout: str) -> Tensor:
    """The tokens of a layout from those of `full`.

    Args:
        full: (B, 393, 768), class token first.
        layout: time, full or pooled.

    Returns:
        (B, N, 768).
    """
    if layout == "full":
        return full
    class_token = full[:, :1]  # (B, 1, 768)
    if layout == "pooled":
        return class_token
    times = full[:, 1:].unflatten(1, GRID).mean(dim=(2, 3))  # (B, 8*7*7, 768) -> (B, 8, 768)
    return torch.cat([class_token, times], dim=1)  # (B, 9, 768)


def _official_times(centre_s: float) -> np.ndarray:
    """(16,) times 1/7.5 s apart around a centre; with a window of 16/7.5 s they are its parts' centres."""
    return centre_s + (np.arange(NUM_FRAMES) - (NUM_FRAMES - 1) / 2) / FRAMES_PER_S
