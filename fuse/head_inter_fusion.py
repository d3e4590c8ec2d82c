"""InterFusion: a few vectors sum up each modality over a whole interview, and talk to those of the others.

The name is that of "Multi-Track Multimodal Learning on iMiGUE" (arXiv 2512.23291), which joins face and
context for emotion. The inside of the paper's module is not public in what we could read, so this one is OUR
OWN DESIGN. Published mechanisms that it follows:

- learned queries that pool any number of tokens, as in Set Transformer (arXiv 1810.00825) and Perceiver
  (arXiv 2103.03206): the cost grows with the tokens, not with their square;
- exchange through few vectors only, as the bottlenecks of MBT (arXiv 2107.00135), and in both directions with
  gated residuals, as in gated multimodal units (arXiv 1702.01992);
- a low-rank bilinear product of the summaries, MLB (arXiv 1610.04325).

# Shapes: B batch, N tokens of a modality, Q queries of a modality, M queries of all the others,
#         D token width, W head width, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from mgcli.fuse.head import FusionHead, HeadConfig, HeadOutput, TokenRead
from mgcli.fuse.layers import Attention, FeedForward, GatedResidual, JointClassifier, TokenInput, blank_clip
from mgcli.fuse.token_statistics import TokenStatistics


class InterFusion(FusionHead):
    """Layers of attention pooling, gated exchange and feed-forward; summaries joined at the end.

    Only valid tokens are pooled. Takes any number of modalities; with one there is no exchange.
    """

    options = ("width", "num_layers", "num_heads", "num_queries", "rank", "dropout")
    steady = True

    def __init__(self, dims: Mapping[str, int], num_classes: int, config: HeadConfig) -> None:
        super().__init__(dims, num_classes, config)
        width = config.width
        self.inputs = nn.ModuleDict({name: TokenInput(dim, width) for name, dim in dims.items()})
        self.refine = nn.ModuleDict({name: FeedForward(width, config.dropout) for name in dims})
        self.norm_tokens = nn.ModuleDict({name: nn.LayerNorm(width) for name in dims})
        self.queries = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(config.num_queries, width) * 0.5) for name in dims}
        )
        self.layers = nn.ModuleList(
            nn.ModuleDict({name: _Layer(config, crosses=len(dims) > 1) for name in dims})
            for _ in range(config.num_layers)
        )
        self.classify = JointClassifier(self.modalities, width, config.rank, num_classes, config.dropout)

    @torch.no_grad()
    def set_statistics(self, statistics: Mapping[str, TokenStatistics]) -> None:
        for name in self.modalities:
            cast(TokenInput, self.inputs[name]).set_statistics(statistics[name])
        training = self.training
        self.eval()
        self.classify.centre(self._summarise(*blank_clip(statistics)))
        self.train(training)

    def forward(
        self, tokens: Mapping[str, Tensor], mask: Mapping[str, Tensor], time: Mapping[str, Tensor]
    ) -> HeadOutput:
        present = {name: mask[name].any(dim=1, keepdim=True) for name in self.modalities}  # (B, 1)
        return self.classify(self._summarise(tokens, mask, time), present)

    def token_reads(self, counts: Mapping[str, int]) -> list[TokenRead]:
        """The pooling of every layer, by all queries of a modality."""
        return [
            TokenRead(attention=layer[name].pooling, tokens={name: slice(None)}, asks=name)
            for layer in cast(list[dict[str, _Layer]], self.layers)
            for name in self.modalities
        ]

    def _summarise(
        self, tokens: Mapping[str, Tensor], mask: Mapping[str, Tensor], time: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """modality -> (B, W)."""
        present = {name: mask[name].any(dim=1, keepdim=True) for name in self.modalities}  # (B, 1)
        embedded, x = {}, {}
        for name in self.modalities:
            raw = self.inputs[name](tokens[name], time[name])  # (B, N, D) -> (B, N, W)
            embedded[name] = self.norm_tokens[name](raw + self.refine[name](raw))
            x[name] = self.queries[name].expand(len(raw), -1, -1)  # (B, Q, W)
        for layer in cast(list[dict[str, _Layer]], self.layers):
            x = {name: layer[name].pool(x[name], embedded[name], mask[name]) for name in self.modalities}
            x = {name: layer[name](x[name], *self._others(name, x, present)) for name in self.modalities}
        return {name: x[name].mean(dim=1) for name in self.modalities}

    def _others(
        self, name: str, x: Mapping[str, Tensor], present: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """(B, M, W) and (B, M): the summaries of all other modalities side by side."""
        others = [other for other in self.modalities if other != name]
        if not others:
            return None, None
        real = torch.cat([present[other].expand(-1, x[other].shape[1]) for other in others], dim=1)
        return torch.cat([x[other] for other in others], dim=1), real


class _Layer(nn.Module):
    """One layer of one modality, pre-norm."""

    def __init__(self, config: HeadConfig, crosses: bool) -> None:
        super().__init__()
        width, dropout = config.width, config.dropout
        self.norm_pool = nn.LayerNorm(width)
        self.pooling = Attention(width, config.num_heads, dropout)
        if crosses:
            self.norm_query = nn.LayerNorm(width)
            self.norm_others = nn.LayerNorm(width)
            self.exchange = Attention(width, config.num_heads, dropout)
            self.gated = GatedResidual(width)
        self.feed_forward = FeedForward(width, dropout)

    def pool(self, x: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """(B, Q, W), (B, N, W), (B, N) -> (B, Q, W)."""
        return x + self.pooling(self.norm_pool(x), tokens, mask)

    def forward(self, x: Tensor, others: Tensor | None, real: Tensor | None) -> Tensor:
        """(B, Q, W), (B, M, W), (B, M) -> (B, Q, W)."""
        if others is not None and real is not None:
            update = self.exchange(self.norm_query(x), self.norm_others(others), real)
            x = self.gated(x, update)
        return x + self.feed_forward(x)
