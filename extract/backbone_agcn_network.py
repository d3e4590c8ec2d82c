"""2s-AGCN and AAGCN, the networks.

"Two-Stream Adaptive Graph Convolutional Networks for Skeleton-Based Action Recognition" (CVPR 2019):
`AGCN`, Sec. 3.2-3.4, Fig. 2-4. "Skeleton-Based Action Recognition with Multi-Stream Adaptive Graph
Convolutional Networks" (IEEE TIP 2020): `AAGCN`, Sec. III. Parameter names are those of the released
checkpoints. One network is one stream; joints and bones are two networks.

Departures from the papers, all as in the released checkpoints:
- the similarity of two joints is divided by its length, channels x frames;
- in AAGCN a tanh stands for the softmax, and the learned matrix starts as the graph instead of adding to it;
- absent people count in the mean over people;
- block 1 always reads 3 channels.

The forward pass is arranged for speed: the 1x1 convolutions of the three subsets run as one, a frozen
batch norm is folded into the convolution before it (float32 maps move by 2e-6 of their largest value), and a CPU
takes a few clips of a large batch at a time.
"""

# Shapes: B clips x people, C channels, T frames, V joints, M people, K classes, S subsets (3),
#         E embedding channels of the attention. Maps are (B, C, T, V), channels last in memory.

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

IN_CHANNELS = 3  # (x, y, confidence) or (x, y, z)
NUM_SUBSETS = 3  # the joint itself, inward, outward; Sec. 3.1
# (channels, temporal stride) of the ten blocks; Sec. 3.3
BLOCKS = ((64, 1), (64, 1), (64, 1), (64, 1), (128, 2), (128, 1), (128, 1), (256, 2), (256, 1), (256, 1))
EMBED_DIM = BLOCKS[-1][0]
TEMPORAL_STRIDE = 4  # input frames from one frame of the last map to the next
TEMPORAL_KERNEL = 9  # Sec. 4.1
EMBED_SHARE = 4  # attention embeds into a quarter of the block's channels
PLACES_AT_ONCE = 12_000  # T x V x M of the clips that a CPU computes at once; larger maps leave its cache


