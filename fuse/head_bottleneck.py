"""Attention bottlenecks: modalities meet in a few shared tokens and nowhere else.

Follows "Attention Bottlenecks for Multimodal Fusion" (MBT, Nagrani et al., NeurIPS 2021, arXiv 2107.00135),
section 3.2: in a fusion layer each modality's own transformer layer runs over its tokens and the bottleneck
tokens; the bottlenecks' updates are averaged over the modalities. Each modality's class token is classified
by itself, and the logits are averaged (section 3.3). Four bottlenecks, as in the paper.

Departures:

- the paper begins from pretrained ViT layers on pixels and spectrograms; here from the cached tokens;
- it fuses in the last third of 12 layers; what one layer gathers in the bottlenecks only the next one reads,
  so here the last half, and at least two layers, are fusion layers;
- a clip that lacks a modality: that one takes no part in either average.

# Shapes: B batch, N tokens of a modality, Q bottlenecks, D token width, W head width, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from mgcli.fuse.head import FusionHead, HeadConfig, HeadError, HeadOutput, TokenRead
from mgcli.fuse.layers import TokenInput
from mgcli.fuse.token_statistics import TokenStatistics
from mgcli.fuse.transformer import SelfAttentionLayer


class Bottleneck(FusionHead):
    """Attention bottlenecks (MBT): a transformer for each modality; a few shared tokens are the only way across.

    Takes any number of modalities; with one it is a small transformer.
    """

    options = ("width", "num_layers", "num_heads", "num_bottlenecks", "dropout")
    steady = True

    def __init__(self, dims: Mapping[str, int], num_classes: int, config: HeadConfig) -> None:
        super().__init__(dims, num_classes, config)
        if len(dims) > 1 and config.num_layers < 2:
            raise HeadError("head 'bottleneck' needs num_layers of 2 or more: each layer reads what the last gathered")
        width = config.width
        self.inputs = nn.ModuleDict({name: TokenInput(dim, width) for name, dim in dims.items()})
        self.class_token = nn.ParameterDict({name: nn.Parameter(torch.randn(width) * 0.02) for name in dims})
        self.first_fusion = config.num_layers - max(2, config.num_layers // 2)
        crosses = len(dims) > 1
        self.bottlenecks = nn.Parameter(torch.randn(config.num_bottlenecks, width) * 0.02) if crosses else None
        self.layers = nn.ModuleList(
            nn.ModuleDict({name: SelfAttentionLayer(width, config.num_heads, config.dropout) for name in dims})
            for _ in range(config.num_layers)
        )
        self.norm = nn.ModuleDict({name: nn.LayerNorm(width) for name in dims})
        self.classify = nn.ModuleDict({name: nn.Linear(width, num_classes) for name in dims})

    def set_statistics(self, statistics: Mapping[str, TokenStatistics]) -> None:
        for name in self.modalities:
            cast(TokenInput, self.inputs[name]).set_statistics(statistics[name])

    def forward(
        self, tokens: Mapping[str, Tensor], mask: Mapping[str, Tensor], time: Mapping[str, Tensor]
    ) -> HeadOutput:
        present = {name: mask[name].any(dim=1) for name in self.modalities}  # (B,)
        x, real = {}, {}
        for name in self.modalities:
            embedded = self.inputs[name](tokens[name], time[name])  # (B, N, D) -> (B, N, W)
            class_token = self.class_token[name].expand(len(embedded), 1, -1)
            x[name] = torch.cat([class_token, embedded], dim=1)  # (B, 1 + N, W)
            real[name] = torch.cat([present[name][:, None], mask[name]], dim=1)  # (B, 1 + N)
        shared = None if self.bottlenecks is None else self.bottlenecks.expand(len(embedded), -1, -1)  # (B, Q, W)
        for depth, layer in enumerate(cast(list[dict[str, SelfAttentionLayer]], self.layers)):
            if shared is None or depth < self.first_fusion:
                x = {name: layer[name](x[name], real[name]) for name in self.modalities}
            else:
                x, shared = self._exchange(layer, x, real, shared, present)
        logits = {name: self.classify[name](self.norm[name](x[name][:, 0])) for name in self.modalities}  # (B, K)
        return HeadOutput(_mean_of_present(logits, present))

    def token_reads(self, counts: Mapping[str, int]) -> list[TokenRead]:
        """The class tokens' attention, and that of the bottlenecks where a later layer reads what they gather."""
        reads = []
        for depth, layer in enumerate(cast(list[dict[str, SelfAttentionLayer]], self.layers)):
            fuses = self.bottlenecks is not None and depth >= self.first_fusion
            num_shared = self.config.num_bottlenecks if fuses else 0
            readers = slice(num_shared if depth + 1 == len(self.layers) else 0, num_shared + 1)
            for name in self.modalities:
                own = {name: slice(num_shared + 1, None)}
                reads.append(TokenRead(attention=layer[name].attention, tokens=own, asks=name, readers=readers))
        return reads

    def _exchange(
        self,
        layer: Mapping[str, SelfAttentionLayer],
        x: Mapping[str, Tensor],
        real: Mapping[str, Tensor],
        shared: Tensor,
        present: Mapping[str, Tensor],
    ) -> tuple[dict[str, Tensor], Tensor]:
        """One fusion layer: (B, 1 + N, W) of each modality and the (B, Q, W) that they share."""
        num_shared = shared.shape[1]
        updated, updates = {}, {}
        for name in self.modalities:
            every = torch.cat([shared, x[name]], dim=1)  # (B, Q + 1 + N, W)
            allowed = torch.cat([real[name].new_ones(shared.shape[:2]), real[name]], dim=1)
            every = layer[name](every, allowed)
            updates[name], updated[name] = every[:, :num_shared], every[:, num_shared:]
        return updated, _mean_of_present(updates, present)


def _mean_of_present(values: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
    """The mean over the modalities that a clip has: (B, ...) of each, with (B,) bool; zeros where it has none."""
    weight = torch.stack([present[name] for name in values]).float()  # (M, B)
    weight = weight / weight.sum(dim=0).clamp_min(1)
    return torch.einsum("mb,mb...->b...", weight, torch.stack(list(values.values())))
