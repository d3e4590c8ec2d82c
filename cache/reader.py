"""Read the rows of many entries: mapped parts in one gather, all others through their library, in order of place."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from math import prod

import numpy as np

from mgcli.cache.address_space import AddressSpace
from mgcli.cache.entries import EntryIndex
from mgcli.cache.errors import CacheError, MgcliError
from mgcli.cache.part import STORED_NUMPY_DTYPES, Part, array_checksum, from_stored, unreadable
from mgcli.cache.place import is_remote
from mgcli.cache.spec import FeatureSpec

_ALIGN_BYTES = 64  # of a buffer: copies into one that starts off a cache line take several times as long
_BULK_BYTES = 64 << 20  # from here on copies go in order of place, long runs at once
_SHORT_CLIP_BYTES = 32 << 10  # below it one gather of rows is faster than a copy a clip
_MOST_THREADS = 4  # more do not make memory faster
_KEPT_COLUMNS = 32  # parts whose times and validity stay in memory


class PartGoneError(MgcliError):
    """A part that was there when the entries were looked up is gone: another process compacted it."""


class EntryReader:
    """The tokens of a feature set as it was when its parts were listed."""

    def __init__(self, parts: Sequence[Part], index: EntryIndex, spec: FeatureSpec) -> None:
        self.index = index
        self.spec = spec
        self.dtype = np.dtype(STORED_NUMPY_DTYPES[spec.dtype])
        self.parts = parts
        files = [part.token_file(part.path) for part in parts]
        raw_offset = index.parts["raw_offset"]
        if parts and is_remote(parts[0].path):
            raw_offset = np.full_like(raw_offset, -1)  # nothing of it can be mapped
        self.space = AddressSpace(files, raw_offset, index.parts["num_rows"], spec.dim, self.dtype, index.usual_count)
        self._column = lru_cache(_KEPT_COLUMNS)(self._read_column)

    def place(self, entries: np.ndarray) -> np.ndarray:
        """(n,) first row of each entry in the address space; meaningless for parts outside it."""
        return self.space.first_row[self.index.entries["part"][entries]] + self.index.entries["start"][entries]

    def map(self, parts: np.ndarray) -> np.ndarray:
        """Map what is not mapped yet; (n,) bool: which of these parts are.

        Raises:
            PartGoneError: a part is gone.
        """
        mapped = self.space.mapped[parts]
        if not mapped.all():
            for part in np.unique(parts[~mapped]).tolist():
                with self._expecting(part):
                    self.space.map(part)
            mapped = self.space.mapped[parts]
        return mapped

    def gather(self, entries: np.ndarray, out: np.ndarray, threads: int | None = None) -> None:
        """Copy the stored tokens of some entries, one after another, into `out` (R, D).

        Args:
            entries: (n,) rows of the index.
            out: (R, D) of the stored type, C-contiguous.
            threads: that copy side by side; None: as many as pay.

        Raises:
            PartGoneError: a part is gone.
        """
        part, count = self.index.entries["part"][entries], self.index.entries["count"][entries]
        mapped = self.map(part)
        target = np.cumsum(count) - count  # (n,) first row of each in `out`
        if mapped.all() and out.nbytes < _BULK_BYTES and out.nbytes < _SHORT_CLIP_BYTES * len(entries):
            rows = np.repeat(self.place(entries) - target, count) + np.arange(len(out))
            np.take(self.space.rows, rows, axis=0, out=out, mode="clip")  # "raise" would copy it all twice
            return
        inside = np.flatnonzero(mapped)
        runs = list(_runs(self.place(entries[inside]), count[inside], target[inside]))
        threads = threads or (min(_MOST_THREADS, os.cpu_count() or 1) if out.nbytes >= _BULK_BYTES else 1)
        if threads == 1:
            self._copy(runs, out)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(lambda first: self._copy(runs[first::threads], out), range(threads)))
        outside = np.flatnonzero(~mapped)
        for number, rows in _by_part(part[outside]):
            of_part = outside[rows]
            start = self.index.entries["start"][entries[of_part]]
            runs = list(_runs(start, count[of_part], target[of_part]))
            with self._expecting(number):
                found = self.parts[number].read_rows("tokens", [(first, first + num) for first, num, _ in runs])
            for (_, num, to), tokens in zip(runs, found, strict=True):
                out[to : to + num] = tokens

    def _copy(self, runs: Sequence[tuple[int, int, int]], out: np.ndarray) -> None:
        for first, num, to in runs:
            out[to : to + num] = self.space.rows[first : first + num]

    def companions(self, name: str, entries: np.ndarray) -> np.ndarray:
        """The rows of `time_s`, `valid` or `aux/NAME` that stand beside the tokens of some entries.

        Raises:
            PartGoneError: a part is gone.
        """
        part, count = self.index.entries["part"][entries], self.index.entries["count"][entries]
        target = np.cumsum(count) - count
        out: np.ndarray | None = None
        for number, rows in _by_part(part):
            with self._expecting(number):
                column = self._column(number, name)
            if out is None:
                out = np.empty((int(count.sum()), *column.shape[1:]), column.dtype)
            start = self.index.entries["start"][entries[rows]]
            for first, num, to in _runs(start, count[rows], target[rows]):
                out[to : to + num] = column[first : first + num]
        return np.empty(0, np.float32) if out is None else out

    def aux_names(self, part: int) -> tuple[str, ...]:
        """Names of the companions that a part holds beside times and validity.

        Raises:
            PartGoneError: it is gone.
        """
        with self._expecting(part):
            arrays = self.parts[part].attributes["crc32c"]
        return tuple(sorted(name.removeprefix("aux/") for name in arrays if name.startswith("aux/")))

    def to_floats(self, stored: np.ndarray) -> np.ndarray:
        """Stored tokens as floats, see `from_stored`."""
        return from_stored(stored, self.spec.dtype)

    def _read_column(self, part: int, name: str) -> np.ndarray:
        each = self.parts[part]
        try:
            column = each.read_arrays([name])[name]
            sound = array_checksum(column) == each.attributes["crc32c"][name]
        finally:
            each.forget()
        if not sound:
            raise CacheError(
                f"part {each.path}: its array {name} does not match its checksum; run mgcli cache verify, and delete "
                "the parts that it names"
            )
        return column

    @contextmanager
    def _expecting(self, part: int) -> Iterator[None]:
        path = self.parts[part].path
        try:
            yield
        except MgcliError:
            raise
        except Exception as error:  # whatever the storage library trips over in a damaged file
            if not self.parts[part].is_committed(path):
                raise PartGoneError(f"{path} is gone: another process removed it; run the command again") from error
            raise unreadable(path, error) from error


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A new array that starts on a cache line."""
    buffer = np.empty(prod(shape) * dtype.itemsize + _ALIGN_BYTES, np.uint8)
    start = -buffer.__array_interface__["data"][0] % _ALIGN_BYTES
    return np.ndarray(shape, dtype, buffer, start)


def _by_part(part: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(part, which of these entries lie in it), part by part."""
    if len(part):
        order = np.argsort(part, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(part[order])) + 1):
            yield int(part[rows[0]]), rows


def _runs(start: np.ndarray, count: np.ndarray, target: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """(first row, length, row in the target) of each copy, in order of place; neighbours in both go together."""
    if not len(start):
        return
    order = np.argsort(start, kind="stable")
    start, count, target = start[order], count[order], target[order]
    cuts = np.flatnonzero((start[1:] != start[:-1] + count[:-1]) | (target[1:] != target[:-1] + count[:-1])) + 1
    firsts = np.concatenate([[0], cuts])
    lengths = np.add.reduceat(count, firsts)
    yield from zip(start[firsts].tolist(), lengths.tolist(), target[firsts].tolist(), strict=True)
