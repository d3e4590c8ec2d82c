"""How weights move: AdamW, a warm-up and a cosine, and their average."""

from __future__ import annotations

import copy
import math

import torch

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


def average_share(decay: float, steps: int) -> float:
    """How much of the average of the weights is replaced after so many steps; all of it with a decay of 0.

    The average begins with the weights after the first step, and never looks back over more than about a tenth
    of the steps so far: early weights are far from good ones.
    """
    return max(1 - decay, 10 / (9 + steps))


class WeightAverage:
    """The weights that a run keeps: an exponential average over the steps; with a decay of 0 the weights themselves."""

    def __init__(self, head: FusionHead, decay: float) -> None:
        self._head = head
        self._decay = decay
        self._average = copy.deepcopy(head).requires_grad_(False) if decay else None
        self._steps = 0

    def update(self) -> None:
        """Take in the head's weights; once after every step."""
        if self._average is None:
            return
        self._steps += 1
        share = average_share(self._decay, self._steps)
        with torch.no_grad():
            torch._foreach_lerp_(list(self._average.parameters()), list(self._head.parameters()), share)

    @property
    def head(self) -> FusionHead:
        """The head to validate and to keep; what is no parameter (statistics, counts) is the head's own."""
        if self._average is None:
            return self._head
        for kept, own in zip(self._average.buffers(), self._head.buffers(), strict=True):
            kept.copy_(own)
        return self._average
