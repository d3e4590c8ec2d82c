"""What the training split's tokens look like: mean, spread, and the axes along which they stand out from noise.

# Shapes: R rows (valid tokens of a modality), n clips, D token width, A principal axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mgcli.fuse.data import ClipTensors, ModalityTokens

MAX_STATISTICS_TOKENS = 1 << 14  # enough for a mean, a spread and the strongest axes
MAX_AXES_TOKENS = 2048  # of tokens wider than this, the axes come from this many tokens
ROUNDING = 1e-6  # spread of a number, beside its own size or the widest spread, that is none
MOST_WEIGHT = 2.0  # of a number in the axes, for its spread; its inverse is the least
NOISE_QUANTILES = (0.1, 0.25, 0.5)  # of the axes, from the weakest: each says how strong noise would be


@dataclass(frozen=True)
class TokenStatistics:
    """What the training split's tokens of one modality look like."""

    mean: Tensor  # (D,) float32
    std: Tensor  # (D,) float32, 0 where a number never changes
    axes: Tensor  # (D, A) float32: standardised tokens times these are their principal parts, strongest first
    axis_std: Tensor  # (A,) float32, spread of each part
    noise_std: float  # spread up to which an axis may be noise
    num_dropped: int = 0  # numbers that vary, but so little beside the widest that they are taken for rounding


def token_statistics(clips: ClipTensors, rows: Tensor) -> dict[str, TokenStatistics]:
    """Mean, spread and principal axes of each modality's valid tokens in the clips of `rows`."""
    return {name: _statistics(each, rows) for name, each in clips.modalities.items()}


def _statistics(each: ModalityTokens, rows: Tensor) -> TokenStatistics:
    start, count = each.start[rows, 0], each.count[rows, 0]
    own = torch.repeat_interleave(start - torch.nn.functional.pad(count.cumsum(0), (1, 0))[:-1], count)
    index = own + torch.arange(len(own), device=own.device)  # rows of all their tokens
    index = index[each.valid[index]]
    dim = each.tokens.shape[1]
    if not len(index):
        zeros = torch.zeros(dim, device=index.device)
        return TokenStatistics(zeros, zeros, zeros.new_zeros(dim, 0), zeros.new_zeros(0), 0.0)
    index = _every_so_often(index, MAX_STATISTICS_TOKENS)
    tokens = each.tokens[index].float()  # (R', D)
    mean = tokens.mean(dim=0, dtype=torch.float64)
    tokens -= mean.float()
    std = _root_mean_square(tokens)
    varies = std > ROUNDING * mean.abs()
    kept = varies & (std > ROUNDING * std.max())
    std = std.where(kept, 0.0)
    standard = tokens * torch.where(std > 0, 1 / std, 0.0)
    if dim > MAX_AXES_TOKENS:
        standard = _every_so_often(standard, MAX_AXES_TOKENS)
    weight = _own_weight(std)
    variance, axes = _principal_axes(standard * weight)
    noise = _noise_edge(variance, num_tokens=len(standard), dim=int((std > 0).sum()))
    axes = weight[:, None] * axes
    return TokenStatistics(
        mean.float(), std.float(), axes.float(), variance.sqrt().float(), math.sqrt(noise), int((varies & ~kept).sum())
    )


def _root_mean_square(tokens: Tensor) -> Tensor:
    """(D,) of (R, D) float32."""
    found = tokens.square().mean(dim=0).sqrt()
    odd = ~(found > 1e-15) | found.isinf()  # squares of 1e-25, or of 1e25, do not fit into float32
    if odd.any():
        found[odd] = torch.linalg.vector_norm(tokens[:, odd].double(), dim=0).float() / math.sqrt(len(tokens))
    return found


def _own_weight(std: Tensor) -> Tensor:
    """(D,) how much each number weighs in the axes, from its own spread; 0 for what never changes.

    Half of its spread is given back, in decades: what a number says may be why it varies more than others. A network's
    numbers spread within 4 times of their median, but for channels that hardly speak (of MViTv2-S, 2s-AGCN and SwinFace
    on the demo); what spreads a thousandfold is in another unit, and MOST_WEIGHT bounds what it gets. On folds of the
    training clips of scikit-learn's wine, whose columns spread up to 2,600-fold, cross_modal_token_fusion told .927
    instead of .903; breast cancer .960 instead of .965, with a better likelihood; five sets stayed as they were.
    """
    if not (std > 0).any():
        return std
    weight = (std / std[std > 0].median()).sqrt()
    return weight.clamp(1 / MOST_WEIGHT, MOST_WEIGHT).where(std > 0, 0.0)


def _every_so_often(rows: Tensor, most: int) -> Tensor:
    """At most `most` of the rows, evenly spread."""
    if len(rows) <= most:
        return rows
    return rows[torch.arange(most, device=rows.device) * (len(rows) - 1) // (most - 1)]


def _principal_axes(standard: Tensor) -> tuple[Tensor, Tensor]:
    """(A,) variances and (D, A) axes of (R, D) tokens, strongest first, without the empty ones."""
    num_tokens, dim = standard.shape
    if num_tokens >= dim:
        variance, axes = torch.linalg.eigh((standard.T @ standard).double() / num_tokens)
    else:  # the smaller product has the same spectrum
        standard = standard.double()
        variance, weights = torch.linalg.eigh(standard @ standard.T / num_tokens)
        axes = torch.nn.functional.normalize(standard.T @ weights, dim=0)
    kept = (variance > 1e-6 * variance.max().clamp_min(1e-12)).flip(0)
    return variance.flip(0)[kept], axes.flip(1)[:, kept]


def _noise_edge(variance: Tensor, num_tokens: int, dim: int) -> float:
    """Variance that pure noise would hardly exceed along its strongest axis.

    Marchenko-Pastur's law says how far sampling spreads the variances of noise (as in Gavish and Donoho 2014,
    arXiv 1305.5870). Where the weaker axes are noise, each of them tells its level alike; the median one by
    itself would have half of all axes be noise. Of NOISE_QUANTILES the one that tells the lowest level is
    believed: a spectrum that falls on below its median is no noise there. So hardly any axis counts as noise
    of tokens of a few numbers that all mean something, or of those of a trained network.
    """
    if len(variance) < 2 or dim < 2:
        return 0.0
    ratio = dim / num_tokens
    small = min(ratio, 1 / ratio)
    # At x = 1 + small - 2 sqrt(small) cos(angle) the law's density times dx is smooth, also where small is 1.
    angles = np.linspace(0, math.pi, 2001)
    middles = (angles[1:] + angles[:-1]) / 2
    x, at = (1 + small - 2 * math.sqrt(small) * np.cos(each) for each in (angles, middles))
    share = np.concatenate([[0.0], np.cumsum(np.sin(middles) ** 2 / at)])
    rank = (np.array(NOISE_QUANTILES) * len(variance)).astype(int)  # from the weakest axis
    expected = np.interp((rank + 0.5) / len(variance), share / share[-1], x) * max(ratio, 1.0)
    level = variance.cpu().numpy()[::-1][rank] / expected
    return float(level.min()) * (1 + math.sqrt(ratio)) ** 2
