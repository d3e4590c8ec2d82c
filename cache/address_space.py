"""Many raw token files as one array: every part mapped at its own place in one stretch of address space.

A batch of clips from a hundred parts is then one gather by row number, no slower than from a single file, and
no map holds a file open. A part is mapped when it is first asked for.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np

from mgcli.cache.errors import CacheError

_HUGE_PAGE = 2 << 20  # where address and place in the file agree modulo it, one entry of the page table maps it all
_MOST_BYTES = 1 << 44  # of addresses that may lie unused between the parts: an eighth of what a process has
_MAP_FIXED = 0x10  # on Linux, macOS and the BSDs; Python's mmap does not name it


class AddressSpace:
    """The token rows of all raw parts; row numbers count over the whole stretch, with gaps between parts."""

    def __init__(
        self,
        files: Sequence[Path],
        offset_bytes: np.ndarray,
        num_rows: np.ndarray,
        dim: int,
        dtype: np.dtype,
        clip_rows: int,
    ) -> None:
        """Reserve the addresses; nothing is opened yet.

        Args:
            files: (P,) the file of each part that holds its tokens.
            offset_bytes: (P,) int64, where in that file; -1: not raw, the part stays outside.
            num_rows: (P,) int64, tokens of each part.
            dim: D.
            dtype: stored type.
            clip_rows: rows of the usual clip: each part starts at a multiple of it, so that clips of this
                length are gathered whole.
        """
        self.first_row = np.full(len(files), -1, np.int64)  # (P,) of each part; -1: outside
        self.mapped = np.zeros(len(files), bool)  # (P,)
        self._files = files
        self._offset_bytes = offset_bytes
        self._num_bytes = num_rows * dim * dtype.itemsize
        self._row_bytes = dim * dtype.itemsize
        self._lock = threading.Lock()
        reserved: mmap.mmap | bytes = b""
        start = 0  # of the rows in it
        possible = _libc() is not None and bool((offset_bytes >= 0).any())
        for step in (_HUGE_PAGE, mmap.PAGESIZE) if possible else ():
            num_bytes, shift = self._place(clip_rows, step)
            with suppress(OSError, OverflowError):  # a limit on address space
                reserved = mmap.mmap(-1, num_bytes + step, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=0)
                start = -_address(reserved) % step + shift
                break
            self.first_row[:] = -1  # if no step works, the library's readers do it
        flat = np.frombuffer(memoryview(reserved).toreadonly(), np.uint8)[start:]
        self._address = flat.ctypes.data
        usable = len(flat) - len(flat) % self._row_bytes
        self.rows = flat[:usable].view(dtype).reshape(-1, dim)  # (R, D), read-only; only mapped rows may be touched

    def map(self, part: int) -> bool:
        """Map one part; False where it stays outside.

        Raises:
            FileNotFoundError: the part is gone.
            CacheError: its file is too short.
        """
        with self._lock:
            if self.mapped[part] or self.first_row[part] < 0:
                return bool(self.mapped[part])
            descriptor = os.open(self._files[part], os.O_RDONLY)
            try:
                self._map_file(part, descriptor)
            finally:
                os.close(descriptor)
            return bool(self.mapped[part])

    def _place(self, clip_rows: int, step: int) -> tuple[int, int]:
        """Choose the first row of every part; gives the bytes needed, and where in them row 0 starts.

        A part's address and its place in the file must agree modulo a page, better a huge one; and its first row
        must lie on a multiple of the row width, better of the clip width, counted from row 0. Row 0 starts where
        the tokens of most parts do in their files: those have all of it.
        """
        raw = np.flatnonzero(self._offset_bytes >= 0)
        starts, counts = np.unique(self._offset_bytes[raw] % step, return_counts=True)
        shift = end = int(starts[counts.argmax()])
        for part in raw.tolist():
            for step_bytes, unit in ((step, clip_rows), (mmap.PAGESIZE, clip_rows), (mmap.PAGESIZE, 1)):
                unit_bytes = unit * self._row_bytes
                place = _meeting(end, int(self._offset_bytes[part]), step_bytes, shift, unit_bytes)
                if place is not None and (unit == 1 or place - end < _MOST_BYTES // len(raw)):
                    self.first_row[part] = (place - shift) // self._row_bytes
                    end = place + int(self._num_bytes[part])
                    end += -end % mmap.PAGESIZE
                    break
        return end, shift

    def _map_file(self, part: int, descriptor: int) -> None:
        offset_bytes, num_bytes = int(self._offset_bytes[part]), int(self._num_bytes[part])
        if os.fstat(descriptor).st_size < offset_bytes + num_bytes:
            raise CacheError(f"{self._files[part]} is cut short; run mgcli cache verify, and delete what it names")
        in_page = offset_bytes % mmap.PAGESIZE
        at = self._address + int(self.first_row[part]) * self._row_bytes - in_page
        flags = mmap.MAP_SHARED | _MAP_FIXED
        libc = _libc()
        assert libc is not None
        found = libc.mmap(at, in_page + num_bytes, mmap.PROT_READ, flags, descriptor, offset_bytes - in_page)
        if found == at:
            self.mapped[part] = True
        else:  # too many maps for this system: this part is read by its library
            self.first_row[part] = -1


def _meeting(least: int, first: int, first_step: int, second: int, second_step: int) -> int | None:
    """The first number from `least` on that lies on whole steps from both others; None where there is none."""
    common = gcd(first_step, second_step)
    if (first - second) % common:
        return None
    period = first_step // common
    steps = (first - second) // common * pow(second_step // common, -1, period) % period
    return least + (second + steps * second_step - least) % (period * second_step)


def _address(buffer: mmap.mmap) -> int:
    return np.frombuffer(buffer, np.uint8).ctypes.data


@cache
def _libc() -> Any | None:
    """The C library's mmap, which takes an address; None on a system without it."""
    if os.name != "posix":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [
        *(ctypes.c_void_p, ctypes.c_size_t),  # address, length
        *(ctypes.c_int, ctypes.c_int, ctypes.c_int),  # protection, flags, file
        ctypes.c_long,  # offset in the file; off_t is a long on 64-bit systems
    ]
    return libc
