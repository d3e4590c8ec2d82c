"""2s-AGCN: the joint stream and the bone stream side by side, as one frozen backbone.

"Two-Stream Adaptive Graph Convolutional Networks for Skeleton-Based Action Recognition" (CVPR 2019), Sec. 3.5:
the two streams are trained apart and their scores are added. Where tokens are wanted instead of scores, we put the
streams' tokens side by side.
"""

# Shapes: B batch, C channels, T frames, V joints, M people, N tokens, K classes.

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mgcli.extract.backbone import Backbone, Prepared
from mgcli.extract.backbone_agcn import TRAINED_STEM, BoneStream, JointStream
from mgcli.extract.weights_checkpoint import WeightsError, read_state_dict


class TwoStreamAGCN(Backbone):
    """Tokens of both streams, D = 512: 256 of the joint stream, then 256 of the bone stream.

    Layouts as for `JointStream`: time, full, joint, pooled.
    """

    name = "agcn_two_stream"
    reads = "skeleton"
    layouts = JointStream.layouts
    trained_stem = TRAINED_STEM
    weights_hint = (
        "the one that `mgcli backbone-train --modality pose` makes, or that `mgcli weights import` joins from two"
    )

    def __init__(
        self,
        *,
        tokens: str = "time",
        joints: str = "imigue22",
        network: str = "agcn",
        num_people: int = 1,
        normalize: str = "body",
        sampling: str = "uniform",
        num_frames: int = 64,
        window_stride_s: float | None = None,
    ) -> None:
        """Build both networks; the options are those of `JointStream`, and the same for both.

        Raises:
            BackboneError: an option that does not exist or does not fit.
            LayoutError: no such joint layout.
        """
        super().__init__()
        self.joint_stream, self.bone_stream = (
            stream(
                tokens=tokens,
                joints=joints,
                network=network,
                num_people=num_people,
                normalize=normalize,
                sampling=sampling,
                num_frames=num_frames,
                window_stride_s=window_stride_s,
            )
            for stream in (JointStream, BoneStream)
        )
        self.tokens = tokens
        self.token_grid = self.joint_stream.token_grid
        self.joints = self.joint_stream.joints
        self.num_people = num_people
        self.embed_dim = self.joint_stream.embed_dim + self.bone_stream.embed_dim
        self.sampling = self.joint_stream.sampling
        self.transform = self.joint_stream.transform

    @classmethod
    def checkpoint_options(cls, path: Path) -> dict[str, Any]:
        """Options that a checkpoint of `mgcli backbone-train` was made for; none of any other.

        Raises:
            WeightsError: the file is damaged.
        """
        return JointStream.checkpoint_options(path)

    def load_checkpoint(self, path: Path) -> None:
        """Fill both streams from one file, whose keys start with `joint_stream.` and `bone_stream.`.

        Raises:
            WeightsError: it is damaged, of another network, for other joints, or holds one stream only.
        """
        state = read_state_dict(path)
        streams = (self.joint_stream, self.bone_stream)
        halves = []
        for stream in streams:
            prefix = f"{stream.stream_name}."
            halves.append({key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)})
        if not all(halves) or sum(map(len, halves)) != len(state):
            raise WeightsError(
                f"{path} does not hold the two streams, keys joint_stream.* and bone_stream.*; "
                "for a file of one stream name the backbone: --backbone agcn_joint, or agcn_bone. Two such files are "
                f"joined by: mgcli weights import JOINT BONE --backbone {self.name}"
            )
        for stream, half in zip(streams, halves, strict=True):
            stream.load_stream(half, path)
        if self.joint_stream.transform != self.bone_stream.transform:
            raise WeightsError(f"{path}: its two streams are of different networks, or for other numbers of people")
        if self.joint_stream.network.num_classes != self.bone_stream.network.num_classes:
            raise WeightsError(f"{path}: its two streams know different numbers of classes, so their scores do not add")
        self.num_people = self.joint_stream.num_people
        self.transform = self.joint_stream.transform

    def windows(self, start_s: float, end_s: float) -> list[np.ndarray]:
        """Times of T frames a window; never outside the clip."""
        return self.joint_stream.windows(start_s, end_s)

    def prepare(self, media: np.ndarray, times_s: np.ndarray) -> Prepared:
        """(T, V, 3) or (T, M, V, 3) joints -> (2, 3, T, V, M) float32, joints and bones.

        A token is valid where a joint it stands for is seen, with or without the joint that this one hangs on.

        Raises:
            BackboneError: another number of joints than the layout has.
        """
        joints, bones = self.joint_stream.prepare(media, times_s), self.bone_stream.prepare(media, times_s)
        inputs = torch.stack([joints.inputs, bones.inputs])
        return Prepared(inputs=inputs, time_s=joints.time_s, valid=joints.valid)

    def logits(self, inputs: Tensor) -> Tensor:
        """(B, 2, 3, T, V, M) -> (B, K), the sum of the streams' scores (Sec. 3.5)."""
        joints, bones = inputs.unbind(dim=1)
        return self.joint_stream.logits(joints) + self.bone_stream.logits(bones)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, 2, 3, T, V, M) -> (B, N, 512)."""
        joints, bones = inputs.unbind(dim=1)
        return torch.cat([self.joint_stream(joints), self.bone_stream(bones)], dim=2)

    def companions(self, tokens: Tensor) -> dict[str, Tensor]:
        """Arrays to keep beside the tokens (B, N, 512): `class_scores`, (B, N, K), the sum of the streams' logits."""
        of_joints, of_bones = tokens.split(self.joint_stream.embed_dim, dim=2)
        joint_scores, bone_scores = self.joint_stream.companions(of_joints), self.bone_stream.companions(of_bones)
        return {name: joint_scores[name] + bone_scores[name] for name in joint_scores}
