"""SwinFace's image network: a Swin transformer on 112 x 112 faces.

"SwinFace: A Multi-Task Transformer for Face Recognition, Expression Recognition, Age Estimation and Attribute
Estimation" (IEEE TCSVT 2023), Sec. III-A and III-B; the transformer is Swin-T of "Swin Transformer:
Hierarchical Vision Transformer using Shifted Windows" (ICCV 2021) with patches of 2 x 2. Parameter names are
those of the released checkpoint. Dropout and stochastic depth are left out: they do nothing in a frozen network.
"""

# Shapes: B faces, H, W height and width of the map in tokens, N = H * W tokens, C channels, L = 49 tokens of a
#         window, G windows of a map, A attention heads.

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGE_PX = 112
PATCH_PX = 2
WINDOW = 7
EMBED_DIM = 96
DEPTHS = (2, 2, 6, 2)
NUM_HEADS = (3, 6, 12, 24)
MLP_RATIO = 4
IDENTITY_DIM = 512
NORM_EPS = 2e-5  # of every batch norm in the released network
MASKED = -100.0  # added to the attention between tokens that only a shift brought together
GLOBAL_DIM = EMBED_DIM * 2 ** (len(DEPTHS) - 1)  # 768
LOCAL_DIMS = tuple(EMBED_DIM * 2**stage for stage in (1, 2, 3))  # 192, 384, 768


@dataclass(frozen=True)
class FaceFeatures:
    """What the image network gives."""

    local_features: Tensor  # (B, 1344, 7, 7): stages 1-3 after merging, averaged down to 7 x 7
    global_features: Tensor  # (B, 768, 7, 7): the last stage, before its norm
    pooled: Tensor  # (B, 768): the normed last stage, averaged over its tokens


class WindowAttention(nn.Module):
    """Self-attention within windows, with a learned bias for each relative position."""

    relative_position_index: Tensor  # (L, L) int64

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (channels // num_heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, num_heads))
        self.register_buffer("relative_position_index", _relative_position_index())
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B * G, L, C) windows -> the same. `mask`, (G, L, L), is added where the map is shifted."""
        windows, length, channels = x.shape
        qkv = self.qkv(x).view(windows, length, 3, self.num_heads, channels // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()  # (B * G, A, L, C / A) each
        bias = self.relative_position_bias_table[self.relative_position_index]  # (L, L, A)
        scores = (q * self.scale) @ k.transpose(-1, -2) + bias.permute(2, 0, 1)  # (B * G, A, L, L)
        if mask is not None:
            scores = (scores.unflatten(0, (-1, len(mask))) + mask[:, None]).flatten(0, 1)
        x = (scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(windows, length, channels)
        return self.proj(x)


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, MLP_RATIO * channels)
        self.fc2 = nn.Linear(MLP_RATIO * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return self.fc2(F.gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    """Window attention, in windows shifted by `shift` tokens, then the MLP; both pre-norm residuals."""

    attn_mask: Tensor | None  # (G, L, L), where windows are shifted

    def __init__(self, channels: int, num_heads: int, size: int, shift: int) -> None:
        super().__init__()
        self.size = size
        self.shift = shift
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, num_heads)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels)
        self.register_buffer("attn_mask", _shift_mask(size, shift) if shift else None)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H * W, C) -> the same."""
        y = self.norm1(x).unflatten(1, (self.size, self.size))  # (B, H, W, C)
        y = y.roll((-self.shift, -self.shift), dims=(1, 2)) if self.shift else y
        y = _join_windows(self.attn(_split_windows(y), self.attn_mask), self.size)
        y = y.roll((self.shift, self.shift), dims=(1, 2)) if self.shift else y
        x = x + y.flatten(1, 2)
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    """Every 2 x 2 tokens become one of twice the width."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H * W, C) -> (B, H / 2 * W / 2, 2 C)."""
        x = x.unflatten(1, (self.size, self.size))  # (B, H, W, C)
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]  # column slowest
        return self.reduction(self.norm(torch.cat(corners, dim=-1).flatten(1, 2)))


