"""2s-AGCN as frozen backbones: the joint stream and the bone stream, each with weights of its own.

The networks are in `backbone_agcn_network.py`. No published weights fit the joints of iMiGUE; the released ones
are for NTU RGB+D (`joints="ntu25"`, `normalize="ntu"`) and Kinetics (`joints="kinetics18"`,
`normalize="kinetics"`), with two people.
Departure from Sec. 4.1 of the paper: a clip is sampled uniformly to a fixed number of frames, where the
paper repeats or cuts it to 300.
"""

# Shapes: B batch, C channels, T frames, V joints, M people, N tokens, K classes.

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mgcli.cache import TokenGrid
from mgcli.extract.backbone import Backbone, BackboneError, Prepared
from mgcli.extract.backbone_agcn_network import AAGCN, AGCN, EMBED_DIM, IN_CHANNELS, TEMPORAL_STRIDE
from mgcli.extract.skeleton_graph import adjacency, joints_to_bones
from mgcli.extract.skeleton_layouts import JointLayout, joint_layout
from mgcli.extract.skeleton_prepare import NORMALIZERS, seen_joints
from mgcli.extract.weights_agcn import agcn_state
from mgcli.extract.weights_checkpoint import WeightsError, load_state, read_provenance, read_state_dict
from mgcli.extract.windows import uniform_times, window_starts

NETWORKS: dict[str, type[AGCN]] = {"agcn": AGCN, "aagcn": AAGCN}
SAMPLINGS = ("uniform", "windows")
FRAMES_PER_S = 25.0  # of `windows`: the rate of iMiGUE
TRAINED_STEM = "agcn_two_stream"  # of the files of `mgcli backbone-train`, which hold both streams
TRAINED_HERE = ("joints", "network", "num_people", "normalize", "num_frames")  # options kept with such a checkpoint
NUM_CLASSES = 32  # of a network that is not filled from a checkpoint: iMiGUE's


