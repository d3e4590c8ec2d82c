"""Stack, the contract of what a training moves: heads of one architecture whose parameters are rows of one matrix.

A step of the optimiser is then a handful of operations, however many layers a head has and however many heads there
are. `stack_single.py` is one head that runs as it is; `stack_vmap.py` many, in one pass of all of them.

# Shapes: R heads, P parameters of a head, B batch, K classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from mgcli.fuse.data import Batch
from mgcli.fuse.head import FusionHead
from mgcli.fuse.loss import Loss

_ALIGNED = 32  # numbers: every parameter begins where fast kernels want it

Numbers = dict[str, Tensor]  # by name


class Stack(ABC):
    """R heads; row r of `weights`, (R, P), holds the parameters of head r."""

    _head: FusionHead  # the code that runs; set by each kind

    def __init__(self, heads: Sequence[FusionHead], device: torch.device) -> None:
        """Copy the heads' parameters.

        Args:
            heads: of one architecture. What differs between them is in parameters and buffers.
            device: of the stack.
        """
        self.num_classes = heads[0].num_classes
        self._saved = list(heads[0].state_dict())
        self._places: dict[str, tuple[slice, torch.Size]] = {}  # parameter -> its columns and its shape
        known: dict[Tensor, str] = {}  # a parameter may have several names
        end = 0
        for name, each in heads[0].named_parameters(remove_duplicate=False):
            first = known.setdefault(each, name)
            self._places[name] = self._places.get(first, (slice(end, end + each.numel()), each.shape))
            end += -(-each.numel() // _ALIGNED) * _ALIGNED if first == name else 0
        self.weights = torch.zeros(len(heads), end, device=device)
        for name, stacked in self.parameters(self.weights).items():
            stacked.copy_(torch.stack([head.get_parameter(name).detach() for head in heads]))
        self._with_gradient: list[int] = []  # first columns of the parameters that the loss was last seen to read
        self._read = torch.zeros(end, dtype=torch.bool, device=device)

    def __len__(self) -> int:
        return len(self.weights)

    def parameters(self, weights: Tensor) -> Numbers:
        """Name -> (R, ...), views into (R, P)."""
        return {
            name: weights[:, columns].unflatten(1, shape) if shape else weights[:, columns.start]
            for name, (columns, shape) in self._places.items()
        }

    def columns_of_matrices(self) -> Tensor:
        """(P,) bool: which parameters belong to a tensor of two axes or more."""
        found = torch.zeros(self.weights.shape[1], dtype=torch.bool, device=self.weights.device)
        for columns, shape in self._places.values():
            found[columns] = len(shape) > 1
        return found

    @property
    def steady(self) -> bool:
        """Whether every training pass runs the same operations, see `FusionHead`."""
        return self._head.steady

    @property
    @abstractmethod
    def moved(self) -> list[Tensor]:
        """What a training pass changes in place, besides the weights."""

    @abstractmethod
    def gradient(
        self, batch: Batch, targets: Tensor, loss: Loss, keys: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A training pass of every head over a batch of its own.

        Args:
            batch: as always, with a leading axis R.
            targets: (R, B, K) shares of each class.
            loss: with a leading axis R.
            keys: (R,) int64, what fixes each head's dropout.

        Returns:
            (R,) losses, (R, B, K) logits, the (R, P) gradient of each loss, and (P,) bool: which parameters the
            loss depends on at all.
        """

    @abstractmethod
    def logits(self, batch: Batch, weights: Tensor) -> Tensor:
        """(R, B, K) of a batch with a leading axis R, by heads with these (R, P) weights, as they are used later."""

    def keep_state(self, row: int, weights: Tensor) -> Callable[[], Numbers]:
        """Copy one head as it is now, with these (R, P) weights; called, the copy becomes a state dict.

        That is rare, and a copy of each parameter takes longer than one of them all.
        """
        own, buffers = weights[row : row + 1].clone(), {n: each.clone() for n, each in self._buffers_of(row).items()}

        def state() -> Numbers:
            numbers = {name: each[0] for name, each in self.parameters(own).items()} | buffers
            return {name: numbers[name].clone() for name in self._saved}

        return state

    @abstractmethod
    def _buffers_of(self, row: int) -> Numbers:
        """The buffers of one head."""

    @abstractmethod
    def keep(self, rows: Tensor) -> None:
        """Go on with some of the heads."""

    def _set_training(self, training: bool) -> None:
        if self._head.training != training:  # going through all layers takes a millisecond
            self._head.train(training)

    def _joined(self, found: Mapping[str, Tensor | None]) -> tuple[Tensor, Tensor]:
        """The (R, P) gradient from that of each parameter, in one operation, and (P,) bool: which have one."""
        parts: dict[int, Tensor] = {}  # first column -> (R, ...); a parameter of two names has the sum of both
        for name, each in found.items():
            if each is not None:
                start = self._places[name][0].start
                own = each.reshape(len(self), -1)
                parts[start] = parts[start] + own if start in parts else own
        pieces, end = [], 0
        for start, part in [*sorted(parts.items()), (self.weights.shape[1], self.weights[:, :0])]:
            if start > end:
                pieces.append(part.new_zeros(len(part), start - end))
            pieces.append(part)
            end = start + part.shape[1]
        if list(parts) != self._with_gradient:
            read = torch.zeros_like(self._read)
            for start, part in parts.items():
                read[start : start + part.shape[1]] = True
            self._read, self._with_gradient = read, list(parts)
        return torch.cat(pieces, dim=1), self._read


def inputs_of(batch: Batch) -> tuple[Numbers, Numbers, Numbers]:
    """What a head reads."""
    return batch.tokens, batch.mask, batch.time
