"""Where stage two computes, and with how many threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mgcli.fuse.settings import TrainError

SMALL_STEP_TOKENS = 8192  # tokens in a batch, all modalities together


def training_device(name: str) -> torch.device:
    """The device of a setting; auto is cuda where there is one.

    Raises:
        TrainError: there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise TrainError(f"cannot use device {name!r}: {str(error).splitlines()[0]}") from None


@contextmanager
def threads_for(device: torch.device, tokens_a_step: float) -> Iterator[None]:
    """One thread for small steps on a CPU: several spend their time waiting for each other, more so on a busy one."""
    threads = torch.get_num_threads()
    if device.type == "cpu" and tokens_a_step <= SMALL_STEP_TOKENS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
