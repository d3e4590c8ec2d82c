"""The forward pass of torchvision's MViTv2, arranged so that attention runs as one fused kernel.

Li et al., "MViTv2: Improved Multiscale Vision Transformers for Classification and Detection", arXiv 2112.01526,
Sec. 4.1, with the parameters of torchvision's modules. For query i and key j, at places on the axes t, h and w,

    Z = softmax(Q K^T / sqrt(d) + E) V + Q,    E_ij = Q_i . (R^t_ij + R^h_ij + R^w_ij).

R^h_ij depends on the rows of i and j alone, and so on: E is a product of two thin matrices. Each query gets a column
for every place that a key can have on an axis, holding Q_i . R there; each key gets ones in its own three. Put
beside Q and K they make the scores one matrix product, which a fused kernel never stores. Keys that are there only
to round their number have no place and hold `ABSENT` in one more column, where each query holds 1.

Departures from the paper, as in its released code and in torchvision: E is not divided by sqrt(d); the class token
has no E, and its Q is not added.
"""

# Shapes: B batch, T frames, H height, W width, C channels, N tokens, D token width, I heads, S width of a head,
#         Nq and Nk queries and keys. A grid is (T, H, W); tokens are its places, w fastest, after a class token.

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mgcli.extract.core_lanes import each_beside_others

Grid = tuple[int, int, int]
AXES = "thw"
# Of what the kernel multiplies. In bfloat16 a CPU multiplies tiles; attention is 5 times as fast where they fit. Fused
# kernels on GPUs want multiples of 8.
WIDTH_MULTIPLE = 16
KEYS_MULTIPLE = 32
ABSENT = -30000.0  # score of a key that is none: its weight is 0 exactly; float16 can hold it
MLP_ROWS = 4096  # tokens at once on a CPU; above 32 MB, memory is fetched from the system each time


class FusedForward(nn.Module):
    """Runs a torchvision MViTv2. It has no parameters, only tables of where tokens lie."""

    def __init__(self, network: nn.Module) -> None:
        """Args: network: from torchvision's `mvit_v2_s`; it stays the caller's."""
        super().__init__()
        encoding: Any = network.get_submodule("pos_encoding")
        grid = (encoding.temporal_size, *encoding.spatial_size)
        self.attentions = nn.ModuleList()
        for block in _blocks(network):
            attention = FusedAttention(block.attn, grid)
            self.attentions.append(attention)
            grid = attention.query_grid

    def forward(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, N, D), class token first, after the final norm.

        Args:
            network: the one this was made for.
            inputs: on a CPU they go through one by one, which is faster than together.
        """
        if inputs.device.type == "cpu" and len(inputs) > 1:
            return each_beside_others(partial(self, network), inputs)
        x = _patches(network.get_submodule("conv_proj"), inputs)  # (B, C, T', H', W')
        x = network.get_submodule("pos_encoding")(x.flatten(2).transpose(1, 2))  # (B, 1 + T' * H' * W', C)
        for block, attention in zip(_blocks(network), self.attentions, strict=True):
            assert isinstance(attention, FusedAttention)
            normed = block.norm1(x)
            if block.project is not None:  # more channels from here on
                x = block.project(normed)
            if block.pool_skip is not None:  # a coarser grid from here on
                x = _pool(x, block.pool_skip.pool, attention.grid)
            x = x + attention(block.attn, normed)
            x = x + _mlp(block.mlp, block.norm2(x))
        return network.get_submodule("norm")(x)


class FusedAttention(nn.Module):
    """Pooling attention of one block."""

    index_t: Tensor  # (places of queries, places of keys): rows of rel_pos_t; likewise of the other axes
    index_h: Tensor
    index_w: Tensor
    blank_keys: Tensor  # (Nk', S + columns): the keys' columns, and zeros where K goes; Nk' is Nk rounded up

    def __init__(self, attn: Any, grid: Grid) -> None:
        """Args: attn: torchvision's module; grid: of the tokens that it reads."""
        super().__init__()
        self.grid = grid
        self.query_grid = _pooled_grid(grid, attn.pool_q.pool)
        self.key_grid = _pooled_grid(grid, attn.pool_k.pool)
        for axis, queries, keys in zip(AXES, self.query_grid, self.key_grid, strict=True):
            self.register_buffer(f"index_{axis}", _relative_index(queries, keys), persistent=False)
        self.register_buffer("blank_keys", _blank_keys(self.key_grid, attn.head_dim), persistent=False)

    def forward(self, attn: Any, x: Tensor) -> Tensor:
        """(B, N, C) tokens of this grid -> (B, Nq, C') of the query grid.

        Args:
            attn: the module this was made for.
            x: after the block's first norm.
        """
        weights, biases = attn.qkv.weight.chunk(3), attn.qkv.bias.chunk(3)
        q, k, v = (F.linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True))
        q = self._heads(q, attn, attn.pool_q)  # (B, Nq, I, S)
        k = self._heads(k, attn, attn.pool_k, scale=attn.scaler)  # (B, Nk, I, S)
        v = self._heads(v, attn, attn.pool_v)  # (B, Nk, I, S)
        wide_q = torch.cat([q, self._query_columns(attn, q)], dim=3)  # (B, Nq, I, S + columns)
        wide_k = self.blank_keys[:, None].repeat(len(k), 1, attn.num_heads, 1)  # (B, Nk', I, S + columns)
        wide_v = torch.zeros_like(wide_k)  # the kernel takes one width for all three
        for wide, each in ((wide_k, k), (wide_v, v)):
            wide[:, : each.shape[1], :, : attn.head_dim] = each
        z = F.scaled_dot_product_attention(
            wide_q.transpose(1, 2), wide_k.transpose(1, 2), wide_v.transpose(1, 2), scale=1.0
        )  # (B, I, Nq, S + columns)
        z = z.transpose(1, 2)[..., : attn.head_dim]  # (B, Nq, I, S)
        pooled = z + q
        pooled[:, 0] = z[:, 0]
        return attn.project(pooled.flatten(2))

    def _heads(self, x: Tensor, attn: Any, pool: Any, scale: float = 1.0) -> Tensor:
        """(B, N, I * S) -> (B, N', I, S), pooled, then normed head by head and scaled."""
        x = _pool(x, pool.pool, self.grid).unflatten(2, (attn.num_heads, attn.head_dim))
        (norm,) = pool.norm_act
        return F.layer_norm(x, norm.normalized_shape, norm.weight * scale, norm.bias * scale, norm.eps)

    def _query_columns(self, attn: Any, q: Tensor) -> Tensor:
        """(B, Nq, I, S) -> (B, Nq, I, columns): Q . R for the places on t, h and w (0 for the class token), then 1."""
        columns = q.new_zeros(*q.shape[:3], self.blank_keys.shape[1] - attn.head_dim)
        q_grid, columns_grid = (each[:, 1:].unflatten(1, self.query_grid) for each in (q, columns))
        start = 0
        for axis, keys in zip(AXES, self.key_grid, strict=True):
            relative = getattr(attn, f"rel_pos_{axis}")[getattr(self, f"index_{axis}")]  # (queries, keys, S)
            products = torch.einsum(f"bthwis,{axis}ks->bthwik", q_grid, relative)
            columns_grid[..., start : start + keys] = products
            start += keys
        columns[..., start] = 1
        return columns


