"""Many heads of one architecture at once: `torch.func.vmap` runs the head that everybody writes over all of them.

# Shapes: R replicas, P parameters of a head, B batch, N tokens, D token width, K classes.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from mgcli.fuse.data import Batch
from mgcli.fuse.dropout import Dropout, drop_by_key
from mgcli.fuse.head import FittedHead, FusionHead, HeadOutput
from mgcli.fuse.layers import Attention
from mgcli.fuse.loss import Loss
from mgcli.fuse.settings import TrainConfig
from mgcli.fuse.stack import Numbers, Stack, inputs_of

_TRIED_CLIPS = 4
_CLOSE = 1e-4  # a head alone and in a stack, relative to the largest logit


class VmapStack(Stack):
    """R heads that are run by the code of the first; the heads themselves stay as they are."""

    def __init__(self, heads: Sequence[FusionHead], device: torch.device) -> None:
        super().__init__(heads, device)
        self._head = copy.deepcopy(heads[0]).to(device)  # the code that runs; its own numbers are not read
        drop_by_key(self._head)
        self._head.hides = any(head.hides for head in heads)
        for name, each in self._head.named_modules():
            if isinstance(each, Dropout):
                each.active = any(head.get_submodule(name).active for head in heads)
            elif isinstance(each, Attention):
                each.stacked = True
        self._buffers = {
            name: torch.stack([head.get_buffer(name) for head in heads]).to(device)
            for name, _ in heads[0].named_buffers(remove_duplicate=False)
            if not _is_key(heads[0], name)
        }
        self._frozen = {n for n, each in heads[0].named_parameters(remove_duplicate=False) if not each.requires_grad}
        self._keys = [f"{name}.key" for name, each in self._head.named_modules() if isinstance(each, Dropout)]

    @property
    def moved(self) -> list[Tensor]:
        return list(self._buffers.values())

    def gradient(
        self, batch: Batch, targets: Tensor, loss: Loss, keys: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        self._set_training(True)
        weights = self.parameters(self.weights)
        leaves = {name: each.detach().requires_grad_(name not in self._frozen) for name, each in weights.items()}
        buffers = self._buffers | dict.fromkeys(self._keys, keys)

        def one(numbers: Numbers, inputs: Sequence[Numbers], targets: Tensor, loss: Numbers) -> tuple[Tensor, Tensor]:
            output: HeadOutput = functional_call(self._head, numbers, tuple(inputs), tie_weights=False)
            return Loss(**loss)(output, inputs[1], targets), output.logits

        with _quiet():
            losses, logits = vmap(one)(leaves | buffers, inputs_of(batch), targets, dict(vars(loss)))
        learning = [name for name in leaves if name not in self._frozen]
        found = torch.autograd.grad(losses.sum(), [leaves[name] for name in learning], allow_unused=True)
        return losses.detach(), logits.detach(), *self._joined(dict(zip(learning, found, strict=True)))

    @torch.no_grad()
    def logits(self, batch: Batch, weights: Tensor) -> Tensor:
        self._set_training(False)

        def one(numbers: Numbers, inputs: Sequence[Numbers]) -> Tensor:
            return functional_call(self._head, numbers, tuple(inputs), tie_weights=False).logits

        with _quiet():
            return vmap(one)(self.parameters(weights) | self._buffers, inputs_of(batch))

    def _buffers_of(self, row: int) -> Numbers:
        return {name: each[row] for name, each in self._buffers.items()}

    def keep(self, rows: Tensor) -> None:
        self.weights = self.weights[rows]
        self._buffers = {name: each[rows] for name, each in self._buffers.items()}


def why_not_stacked(head: FusionHead, dims: Mapping[str, int]) -> str:
    """Why heads such as this one cannot be trained as a stack; empty where they can.

    It is tried: two of them, on random tokens, must say in a stack what each says alone. Layers of a user's own
    that draw from torch's global generator, for example, cannot: a stack would draw other numbers.

    Args:
        head: fresh, on any device.
        dims: token width of each modality.
    """
    if isinstance(head, FittedHead):
        return "it is fitted in one go, without steps"
    device = next(head.parameters()).device
    generator = torch.Generator().manual_seed(0)
    shapes = {name: (2, _TRIED_CLIPS, 3 + i, dim) for i, (name, dim) in enumerate(dims.items())}
    batch = Batch(
        tokens={name: torch.randn(shape, generator=generator).to(device) for name, shape in shapes.items()},
        mask={name: torch.ones(shape[:3], dtype=torch.bool, device=device) for name, shape in shapes.items()},
        time={name: torch.rand(shape[:3], generator=generator).to(device) for name, shape in shapes.items()},
        labels=torch.zeros(2, _TRIED_CLIPS, dtype=torch.int64, device=device),
    )
    targets = torch.full((2, _TRIED_CLIPS, head.num_classes), 1 / head.num_classes, device=device)
    loss = Loss.of(batch.labels[0], head, TrainConfig())
    stacked_loss = Loss(**{name: torch.stack([each, each]) for name, each in vars(loss).items()})
    alone = copy.deepcopy(head).train()
    key, keys = drop_by_key(alone), torch.tensor([1, 2], device=device)
    try:
        _, found, _, _ = VmapStack([head, head], device).gradient(batch, targets, stacked_loss, keys)
        with torch.no_grad():
            for row in range(2):
                key.copy_(keys[row])
                tokens, mask, time = ({n: each[row] for n, each in part.items()} for part in inputs_of(batch))
                expected = alone(tokens, mask, time).logits
                if not torch.allclose(found[row], expected, rtol=0, atol=_CLOSE * float(expected.abs().max())):
                    return "in a stack it says something else than alone"
    except Exception as error:  # whatever a user's own head, or vmap in it, may raise
        return f"torch.func.vmap cannot run it: {(str(error).strip().splitlines() or [type(error).__name__])[0]}"
    return ""


@contextmanager
def _quiet() -> Iterator[None]:
    """On a CPU torch has no batched attention kernel: it goes from replica to replica, which is as fast, and warns."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop because we have not yet implemented")
        yield


def _is_key(head: FusionHead, name: str) -> bool:
    owner, _, own = name.rpartition(".")
    return own == "key" and isinstance(head.get_submodule(owner), Dropout)
