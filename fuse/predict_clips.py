"""Class probabilities of clips, by one trained head or by a stack of them.

# Shapes: n clips, R heads, P parameters of a head, B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mgcli.fuse.data import Batch, ClipTensors
from mgcli.fuse.head import FusionHead
from mgcli.fuse.stack import Stack, inputs_of

_BATCH_SIZE = 128


@torch.inference_mode()
def predict_probabilities(head: FusionHead, clips: ClipTensors, rows: Tensor) -> np.ndarray:
    """(n, K) float64 class probabilities of the clips of `rows`."""
    head.eval()
    found = [
        head(batch.tokens, batch.mask, batch.time).logits.double().softmax(dim=1).cpu()
        for batch in clips.batches(rows, _BATCH_SIZE)
    ]
    return torch.cat([torch.empty(0, head.num_classes, dtype=torch.float64), *found]).numpy()


def predict_stack(stack: Stack, weights: Tensor, clips: ClipTensors, rows: Sequence[Tensor]) -> list[np.ndarray]:
    """(n, K) float64 class probabilities of each head's own (n,) clips, by heads with these (R, P) weights."""
    longest = max(map(len, rows))
    filled = torch.stack([F.pad(each, (0, longest - len(each))) for each in rows])  # with clip 0, for nobody to read
    found = [torch.empty(len(rows), 0, stack.num_classes, dtype=torch.float64)]
    for part in filled.split(_BATCH_SIZE, dim=1) if longest else ():
        batch = unfolded(clips.batch(part.flatten()), len(part))
        found.append(stack.logits(batch, weights).double().softmax(dim=2).cpu())  # (R, B, K)
    every = torch.cat(found, dim=1).numpy()
    return [every[place, : len(each)] for place, each in enumerate(rows)]


def unfolded(batch: Batch, size: int) -> Batch:
    """(R B, ...) -> (R, B, ...), with R = size."""

    def unfold(part: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: each.unflatten(0, (size, -1)) for name, each in part.items()}

    tokens, mask, time = map(unfold, inputs_of(batch))
    return Batch(tokens, mask, time, batch.labels.unflatten(0, (size, -1)))
