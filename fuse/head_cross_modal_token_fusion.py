"""Cross-Modal Token Fusion: tokens of each modality look at the tokens of the others, layer after layer.

The name is that of "Multi-Track Multimodal Learning on iMiGUE" (arXiv 2512.23291), which joins RGB and
skeleton tokens for micro-gestures. The inside of the paper's module is not public in what we could read, so
this one is OUR OWN DESIGN. Published mechanisms that it follows:

- self-attention within and two-way cross-attention between modalities, as in many audio-video systems
  (CFN-SR, arXiv 2111.02172) and, with a class token for each modality, CrossViT (arXiv 2103.14899);
- a gate on what crosses over, as in gated multimodal units (arXiv 1702.01992);
- a low-rank bilinear product of the class tokens, MLB (arXiv 1610.04325).

The option `cross_tokens` says what crosses over:

- `all`: every token of a modality asks every token of the others; dearest, and the default;
- `class`: only the class token asks, as in CrossViT: the cost no longer grows with the square of the tokens;
- `bottleneck`: a few shared tokens ask everyone, and everyone asks them. The idea is that of MBT (arXiv
  2107.00135); unlike there, the shared tokens gather by an attention of their own, before the others ask.

# Shapes: B batch, N tokens of a modality, M tokens that it asks, Q shared tokens, D token width, W head width,
#         K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from mgcli.fuse.head import FusionHead, HeadConfig, HeadOutput, TokenRead, side_by_side
from mgcli.fuse.layers import Attention, FeedForward, GatedResidual, JointClassifier, TokenInput, blank_clip
from mgcli.fuse.token_statistics import TokenStatistics
from mgcli.fuse.transformer import CrossAttentionLayer


class CrossModalTokenFusion(FusionHead):
    """Layers of self-attention, gated cross-attention and feed-forward; class tokens joined at the end.

    Takes any number of modalities; with one there is no cross-attention, only a small transformer.
    """

    options = ("width", "num_layers", "num_heads", "num_bottlenecks", "rank", "cross_tokens", "dropout")
    steady = True

    def __init__(self, dims: Mapping[str, int], num_classes: int, config: HeadConfig) -> None:
        super().__init__(dims, num_classes, config)
        width = config.width
        self.inputs = nn.ModuleDict({name: TokenInput(dim, width) for name, dim in dims.items()})
        self.class_token = nn.ParameterDict({name: nn.Parameter(torch.randn(width) * 0.02) for name in dims})
        self.layers = nn.ModuleList(
            nn.ModuleDict({name: _Layer(config, crosses=len(dims) > 1) for name in dims})
            for _ in range(config.num_layers)
        )
        self.shared: nn.Parameter | None = None
        self.gather = nn.ModuleList()
        if config.cross_tokens == "bottleneck" and len(dims) > 1:
            self.shared = nn.Parameter(torch.randn(config.num_bottlenecks, width) * 0.02)
            self.gather.extend(
                CrossAttentionLayer(width, config.num_heads, config.dropout) for _ in range(config.num_layers)
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
        """The class tokens' attention, and that of the shared tokens."""
        reads = []
        for depth, layer in enumerate(cast(list[dict[str, _Layer]], self.layers)):
            if self.shared is not None:
                gather = cast(CrossAttentionLayer, self.gather[depth])
                every = side_by_side(self.modalities, counts, first=1)
                reads.append(TokenRead(attention=gather.attention, tokens=every))
            for name in self.modalities:
                asks: dict[str, Any] = {"asks": name, "readers": slice(0, 1)}
                own = {name: slice(1, None)}
                reads.append(TokenRead(attention=layer[name].self_attention, tokens=own, **asks))
                if self.shared is None and len(self.modalities) > 1:
                    others = [other for other in self.modalities if other != name]
                    tokens = side_by_side(others, counts, first=1)
                    reads.append(TokenRead(attention=layer[name].cross_attention, tokens=tokens, **asks))
        return reads

    def _summarise(
        self, tokens: Mapping[str, Tensor], mask: Mapping[str, Tensor], time: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """modality -> (B, W)."""
        present = {name: mask[name].any(dim=1, keepdim=True) for name in self.modalities}  # (B, 1)
        x, real = {}, {}
        for name in self.modalities:
            embedded = self.inputs[name](tokens[name], time[name])  # (B, N, D) -> (B, N, W)
            class_token = self.class_token[name].expand(len(embedded), 1, -1)
            x[name] = torch.cat([class_token, embedded], dim=1)  # (B, 1 + N, W)
            real[name] = torch.cat([present[name], mask[name]], dim=1)  # (B, 1 + N)
        shared = None if self.shared is None else self.shared.expand(len(embedded), -1, -1)  # (B, Q, W)
        for depth, layer in enumerate(cast(list[dict[str, _Layer]], self.layers)):
            x = {name: layer[name].attend_self(x[name], real[name]) for name in self.modalities}
            # Of the last layer only the class tokens are read: the others need not go on.
            going_on = x if depth + 1 < len(self.layers) else {name: each[:, :1] for name, each in x.items()}
            if shared is None:
                x = {name: layer[name](going_on[name], *self._others(name, x, real)) for name in self.modalities}
            else:
                shared = self.gather[depth](shared, *_joined(self.modalities, x, real))
                every = shared.new_ones(shared.shape[:2], dtype=torch.bool)  # (B, Q)
                x = {name: layer[name](going_on[name], shared, every) for name in self.modalities}
        return {name: x[name][:, 0] for name in self.modalities}

    def _others(
        self, name: str, x: Mapping[str, Tensor], real: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor] | tuple[None, None]:
        others = [other for other in self.modalities if other != name]
        return _joined(others, x, real) if others else (None, None)


class _Layer(nn.Module):
    """One layer of one modality, pre-norm."""

    def __init__(self, config: HeadConfig, crosses: bool) -> None:
        super().__init__()
        width, dropout = config.width, config.dropout
        self.only_class_asks = config.cross_tokens == "class"
        self.norm_self = nn.LayerNorm(width)
        self.self_attention = Attention(width, config.num_heads, dropout)
        if crosses:
            self.norm_query = nn.LayerNorm(width)
            self.norm_others = nn.LayerNorm(width)
            self.cross_attention = Attention(width, config.num_heads, dropout)
            self.gated = GatedResidual(width)
        self.feed_forward = FeedForward(width, dropout)

    def attend_self(self, x: Tensor, real: Tensor) -> Tensor:
        """(B, N, W), (B, N) -> (B, N, W)."""
        normed = self.norm_self(x)
        return x + self.self_attention(normed, normed, real)

    def forward(self, x: Tensor, others: Tensor | None, real: Tensor | None) -> Tensor:
        """(B, N, W), (B, M, W), (B, M) -> (B, N, W)."""
        if others is not None and real is not None:
            asking, rest = (x[:, :1], x[:, 1:]) if self.only_class_asks else (x, x[:, :0])
            update = self.cross_attention(self.norm_query(asking), self.norm_others(others), real)
            asking = self.gated(asking, update)
            x = torch.cat([asking, rest], dim=1) if rest.shape[1] else asking
        return x + self.feed_forward(x)


def _joined(names: Sequence[str], x: Mapping[str, Tensor], real: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(B, M, W) and (B, M): the tokens of some modalities, one modality after another."""
    return torch.cat([x[name] for name in names], dim=1), torch.cat([real[name] for name in names], dim=1)
