"""Freed memory stays with a command, which wants as much again at once. Imports next to nothing.

glibc hands a freed tensor of some megabytes back to the system, and takes it again page by page for the next one. With
that memory kept, MViTv2-S in bfloat16 took 0.81 of the time on 2 cores. What a head does with its tokens first took
0.4 of the time in some processes and as long in others: it hung on what happened to lie at the end of the heap.
"""

from __future__ import annotations

import ctypes
import os

# name in the environment, for processes that are started from here; mallopt's number for it; bytes
_KEPT = (
    ("MALLOC_MMAP_THRESHOLD_", -3, 32 << 20),  # what is larger is mapped by itself and goes back
    ("MALLOC_TRIM_THRESHOLD_", -1, 1 << 30),
    ("MALLOC_TOP_PAD_", -2, 64 << 20),  # of a thread's heaps, whole ones would go back otherwise; only addresses
)


def keep_freed_memory() -> None:
    """Have glibc do so, in this process and in those that it starts; one that a user has tuned stays as it is."""
    if any(name in os.environ for name, _, _ in _KEPT) or "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another system, or another C library
        return
    for name, number, size_bytes in _KEPT:
        os.environ[name] = str(size_bytes)
        mallopt(number, size_bytes)
