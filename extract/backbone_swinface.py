"""SwinFace as a frozen backbone: what a face shows, frame by frame.

The networks are in `backbone_swinface_network.py` and `backbone_swinface_tasks.py`. The released network computes
partly in half precision on a GPU; here everything is in the precision asked for.
"""

# Shapes: B batch, T frames, C channels, N tokens, D token width.

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mgcli.extract.backbone import Backbone, BackboneError, Prepared
from mgcli.extract.backbone_swinface_network import GLOBAL_DIM, IDENTITY_DIM, IMAGE_PX
from mgcli.extract.backbone_swinface_tasks import BRANCHES, DIM, EXPRESSION_BRANCH, SwinFaceNetwork
from mgcli.extract.face import DEFAULT_DETECTOR, describe_detector
from mgcli.extract.weights import PublishedWeights
from mgcli.extract.weights_checkpoint import load_state, read_checkpoint
from mgcli.extract.weights_swinface import swinface_state
from mgcli.extract.windows import uniform_times

NUM_TOKENS = {"tasks": len(BRANCHES), "expression": 1, "spatial": 49, "identity": 1}
DIMS = {"tasks": DIM, "expression": DIM, "spatial": GLOBAL_DIM, "identity": IDENTITY_DIM}
MEAN, STD = 0.5, 0.5  # of all three channels


class SwinFace(Backbone):
    """Tokens of one aligned face a sampled frame.

    Layouts, for each frame:
        tasks: (11, 512), the subnet of each task branch: gender, age, expression, ...
        expression: (1, 512), that of the expression branch alone.
        spatial: (49, 768), the 7 x 7 map of the last stage, row by row, before its norm.
        identity: (1, 512), the recognition embedding. It mostly tells who it is: heads trained on it know
            subjects rather than emotions.
    """

    name = "swinface"
    reads = "face"
    layouts = ("tasks", "expression", "spatial", "identity")
    published = PublishedWeights(
        file="checkpoint_step_79999_gpu_0.pt",
        sha256="",  # its authors give none
        url="",
        licence="MIT",
        page="the README of https://github.com/lxq1000/SwinFace links to it",
    )

    def __init__(self, *, tokens: str = "tasks", frames_per_s: float = 2.0, detector: str = DEFAULT_DETECTOR) -> None:
        """Build the network.

        Args:
            tokens: layout.
            frames_per_s: how often a face is looked at, evenly over the clip; at least once.
            detector: of faces where the data set gives none: mtcnn, insightface or insightface:PACK.

        Raises:
            BackboneError: `frames_per_s` is not above 0.
            FaceError: unknown detector, or one that is not installed.
        """
        super().__init__()
        if not frames_per_s > 0:
            raise BackboneError(f"frames_per_s is {frames_per_s}; it must be above 0")
        self.tokens = tokens
        self.embed_dim = DIMS[tokens]
        self.frames_per_s = float(frames_per_s)
        self.detector = detector
        self.sampling = {"mode": "uniform", "frames_per_s": self.frames_per_s}
        self.transform = {
            "faces": f"given, else {describe_detector(detector)}",
            "aligned_px": IMAGE_PX,
            "mean": [MEAN] * 3,
            "std": [STD] * 3,
        }
        self.network = SwinFaceNetwork()

    def load_checkpoint(self, path: Path) -> None:
        """Fill every parameter from the released file, or from a plain state dict.

        Raises:
            WeightsError: it is damaged, or of another network.
        """
        load_state(self.network, swinface_state(read_checkpoint(path)), path)

    def windows(self, start_s: float, end_s: float) -> list[np.ndarray]:
        """One time for each sampled frame."""
        count = max(1, round((end_s - start_s) * self.frames_per_s))
        return list(uniform_times(start_s, end_s, count)[:, None])

    def prepare(self, media: np.ndarray, times_s: np.ndarray) -> Prepared:
        """(1, 112, 112, 3) uint8 RGB, aligned -> (3, 112, 112) float32. Black all over: no face was seen.

        Raises:
            BackboneError: anything but one aligned face.
        """
        if media.shape != (1, IMAGE_PX, IMAGE_PX, 3):
            raise BackboneError(f"{self.name} reads one aligned face at a time, not an array of shape {media.shape}")
        pixels = torch.from_numpy(np.ascontiguousarray(media[0])).permute(2, 0, 1)  # (3, H, W)
        count = NUM_TOKENS[self.tokens]
        return Prepared(
            inputs=(pixels.float() / 255 - MEAN) / STD,
            time_s=np.repeat(np.asarray(times_s, dtype=np.float32), count),
            valid=np.full(count, bool(media.any())),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, 3, 112, 112) -> (B, N, D)."""
        features = self.network.backbone(inputs)
        if self.tokens == "spatial":
            return features.global_features.flatten(2).transpose(1, 2)  # (B, 49, 768)
        if self.tokens == "identity":
            return self.network.backbone.identity(features)[:, None]  # (B, 1, 512)
        branches = tuple(range(len(BRANCHES))) if self.tokens == "tasks" else (EXPRESSION_BRANCH,)
        attended = self.network.fam(features, branches)  # (branches, B, 512)
        return self.network.tss(attended, branches).transpose(0, 1)

    def companions(self, tokens: Tensor) -> dict[str, Tensor]:
        """Arrays to keep beside the tokens: `expression`, (B, N, 7) probabilities, the same for a face's tokens.

        Args:
            tokens: (B, N, D), as `forward` gave them. Layouts without the expression branch have no companions.
        """
        if self.tokens not in ("tasks", "expression"):
            return {}
        branch = tokens[:, EXPRESSION_BRANCH if self.tokens == "tasks" else 0]  # (B, 512)
        probabilities = self.network.om.expression(branch).softmax(dim=-1)  # (B, 7)
        return {"expression": probabilities[:, None].expand(-1, tokens.shape[1], -1)}
