"""Labelled skeleton clips as tensors for the training of a pose backbone, prepared exactly as for extraction."""

# Shapes: n clips, B batch, C channels, T frames, V joints, M people.

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mgcli.cache import Failure, MgcliError, Progress, label_classes, warn
from mgcli.extract.backbone_agcn import JointStream
from mgcli.extract.clip_request import ClipFailed, InputReady
from mgcli.extract.decoder import InlineDecoders
from mgcli.extract.inputs import by_file, read_file
from mgcli.extract.modality import clip_requests
from mgcli.extract.read_ahead import read_ahead


class BackboneTrainError(MgcliError):
    """A backbone training that cannot start or go on."""


@dataclass(frozen=True, eq=False)
class PoseClips:
    """Row i of the table is clip i of the tensors."""

    table: pd.DataFrame  # with the split in use
    joints: Tensor  # (n, 3, T, V, M) float32, what the joint stream reads
    labels: Tensor  # (n,) int64
    classes: list[str]
    failures: list[Failure]  # clips that could not be read; they are in no tensor

    def rows(self, split: str) -> Tensor:
        """(k,) int64, the clips of a split."""
        return torch.from_numpy(np.flatnonzero((self.table["split"] == split).to_numpy()))

    def to(self, device: torch.device) -> PoseClips:
        return replace(self, joints=self.joints.to(device), labels=self.labels.to(device))


def read_pose_clips(
    table: pd.DataFrame, task: str, backbone: JointStream, *, workers: int, show_progress: bool = True
) -> PoseClips:
    """Read the skeleton of every clip.

    Args:
        table: clips with a label of the task, a split and sources.
        task: the label column.
        backbone: prepares the clips; one window a clip.
        workers: files read at once.
        show_progress: on stderr.
    """
    classes = label_classes(table, task)
    requests = clip_requests(table, backbone, modality="pose")
    inputs: dict[int, Tensor] = {}
    failures: list[Failure] = []
    with Progress("skeletons", len(requests), unit="clip", shown=show_progress) as bar:
        read = partial(read_file, decoders=InlineDecoders())
        for event in read_ahead(by_file(requests), read, workers=workers, lookahead=16):
            if isinstance(event, InputReady):
                inputs[event.request.number] = event.prepared.inputs
                bar.step()
            elif isinstance(event, ClipFailed):
                failures.append(Failure(event.request.clip_id, event.stage, event.reason))
                bar.step()
            else:
                warn(f"clip {event.request.clip_id!r}: {event.message}")
    kept = sorted(inputs)
    table = table.iloc[kept].reset_index(drop=True)
    index = {name: i for i, name in enumerate(classes)}
    shape = (3, backbone.num_frames, backbone.joints.num_joints, backbone.num_people)
    return PoseClips(
        table=table,
        joints=torch.stack([inputs[number] for number in kept]) if kept else torch.empty(0, *shape),
        labels=torch.tensor([index[label] for label in table[task]], dtype=torch.int64),
        classes=classes,
        failures=failures,
    )


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How a training clip is changed each time it is seen (our choice; the paper has none for its own data).

    Turning and scaling are about the origin, which the normalisations put in the middle of the body.
    """

    least_share: float = 0.75  # of the clip's length that is kept
    turn: float = 0.1  # radians, at most, either way; in the picture's plane, or about each axis in 3-D
    scale: float = 0.1  # at most, either way

    def __post_init__(self) -> None:
        if not 0 < self.least_share <= 1 or not self.turn >= 0 or not 0 <= self.scale < 1:
            raise BackboneTrainError(
                f"least_share is {self.least_share}, turn {self.turn}, scale {self.scale}; "
                "they must be above 0 up to 1, 0 or more, and from 0 to below 1"
            )

    def __call__(self, joints: Tensor, generator: torch.Generator, *, is_3d: bool) -> Tensor:
        """(B, 3, T, V, M) changed copies; joints at the origin stay there, and confidences as they are.

        Args:
            joints: as `PoseClips` has them.
            generator: of random numbers, on the CPU whatever the joints' device, so that devices draw alike.
            is_3d: the third channel is a coordinate.
        """
        batch, _, frames, _, _ = joints.shape
        device = joints.device

        def draw(*shape: int) -> Tensor:
            return torch.rand(batch, *shape, generator=generator)  # (B, ...) in 0..1

        share = self.least_share + (1 - self.least_share) * draw(1)  # (B, 1)
        start = (1 - share) * draw(1)
        places = (start + share * (torch.arange(frames) + 0.5) / frames) * frames  # (B, T)
        rows = places.long().clamp(0, frames - 1).to(device)[:, None, :, None, None]
        moved = joints.gather(2, rows.expand(joints.shape))

        dims = 3 if is_3d else 2
        turns = self.turn * (2 * draw(3 if is_3d else 1) - 1)  # (B, axes)
        scale = 1 + self.scale * (2 * draw(1, 1) - 1)
        matrix = (_rotation(turns) * scale).to(device)  # (B, dims, dims)
        turned = torch.einsum("bij,bjtvm->bitvm", matrix, moved[:, :dims])
        return torch.cat([turned, moved[:, dims:]], dim=1)


def _rotation(turns: Tensor) -> Tensor:
    """(B, 1) angles -> (B, 2, 2); (B, 3) angles about x, y, z -> (B, 3, 3)."""
    cos, sin = turns.cos(), turns.sin()
    if turns.shape[1] == 1:
        return torch.stack([torch.cat([cos, -sin], dim=1), torch.cat([sin, cos], dim=1)], dim=1)
    matrix = torch.eye(3).expand(len(turns), 3, 3)
    for axis, (i, j) in enumerate(((1, 2), (2, 0), (0, 1))):
        one = torch.eye(3).repeat(len(turns), 1, 1)
        one[:, i, i] = one[:, j, j] = cos[:, axis]
        one[:, i, j], one[:, j, i] = -sin[:, axis], sin[:, axis]
        matrix = one @ matrix
    return matrix