class AdaptiveGraphConv(nn.Module):
    """Mixes joints along the fixed graph plus a learned and a data-dependent one (Sec. 3.2, eq. 3)."""

    A: Tensor  # (S, V, V), the fixed graph

    def __init__(self, in_channels: int, channels: int, adjacency: Tensor) -> None:
        super().__init__()
        embed = channels // EMBED_SHARE
        self.register_buffer("A", adjacency, persistent=False)  # released files lack it
        self.PA = nn.Parameter(torch.zeros_like(adjacency))
        self.conv_a = nn.ModuleList(nn.Conv2d(in_channels, embed, 1) for _ in range(NUM_SUBSETS))
        self.conv_b = nn.ModuleList(nn.Conv2d(in_channels, embed, 1) for _ in range(NUM_SUBSETS))
        self.conv_d = nn.ModuleList(nn.Conv2d(in_channels, channels, 1) for _ in range(NUM_SUBSETS))
        self.down = nn.Identity() if in_channels == channels else _conv_and_norm(in_channels, channels)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, V) -> (B, C', T, V)."""
        batch, channels, frames, joints = x.shape
        graph = self.graph(x).permute(0, 3, 1, 2)  # (B, S, V from, V to) -> (B, V to, S, V from)
        graph = graph.reshape(batch, 1, joints * NUM_SUBSETS, joints)
        mixed = graph @ x.permute(0, 2, 3, 1)  # (B, T, V * S, C)
        mixed = mixed.view(batch, frames, joints, NUM_SUBSETS * channels).permute(0, 3, 1, 2)
        weights, biases = _parameters(self.conv_d)
        y = _conv_norm(mixed, torch.cat(weights, dim=1), torch.stack(biases).sum(dim=0), self.bn)
        if isinstance(self.down, nn.Sequential):
            (weight,), (bias,) = _parameters(self.down[:1])
            x = _conv_norm(x, weight, bias, self.down[1])
        return y.add_(x).relu_()

    def attention(self, x: Tensor) -> Tensor:
        """The data-dependent graph of each clip, (B, S, V from, V to); every column sums to 1."""
        return self._similarity(x).softmax(dim=-2)

    def graph(self, x: Tensor) -> Tensor:
        """The whole graph of each clip, (B, S, V from, V to)."""
        return self.attention(x) + (self.A + self.PA)

    def _similarity(self, x: Tensor) -> Tensor:
        """How alike two joints are over all frames, (B, S, V, V)."""
        weights, biases = _parameters((*self.conv_a, *self.conv_b))
        embedded = F.conv2d(x, torch.cat(weights), torch.cat(biases))
        # (B, 2 * S * E, T, V) -> two of (B, S, E * T, V)
        a, b = embedded.contiguous().view(len(x), 2, NUM_SUBSETS, -1, x.shape[-1]).unbind(dim=1)
        return a.transpose(-1, -2) @ b / a.shape[-2]


class AttentionGraphConv(AdaptiveGraphConv):
    """AAGCN's: a tanh graph on top of a wholly learned one, then joint, frame and channel gates."""

    def __init__(self, in_channels: int, channels: int, adjacency: Tensor) -> None:
        super().__init__(in_channels, channels, adjacency)
        num_joints = adjacency.shape[-1]
        kernel = num_joints - 1 + num_joints % 2  # the largest odd kernel within the joints
        self.PA = nn.Parameter(adjacency.clone())
        self.alpha = nn.Parameter(torch.zeros(1))
        self.conv_ta = nn.Conv1d(channels, 1, TEMPORAL_KERNEL, padding=TEMPORAL_KERNEL // 2)
        self.conv_sa = nn.Conv1d(channels, 1, kernel, padding=kernel // 2)
        self.fc1c = nn.Linear(channels, channels // 2)
        self.fc2c = nn.Linear(channels // 2, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, V) -> (B, C', T, V)."""
        y = super().forward(x)
        joint_gate = self.conv_sa(y.mean(dim=2)).sigmoid()  # (B, 1, V)
        y = y + y * joint_gate[:, :, None, :]
        frame_gate = self.conv_ta(y.mean(dim=3)).sigmoid()  # (B, 1, T)
        y = y + y * frame_gate[:, :, :, None]
        channel_gate = self.fc2c(F.relu(self.fc1c(y.mean(dim=3).mean(dim=2)))).sigmoid()  # (B, C')
        return y + y * channel_gate[:, :, None, None]

    def attention(self, x: Tensor) -> Tensor:
        """The data-dependent graph of each clip, (B, S, V from, V to), in -1..1."""
        return self._similarity(x).tanh()

    def graph(self, x: Tensor) -> Tensor:
        """The whole graph of each clip, (B, S, V from, V to)."""
        return self.attention(x) * self.alpha + self.PA


class TemporalConv(nn.Module):
    """A convolution over time, joint by joint, and a batch norm."""

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, (kernel, 1), (stride, 1), (kernel // 2, 0))
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, V) -> (B, C', T / stride rounded up, V)."""
        (weight,), (bias,) = _parameters((self.conv,))
        return _conv_norm(x, weight, bias, self.bn, self.conv.stride[0])


class Block(nn.Module):
    """Joints, then time, then the residual (Fig. 4)."""

    def __init__(self, graph_conv: AdaptiveGraphConv, channels: int, stride: int, residual: nn.Module) -> None:
        super().__init__()
        self.gcn1 = graph_conv
        self.tcn1 = TemporalConv(channels, channels, TEMPORAL_KERNEL, stride)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, V) -> (B, C', T', V)."""
        return self.tcn1(self.gcn1(x)).add_(self.residual(x)).relu_()


class AGCN(nn.Module):
    """One stream of 2s-AGCN: batch norm, ten blocks, mean over everything, classifier."""

    graph_conv: type[AdaptiveGraphConv] = AdaptiveGraphConv

    def __init__(self, adjacency: np.ndarray, *, num_people: int, num_classes: int) -> None:
        """Args: adjacency: (S, V, V) float32, from `skeleton_graph.adjacency`."""
        super().__init__()
        graph = torch.from_numpy(adjacency)
        self.num_people, self.num_joints, self.num_classes = num_people, graph.shape[-1], num_classes
        self.data_bn = nn.BatchNorm1d(num_people * self.num_joints * IN_CHANNELS)
        in_channels = IN_CHANNELS
        for number, (channels, stride) in enumerate(BLOCKS, start=1):
            residual: nn.Module = nn.Identity()
            if number == 1:
                residual = _Nothing()
            elif in_channels != channels:
                residual = TemporalConv(in_channels, channels, 1, stride)
            graph_conv = self.graph_conv(in_channels, channels, graph)
            setattr(self, f"l{number}", Block(graph_conv, channels, stride, residual))
            in_channels = channels
        self.fc = nn.Linear(in_channels, num_classes)

    def block(self, number: int) -> Block:
        """Block 1 to 10."""
        return getattr(self, f"l{number}")

    def normalize(self, x: Tensor) -> Tensor:
        """(N, C, T, V, M) clips -> (N * M, C, T, V), people of a clip next to each other."""
        clips, channels, frames, joints, people = x.shape
        x = x.permute(0, 4, 3, 1, 2).reshape(clips, people * joints * channels, frames)
        x = self.data_bn(x).view(clips * people, joints, channels, frames)
        return x.permute(0, 2, 3, 1).contiguous(memory_format=torch.channels_last)

    def feature_map(self, x: Tensor) -> Tensor:
        """(N, C, T, V, M) clips -> (N, M, 256, T / 4 rounded up, V), the last block's output."""
        if self.training or x.device.type != "cpu":
            return self._feature_map(x)
        clips_at_once = max(1, PLACES_AT_ONCE // math.prod(x.shape[2:]))
        return torch.cat([self._feature_map(clips) for clips in x.split(clips_at_once)])

    def _feature_map(self, x: Tensor) -> Tensor:
        people = x.shape[-1]
        x = self.normalize(x)
        for number in range(1, len(BLOCKS) + 1):
            x = self.block(number)(x)
        return x.unflatten(0, (-1, people))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, V, M) clips -> (N, K) logits."""
        person_pooled = self.feature_map(x).mean(dim=(3, 4))  # (N, M, 256)
        return self.fc(person_pooled.mean(dim=1))


class AAGCN(AGCN):
    """One stream of AAGCN: as AGCN, with learned graphs and attention gates."""

    graph_conv = AttentionGraphConv


class _Nothing(nn.Module):
    """The residual of block 1: there is none."""

    def forward(self, x: Tensor) -> float:
        return 0.0


def _conv_and_norm(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1), nn.BatchNorm2d(channels))


def _parameters(convs: Iterable[nn.Module]) -> tuple[list[Tensor], list[Tensor]]:
    """Weights and biases of some convolutions."""
    convs = list(convs)
    return [conv.get_parameter("weight") for conv in convs], [conv.get_parameter("bias") for conv in convs]


def _conv_norm(x: Tensor, weight: Tensor, bias: Tensor, norm: nn.Module, stride: int = 1) -> Tensor:
    """Convolution over time and batch norm, in one pass when the norm is frozen."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    padding = (weight.shape[2] // 2, 0)
    if norm.training:
        return norm(F.conv2d(x, weight, bias, (stride, 1), padding))
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()  # (C',)
    weight = (weight * scale[:, None, None, None]).contiguous(memory_format=torch.channels_last)
    return F.conv2d(x, weight, (bias - norm.running_mean) * scale + norm.bias, (stride, 1), padding)
