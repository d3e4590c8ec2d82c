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
from functools import cache
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np

from mgcli.cache.errors import CacheError

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
        num_pages = self._place(clip_rows) if _libc() is not None else 0
        try:
            reserved = mmap.mmap(-1, num_pages * mmap.PAGESIZE, prot=0) if num_pages else b""
        except (OSError, OverflowError):  # a limit on address space: the library's readers do it
            self.first_row[:] = -1
            reserved = b""
        flat = np.frombuffer(memoryview(reserved).toreadonly(), np.uint8)
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

    def _place(self, clip_rows: int) -> int:
        """Choose the first row of every part; gives the number of pages needed.

        A file is mapped by whole pages, and a part's first row must lie on a multiple of the row width (of the
        clip width, where that can be had) counted from the start of the stretch.
        """
        page = 0
        for part, offset_bytes in enumerate(self._offset_bytes.tolist()):
            in_page = offset_bytes % mmap.PAGESIZE
            for unit in (clip_rows * self._row_bytes, self._row_bytes):
                if offset_bytes >= 0 and in_page % gcd(mmap.PAGESIZE, unit) == 0:
                    page = _next_page(page, in_page, unit)
                    self.first_row[part] = (page * mmap.PAGESIZE + in_page) // self._row_bytes
                    page += -(-(in_page + int(self._num_bytes[part])) // mmap.PAGESIZE)
                    break
        return page

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


def _next_page(page: int, in_page: int, unit: int) -> int:
    """The first page from `page` on whose byte `in_page` lies on a multiple of `unit`."""
    common = gcd(mmap.PAGESIZE, unit)
    period = unit // common  # in pages
    wanted = -(in_page // common) * pow(mmap.PAGESIZE // common, -1, period) % period
    return page + (wanted - page) % period


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
