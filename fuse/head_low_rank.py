"""Low-rank multimodal fusion: the tensor product of all modalities' vectors, without ever forming it.

Follows "Efficient Low-rank Multimodal Fusion with Modality-Specific Factors" (Liu et al., ACL 2018,
arXiv 1806.00064), section 3.2: with a 1 appended to each modality's vector, the outer product of all holds
every product of numbers of one, two, ... modalities; a weight tensor of rank R makes it
h = sum_r w_r prod_m (W_m^(r) [x_m; 1]).

Departures:

- the paper's x_m come from small networks on mean features (an LSTM for text); here attention pools the tokens;
- the factors begin near 1 (those of the appended 1 are 1, the others small), so that training begins with a
  sum of the modalities and their pairs; products of random numbers would bury one modality under the others;
- h are the class scores, as in the paper's released experiments, not a vector for a further network;
- a clip that lacks a modality: its vector counts as zeros, so its factors are those of the appended 1.

# Shapes: B batch, N tokens of a modality, D token width, W head width, R rank, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from mgcli.fuse.dropout import Dropout
from mgcli.fuse.head import FusionHead, HeadConfig, HeadOutput, TokenRead
from mgcli.fuse.layers import TokenPool
from mgcli.fuse.token_statistics import TokenStatistics


class LowRank(FusionHead):
    """Low-rank multimodal fusion: every product of numbers of one, two, ... modalities, through few factors.

    Takes any number of modalities; with one it is linear in the pooled vector.
    """

    options = ("width", "num_heads", "rank", "dropout")
    steady = True

    def __init__(self, dims: Mapping[str, int], num_classes: int, config: HeadConfig) -> None:
        super().__init__(dims, num_classes, config)
        width, self.rank = config.width, config.rank
        self.pool = nn.ModuleDict(
            {name: TokenPool(dim, width, config.num_heads, config.dropout) for name, dim in dims.items()}
        )
        self.norm = nn.ModuleDict({name: nn.LayerNorm(width) for name in dims})
        self.factor = nn.ModuleDict({name: nn.Linear(width, self.rank * num_classes) for name in dims})
        for factor in cast(list[nn.Linear], list(self.factor.values())):
            nn.init.normal_(factor.weight, std=0.3 / math.sqrt(width))
            nn.init.ones_(factor.bias)
        self.dropout = Dropout(config.dropout)
        self.weight = nn.Parameter(torch.randn(self.rank) / math.sqrt(self.rank))
        self.bias = nn.Parameter(torch.zeros(num_classes))

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
        product = torch.ones(1, device=self.weight.device)
        for name in self.modalities:
            pooled = self.pool[name](tokens[name], mask[name], time[name])  # (B, N, D) -> (B, W)
            vector = self.dropout(self.norm[name](pooled)) * mask[name].any(dim=1, keepdim=True)
            product = product * self.factor[name](vector)  # (B, R K)
        logits = product.unflatten(1, (self.rank, self.num_classes)).transpose(1, 2) @ self.weight  # (B, K, R) @ (R,)
        return HeadOutput(logits + self.bias)
