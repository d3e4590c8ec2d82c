"""Pose-guided fusion: the skeleton asks, the other modalities answer, a gate decides how much is taken.

After "CLIP-MG: Guiding Semantic Attention with Skeletal Pose Features and RGB Data for Micro-Gesture
Recognition on the iMiGUE Dataset" (arXiv 2506.16385): queries made from pose attend to visual tokens, and a
gate mixes both. We read its abstract and summaries only, so everything beyond that sentence is OUR OWN DESIGN.

Departures:

- no CLIP and no text: the queries are the guide's own tokens and one class token, after self-attention;
- the guide is the modality that the option `guide` names; without it the first that is `pose`, else the last
  one, so that the head takes any modalities;
- the gate is that of gated multimodal units (arXiv 1702.01992), on every query and in every layer;
- a clip that lacks the guide asks by the class token alone; one that lacks all else keeps what the guide says.

# Shapes: B batch, N tokens of a modality, G tokens of the guide, M tokens of all others, D token width,
#         W head width, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from mgcli.fuse.dropout import Dropout
from mgcli.fuse.head import FusionHead, HeadConfig, HeadError, HeadOutput, TokenRead, side_by_side
from mgcli.fuse.layers import Attention, FeedForward, GatedResidual, TokenInput
from mgcli.fuse.token_statistics import TokenStatistics


class PoseGuided(FusionHead):
    """Pose-guided fusion: tokens of one modality, the guide, make the queries that all others answer.

    Takes any number of modalities; with one it is the guide's own small transformer.
    """

    options = ("width", "num_layers", "num_heads", "guide", "dropout")
    steady = True

    def __init__(self, dims: Mapping[str, int], num_classes: int, config: HeadConfig) -> None:
        super().__init__(dims, num_classes, config)
        if config.guide and config.guide not in dims:
            raise HeadError(f"guide is {config.guide!r}; it must be one of the run's modalities: {', '.join(dims)}")
        width = config.width
        poses = [name for name in dims if name.partition(":")[0] == "pose"]  # also pose:agcn_bone
        self.guide = config.guide or (poses or self.modalities[-1:])[0]
        self.others = [name for name in self.modalities if name != self.guide]
        self.inputs = nn.ModuleDict({name: TokenInput(dim, width) for name, dim in dims.items()})
        self.class_token = nn.Parameter(torch.randn(width) * 0.02)
        self.layers = nn.ModuleList(_Layer(config, asks=len(dims) > 1) for _ in range(config.num_layers))
        self.classify = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.GELU(),
            Dropout(config.dropout),
            nn.Linear(width, num_classes),
        )

    def set_statistics(self, statistics: Mapping[str, TokenStatistics]) -> None:
        for name in self.modalities:
            cast(TokenInput, self.inputs[name]).set_statistics(statistics[name])

    def forward(
        self, tokens: Mapping[str, Tensor], mask: Mapping[str, Tensor], time: Mapping[str, Tensor]
    ) -> HeadOutput:
        embedded = {name: self.inputs[name](tokens[name], time[name]) for name in self.modalities}  # (B, N, W)
        guide, asks = embedded[self.guide], mask[self.guide]
        x = torch.cat([self.class_token.expand(len(guide), 1, -1), guide], dim=1)  # (B, 1 + G, W)
        real = torch.cat([asks.new_ones(len(asks), 1), asks], dim=1)  # (B, 1 + G)
        answers = allowed = None
        if self.others:
            answers = torch.cat([embedded[name] for name in self.others], dim=1)  # (B, M, W)
            allowed = torch.cat([mask[name] for name in self.others], dim=1)  # (B, M)
        for layer in self.layers:
            x = layer(x, real, answers, allowed)
        return HeadOutput(self.classify(x[:, 0]))

    def token_reads(self, counts: Mapping[str, int]) -> list[TokenRead]:
        """The class token's attention to the guide and to the answers."""
        reads = []
        for layer in cast(list[_Layer], self.layers):
            own = {self.guide: slice(1, None)}
            reads.append(TokenRead(attention=layer.self_attention, tokens=own, readers=slice(0, 1)))
            if self.others:
                tokens = side_by_side(self.others, counts)
                reads.append(TokenRead(attention=layer.cross_attention, tokens=tokens, readers=slice(0, 1)))
        return reads


class _Layer(nn.Module):
    """Self-attention of the queries, gated cross-attention to the answers, feed-forward; pre-norm."""

    def __init__(self, config: HeadConfig, asks: bool) -> None:
        super().__init__()
        width, dropout = config.width, config.dropout
        self.norm_self = nn.LayerNorm(width)
        self.self_attention = Attention(width, config.num_heads, dropout)
        if asks:
            self.norm_query = nn.LayerNorm(width)
            self.norm_answers = nn.LayerNorm(width)
            self.cross_attention = Attention(width, config.num_heads, dropout)
            self.gated = GatedResidual(width)
        self.feed_forward = FeedForward(width, dropout)

    def forward(self, x: Tensor, real: Tensor, answers: Tensor | None, allowed: Tensor | None) -> Tensor:
        """(B, 1 + G, W), (B, 1 + G), (B, M, W), (B, M) -> (B, 1 + G, W)."""
        normed = self.norm_self(x)
        x = x + self.self_attention(normed, normed, real)
        if answers is not None and allowed is not None:
            update = self.cross_attention(self.norm_query(x), self.norm_answers(answers), allowed)
            x = self.gated(x, update)
        return x + self.feed_forward(x)