class JointStream(Backbone):
    """Tokens of the last block's map, D = 256; people are averaged, absent ones included, as in the classifier.

    Layouts, for T frames a window and T' = T / 4 rounded up:
        time: (T', 256), the mean over joints at each time.
        full: (T' * V, 256), time slowest.
        joint: (V, 256), the mean over time of each joint.
        pooled: (1, 256), the mean over both: what the classifier reads.
    """

    name: ClassVar[str] = "agcn_joint"
    reads = "skeleton"
    layouts = ("time", "full", "joint", "pooled")
    trained_stem = TRAINED_STEM
    weights_hint = "one that `mgcli backbone-train` made or, for joints=ntu25, a released one of 2s-AGCN or pyskl"
    stream_name: ClassVar[str] = "joint_stream"  # of its keys in a file that holds both streams
    joints: JointLayout
    scores_classes: bool = False  # True once a checkpoint has brought a trained classifier

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
        """Build the network.

        Args:
            tokens: layout.
            joints: joint layout of the skeletons it will be given.
            network: agcn, or aagcn. A checkpoint that is loaded afterwards brings its own.
            num_people: M, likewise.
            normalize: body, ntu, kinetics or none; see `skeleton_prepare`.
            sampling: uniform, frames at the centres of equal parts of the clip; windows, frames at 25 a second
                in windows over all of it.
            num_frames: T of a window.
            window_stride_s: from the start of one window to the next; only for `windows`, where the default
                is a window's length.

        Raises:
            BackboneError: an option that does not exist or does not fit.
            LayoutError: no such joint layout.
        """
        super().__init__()
        _check_choice("network", network, NETWORKS)
        _check_choice("normalize", normalize, NORMALIZERS)
        _check_choice("sampling", sampling, SAMPLINGS)
        if normalize == "ntu" and joints != "ntu25":
            raise BackboneError(f"normalize 'ntu' is for joints 'ntu25', not {joints!r}")
        if num_frames < 1 or num_people < 1:
            raise BackboneError(f"num_frames is {num_frames} and num_people {num_people}; both must be 1 or more")
        if window_stride_s is not None and (sampling != "windows" or not window_stride_s > 0):
            raise BackboneError(f"window_stride_s is {window_stride_s}; it must be above 0, and needs 'windows'")
        self.tokens = tokens
        self.embed_dim = EMBED_DIM
        self.joints = joint_layout(joints)
        self.token_grid = TokenGrid(
            times=math.ceil(num_frames / TEMPORAL_STRIDE),
            places=self.joints.num_joints,
            middle=(num_frames - 1) / 2 / TEMPORAL_STRIDE,
        )
        self.num_people = num_people
        self.normalize = normalize
        self.num_frames = num_frames
        self.window_s = num_frames / FRAMES_PER_S
        self.window_stride_s = window_stride_s or self.window_s
        self.sampling = {"mode": sampling, "num_frames": num_frames}
        if sampling == "windows":
            self.sampling |= {"frames_per_s": FRAMES_PER_S, "window_stride_s": round(self.window_stride_s, 6)}
        self.transform = {
            "network": network,
            "joints": joints,
            "normalize": normalize,
            "num_people": num_people,
        }
        self.network = NETWORKS[network](adjacency(self.joints), num_people=num_people, num_classes=NUM_CLASSES)

    @classmethod
    def checkpoint_options(cls, path: Path) -> dict[str, Any]:
        """Options that a checkpoint of `mgcli backbone-train` was made for; none of any other.

        Raises:
            WeightsError: the file is damaged.
        """
        kept = read_provenance(path).get("options", {})
        return {name: kept[name] for name in TRAINED_HERE if name in kept}

    def load_checkpoint(self, path: Path) -> None:
        """Take network, people and classes from a checkpoint, and fill every parameter from it.

        Of a file with both streams this one's half is taken.

        Raises:
            WeightsError: it is damaged, of another network, for other joints, or says that it is the other stream.
        """
        state = read_state_dict(path)
        prefix = f"{self.stream_name}."
        own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        stream = read_provenance(path).get("backbone", self.name)
        if not own and stream != self.name:
            raise WeightsError(
                f"{path} was imported as weights of {stream}, not of {self.name}: use --backbone {stream}, or import "
                f"the file it was made from with --backbone {self.name}"
            )
        self.load_stream(own or state, path)

    def load_stream(self, state: Mapping[str, Tensor], path: Path) -> None:
        """The same from the tensors of one stream that were read from `path`."""
        state = agcn_state(state)
        try:
            features, num_classes = len(state["data_bn.weight"]), len(state["fc.bias"])
            num_joints = state["l1.gcn1.PA"].shape[-1]
        except (KeyError, IndexError) as error:
            raise WeightsError(f"{path} is no AGCN checkpoint: it lacks {error}") from error
        if num_joints != self.joints.num_joints:
            raise WeightsError(
                f"{path} is for {num_joints} joints, layout '{self.joints.name}' has {self.joints.num_joints}; "
                "set joints to the layout it was trained on"
            )
        network = "aagcn" if "l1.gcn1.alpha" in state else "agcn"
        num_people = features // (IN_CHANNELS * num_joints)
        self.network = NETWORKS[network](adjacency(self.joints), num_people=num_people, num_classes=num_classes)
        self.num_people = num_people
        self.transform |= {"network": network, "num_people": num_people}
        load_state(self.network, state, path)
        self.scores_classes = True

    def windows(self, start_s: float, end_s: float) -> list[np.ndarray]:
        """Times of T frames a window; never outside the clip."""
        if self.sampling["mode"] == "uniform" or end_s - start_s < self.window_s:
            return [uniform_times(start_s, end_s, self.num_frames)]
        starts_s = window_starts(start_s, end_s, self.window_s, self.window_stride_s)
        return [uniform_times(each, each + self.window_s, self.num_frames) for each in starts_s]

    def prepare(self, media: np.ndarray, times_s: np.ndarray) -> Prepared:
        """(T, V, 3) or (T, M, V, 3) joints -> (3, T, V, M) float32.

        People above this network's number are left out, missing ones are zeros.

        Raises:
            BackboneError: another number of joints than the layout has.
        """
        people = media[:, None] if media.ndim == 3 else media  # (T, M, V, 3)
        if people.shape[2] != self.joints.num_joints:
            raise BackboneError(
                f"the skeleton has {people.shape[2]} joints, layout '{self.joints.name}' has "
                f"{self.joints.num_joints}; set joints to the layout of the skeletons"
            )
        shape = (len(people), self.num_people, *people.shape[2:])
        joints = np.zeros(shape, dtype=np.float32)
        shared = min(people.shape[1], shape[1])
        joints[:, :shared] = people[:, :shared]
        seen = seen_joints(joints, self.joints)  # (T, M, V)
        joints = np.where(seen[..., None], joints, np.float32(0))
        values, seen = self.stream(NORMALIZERS[self.normalize](joints, seen, self.joints), seen)
        time_s, valid = self._token_times(times_s, np.any(seen, axis=1))
        inputs = torch.from_numpy(np.ascontiguousarray(values.transpose(3, 0, 2, 1)))  # (3, T, V, M)
        return Prepared(inputs=inputs, time_s=time_s, valid=valid)

    def stream(self, joints: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What this stream reads, (T, M, V, 3), and where it is known, (T, M, V)."""
        return joints, seen

    def logits(self, inputs: Tensor) -> Tensor:
        """(B, 3, T, V, M) -> (B, K) class scores; two streams are joined by adding theirs (Sec. 3.5)."""
        return self.network(inputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, 3, T, V, M) -> (B, N, 256)."""
        x = self.network.feature_map(inputs).mean(dim=1)  # (B, 256, T', V)
        if self.tokens == "full":
            return x.permute(0, 2, 3, 1).flatten(1, 2)  # (B, T' * V, 256)
        if self.tokens == "time":
            return x.mean(dim=3).transpose(1, 2)  # (B, T', 256)
        if self.tokens == "joint":
            return x.mean(dim=2).transpose(1, 2)  # (B, V, 256)
        return x.mean(dim=(2, 3))[:, None]  # (B, 1, 256)

    def class_scores(self, tokens: Tensor) -> Tensor:
        """(B, N, 256) -> (B, K), the logits: in every layout the tokens' mean is what the classifier reads."""
        return self.network.fc(tokens.mean(dim=1))

    def companions(self, tokens: Tensor) -> dict[str, Tensor]:
        """Arrays to keep beside the tokens: `class_scores`, (B, N, K) logits of a trained network."""
        if not self.scores_classes:
            return {}
        return {"class_scores": self.class_scores(tokens)[:, None].expand(-1, tokens.shape[1], -1)}

    def _token_times(self, times_s: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Centre time and validity of each token: step t of the map is centred at frame 4t.

        Args:
            times_s: (T,) of the frames.
            seen: (T, V) bool; a token is valid where any of the frames it stands for is.
        """
        steps_s = np.asarray(times_s[::TEMPORAL_STRIDE], dtype=np.float32)  # (T',)
        valid = np.logical_or.reduceat(seen, np.arange(0, len(seen), TEMPORAL_STRIDE), axis=0)  # (T', V)
        middle_s = np.float32(np.mean(times_s))
        if self.tokens == "full":
            return np.repeat(steps_s, seen.shape[1]), valid.reshape(-1)
        if self.tokens == "time":
            return steps_s, np.any(valid, axis=1)
        if self.tokens == "joint":
            return np.full(seen.shape[1], middle_s), np.any(valid, axis=0)
        return np.full(1, middle_s), np.full(1, np.any(valid))


class BoneStream(JointStream):
    """As `JointStream`, from bones: each joint minus the joint that it hangs on."""

    name: ClassVar[str] = "agcn_bone"
    stream_name: ClassVar[str] = "bone_stream"

    def stream(self, joints: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What this stream reads, (T, M, V, 3), and where it is known, (T, M, V): where both ends are."""
        return joints_to_bones(joints, self.joints), seen & seen[..., self.joints.references]


def _check_choice(option: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        raise BackboneError(f"{option} is {value!r}; choose from: {', '.join(choices)}")
