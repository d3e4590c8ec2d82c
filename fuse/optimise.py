"""How weights move: gradient clipping, AdamW, a warm-up and a cosine, and their average; each head by its settings.

# Shapes: R heads, P parameters of a head, S steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mgcli.fuse.settings import TrainConfig

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8  # as torch.optim.AdamW has them


class Optimizer:
    """Moves the weights of a stack. Vectors (biases, norms, one embedding) do not decay; rows of queries do."""

    def __init__(
        self, weights: Tensor, matrices: Tensor, configs: Sequence[TrainConfig], num_steps: Sequence[int]
    ) -> None:
        """Args:
        weights: (R, P), moved in place.
        matrices: (P,) bool, which of them decay.
        configs: of each head.
        num_steps: of each head's whole training.
        """
        self._weights, self._matrices = weights, matrices
        self._configs, self._num_steps = list(configs), list(num_steps)
        self._mean, self._square = torch.zeros_like(weights), torch.zeros_like(weights)
        self._average = weights.clone() if any(config.ema for config in configs) else None
        # On the device from the beginning: a GPU would have to wait for settings that come with every step.
        self._numbers = _numbers_of_steps(self._configs, self._num_steps).to(weights.device)
        self._decays, self._read = matrices.float(), torch.ones_like(matrices)

    @property
    def averages(self) -> Tensor:
        """(R, P): the weights to validate and to keep."""
        return self._weights if self._average is None else self._average

    def learning_rates(self, step: int) -> list[float]:
        """Of a step, counted from 0."""
        return [_learning_rate(*each, step) for each in zip(self._configs, self._num_steps, strict=True)]

    def numbers(self, step: int) -> Tensor:
        """(5, R, 1): what every head is told of a step, counted from 0."""
        return self._numbers[step]

    @property
    def state(self) -> list[Tensor]:
        """What a step moves, in place."""
        own = [self._weights, self._mean, self._square]
        return own if self._average is None else [*own, self._average]

    @torch.no_grad()
    def step(self, numbers: Tensor, gradient: Tensor, read: Tensor) -> None:
        """Move every head.

        Args:
            numbers: of the step, see `numbers`.
            gradient: (R, P), of each head's own loss; used up.
            read: (P,) bool; a parameter that no loss depends on stays as it is, without decay.
        """
        clip, decay, rate, epsilon, share = numbers
        if read is not self._read:
            self._decays, self._read = (self._matrices & read).float(), read
        norm = gradient.square().sum(dim=1, keepdim=True).sqrt()  # Tensor.norm loses 4 digits in a row of a million
        gradient.mul_((clip / (norm + 1e-6)).clamp_max(1.0))
        weights = self._weights
        weights.addcmul_(weights * self._decays, decay, value=-1)  # 1 - decay would round alike every time
        self._mean.lerp_(gradient, 1 - _BETA1)
        self._square.mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
        weights.addcdiv_(self._mean * rate, self._square.sqrt().add_(epsilon), value=-1)
        if self._average is not None:
            self._average.lerp_(weights, share)

    def keep(self, rows: Tensor, weights: Tensor) -> None:
        """Go on with some of the heads, whose weights are these from now on."""
        self._weights = weights
        self._configs, self._num_steps = (
            [each[row] for row in rows.tolist()] for each in (self._configs, self._num_steps)
        )
        self._mean, self._square = self._mean[rows], self._square[rows]
        self._average = None if self._average is None else self._average[rows]
        self._numbers = self._numbers[:, :, rows]


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


def _learning_rate(config: TrainConfig, num_steps: int, step: int) -> float:
    return config.learning_rate * learning_rate_share(step, num_steps, config.warmup)


def _numbers_of_steps(configs: Sequence[TrainConfig], num_steps: Sequence[int]) -> Tensor:
    """(S, 5, R, 1): what every head is told of each of the S steps of the longest training."""
    own: dict[tuple[TrainConfig, int], Tensor] = {}
    for each in zip(configs, num_steps, strict=True):
        if each not in own:
            own[each] = torch.tensor([_numbers_of_step(*each, step) for step in range(max(num_steps))])  # (S, 5)
    return torch.stack([own[each] for each in zip(configs, num_steps, strict=True)], dim=2)[..., None]


def _numbers_of_step(config: TrainConfig, num_steps: int, step: int) -> tuple[float, float, float, float, float]:
    """Largest norm of the gradient, share of a matrix that decays, and, with the corrections of Adam's averages for
    their beginning at zero, learning rate and epsilon; then the share of the average that is replaced."""
    rate = _learning_rate(config, num_steps, step)
    mean, root = 1 - _BETA1 ** (step + 1), math.sqrt(1 - _BETA2 ** (step + 1))
    share = average_share(config.ema, step + 1)
    return config.grad_clip, rate * config.weight_decay, rate * root / mean, _EPSILON * root, share
