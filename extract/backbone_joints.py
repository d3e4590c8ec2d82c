"""Joint coordinates as tokens: a baseline without a network, one token for each sampled skeleton frame."""

# Shapes: B batch, T frames, V joints, N tokens, D token width.

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mgcli.extract.backbone import Backbone, BackboneError, Prepared
from mgcli.extract.skeleton_layouts import joint_layout
from mgcli.extract.skeleton_prepare import seen_joints

USUAL_NUM_JOINTS = 22  # of the skeletons of iMiGUE's starter kit


class Joints(Backbone):
    """Normalised joint coordinates, D = 3 V: (x, y, present) of joint 0, of joint 1, ...

    N = num_frames tokens in order of time, from frames at the centres of equal parts of the clip. Coordinates
    are centred on the median of the clip's present joints and divided by their root mean square distance from
    it, so where and how large a person is seen does not matter. A missing joint is (0, 0, 0); a token is
    valid where its frame has any joint. Of 3-D skeletons it takes x and y.

    Skeletons keep the joints of their file, or are brought to a named layout. A file that names none (`.npy`) so gets
    one: mirrored views need to know left from right.
    """

    name = "joints"
    reads = "skeleton"
    layouts = ("time",)
    precisions = ("float32",)
    has_weights = False

    def __init__(
        self, *, tokens: str = "time", num_frames: int = 32, num_joints: int | None = None, joints: str | None = None
    ) -> None:
        """Choose how many frames and joints.

        Args:
            tokens: layout; there is only `time`.
            num_frames: sampled uniformly from each clip.
            num_joints: V of the skeletons it will be given, 22 by default; the layout's where one is named.
            joints: layout that skeletons are brought to; by default they stay as their file has them.

        Raises:
            BackboneError: a number below 1, or another one than the layout has.
            LayoutError: no such joint layout.
        """
        super().__init__()
        if joints is not None:
            self.joints = joint_layout(joints)
            if num_joints not in (None, self.joints.num_joints):
                raise BackboneError(
                    f"num_joints is {num_joints}, layout '{joints}' has {self.joints.num_joints}; leave out num_joints"
                )
            num_joints = self.joints.num_joints
        elif num_joints is None:
            num_joints = USUAL_NUM_JOINTS
        if num_frames < 1 or num_joints < 1:
            raise BackboneError(f"num_frames is {num_frames} and num_joints {num_joints}; both must be 1 or more")
        self.tokens = tokens
        self.num_frames = num_frames
        self.num_joints = num_joints
        self.embed_dim = 3 * num_joints
        self.sampling = {"mode": "uniform", "num_frames": num_frames}
        self.transform = {"centre": "median", "scale": "rms", "per": "clip"}
        if joints is not None:
            self.transform["joints"] = joints

    def windows(self, start_s: float, end_s: float) -> list[np.ndarray]:
        """One window: the centres of equal parts of the clip."""
        return [start_s + (np.arange(self.num_frames) + 0.5) * ((end_s - start_s) / self.num_frames)]

    def prepare(self, media: np.ndarray, times_s: np.ndarray) -> Prepared:
        """(T, V, 3) x, y, confidence -> (T, 3 V) float32; confidence 0 marks a missing joint.

        Raises:
            BackboneError: another number of joints than this backbone was made for.
        """
        if media.shape[1] != self.num_joints:
            raise BackboneError(
                f"the skeleton has {media.shape[1]} joints, this feature set {self.num_joints}; set num_joints"
            )
        present = media[..., 2] > 0 if self.joints is None else seen_joints(media, self.joints)  # (T, V)
        joints = np.zeros((*present.shape, 3), dtype=np.float32)  # (T, V, 3)
        if present.any():
            seen = media[present][:, :2].astype(np.float64)  # (present joints, 2)
            offset = seen - np.median(seen, axis=0)
            spread = np.sqrt((offset**2).sum(axis=1).mean())
            joints[present, :2] = offset / max(spread, 1e-6)
            joints[present, 2] = 1.0
        return Prepared(
            inputs=torch.from_numpy(joints.reshape(len(joints), -1)),  # (T, V, 3) -> (T, 3 V)
            time_s=np.asarray(times_s, dtype=np.float32),
            valid=np.asarray(present.any(axis=1)),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, T, 3 V) -> the same: the tokens are the coordinates."""
        return inputs
