"""One `.npz` archive keyed by clip id; members are read one at a time and never unpickled."""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import IO

import numpy as np

from mgcli.cache.errors import CacheError
from mgcli.cache.exchange import ClipError, ClipSource, ClipValues, Export, check_size, clip_values
from mgcli.cache.part import from_stored

NPY = ".npy"
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
# numpy parses a header with Python's own tokenizer, and zipfile raises whatever it trips over
_UNREADABLE = (ValueError, TypeError, SyntaxError, TokenError, OSError, EOFError, RuntimeError, MemoryError)
_DAMAGED = (*_UNREADABLE, zipfile.BadZipFile, zlib.error, NotImplementedError)
_LONGEST_NAME = 0xFFFF  # bytes of a name in a zip archive
_MADE_AT = (1980, 1, 1, 0, 0, 0)  # the same tokens give the same file


class NpzSource(ClipSource):
    """The members of one archive."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        super().__init__()
        self._archive = archive
        counts = Counter(name for name in archive.namelist() if name.endswith(NPY))
        self._ids = [name.removesuffix(NPY) for name, count in counts.items() if count == 1]
        self.refused |= {name.removesuffix(NPY): "is in the archive twice" for name, n in counts.items() if n > 1}

    def ids(self) -> Sequence[str]:
        """See `ClipSource`."""
        return self._ids

    def read(self, clip_id: str) -> ClipValues:
        """See `ClipSource`."""
        return clip_values(read_member(self._archive, clip_id))


@contextmanager
def open_npz(path: Path, key: str | None = None, pattern: str | None = None) -> Iterator[NpzSource]:
    """See `open_source`."""
    if key is not None:
        raise CacheError(f"--key names an array of a clip; the arrays of {path} are keyed by clip id")
    with open_archive(path) as archive:
        yield NpzSource(archive)


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """An archive to read members of.

    Raises:
        CacheError: it is none.
    """
    try:
        archive = zipfile.ZipFile(path)
    except _DAMAGED as error:
        raise CacheError(f"{path} is not a readable .npz archive: {error}") from None
    with archive:
        yield archive


def read_member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """One array of an archive, by its name without `.npy`.

    Raises:
        ClipError: it is damaged, holds objects, or its header does not fit its size.
    """
    try:
        info = archive.getinfo(name + NPY)
        with archive.open(info) as stream:
            return read_npy(stream, info.file_size)
    except _DAMAGED as error:
        raise ClipError(f"cannot be read: {error}") from None


def read_npy(stream: IO[bytes], num_bytes: int) -> np.ndarray:
    """The array of a `.npy` stream of that length; objects are refused, never unpickled.

    Raises:
        ClipError: it is damaged, holds objects, or its header does not fit its length.
    """
    try:
        version = np.lib.format.read_magic(stream)
        if version not in _HEADERS:
            raise ClipError(f"is .npy version {version}, which plain numbers do not need")
        shape, fortran_order, dtype = _HEADERS[version](stream)
    except _UNREADABLE as error:
        raise ClipError(f"cannot be read: {error}") from None
    if dtype.hasobject:
        raise ClipError("holds pickled objects, which are never opened: they can run code")
    if dtype.kind not in "biuf":
        raise ClipError(f"holds {dtype}, not numbers")
    promised = check_size(shape, dtype.itemsize)
    if stream.tell() + promised != num_bytes:
        raise ClipError(f"is truncated or damaged: its header promises shape {shape} of {dtype}")
    content = stream.read(promised + 1)  # one more: an archive checks its CRC at the end of a member
    if len(content) != promised:
        raise ClipError("is truncated")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran_order else "C")


def write_npz(path: Path, export: Export) -> None:
    """One archive with an (N, D) array for each clip; bfloat16 tokens are written as float32.

    Raises:
        CacheError: a clip id that no archive takes.
    """
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for clip in export.entries():
            if len((clip.clip_id + NPY).encode("utf-8")) > _LONGEST_NAME:
                raise CacheError(
                    f"clip id {clip.clip_id[:40]!r}... has {len(clip.clip_id)} characters, more than the name of an "
                    "array in a .npz archive may have; export with --form npy or npz-per-clip"
                )
            write_member(archive, clip.clip_id, from_stored(clip.tokens, export.spec.dtype))


def write_member(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    """One array of an archive, uncompressed, under its name with `.npy`."""
    with archive.open(zipfile.ZipInfo(name + NPY, _MADE_AT), "w", force_zip64=True) as stream:
        np.lib.format.write_array(stream, np.asarray(array), allow_pickle=False)
