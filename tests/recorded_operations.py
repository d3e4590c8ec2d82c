"""A GPU's graphs on a CPU: the operations of a step, recorded below autograd and vmap, and repeated on the same memory.

As with a GPU's, what is recorded is not done: whatever it would change is as before, and what it made holds nothing
yet. An operation that looks at a number is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from mgcli.fuse.recorded import Recorded

LOOKING = (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.masked_select)


class Recorder(TorchDispatchMode):
    """Use it as a `Record`; it may be asked how much was recorded and repeated, and what was read from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.recorded = self.repeated = 0
        self.outside: dict[int, Tensor] = {}  # memory that recordings read or change, but did not make

    def __call__(self, act: Callable[[], Sequence[Tensor]]) -> Recorded:
        self._done: list[tuple[Any, Any, Any, list[tuple[Tensor, Tensor]]]] = []
        self._made: dict[int, Tensor] = {}
        self._before: list[tuple[Tensor, Tensor]] = []
        with self:
            results = [each.detach() for each in act()]
        for each, own in reversed(self._before):
            each.copy_(own)
        for each in self._made.values():
            each.fill_(float("nan") if each.is_floating_point() else 99)
        done = self._done
        self.recorded += 1

        def repeat() -> None:
            self.repeated += 1
            with torch.no_grad():
                for function, arguments, named, kept in done:
                    for (_, own), new in zip(kept, tensors(function(*arguments, **named)), strict=True):
                        if own.data_ptr() != new.data_ptr():
                            own.copy_(new)

        return repeat, results

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        named = named or {}
        if function.overloadpacket in LOOKING:
            raise RuntimeError("operation not permitted when stream is capturing")
        for each in tensors((arguments, named)):
            if address(each) not in self._made and address(each) not in self.outside:
                self.outside[address(each)] = each
        if function._schema.is_mutable:
            for argument, of_schema in zip(arguments, function._schema.arguments, strict=False):
                if of_schema.alias_info is not None and of_schema.alias_info.is_write:
                    self._before += [
                        (each.detach(), each.detach().clone())
                        for each in tensors(argument)
                        if address(each) not in self._made
                    ]
        given = {address(each) for each in tensors((arguments, named))}
        made = function(*arguments, **named)
        kept = []
        for each in tensors(made):
            if address(each) not in given:
                self._made.setdefault(address(each), each.detach())
            kept.append((each, each.detach()))
        self._done.append((function, *tree_map_only(Tensor, Tensor.detach, (arguments, named)), kept))
        return made


def tensors(tree: Any) -> list[Tensor]:
    return [each for each in tree_leaves(tree) if isinstance(each, Tensor)]


def address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
