"""Inputs of a batch on a CPU: each goes through a network beside others, on a share of the cores.

Threads that share one input wait for each other after each operation, and all of them for the one whose core a decoder
has at that moment. Threads with an input each wait for nobody. On 2 cores MViTv2-S takes 0.79 (bfloat16) and 0.88 to
0.93 (float32) of the time.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch
from torch import Tensor

MOST_LANES = 16  # each holds the activations of an input, 180 to 200 MB for MViTv2-S in float32


def num_lanes() -> int:
    """Inputs that are worked on at once."""
    return min(MOST_LANES, torch.get_num_threads())


def each_beside_others(forward: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """What `forward` gives for the inputs of a batch one by one, joined.

    Args:
        forward: (1, ...) to (1, ...), on a CPU.
        inputs: (B, ...); a single one has all threads for itself.

    Returns:
        (B, ...).
    """
    singles = inputs.split(1)
    lanes = min(num_lanes(), len(singles))
    # torch's modes (inference, tracing, ...) are of one thread: lanes are given the one that extractions run in
    if lanes < 2 or torch.compiler.is_compiling() or not torch.is_inference_mode_enabled():
        return torch.cat([forward(each) for each in singles])
    return torch.cat(list(_pool(lanes, torch.get_num_threads() // lanes).map(torch.inference_mode()(forward), singles)))


@lru_cache
def _pool(lanes: int, threads: int) -> ThreadPoolExecutor:
    """Threads that compute with so many threads each."""
    all_threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(lanes, "mgcli-lane", _compute_with, (threads,))
    all_there = threading.Barrier(lanes)
    list(pool.map(lambda _: all_there.wait(), range(lanes)))
    torch.set_num_threads(all_threads)  # threads that are yet to start take the number that was set last
    return pool


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a fork has the pool, but none of its threads


def _compute_with(threads: int) -> None:
    torch.get_num_threads()  # a thread's first question or operation sets its number to that of the process
    torch.set_num_threads(threads)
