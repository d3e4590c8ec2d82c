"""Cached clips as aligned tensors: all tokens stay where they are, a batch is one gather.

# Shapes: R rows (all tokens of a modality), n clips, V views (the plain one first), B batch, N tokens of the
#         longest clip in a batch, D token width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mgcli.fuse.stored_tokens import HostTokens, StoredTokens

_LOOKED_AT_ONCE = 256  # clips
_GPU_LENGTHS = 8  # tokens: a GPU's batches are as long as a multiple of these


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
    tokens: Tensor | StoredTokens | HostTokens
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

    def not_finite(self, rows: Tensor) -> list[str]:
        """Modalities of which the clips of `rows` have valid tokens with numbers that are not finite."""
        found = dict.fromkeys(self.modalities, False)
        for batch in self.batches(rows, _LOOKED_AT_ONCE):
            for name, tokens in batch.tokens.items():
                found[name] |= bool((~tokens.isfinite().all(dim=2) & batch.mask[name]).any())
        return [name for name, each in found.items() if each]

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

    def longest(self, order: Tensor, size: int) -> list[dict[str, int]]:
        """Modality -> most tokens of a clip, in any view, for each `size` columns of (R, n) rows.

        A GPU is asked once for them all, and few different numbers come back: there every shape of a batch takes a
        graph of its own (`mgcli.fuse.recorded`).
        """
        most = [each.count.amax(dim=1)[order].amax(dim=0) for each in self.modalities.values()]  # (n,) each
        found = F.pad(torch.stack(most), (0, -order.shape[1] % size)).unflatten(1, (-1, size)).amax(dim=2)
        step = _GPU_LENGTHS if order.is_cuda else 1
        return [
            {name: -(-each // step) * step for name, each in zip(self.modalities, of_batch, strict=True)}
            for of_batch in found.T.tolist()
        ]

    def batch(
        self,
        rows: Tensor,
        *,
        views: Tensor | None = None,
        jitter: torch.Generator | None = None,
        longest: Mapping[str, int] | None = None,
    ) -> Batch:
        """Gather some clips.

        Args:
            rows: (B,) int64, which clips.
            views: (B,) int64, which view of each; None: the plain one.
            jitter: of a clip that is thinned, take other tokens every time, drawn from this.
            longest: modality -> tokens to pad to, none of the clips has more; None: as many as the longest has.
        """
        tokens, mask, time = {}, {}, {}
        column = torch.zeros_like(rows) if views is None else views
        for name, each in self.modalities.items():
            start, count = each.start[rows, column], each.count[rows, column]  # (B,)
            least, most = self._extremes[name]
            # A GPU is asked for the longest clip of a batch only where clips differ: it would have to be waited for.
            length = most if least == most else int(count.max()) if longest is None else longest[name]
            place, shown = shown_places(count, length, self.max_tokens, jitter)
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
        spread = torch.minimum(spread, count[:, None] - 1)  # an offset next to 1 is rounded up
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


def _valid_count(each: ModalityTokens) -> Tensor:
    """(n,) how many valid tokens each clip has in its plain view."""
    total = F.pad(each.valid.long().cumsum(0), (1, 0))  # (R + 1,)
    start, count = each.start[:, 0], each.count[:, 0]
    return total[start + count] - total[start]
