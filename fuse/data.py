"""Cached clips as aligned tensors: all tokens stay where they are, a batch is one gather.

# Shapes: R rows (all tokens of a modality), n clips, V views (the plain one first), B batch, N tokens of the
#         longest clip in a batch, D token width, A principal axes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from mgcli.fuse.stored_tokens import PinnedTokens, StoredTokens

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


@dataclass(frozen=True)
class Batch:
    """Some clips, padded on the right; a clip without a modality has an all-False mask row."""

    tokens: dict[str, Tensor]  # modality -> (B, N, D), as stored
    mask: dict[str, Tensor]  # modality -> (B, N) bool
    time: dict[str, Tensor]  # modality -> (B, N) float32, 0 at the clip's start and 1 at its end
    labels: Tensor  # (B,) int64


@dataclass(frozen=True)
class ModalityTokens:
    """All tokens of one modality, clip after clip."""

    # (R, D) float16 or float32, R at least 1: padding points to the first row
    tokens: Tensor | StoredTokens | PinnedTokens
    valid: Tensor  # (R,) bool
    time: Tensor  # (R,) float32 in [0, 1]
    start: Tensor  # (n, V) int64, first row of each view of each clip; of the plain one where it lacks a view
    count: Tensor  # (n, V) int64, 0 where a clip lacks the modality

    def to(self, device: torch.device) -> ModalityTokens:
        """The same on another device; tokens that do not lie in a tensor stay where they are."""
        return ModalityTokens(*(each.to(device) if isinstance(each, Tensor) else each for each in vars(self).values()))


class ClipTensors:
    """The clips of a table, row for row, with their labels."""

    def __init__(self, modalities: Mapping[str, ModalityTokens], labels: Tensor, max_tokens: int) -> None:
        """`max_tokens` is the most that a clip shows of a modality: more are thinned, evenly in order."""
        self.modalities = dict(modalities)
        self.labels = labels
        self.max_tokens = max_tokens

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def dims(self) -> dict[str, int]:
        """Token width of each modality."""
        return {name: each.tokens.shape[1] for name, each in self.modalities.items()}

    @property
    def tokens_a_clip(self) -> float:
        """Tokens that a clip shows, all modalities together, on average."""
        return sum(
            float(each.count[:, 0].clamp_max(self.max_tokens).double().mean()) for each in self.modalities.values()
        )

    @property
    def num_bytes(self) -> int:
        """Of all tokens, in memory."""
        return sum(math.prod(each.tokens.shape) * each.tokens.dtype.itemsize for each in self.modalities.values())

    @property
    def mapped(self) -> bool:
        """Whether tokens stay in the cache's files."""
        return any(isinstance(each.tokens, StoredTokens) for each in self.modalities.values())

    @property
    def on_device(self) -> bool:
        """Whether all tokens lie where a batch is used."""
        return all(isinstance(each.tokens, Tensor) for each in self.modalities.values())

    @property
    def batch_draws(self) -> bool:
        """Whether a batch for training hangs on chance: clips have several views, or are thinned."""
        return self.num_views > 1 or self.thins

    @property
    def thins(self) -> bool:
        """Whether some clip has more tokens than it shows."""
        return any(longest > self.max_tokens for _, longest in self._extremes.values())

    @cached_property
    def _extremes(self) -> dict[str, tuple[int, int]]:
        """Modality -> the least and the most tokens of any clip."""
        return {
            name: (int(each.count.min()), int(each.count.max())) if each.count.numel() else (0, 0)
            for name, each in self.modalities.items()
        }

    @property
    def num_views(self) -> int:
        """V: how many views a clip has, the plain one included."""
        return next(iter(self.modalities.values())).start.shape[1]

    def has_tokens(self) -> Tensor:
        """(n,) bool: clips with at least one valid token in any modality."""
        found = torch.zeros(len(self), dtype=torch.bool, device=self.labels.device)
        for each in self.modalities.values():
            found |= _valid_count(each) > 0
        return found

    def missing(self) -> dict[str, int]:
        """Modality -> how many clips have no valid token of it."""
        return {name: int((_valid_count(each) == 0).sum()) for name, each in self.modalities.items()}

    def subset(self, rows: np.ndarray) -> ClipTensors:
        """Some of the clips; their tokens stay where they are."""
        index = torch.from_numpy(rows)
        kept = {
            name: replace(each, start=each.start[index], count=each.count[index])
            for name, each in self.modalities.items()
        }
        return ClipTensors(kept, self.labels[index], self.max_tokens)

    def without(self, modality: str) -> ClipTensors:
        """The same clips, as if none had a token of the modality."""
        each = self.modalities[modality]
        hidden = replace(each, count=torch.zeros_like(each.count))
        return ClipTensors({**self.modalities, modality: hidden}, self.labels, self.max_tokens)

    def to(self, device: torch.device) -> ClipTensors:
        """The same clips on another device."""
        moved = {name: each.to(device) for name, each in self.modalities.items()}
        return ClipTensors(moved, self.labels.to(device), self.max_tokens)

    def batch(self, rows: Tensor, *, views: Tensor | None = None, jitter: torch.Generator | None = None) -> Batch:
        """Gather some clips.

        Args:
            rows: (B,) int64, which clips.
            views: (B,) int64, which view of each; None: the plain one.
            jitter: of a clip that is thinned, take other tokens every time, drawn from this.
        """
        tokens, mask, time = {}, {}, {}
        column = torch.zeros_like(rows) if views is None else views
        for name, each in self.modalities.items():
            start, count = each.start[rows, column], each.count[rows, column]  # (B,)
            least, most = self._extremes[name]
            # A GPU is asked for the longest clip of a batch only where clips differ: it would have to be waited for.
            longest = most if least == most else int(count.max())
            place, shown = shown_places(count, longest, self.max_tokens, jitter)
            index = (start[:, None] + place).where(shown, 0)
            tokens[name] = each.tokens[index]
            mask[name] = each.valid[index] & shown
            time[name] = each.time[index]
        return Batch(tokens, mask, time, self.labels[rows])

    def batches(self, rows: Tensor, size: int) -> Iterator[Batch]:
        """The clips of `rows` in order, `size` at a time."""
        for start in range(0, len(rows), size):
            yield self.batch(rows[start : start + size])


