"""Cached clips as aligned tensors: all tokens stay where they are, a batch is one gather.

# Shapes: R rows (all tokens of a modality), n clips, V views (the plain one first), B batch, N tokens of the
#         longest clip in a batch, D token width, A principal axes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mgcli.cache import FeatureSet

MAX_STATISTICS_TOKENS = 1 << 16  # enough for a mean, a spread and the strongest axes
MAX_AXES_TOKENS = 2048  # of tokens wider than this, the axes come from this many tokens
OUTSIDE_CLIP_S = 0.5  # a token's time may lie this far outside its clip, as half a window does


@dataclass(frozen=True)
class TokenStatistics:
    """What the training split's tokens of one modality look like."""

    mean: Tensor  # (D,) float32
    std: Tensor  # (D,) float32, 0 where a number never changes
    axes: Tensor  # (D, A) float32: standardised tokens times these are their principal parts, strongest first
    axis_std: Tensor  # (A,) float32, spread of each part
    noise_std: float  # spread up to which an axis may be noise


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

    tokens: Tensor  # (R, D) float16 or float32, R at least 1: padding points to the first row
    valid: Tensor  # (R,) bool
    time: Tensor  # (R,) float32 in [0, 1]
    start: Tensor  # (n, V) int64, first row of each view of each clip; of the plain one where it lacks a view
    count: Tensor  # (n, V) int64, 0 where a clip lacks the modality

    def to(self, device: torch.device) -> ModalityTokens:
        return ModalityTokens(*(each.to(device) for each in vars(self).values()))


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
            place, shown = shown_places(count, self.max_tokens, jitter)
            index = (start[:, None] + place).where(shown, 0)
            tokens[name] = each.tokens[index]
            mask[name] = each.valid[index] & shown
            time[name] = each.time[index]
        return Batch(tokens, mask, time, self.labels[rows])

    def batches(self, rows: Tensor, size: int) -> Iterator[Batch]:
        """The clips of `rows` in order, `size` at a time."""
        for start in range(0, len(rows), size):
            yield self.batch(rows[start : start + size])


