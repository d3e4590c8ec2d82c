"""The forward pass alone, over inputs that lie on the device, ready: what the rest of stage one is measured by."""

# Shapes: B batch.

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from mgcli.extract.backbone import PRECISIONS, Backbone, BackboneError
from mgcli.extract.bench_input import make_input
from mgcli.extract.device import compile_fault, on_device


def warm_up(backbone: Backbone, network: Callable[[Tensor], Tensor], batch_size: int) -> None:
    """Run one batch, which compiles a network that is to be.

    Raises:
        BackboneError: it cannot be compiled.
    """
    try:
        time_forward(backbone, network, batch_size, batch_size)
    except RuntimeError as error:
        if network is not backbone and (fault := compile_fault(backbone.name, error)):
            raise BackboneError(f"{fault}; give --compile off") from error
        raise


def time_forward(backbone: Backbone, network: Callable[[Tensor], Tensor], batch_size: int, count: int) -> float:
    """Seconds for so many inputs that lie on the device, ready: of as many whole batches as that takes, the share."""
    inputs = torch.stack([make_input(backbone, seed)[0] for seed in range(batch_size)])
    ready = backbone.finish(inputs.to(backbone.device)).to(PRECISIONS[backbone.precision])  # (B, ...)
    batches = -(-count // batch_size)
    if not batches:
        return 0.0
    with on_device(backbone.device), torch.inference_mode():
        started = time.perf_counter()
        for _ in range(batches):
            tokens = network(ready)
        tokens.float().cpu()  # a GPU is waited for
    return (time.perf_counter() - started) * count / (batches * batch_size)