def shown_places(
    count: Tensor, most: int, max_tokens: int, jitter: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Which tokens of its own each clip shows, (B, N), and where that is one and not padding, (B, N) bool.

    Args:
        count: (B,) tokens that each clip has.
        most: the largest of them.
        max_tokens: a clip that has more shows so many, evenly spread.
        jitter: take other tokens every time, drawn from this.
    """
    longest = max(1, min(max_tokens, most))
    place = torch.arange(longest, device=count.device).expand(len(count), -1)  # (B, N)
    shown = place < count[:, None]
    if most > longest:
        offset = torch.rand(place.shape, generator=jitter, device=count.device) if jitter is not None else 0.5
        spread = ((place + offset) * count[:, None] / longest).long()
        place = torch.where(count[:, None] > longest, spread, place)
    return place, shown


class BatchList(Sequence[Batch]):
    """The batches of `ClipTensors.batches`, each gathered when it is asked for: all at once may not fit into memory."""

    def __init__(self, clips: ClipTensors, rows: Tensor, size: int) -> None:
        self._clips = clips
        self._rows = rows.split(size) if len(rows) else ()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> Batch:  # type: ignore[override]  # no slices: a batch at a time
        return self._clips.batch(self._rows[number])


def token_statistics(clips: ClipTensors, rows: Tensor) -> dict[str, TokenStatistics]:
    """Mean, spread and principal axes of each modality's valid tokens in the clips of `rows`."""
    return {name: _statistics(each, rows) for name, each in clips.modalities.items()}


def _valid_count(each: ModalityTokens) -> Tensor:
    """(n,) how many valid tokens each clip has in its plain view."""
    total = torch.nn.functional.pad(each.valid.long().cumsum(0), (1, 0))  # (R + 1,)
    start, count = each.start[:, 0], each.count[:, 0]
    return total[start + count] - total[start]


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
    return rows if len(rows) <= most else rows[torch.linspace(0, len(rows) - 1, most).long().to(rows.device)]


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
    low, high = (1 - math.sqrt(small)) ** 2, (1 + math.sqrt(small)) ** 2
    x = torch.linspace(low, high, 2001, dtype=torch.float64)[1:-1]
    share = (((high - x) * (x - low)).sqrt() / x).cumsum(0)
    share /= share[-1].clone()
    rank = (torch.tensor(NOISE_QUANTILES, dtype=torch.float64) * len(variance)).long()  # from the weakest axis
    expected = x[torch.searchsorted(share, (rank + 0.5) / len(variance)).clamp_max(len(x) - 1)] * max(ratio, 1.0)
    level = variance.cpu().flip(0)[rank] / expected
    return float(level.min()) * (1 + math.sqrt(ratio)) ** 2
