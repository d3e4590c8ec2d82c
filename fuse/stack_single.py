"""One head as a stack of one: it runs as whoever wrote it would run it, with layers that no stack of many could take.

# Shapes: P parameters of the head, B batch, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call

from mgcli.fuse.data import Batch
from mgcli.fuse.dropout import drop_by_key
from mgcli.fuse.head import FusionHead, HeadError, HeadOutput
from mgcli.fuse.loss import Loss
from mgcli.fuse.stack import Numbers, Stack, inputs_of


class SingleHead(Stack):
    """The head itself is trained: inside `with` its parameters are views into `weights`, (1, P)."""

    def __init__(self, head: FusionHead, device: torch.device) -> None:
        """Args: head: on the device.

        Raises:
            HeadError: a parameter is not float32.
        """
        for name, each in head.named_parameters():
            if each.dtype != torch.float32:
                raise HeadError(f"parameter {name} is {str(each.dtype).removeprefix('torch.')}; heads learn in float32")
        super().__init__([head], device)
        self._head = head
        self._key = drop_by_key(head)
        self._learning = {name: each for name, each in head.named_parameters() if each.requires_grad}

    def __enter__(self) -> SingleHead:
        views = self.parameters(self.weights)
        for name, each in self._head.named_parameters():
            each.data = views[name][0]
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._head.parameters():
            each.data = each.data.clone()  # whoever saves one parameter would save the whole matrix

    @property
    def moved(self) -> list[Tensor]:
        return list(self._head.buffers())

    def gradient(
        self, batch: Batch, targets: Tensor, loss: Loss, keys: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        self._set_training(True)
        self._key.copy_(keys[0])
        tokens, mask, time = ({name: each[0] for name, each in part.items()} for part in inputs_of(batch))
        output: HeadOutput = self._head(tokens, mask, time)
        found = Loss(*(each[0] for each in vars(loss).values()))(output, mask, targets[0])
        gradients = torch.autograd.grad(found, list(self._learning.values()), allow_unused=True)
        joined = self._joined(dict(zip(self._learning, gradients, strict=True)))
        return found.detach()[None], output.logits.detach()[None], *joined

    @torch.no_grad()
    def logits(self, batch: Batch, weights: Tensor) -> Tensor:
        self._set_training(False)
        inputs = tuple({name: each[0] for name, each in part.items()} for part in inputs_of(batch))
        if weights is self.weights:
            return self._head(*inputs).logits[None]
        numbers = {name: each[0] for name, each in self.parameters(weights).items()}
        return functional_call(self._head, numbers, inputs, tie_weights=False).logits[None]

    def _buffers_of(self, row: int) -> Numbers:
        return dict(self._head.named_buffers(remove_duplicate=False))

    def keep(self, rows: Tensor) -> None:
        """There is nothing to go on with but the head."""
