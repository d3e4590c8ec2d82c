"""How the weights of a stack move: as `optimise.py` moves those of one head, each replica by its own settings.

# Shapes: R replicas, P parameters of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mgcli.fuse.optimise import average_share, learning_rate_share
from mgcli.fuse.settings import TrainConfig
from mgcli.fuse.stack import HeadStack

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8  # as torch.optim.AdamW has them


class StackOptimizer:
    """Gradient clipping, AdamW, warm-up with cosine, and the average of the weights."""

    def __init__(self, stack: HeadStack, configs: Sequence[TrainConfig], num_steps: Sequence[int]) -> None:
        """`configs` and `num_steps`, of the whole training, are of each replica."""
        self._stack = stack
        self._configs, self._num_steps = list(configs), list(num_steps)
        self._mean, self._square = torch.zeros_like(stack.weights), torch.zeros_like(stack.weights)
        self._average = stack.weights.clone() if any(config.ema for config in configs) else None
        self._matrices = stack.columns_of_matrices()
        self._steps = 0

    @property
    def averages(self) -> Tensor:
        """(R, P): the weights to validate and to keep."""
        return self._stack.weights if self._average is None else self._average

    def learning_rates(self) -> list[float]:
        """Of the next step."""
        return [
            config.learning_rate * learning_rate_share(self._steps, steps, config.warmup)
            for config, steps in zip(self._configs, self._num_steps, strict=True)
        ]

    @torch.no_grad()
    def step(self, gradient: Tensor, read: Tensor) -> None:
        """Move every replica.

        Args:
            gradient: (R, P), of each replica's own loss.
            read: (P,) bool; a parameter that no loss depends on stays as it is, without decay.
        """
        weights = self._stack.weights
        rate = self._column(self.learning_rates())
        self._steps += 1
        clip = self._column([config.grad_clip for config in self._configs])
        norm = gradient.square().sum(dim=1, keepdim=True).sqrt()  # Tensor.norm loses 4 digits in a row of a million
        gradient = gradient * (clip / (norm + 1e-6)).clamp_max(1.0)
        decay = self._column([config.weight_decay for config in self._configs])
        weights -= rate * decay * (self._matrices & read) * weights  # 1 - rate * decay would round alike every time
        self._mean.lerp_(gradient, 1 - _BETA1)
        self._square.mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
        spread = self._square.sqrt() / (1 - _BETA2**self._steps) ** 0.5 + _EPSILON
        weights -= rate / (1 - _BETA1**self._steps) * self._mean / spread
        if self._average is not None:
            shares = [average_share(config.ema, self._steps) for config in self._configs]
            self._average.lerp_(weights, self._column(shares))

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the replicas, after the stack did."""
        self._configs, self._num_steps = (
            [each[row] for row in rows.tolist()] for each in (self._configs, self._num_steps)
        )
        self._mean, self._square = self._mean[rows], self._square[rows]
        self._average = None if self._average is None else self._average[rows]

    def _column(self, values: Sequence[float]) -> Tensor:
        """(R, 1)."""
        return torch.tensor(values, device=self._mean.device)[:, None]
