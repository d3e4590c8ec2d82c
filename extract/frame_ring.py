"""Memory that a decoder process fills with pictures and its reader empties, first in, first out."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections import deque

import numpy as np

RING_BYTES = 32 << 20  # of each decoder: a dozen 720p pictures, or two hundred small ones; it grows for larger ones


class RingFull(Exception):  # noqa: N818 - not an error: the reader has to take pictures first
    """No room before the reader has taken more."""


def open_ring_file(num_bytes: int = RING_BYTES) -> tuple[int, str]:
    """A file that has no name, in memory where the system has that and in the temporary folder elsewhere.

    On Linux it is anonymous memory, which the size of /dev/shm does not limit.

    Returns:
        its descriptor, and why it is not in memory; empty where it is.

    Raises:
        OSError: there is room for it nowhere.
    """
    try:
        descriptor = os.memfd_create("mgcli-frames")
        try:
            _reserve(descriptor, num_bytes)
            return descriptor, ""
        except OSError:
            os.close(descriptor)
            raise
    except (OSError, AttributeError) as error:
        with tempfile.TemporaryFile() as file:
            _reserve(file.fileno(), num_bytes)
            return os.dup(file.fileno()), getattr(error, "strerror", None) or str(error)


def _reserve(descriptor: int, num_bytes: int) -> None:
    """Make a file that long with all its room at once: without, a full system would end the process that writes."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, num_bytes)
    else:
        os.ftruncate(descriptor, num_bytes)


class RingWriter:
    """The decoder's end."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._memory = mmap.mmap(descriptor, 0)
        self._head = 0
        self._held: deque[tuple[int, int]] = deque()  # offset and bytes of what the reader has not taken, in order

    @property
    def num_bytes(self) -> int:
        return len(self._memory)

    def put(self, pictures: list[np.ndarray]) -> list[int]:
        """Copy arrays in, one after another, to be taken together, and say where they lie.

        Raises:
            RingFull: call `taken` first.
            OSError: a picture larger than the ring, and no memory for more.
        """
        sizes = [picture.nbytes for picture in pictures]
        start = self._room_for(sum(sizes))
        offsets = (start + np.cumsum([0, *sizes[:-1]])).tolist()
        for picture, offset, size in zip(pictures, offsets, sizes, strict=True):
            self._memory[offset : offset + size] = np.ascontiguousarray(picture).data.cast("B")
        self._held.append((start, sum(sizes)))
        self._head = start + sum(sizes)
        return offsets

    def taken(self) -> None:
        """The reader has taken the oldest."""
        self._held.popleft()

    def _room_for(self, num_bytes: int) -> int:
        if not self._held:
            if num_bytes > self.num_bytes:
                _reserve(self._descriptor, num_bytes)
                self._memory.close()
                self._memory = mmap.mmap(self._descriptor, 0)
            return 0
        tail = self._held[0][0]
        if self._head > tail:
            if self.num_bytes - self._head >= num_bytes:
                return self._head
            if tail >= num_bytes:
                return 0
        elif tail - self._head >= num_bytes:
            return self._head
        raise RingFull


class RingReader:
    """The other end."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._memory = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)

    def take(self, offset: int, shape: tuple[int, ...]) -> np.ndarray:
        """A copy of a picture, uint8; the writer may then use its place again."""
        size = int(np.prod(shape))
        if offset + size > len(self._memory):  # the writer has made it larger
            self._memory.close()
            self._memory = mmap.mmap(self._descriptor, 0, prot=mmap.PROT_READ)
        return np.frombuffer(self._memory, np.uint8, size, offset).reshape(shape).copy()

    def close(self) -> None:
        self._memory.close()
        os.close(self._descriptor)