def _blocks(network: nn.Module) -> Any:
    return network.get_submodule("blocks")


def _patches(conv: Any, inputs: Tensor) -> Tensor:
    """(B, 3, T, H, W) -> (B, C, T', H', W')."""
    if inputs.device.type != "cpu":
        return conv(inputs)
    exact = inputs.float(), conv.weight.float(), conv.bias.float()  # 3 channels fill no tile: three times as fast so
    return F.conv3d(*exact, conv.stride, conv.padding).to(inputs.dtype)


def _pool(x: Tensor, pool: Any, grid: Grid) -> Tensor:
    """(B, N, C) -> (B, N', C): the tokens of a grid pooled, the class token as it is.

    Args:
        x: class token first.
        pool: maximum, or convolution of each channel by itself, which heads share.
        grid: of the tokens.
    """
    maps = x[:, 1:].unflatten(1, grid).permute(0, 4, 1, 2, 3)  # (B, C, T, H, W), channels last in memory
    if isinstance(pool, nn.Conv3d):
        if maps.is_cuda:  # as in torchvision; with channels last cuDNN would do it, by other tools' reports slowly
            maps = maps.contiguous()
        weight = pool.weight.repeat(maps.shape[1] // len(pool.weight), 1, 1, 1, 1)  # (C, 1, 3, 3, 3)
        maps = F.conv3d(maps, weight, None, pool.stride, pool.padding, groups=len(weight))
    else:
        maps = pool(maps)
    return torch.cat([x[:, :1], maps.flatten(2).transpose(1, 2)], dim=1)


def _mlp(mlp: nn.Module, x: Tensor) -> Tensor:
    """(B, N, C) -> the same."""
    if x.device.type != "cpu":
        return mlp(x)
    return torch.cat([mlp(rows) for rows in x.split(MLP_ROWS, dim=1)], dim=1)


def _pooled_grid(grid: Grid, pool: nn.Conv3d) -> Grid:
    """What a convolution makes of a grid; its padding is half its kernel."""
    t, h, w = (math.ceil(size / stride) for size, stride in zip(grid, pool.stride, strict=True))
    return t, h, w


def _relative_index(queries: int, keys: int) -> Tensor:
    """(queries, keys) rows of an axis' table: distances on the finer of the two, the most negative first."""
    assert max(queries, keys) % min(queries, keys) == 0
    query_places = torch.arange(queries) * max(keys // queries, 1)
    key_places = torch.arange(keys) * max(queries // keys, 1)
    return query_places[:, None] - key_places[None, :] + key_places[-1]


def _blank_keys(grid: Grid, head_dim: int) -> Tensor:
    """(Nk', S + columns): zeros, then ones at each key's places on t, h and w; the class token has no place."""
    places = torch.cartesian_prod(*(torch.arange(size) for size in grid)).unbind(dim=1)  # 3 of (T * H * W,)
    ones = torch.cat([torch.eye(size)[each] for size, each in zip(grid, places, strict=True)], dim=1)
    num_keys = 1 + len(ones)
    absent = head_dim + sum(grid)  # column
    wide = torch.zeros(_rounded_up(num_keys, KEYS_MULTIPLE), _rounded_up(absent + 1, WIDTH_MULTIPLE))
    wide[1:num_keys, head_dim:absent] = ones
    wide[num_keys:, absent] = ABSENT
    return wide


def _rounded_up(number: int, multiple: int) -> int:
    return math.ceil(number / multiple) * multiple
