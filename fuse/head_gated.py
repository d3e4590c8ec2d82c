"""Gated multimodal unit: each modality's vector enters as far as a gate, made from all of them, lets it.

Follows "Gated Multimodal Units for Information Fusion" (Arevalo et al. 2017, arXiv 1702.01992), section 3.2,
the form for any number of modalities: h_m = tanh(W_m x_m), z_m = sigmoid(V_m [x_1; ...; x_k]), h = sum z_m h_m.

Departures:

- the paper's x_m are ready feature vectors; here attention pools each modality's tokens to one, as in `single`;
- the paper classifies h with maxout layers, or not at all; here a layer norm and a small GELU network do;
- a clip that lacks a modality: its vector counts as zeros, and its gate is shut.

# Shapes: B batch, N tokens of a modality, M modalities, D token width, W head width, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from mgcli.fuse.head import FusionHead, HeadConfig, HeadOutput, TokenRead
from mgcli.fuse.layers import FeedForward, TokenPool
from mgcli.fuse.token_statistics import TokenStatistics


class Gated(FusionHead):
    """Gated multimodal unit: the sum of the modalities' vectors, each weighed by a gate made from all.

    Takes any number of modalities; with one the gate only sees that one.
    """

    options = ("width", "num_heads", "dropout")
    steady = True

    def __init__(self, dims: Mapping[str, int], num_classes: int, config: HeadConfig) -> None:
        super().__init__(dims, num_classes, config)
        width = config.width
        self.pool = nn.ModuleDict(
            {name: TokenPool(dim, width, config.num_heads, config.dropout) for name, dim in dims.items()}
        )
        self.hidden = nn.ModuleDict({name: nn.Linear(width, width) for name in dims})
        self.gate = nn.ModuleDict({name: nn.Linear(len(dims) * width, width) for name in dims})
        self.refine = FeedForward(width, config.dropout)
        self.classify = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, num_classes))

    def set_statistics(self, statistics: Mapping[str, TokenStatistics]) -> None:
        for name in self.modalities:
            cast(TokenPool, self.pool[name]).set_statistics(statistics[name])

    def token_reads(self, counts: Mapping[str, int]) -> list[TokenRead]:
        """The pooling of each modality."""
        pools = cast(Mapping[str, TokenPool], self.pool)
        return [TokenRead(attention=pool.pool, tokens={name: slice(None)}, asks=name) for name, pool in pools.items()]

    def forward(
        self, tokens: Mapping[str, Tensor], mask: Mapping[str, Tensor], time: Mapping[str, Tensor]
    ) -> HeadOutput:
        pooled = {name: self.pool[name](tokens[name], mask[name], time[name]) for name in self.modalities}  # (B, W)
        every = torch.cat(list(pooled.values()), dim=1)  # (B, M W)
        fused = torch.zeros_like(pooled[self.modalities[0]])
        for name in self.modalities:
            gate = torch.sigmoid(self.gate[name](every)) * mask[name].any(dim=1, keepdim=True)
            fused = fused + gate * torch.tanh(self.hidden[name](pooled[name]))
        return HeadOutput(self.classify(fused + self.refine(fused)))
