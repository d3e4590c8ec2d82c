"""Transformer layers that several heads share: pre-norm attention, residual, feed-forward.

# Shapes: B batch, N tokens, M tokens of another modality, W head width.
"""

from __future__ import annotations

from torch import Tensor, nn

from mgcli.fuse.layers import Attention, FeedForward


class SelfAttentionLayer(nn.Module):
    """Tokens look at each other."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, num_heads, dropout)
        self.feed_forward = FeedForward(width, dropout)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """(B, N, W), (B, N) bool -> (B, N, W)."""
        normed = self.norm(x)
        x = x + self.attention(normed, normed, real)
        return x + self.feed_forward(x)


class CrossAttentionLayer(nn.Module):
    """Tokens look at those of another modality; where a clip lacks that, they only go through the feed-forward."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.norm_query = nn.LayerNorm(width)
        self.norm_source = nn.LayerNorm(width)
        self.attention = Attention(width, num_heads, dropout)
        self.feed_forward = FeedForward(width, dropout)

    def forward(self, x: Tensor, source: Tensor, real: Tensor) -> Tensor:
        """(B, N, W), (B, M, W), (B, M) bool, True where a token of the source is real -> (B, N, W)."""
        x = x + self.attention(self.norm_query(x), self.norm_source(source), real)
        return x + self.feed_forward(x)
