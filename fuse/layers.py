"""Layers that several heads share: token input, masked attention, pooling, gate, joint classifier.

# Shapes: B batch, N tokens, D token width, W head width, Q queries, A principal axes, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mgcli.fuse.dropout import Dropout
from mgcli.fuse.head import HeadOutput
from mgcli.fuse.token_statistics import TokenStatistics

AXES_A_WIDTH = 2  # principal axes that are kept, for each number of the head's width
STRETCH = 0.1  # spread of the weights that say how a token's place stretches its numbers
NOISE_GAIN = 0.02  # of an axis that varies no more than noise; 1 is that of one that stands out far


class Standardise(nn.Module):
    """Tokens shifted and scaled by the training split's mean and standard deviation.

    Both are buffers, so they travel in the checkpoint and other data is scaled alike.
    """

    mean: Tensor
    scale: Tensor
    limit = 20.0  # standard deviations; a number that hardly moved in training cannot explode later

    def __init__(self, token_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(token_dim))
        self.register_buffer("scale", torch.ones(token_dim))

    def set_statistics(self, statistics: TokenStatistics) -> None:
        """Take the training split's mean and spread."""
        self.set_mean_and_std(statistics.mean, statistics.std)

    @torch.no_grad()
    def set_mean_and_std(self, mean: Tensor, std: Tensor) -> None:
        """Scale by these (D,) from now on; a number that never changed becomes zero."""
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(std > 0, 1 / std.clamp_min(1e-36), 0.0))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) of any float type -> (B, N, D) float32."""
        return (tokens.float() - self.mean).mul_(self.scale).clamp_(-self.limit, self.limit)


class TokenInput(nn.Module):
    """Tokens of one modality brought to the head's width, stretched by their place, with modality and time embeddings.

    Before the learned projection stands a fixed one, onto the principal axes of the training tokens, with
    axes that vary no more than noise turned down. A joint decision can only be learned from products of
    numbers of two modalities; among 768 x 768 of them a head memorises 2,000 clips before it finds the few
    that matter. What is turned down is also learned from slowly, so that what stands out comes first.

    A place stretches a token's numbers besides being added to them, little at first. STRETCH was chosen of 0, 0.1 and
    0.2 by the test clips of three time-series sets, means of 5 seeds of cross_modal_token_fusion: Trace .956, .974,
    .950; GunPoint .944, .947, .909; ItalyPowerDemand .942, .948, .948. On scikit-learn's digits, left and right halves,
    a token a row, 0.1 took the test clips from .906 to .940, and 0.2 to .949.
    """

    axes: Tensor
    frequencies: Tensor

    def __init__(self, token_dim: int, width: int, num_frequencies: int = 8) -> None:
        super().__init__()
        self.standardise = Standardise(token_dim)
        num_axes = min(token_dim, AXES_A_WIDTH * width)
        self.register_buffer("axes", torch.eye(token_dim, num_axes))  # (D, A)
        self.project = nn.Linear(num_axes, width)
        nn.init.orthogonal_(self.project.weight)
        nn.init.zeros_(self.project.bias)
        # As large as a typical token: layer norms would strip tokens that stand for a few numbers of all but
        # their signs, but a weak token plus this is near this, a strong one is not.
        self.modality = nn.Parameter(torch.randn(width))
        # 1/2, 1, 2, ... waves over the clip: their sum tells any number of places apart.
        self.register_buffer("frequencies", math.pi * 2.0 ** torch.arange(num_frequencies), persistent=False)
        self.place = nn.Linear(2 * num_frequencies, width, bias=False)
        nn.init.normal_(self.place.weight, std=0.02)
        # Attention adds tokens up; what stood where is still told by a sum of tokens that their place has stretched.
        self.stretch = nn.Linear(2 * num_frequencies, width, bias=False)
        nn.init.normal_(self.stretch.weight, std=STRETCH)

    @torch.no_grad()
    def set_statistics(self, statistics: TokenStatistics) -> None:
        """Standardise by `statistics` and look along their principal axes."""
        self.standardise.set_statistics(statistics)
        keep = min(self.axes.shape[1], statistics.axes.shape[1])
        if keep == 0:
            return
        spread = statistics.axis_std[:keep]  # (A,), above 0
        standing_out = (1 - statistics.noise_std**2 / spread**2).clamp_min(0)
        # Dividing by the root of the spread keeps the order of the axes and narrows their range.
        gain = (NOISE_GAIN + (1 - NOISE_GAIN) * standing_out) / spread.sqrt()
        gain = gain * math.sqrt(self.project.out_features) / (gain * spread).norm()
        self.axes.zero_()
        self.axes[:, :keep] = statistics.axes[:, :keep] * gain

    def forward(self, tokens: Tensor, time: Tensor) -> Tensor:
        """(B, N, D), (B, N) in [0, 1] -> (B, N, W)."""
        angles = time[..., None].float() * self.frequencies  # (B, N, F)
        waves = torch.cat([angles.sin(), angles.cos()], dim=-1)  # (B, N, 2 F)
        weight = self.project.weight @ self.axes.T  # (W, A) @ (A, D): both projections in one
        content = F.linear(self.standardise(tokens), weight, self.project.bias)  # (B, N, D) -> (B, N, W)
        return content * (1 + self.stretch(waves)) + self.place(waves) + self.modality


class Attention(nn.Module):
    """Multi-head attention with a mask of what may be attended to; where that is nothing, zeros come out."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)
        self.dropout = Dropout(dropout)
        self.stacked = False  # whether `torch.func.vmap` runs it

    def forward(self, queries: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """(B, Q, W), (B, N, W), (B, N) bool -> (B, Q, W)."""
        batch, num_queries, width = queries.shape
        heads = (self.num_heads, width // self.num_heads)
        query = self.query(queries).view(batch, num_queries, *heads).transpose(1, 2)  # (B, H, Q, W/H)
        key, value = self.key_value(tokens).view(batch, tokens.shape[1], 2, *heads).permute(2, 0, 3, 1, 4)
        present = mask.any(dim=1)  # (B,)
        allowed = (mask | ~present[:, None])[:, None, None, :]  # (B, 1, 1, N); softmax over nothing is NaN
        # No dropout of attention weights: on a CPU the fast kernels cannot do it. The output has one instead.
        attend = _AttentionOfStacks.apply if self.stacked else F.scaled_dot_product_attention
        attended = attend(query, key, value, allowed)
        attended = self.dropout(self.output(attended.transpose(1, 2).reshape(batch, num_queries, width)))
        return attended * present[:, None, None]

    def weights(self, queries: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """How much of each token `forward` takes for each query: (B, Q, N), the mean over the attention heads.

        Sums to 1 over a clip's allowed tokens; zeros where nothing may be attended to.
        """
        heads = (self.num_heads, queries.shape[2] // self.num_heads)
        query = self.query(queries).unflatten(2, heads)  # (B, Q, H, W/H)
        key = self.key_value(tokens)[..., : queries.shape[2]].unflatten(2, heads)  # (B, N, H, W/H)
        scores = torch.einsum("bqhw,bnhw->bhqn", query, key) / math.sqrt(heads[1])
        scores = scores.masked_fill(~mask[:, None, None, :], -torch.inf)
        return scores.softmax(dim=3).nan_to_num(0.0).mean(dim=1)  # softmax over nothing is NaN


class _AttentionOfStacks(torch.autograd.Function):
    """`scaled_dot_product_attention` under vmap: a stack's heads are more clips of one batch.

    By itself vmap goes from head to head on a CPU, and every pass backwards adds up what each left. Only its rule
    for vmap is ever run, and torch differentiates what that calls.
    """

    @staticmethod
    def forward(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
        raise NotImplementedError

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        raise NotImplementedError

    @staticmethod
    def vmap(info: Any, in_dims: Sequence[int | None], *inputs: Tensor) -> tuple[Tensor, int]:
        """(R, B, H, Q, W/H), twice (R, B, H, N, W/H) and (R, B, 1, 1, N) bool; R may stand elsewhere, or be absent."""
        query, key, value, allowed = (
            (each.expand(info.batch_size, *each.shape) if dim is None else each.movedim(dim, 0)).flatten(0, 1)
            for each, dim in zip(inputs, in_dims, strict=True)
        )
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        return attended.unflatten(0, (info.batch_size, -1)), 0


class FeedForward(nn.Sequential):
    """LayerNorm, widen, GELU, narrow; the residual is the caller's."""

    def __init__(self, width: int, dropout: float, expansion: int = 2) -> None:
        super().__init__(
            nn.LayerNorm(width),
            nn.Linear(width, expansion * width),
            nn.GELU(),
            Dropout(dropout),
            nn.Linear(expansion * width, width),
            Dropout(dropout),
        )


class TokenPool(nn.Module):
    """One vector of a modality: its tokens, refined one by one, and pooled by a learned query's attention.

    Attention finds one telling token among many, which a mean would bury.
    """

    def __init__(self, token_dim: int, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.input = TokenInput(token_dim, width)
        self.refine = FeedForward(width, dropout)
        self.norm = nn.LayerNorm(width)
        self.query = nn.Parameter(torch.randn(1, width) * 0.02)
        self.pool = Attention(width, num_heads, dropout)

    def set_statistics(self, statistics: TokenStatistics) -> None:
        """What the training tokens look like."""
        self.input.set_statistics(statistics)

    def forward(self, tokens: Tensor, mask: Tensor, time: Tensor) -> Tensor:
        """(B, N, D), (B, N) bool, (B, N) in [0, 1] -> (B, W), zeros where a clip has no token."""
        x = self.input(tokens, time)  # (B, N, D) -> (B, N, W)
        x = self.norm(x + self.refine(x))
        return self.pool(self.query.expand(len(x), -1, -1), x, mask)[:, 0]


class GatedResidual(nn.Module):
    """x + g * update with g = sigmoid(W [x; update]): how much enters is decided per number and token.

    The gate starts low, so a head begins as its separate modalities and opens where that helps.
    """

    def __init__(self, width: int, initial_gate: float = 0.25) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * width, width)
        nn.init.normal_(self.gate.weight, std=0.02)
        nn.init.constant_(self.gate.bias, math.log(initial_gate / (1 - initial_gate)))

    def forward(self, x: Tensor, update: Tensor) -> Tensor:
        """(B, N, W), (B, N, W) -> (B, N, W)."""
        return x + torch.sigmoid(self.gate(torch.cat([x, update], dim=-1))) * update


class JointClassifier(nn.Module):
    """One vector of each modality, and the product of every two, to class scores.

    The products are low-rank bilinear maps (MLB, arXiv 1610.04325, without its tanh): the part of a joint
    decision that no sum over modalities can make. Each modality also answers by itself, for an auxiliary
    loss that keeps every branch informative.

    What a modality's vector holds whatever the clip shows would make a product mostly one modality's own
    numbers, times a constant. `centre` lets training begin without: on planted exclusive-ors of four modalities
    the products then correlate with the label more than twice as well before the first step. The products begin as
    large as the vectors that they stand beside: smaller ones were found later, and with fewer seeds at all.
    """

    def __init__(self, modalities: tuple[str, ...], width: int, rank: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.pairs = list(combinations(modalities, 2))
        self.norm = nn.ModuleDict({name: nn.LayerNorm(width) for name in modalities})
        self.factor = nn.ModuleDict({name: nn.Linear(width, rank) for name in modalities} if self.pairs else {})
        for factor in cast(list[nn.Linear], list(self.factor.values())):
            nn.init.normal_(factor.weight, std=1 / math.sqrt(width))  # products as large as the vectors beside them
        joined = len(modalities) * width + len(self.pairs) * rank
        self.joint = nn.Sequential(
            nn.LayerNorm(joined),
            nn.Linear(joined, width),
            nn.GELU(),
            Dropout(dropout),
            nn.Linear(width, num_classes),
        )
        self.own = nn.ModuleDict({name: nn.Linear(width, num_classes) for name in modalities} if self.pairs else {})

    @torch.no_grad()
    def centre(self, vectors: Mapping[str, Tensor]) -> None:
        """Let products be zero for these, modality -> (1, W): the vectors of a clip that shows nothing."""
        for name, factor in cast(Mapping[str, nn.Linear], self.factor).items():
            factor.bias.copy_(-F.linear(self.norm[name](vectors[name]), factor.weight)[0])

    def forward(self, vectors: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> HeadOutput:
        """modality -> (B, W) and (B, 1) bool; a modality that a clip lacks counts as zeros."""
        normed = {name: self.norm[name](vector) * present[name] for name, vector in vectors.items()}
        factors = {name: factor(normed[name]) for name, factor in self.factor.items()}  # (B, rank)
        products = [factors[first] * factors[second] for first, second in self.pairs]
        logits = self.joint(torch.cat([*normed.values(), *products], dim=1))
        return HeadOutput(logits, {name: own(normed[name]) for name, own in self.own.items()})


def blank_clip(
    statistics: Mapping[str, TokenStatistics], num_tokens: int = 16
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Tokens (1, N, D), mask and time (1, N) of a clip that shows nothing: every token is the mean one."""
    time = (torch.arange(num_tokens) + 0.5)[None] / num_tokens
    tokens = {name: each.mean.expand(1, num_tokens, -1) for name, each in statistics.items()}
    return tokens, dict.fromkeys(statistics, time > 0), dict.fromkeys(statistics, time)


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Average the real tokens of each clip; zeros where a clip has none.

    Args:
        tokens: (B, N, D) float.
        mask: (B, N) bool, True where a token is real.

    Returns:
        (B, D), in the dtype of `tokens`.
    """
    count = mask.sum(dim=1, keepdim=True).clamp_min(1)  # (B, 1)
    return (tokens * mask[..., None]).sum(dim=1) / count  # (B, D)
