"""Some clips of a feature set, looked up once and read in batches as fast as memory gives them."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mgcli.cache.entries import AMBIGUOUS, MISSING
from mgcli.cache.errors import CacheError
from mgcli.cache.reader import EntryReader, PartGoneError, aligned_empty

if TYPE_CHECKING:
    from mgcli.cache.feature_set import FeatureSet

_BULK_BYTES = 64 << 20  # from here on the reader's copies in order of place are at least as fast
_NEAR_AMONG = 10_000  # ids that are searched for a near name
_FLOAT32 = np.dtype(np.float32)
_ATTEMPTS = 5  # at parts that other processes compact while we read


class ClipSelection:
    """Clips of a feature set in an order of their own; make one with `FeatureSet.select`."""

    def __init__(self, features: FeatureSet, clip_ids: Sequence[str], sources: Sequence[str] | None, view: int) -> None:
        """Look the clips up; see `FeatureSet.select`."""
        self._features = features
        self._clip_ids = list(clip_ids)
        self._sources = sources
        self._view = view
        self._all_mapped = False
        self._look_up()

    def __len__(self) -> int:
        return len(self._clip_ids)

    @property
    def counts(self) -> np.ndarray:
        """(n,) int64: tokens of each clip."""
        return self._counts

    @property
    def checksums(self) -> np.ndarray:
        """(n,) uint32: CRC-32C of each clip's tokens as they are stored."""
        return self._reader.index.entries["crc32c"][self._entries]

    def load(
        self, rows: np.ndarray | None = None, *, out: np.ndarray | None = None, threads: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of some of the clips.

        Args:
            rows: (b,) which clips, as positions in this selection; None: all.
            out: (R, D) of the type that is returned, C-contiguous, to be filled and returned: pinned memory, say.
            threads: that copy side by side where much is asked for; None: as many as pay.

        Returns:
            tokens (R, D), float16 or float32, and offsets (b + 1,) int64: clip i of `rows` owns rows
            offsets[i]:offsets[i + 1]. Without `out`, the tokens are a read-only view of the memory map where
            the clips lie one after another in one part, a copy otherwise.

        Raises:
            CacheError: a part is damaged, or the clips were removed.
            ValueError: `out` has another shape or type.
        """
        for _ in range(_ATTEMPTS):
            try:
                return self._load(rows, out, threads)
            except PartGoneError:
                self._look_up_again()
        return self._load(rows, out, threads)

    def load_companions(self, name: str, rows: np.ndarray | None = None) -> np.ndarray:
        """What stands beside the tokens that `load` gives, row for row: `time_s`, `valid` or `aux/NAME`.

        Raises:
            CacheError: a part is damaged or does not hold it.
        """
        for _ in range(_ATTEMPTS):
            try:
                return self._reader.companions(name, self._chosen(rows))
            except PartGoneError:
                self._look_up_again()
        return self._reader.companions(name, self._chosen(rows))

    def _load(
        self, rows: np.ndarray | None, out: np.ndarray | None, threads: int | None
    ) -> tuple[np.ndarray, np.ndarray]:
        reader = self._reader
        offsets = self._offsets(rows)
        if out is None and len(offsets) > 1:
            view = self._view_in_place(rows)
            if view is not None:
                return reader.to_floats(view), offsets
        widened = reader.spec.dtype == "bfloat16"
        shape = (int(offsets[-1]), reader.spec.dim)
        if out is not None:
            _check_buffer(out, shape, _FLOAT32 if widened else reader.dtype)
        stored = aligned_empty(shape, reader.dtype) if out is None or widened else out
        if self._uniform and stored.nbytes < _BULK_BYTES and self._map(rows):
            clips, first = self._lattice
            clips.take(first if rows is None else first.take(rows), 0, stored.reshape(-1, clips.shape[1]), "clip")
        else:
            reader.gather(self._chosen(rows), stored, threads)
        if not widened:
            return stored, offsets
        if out is None:
            return reader.to_floats(stored), offsets
        out[...] = reader.to_floats(stored)
        return out, offsets

    def _offsets(self, rows: np.ndarray | None) -> np.ndarray:
        """(b + 1,) int64: where each clip's tokens start."""
        if self._uniform:
            return np.arange(0, (len(self if rows is None else rows) + 1) * self._uniform, self._uniform)
        counts = self._counts if rows is None else self._counts[rows]
        return np.concatenate([[0], np.cumsum(counts)])

    def _map(self, rows: np.ndarray | None) -> bool:
        """Map the parts of these clips; whether all of them are mapped now."""
        if self._all_mapped:
            return True
        mapped = bool(self._reader.map(self._parts if rows is None else self._parts[rows]).all())
        self._all_mapped = mapped and bool(self._reader.space.mapped[self._own_parts].all())
        return mapped

    def _view_in_place(self, rows: np.ndarray | None) -> np.ndarray | None:
        """The clips' tokens in the memory map, where they are neighbours there in this order."""
        if rows is not None and len(rows) > 1 and self._place[rows[1]] != self._place[rows[0]] + self._counts[rows[0]]:
            return None  # as most batches in random order
        place, counts, parts = (
            each if rows is None else each[rows] for each in (self._place, self._counts, self._parts)
        )
        if (place[1:] != place[:-1] + counts[:-1]).any() or (parts != parts[0]).any() or not self._map(rows):
            return None
        return self._reader.space.rows[place[0] : place[-1] + counts[-1]]

    def _chosen(self, rows: np.ndarray | None) -> np.ndarray:
        return self._entries if rows is None else self._entries[rows]

    def _look_up_again(self) -> None:
        self._features.refresh()
        for name in ("_place", "_uniform", "_own_parts", "_lattice"):
            self.__dict__.pop(name, None)
        self._look_up()

    def _look_up(self) -> None:
        self._reader: EntryReader = self._features.reader
        self._entries = self._features.find(self._clip_ids, self._sources, self._view)
        if len(self._entries) and self._entries.min() < 0:
            raise _not_found(self._features, self._clip_ids, self._entries)
        columns = self._reader.index.entries
        self._counts, self._parts = columns["count"][self._entries], columns["part"][self._entries]
        self._all_mapped = False

    @cached_property
    def _place(self) -> np.ndarray:
        """(n,) first row of each clip in the address space."""
        return self._reader.place(self._entries)

    @cached_property
    def _uniform(self) -> int:
        """Rows of every clip, where all have the same number and lie on multiples of it; else 0."""
        if not len(self._entries) or (self._counts != self._counts[0]).any():
            return 0
        count = int(self._counts[0])
        return count if (self._place % count == 0).all() else 0

    @cached_property
    def _own_parts(self) -> np.ndarray:
        """(p,) the parts that hold these clips."""
        return np.flatnonzero(np.bincount(self._parts))

    @cached_property
    def _lattice(self) -> tuple[np.ndarray, np.ndarray]:
        """For uniform clips: the whole address space cut into clips (L, N * D), and (n,) which of them is each."""
        rows, dim = self._reader.space.rows, self._reader.spec.dim
        clips = rows[: len(rows) // self._uniform * self._uniform].reshape(-1, self._uniform * dim)
        return clips, self._place // self._uniform


def _check_buffer(out: np.ndarray, shape: tuple[int, int], dtype: np.dtype) -> None:
    if out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous:
        raise ValueError(f"out is {out.dtype} {out.shape}; it must be {dtype} {shape} and C-contiguous")


def _not_found(features: FeatureSet, clip_ids: Sequence[str], entries: np.ndarray) -> CacheError:
    """The error that names clips without an entry, or with several."""
    ambiguous = np.flatnonzero(entries == AMBIGUOUS)
    if len(ambiguous):
        return CacheError(
            f"clip {clip_ids[int(ambiguous[0])]!r} has tokens of several sources in {features.name} (its video or "
            f"interval changed); run mgcli extract --modality {features.spec.modality} so that the clip table names one"
        )
    missing = [clip_ids[i] for i in np.flatnonzero(entries == MISSING).tolist()]
    index = features.reader.index
    near = get_close_matches(missing[0], index.clip_ids(np.arange(len(index))[:_NEAR_AMONG]), n=1)
    hint = f" (did you mean {near[0]!r}?)" if near and near[0] not in missing else ""
    shown = ", ".join(map(repr, missing[:5])) + (" ..." if len(missing) > 5 else "")
    return CacheError(f"{features.name} has no tokens of {len(missing)} clip(s): {shown}{hint}")
