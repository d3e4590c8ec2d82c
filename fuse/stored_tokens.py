"""Tokens that stay where they are: in the cache's files, or in memory beside a GPU. Both are indexed as a tensor is.

The part about memory beside a GPU was never run on one: there was none where it was written.

# Shapes: R rows (all tokens of a modality), n clips, D token width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mgcli.cache import ClipSelection

_BLOCK_CLIPS = 256  # read at a time, where many are asked for


class StoredTokens:
    """The tokens of some clips, read from the cache when they are asked for; row numbers are as if all were in memory.

    Of local files the system keeps what was read in memory as long as it has room, and gives it up when it has not.
    """

    def __init__(self, selections: Sequence[ClipSelection], dim: int, dtype: torch.dtype) -> None:
        """Rows count over the clips of the first selection, then over those of the second, and so on."""
        self.dtype = dtype  # of what they are read as
        self._selections = selections
        self._first_clip = np.cumsum([0, *(len(each) for each in selections)])
        self._offsets = np.cumsum([0, *np.concatenate([each.counts for each in selections]).tolist()])  # (n + 1,)
        self.shape = (int(self._offsets[-1]), dim)

    def __getitem__(self, index: Tensor) -> Tensor:
        """The rows of `index`, (...) int64, as (..., D) on its device; whole clips are read for them."""
        rows = index.reshape(-1).cpu().numpy()
        clips, of_row = np.unique(np.searchsorted(self._offsets, rows, side="right") - 1, return_inverse=True)
        found: np.ndarray | None = None
        for first in range(0, len(clips), _BLOCK_CLIPS):
            block = clips[first : first + _BLOCK_CLIPS]
            tokens, offsets = self._read(block)
            if found is None:
                found = np.empty((len(rows), self.shape[1]), tokens.dtype)
            inside = np.flatnonzero((of_row >= first) & (of_row < first + len(block)))
            of_block = of_row[inside] - first
            found[inside] = tokens[offsets[of_block] + rows[inside] - self._offsets[block[of_block]]]
        assert found is not None, "no rows asked for"
        return torch.from_numpy(found).view(*index.shape, self.shape[1]).to(index.device)

    def _read(self, clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of (n,) clips in ascending order, and (n + 1,) where each begins."""
        of_selection = np.searchsorted(self._first_clip, clips, side="right") - 1
        parts = [
            self._selections[number].load(clips[of_selection == number] - self._first_clip[number])[0]
            for number in np.unique(of_selection).tolist()
        ]
        counts = np.diff(self._offsets)[clips]
        return parts[0] if len(parts) == 1 else np.concatenate(parts), np.concatenate([[0], np.cumsum(counts)])


class HostTokens:
    """Tokens in the host's memory beside a GPU, which fetches rows while it computes."""

    def __init__(self, tokens: Tensor) -> None:
        """`tokens` (R, D) in memory. They stay where they are: to lock them would take a copy of them all."""
        self._tokens = tokens
        self.shape = tuple(tokens.shape)
        self.dtype = tokens.dtype

    def __getitem__(self, index: Tensor) -> Tensor:
        """The rows of `index`, (...) int64, as (..., D) on its device."""
        shape = (index.numel(), self.shape[1])
        rows = torch.empty(shape, dtype=self.dtype, pin_memory=index.is_cuda)  # new each time: a copy may be under way
        torch.index_select(self._tokens, 0, index.reshape(-1).cpu(), out=rows)
        return rows.view(*index.shape, shape[1]).to(index.device, non_blocking=True)
