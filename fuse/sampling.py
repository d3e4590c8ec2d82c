"""Which clips an epoch shows, in which order, and in which view.

# Shapes: n training clips, B batch, K classes, V views, the plain one included.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mgcli.fuse.settings import TrainConfig


def epoch_rows(rows: Tensor, labels: Tensor, config: TrainConfig, generator: torch.Generator) -> Tensor:
    """(n,) int64: the clips of one epoch, in order.

    Args:
        rows: (n,) int64, the training clips.
        labels: (n,) int64, their classes.
        config: `sampling` shuffled: each clip once; balanced: as many draws, with replacement, in which every
            class comes equally often and every clip of a class too.
        generator: where chance comes from, on the device of `rows`.
    """
    if config.sampling == "shuffled":
        return rows[torch.randperm(len(rows), generator=generator, device=rows.device)]
    weight = 1 / labels.bincount()[labels].float()  # (n,)
    return rows[torch.multinomial(weight, len(rows), replacement=True, generator=generator)]


def draw_views(size: int, num_views: int, generator: torch.Generator) -> Tensor | None:
    """(B,) int64: the view in which each clip of a batch is shown; None where there is only the plain one."""
    if num_views == 1:
        return None
    return torch.randint(num_views, (size,), generator=generator, device=generator.device)