def shown_places(count: Tensor, max_tokens: int, jitter: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Which tokens of its own each clip shows, (B, N), and where that is one and not padding, (B, N) bool.

    Args:
        count: (B,) tokens that each clip has.
        max_tokens: a clip that has more shows so many, evenly spread.
        jitter: take other tokens every time, drawn from this.
    """
    longest = max(1, min(max_tokens, int(count.max())))
    place = torch.arange(longest, device=count.device).expand(len(count), -1)  # (B, N)
    shown = place < count[:, None]
    if int(count.max()) > longest:
        offset = torch.rand(place.shape, generator=jitter, device=count.device) if jitter is not None else 0.5
        spread = ((place + offset) * count[:, None] / longest).long()
        place = torch.where(count[:, None] > longest, spread, place)
    return place, shown


def load_clips(
    feature_sets: Mapping[str, FeatureSet], table: pd.DataFrame, labels: np.ndarray, max_tokens: int, views: int = 0
) -> ClipTensors:
    """Read the tokens of a clip table; a clip that a feature set lacks is masked there.

    Args:
        feature_sets: modality -> where its tokens are.
        table: a checked clip table; row i becomes clip i.
        labels: (n,) int64, class of each clip.
        max_tokens: see ClipTensors.
        views: augmented views 1..views of the training clips are read too, where the feature sets have them.
    """
    modalities = {name: _load_modality(each, table, views) for name, each in feature_sets.items()}
    return ClipTensors(modalities, torch.as_tensor(labels, dtype=torch.int64), max_tokens)


def token_statistics(clips: ClipTensors, rows: Tensor) -> dict[str, TokenStatistics]:
    """Mean, spread and principal axes of each modality's valid tokens in the clips of `rows`."""
    return {name: _statistics(each, rows) for name, each in clips.modalities.items()}


def _load_modality(features: FeatureSet, table: pd.DataFrame, views: int) -> ModalityTokens:
    """The plain view of every clip, and augmented ones of the training clips."""
    training = (table["split"] == "train").to_numpy()
    loaded = [
        _load_view(features, table, view, np.ones(len(table), bool) if view == 0 else training)
        for view in range(views + 1)
    ]
    tokens, valid, time, start, count = (list(each) for each in zip(*loaded, strict=True))
    first_row = np.cumsum([0, *(len(each) for each in tokens)])
    for view in range(1, views + 1):
        lacks = count[view] == 0
        start[view] = np.where(lacks, start[0], start[view] + first_row[view])
        count[view] = np.where(lacks, count[0], count[view])
    if first_row[-1] == 0:  # nobody has it
        tokens, valid, time = (
            [np.zeros((1, features.spec.dim), tokens[0].dtype)],
            [np.zeros(1, bool)],
            [np.zeros(1, np.float32)],
        )
    return ModalityTokens(
        tokens=_as_tensor(tokens[0] if len(tokens) == 1 else np.concatenate(tokens)),
        valid=torch.from_numpy(np.concatenate(valid)),
        time=torch.from_numpy(np.concatenate(time)),
        start=torch.from_numpy(np.stack(start, axis=1)),
        count=torch.from_numpy(np.stack(count, axis=1)),
    )


def _load_view(
    features: FeatureSet, table: pd.DataFrame, view: int, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Tokens (R, D), validity and time (R,), and start and count (n,) of one view of the clips in `wanted` (n,)."""
    clip_ids = table["clip_id"].tolist()
    column = features.spec.source_column
    sources = table[column].tolist() if column is not None and column in table else [""] * len(table)
    known = np.flatnonzero(features.holds(clip_ids, sources, view) & wanted).tolist()
    ids, id_sources = [clip_ids[i] for i in known], [sources[i] for i in known]
    selection = features.select(ids, sources=id_sources, view=view)
    stored, offsets = selection.load()
    time_s, valid = selection.load_companions("time_s"), selection.load_companions("valid")
    start, count = np.zeros(len(table), np.int64), np.zeros(len(table), np.int64)
    start[known], count[known] = offsets[:-1], np.diff(offsets)
    span = table[["start_s", "end_s"]].to_numpy(np.float64)[known]
    time = _clip_time(np.asarray(time_s, np.float64), offsets, span)
    return stored, np.array(valid, dtype=bool), time.astype(np.float32), start, count


def _as_tensor(array: np.ndarray) -> Tensor:
    """The array as a tensor, without a copy: a memory map stays one, and nobody writes to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def _clip_time(time_s: np.ndarray, offsets: np.ndarray, span: np.ndarray) -> np.ndarray:
    """(R,) times scaled so that a clip's start is 0 and its end 1.

    The clip table's interval decides; where it gives none, or the tokens lie outside it (times of imported
    tokens may count from anywhere), the first and the last token of the clip do.
    """
    length = np.diff(offsets)
    if not len(length):
        return time_s
    first = np.minimum.reduceat(time_s, offsets[:-1])  # (n,); a stored clip has at least one token
    last = np.maximum.reduceat(time_s, offsets[:-1])
    inside = (first >= span[:, 0] - OUTSIDE_CLIP_S) & (last <= span[:, 1] + OUTSIDE_CLIP_S)  # False for NaN
    low, high = np.where(inside, span[:, 0], first), np.where(inside, span[:, 1], last)
    extent = np.repeat(high - low, length)
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled = (time_s - np.repeat(low, length)) / extent
    return np.where(extent > 0, scaled, 0.5).clip(0.0, 1.0)


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
    tokens = each.tokens[index].double()  # (R', D)
    std, mean = torch.std_mean(tokens, dim=0, correction=0)
    std = std.where(std > 1e-6 * (mean.abs() + std.max()), 0.0)  # rounding is not spread
    standard = (tokens - mean) / std.where(std > 0, 1.0) * (std > 0)
    if dim > MAX_AXES_TOKENS:
        standard = _every_so_often(standard, MAX_AXES_TOKENS)
    # Half of each number's own spread is given back: what a number says may be why it varies more than others.
    weight = (std / std[std > 0].median()).sqrt() if (std > 0).any() else std  # (D,)
    variance, axes = _principal_axes(standard * weight)
    noise = _noise_edge(variance, num_tokens=len(standard), dim=int((std > 0).sum()))
    axes = weight[:, None] * axes
    return TokenStatistics(mean.float(), std.float(), axes.float(), variance.sqrt().float(), math.sqrt(noise))


def _every_so_often(rows: Tensor, most: int) -> Tensor:
    """At most `most` of the rows, evenly spread."""
    return rows if len(rows) <= most else rows[torch.linspace(0, len(rows) - 1, most).long().to(rows.device)]


def _principal_axes(standard: Tensor) -> tuple[Tensor, Tensor]:
    """(A,) variances and (D, A) axes of (R, D) tokens, strongest first, without the empty ones."""
    num_tokens, dim = standard.shape
    if num_tokens >= dim:
        variance, axes = torch.linalg.eigh(standard.T @ standard / num_tokens)
    else:  # the smaller product has the same spectrum
        variance, weights = torch.linalg.eigh(standard @ standard.T / num_tokens)
        axes = torch.nn.functional.normalize(standard.T @ weights, dim=0)
    kept = (variance > 1e-6 * variance.max().clamp_min(1e-12)).flip(0)
    return variance.flip(0)[kept], axes.flip(1)[:, kept]


def _noise_edge(variance: Tensor, num_tokens: int, dim: int) -> float:
    """Variance that pure noise would hardly exceed along its strongest axis.

    The median axis is taken for noise, and Marchenko-Pastur's law says how far sampling spreads the
    variances of noise (as in Gavish and Donoho 2014, arXiv 1305.5870). Tokens of a trained network have
    spectra that fall steeply, so that hardly any axis of theirs counts as noise.
    """
    if len(variance) < 2 or dim < 2:
        return 0.0
    ratio = dim / num_tokens
    small = min(ratio, 1 / ratio)
    low, high = (1 - math.sqrt(small)) ** 2, (1 + math.sqrt(small)) ** 2
    x = torch.linspace(low, high, 2001, dtype=torch.float64)[1:-1]
    share = (((high - x) * (x - low)).sqrt() / x).cumsum(0)
    median = float(x[int((share < share[-1] / 2).sum())]) * max(ratio, 1.0)
    return float(variance.median()) / median * (1 + math.sqrt(ratio)) ** 2