class Stage(nn.Module):
    """Blocks of one resolution, plain and shifted in turn, and the merging that follows them."""

    def __init__(self, channels: int, depth: int, num_heads: int, size: int, is_last: bool) -> None:
        super().__init__()
        shifts = [0 if block % 2 == 0 or size == WINDOW else WINDOW // 2 for block in range(depth)]
        self.blocks = nn.ModuleList(SwinBlock(channels, num_heads, size, shift) for shift in shifts)
        self.downsample = None if is_last else PatchMerging(channels, size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H * W, C) -> (B, H / 2 * W / 2, 2 C), or the same in the last stage."""
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class PatchEmbed(nn.Module):
    """Patches of 2 x 2 pixels as tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, EMBED_DIM, PATCH_PX, PATCH_PX)
        self.norm = nn.LayerNorm(EMBED_DIM)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, 112, 112) -> (B, 56 * 56, 96)."""
        return self.norm(self.proj(images).flatten(2).transpose(1, 2))


class SwinFaceBackbone(nn.Module):
    """The shared network, and the identity embedding on top of it."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed()
        size = IMAGE_PX // PATCH_PX
        last = len(DEPTHS) - 1
        self.layers = nn.ModuleList(
            Stage(EMBED_DIM * 2**stage, depth, num_heads, size // 2**stage, stage == last)
            for stage, (depth, num_heads) in enumerate(zip(DEPTHS, NUM_HEADS, strict=True))
        )
        self.norm = nn.LayerNorm(GLOBAL_DIM)
        self.head = nn.Linear(GLOBAL_DIM, IDENTITY_DIM)  # in the checkpoint, never used
        self.feature = nn.Sequential(
            nn.Linear(GLOBAL_DIM, GLOBAL_DIM, bias=False),
            nn.BatchNorm1d(GLOBAL_DIM, eps=NORM_EPS),
            nn.Linear(GLOBAL_DIM, IDENTITY_DIM, bias=False),
            nn.BatchNorm1d(IDENTITY_DIM, eps=NORM_EPS),
        )

    def forward(self, images: Tensor) -> FaceFeatures:
        """(B, 3, 112, 112) in -1..1 -> features."""
        x = self.patch_embed(images)
        local = []
        for stage in self.layers:
            x = stage(x)  # (B, 28 * 28, 192), (B, 14 * 14, 384), (B, 7 * 7, 768), (B, 7 * 7, 768)
            if stage.downsample is not None:
                local.append(F.adaptive_avg_pool2d(_as_map(x), WINDOW))
        return FaceFeatures(
            local_features=torch.cat(local, dim=1),
            global_features=_as_map(x),
            pooled=self.norm(x).mean(dim=1),
        )

    def identity(self, features: FaceFeatures) -> Tensor:
        """(B, 512) recognition embedding, not scaled to length 1."""
        return self.feature(features.pooled)


def _as_map(tokens: Tensor) -> Tensor:
    """(B, N, C) -> (B, C, H, W), square."""
    size = int(tokens.shape[1] ** 0.5)
    return tokens.transpose(1, 2).unflatten(2, (size, size))


def _split_windows(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B * G, L, C), windows and their tokens row by row."""
    rows = x.shape[1] // WINDOW
    x = x.unflatten(2, (rows, WINDOW)).unflatten(1, (rows, WINDOW))  # (B, rows, 7, columns, 7, C)
    return x.transpose(2, 3).reshape(-1, WINDOW * WINDOW, x.shape[-1])


def _join_windows(windows: Tensor, size: int) -> Tensor:
    """(B * G, L, C) -> (B, H, W, C), undoing `_split_windows`."""
    rows = size // WINDOW
    x = windows.reshape(-1, rows, rows, WINDOW, WINDOW, windows.shape[-1])
    return x.transpose(2, 3).reshape(-1, size, size, windows.shape[-1])


def _relative_position_index() -> Tensor:
    """(L, L) int64, the row of the bias table for each pair of tokens of a window."""
    place = torch.arange(WINDOW)
    row, column = (axis.flatten() for axis in torch.meshgrid(place, place, indexing="ij"))  # (L,) each
    rows_apart = row[:, None] - row + WINDOW - 1
    columns_apart = column[:, None] - column + WINDOW - 1
    return rows_apart * (2 * WINDOW - 1) + columns_apart


def _shift_mask(size: int, shift: int) -> Tensor:
    """(G, L, L), -100 between tokens of different regions of the shifted map, else 0."""
    place = torch.arange(size)
    band = (place >= size - WINDOW).long() + (place >= size - shift).long()  # (H,) 0, 1 or 2
    region = 3 * band[:, None] + band  # (H, W)
    windows = _split_windows(region[None, :, :, None]).squeeze(-1)  # (G, L)
    return (windows[:, None, :] != windows[:, :, None]).float() * MASKED
