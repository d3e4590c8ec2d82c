"""Where stage two computes, and with how many threads."""

from __future__ import annotations

import os
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


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def one_core_is_best(tokens_a_step: float) -> bool:
    """Whether a CPU takes steps of so few tokens best with one thread."""
    return tokens_a_step <= SMALL_STEP_TOKENS


@contextmanager
def num_threads(number: int) -> Iterator[None]:
    """Inside, torch computes with so many threads: sums of several are added in another order.

    With one, nothing waits for threads that a busy machine keeps from running: the principal axes of 768 numbers took
    up to 9 s with two threads beside other trainings, and 0.6 to 0.8 s with one.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def computing_on(device: torch.device, tokens_a_step: float) -> Iterator[None]:
    """One thread for small steps on a CPU: several spend their time waiting for each other, more so on a busy one.

    A GPU is the one that torch means where none is named: it would take memory of the first one, too.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            yield
    elif device.type == "cpu" and one_core_is_best(tokens_a_step):
        with num_threads(1):
            yield
    else:
        yield
