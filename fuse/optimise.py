"""How weights move: AdamW, a warm-up and a cosine, and their average."""

from __future__ import annotations

import math

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mgcli.fuse.head import FusionHead
from mgcli.fuse.settings import TrainConfig


def make_optimizer(head: FusionHead, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW; vectors (biases, norms, embeddings) do not decay."""
    matrices = [each for each in head.parameters() if each.ndim > 1]
    vectors = [each for each in head.parameters() if each.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def learning_rate_share(step: int, num_steps: int, warmup: float) -> float:
    """Share of the learning rate at a step, counted from 0: up in a line, down along a cosine."""
    warmup_steps = max(1, round(warmup * num_steps))
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, num_steps - warmup_steps)))


class WeightAverage:
    """The weights that a run keeps: an exponential average over the steps, or with a decay of 0 the weights themselves.

    The average begins with the weights after the first step, not with the random ones before it.
    """

    def __init__(self, head: FusionHead, decay: float) -> None:
        self._head = head
        self._average = AveragedModel(head, multi_avg_fn=get_ema_multi_avg_fn(decay)) if decay else None

    def update(self) -> None:
        """Take in the head's weights; once after every step."""
        if self._average is not None:
            self._average.update_parameters(self._head)

    @property
    def head(self) -> FusionHead:
        """The head to validate and to keep."""
        return self._head if self._average is None else self._average.module  # type: ignore[return-value]
