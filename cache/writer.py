"""Collect clips and commit them as parts, so that a kill at any moment loses only the last few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import TracebackType

import numpy as np

from mgcli.cache.durable import expect_room, writing
from mgcli.cache.part import (
    STORED_NUMPY_DTYPES,
    ClipTokens,
    Part,
    array_checksum,
    pack_clips,
    part_name,
    part_number,
    to_stored,
)
from mgcli.cache.place import children, make_folder
from mgcli.cache.spec import FeatureSpec

# A commit is due after this many times its own cost, this share of the run so far, or one second, whichever
# is longest: little is lost to a kill at any age of the run, and the number of parts grows with its logarithm.
_COMMIT_COST_FACTOR = 50.0
_COMMIT_RUN_SHARE = 0.02
_COMMIT_LEAST_S = 1.0
_MOST_ROOM_BYTES = 256 << 20  # for tokens, at first


class FeatureWriter:
    """Writes parts of one feature set; several writers may share a set, never a part."""

    def __init__(
        self,
        folder: Path,
        spec: FeatureSpec,
        part: type[Part],
        part_bytes: int,
        on_commit: Callable[[], None],
    ) -> None:
        self._folder = folder
        self._spec = spec
        self._part = part
        self._part_bytes = part_bytes
        self._on_commit = on_commit
        # Clips, and where their rows end: one assignment takes a clip, so that Ctrl-C finds it in whole or not at all.
        self._pending: dict[tuple[str, int, int], tuple[ClipTokens, int]] = {}
        self._rows = np.empty((0, spec.dim), STORED_NUMPY_DTYPES[spec.dtype])  # of the pending clips, then room
        self._opened_at = self._committed_at = time.monotonic()
        self._commit_cost_s = 0.0

    @property
    def dtype(self) -> str:
        """What tokens are stored as: float16, bfloat16 or float32."""
        return self._spec.dtype

    def __enter__(self) -> FeatureWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commit what is whole, also when the run ends with an error or Ctrl-C."""
        self.commit()

    def add(
        self,
        clip_id: str,
        tokens: np.ndarray,
        *,
        source: str = "0" * 16,
        view: int = 0,
        time_s: np.ndarray | None = None,
        valid: np.ndarray | None = None,
        aux: dict[str, np.ndarray] | None = None,
    ) -> None:
        """Take one clip's tokens; they are safe after the next commit. All arrays are copied.

        Args:
            clip_id: the clip.
            tokens: (N, D) floating, N at least 1.
            source: what they were made from, 16 hex digits.
            view: 0 the plain view; 1 and up augmented ones.
            time_s: (N,) centre times; evenly spread over [0, 1] where there are none.
            valid: (N,) bool; all True by default.
            aux: name -> (N, ...), the same names for every clip of the set.

        Raises:
            NonFiniteTokensError: NaN, infinity, or overflow of the stored type; nothing of the clip is kept.
            ValueError: shapes that do not fit.
        """
        if tokens.ndim != 2 or len(tokens) < 1 or tokens.shape[1] != self._spec.dim:
            raise ValueError(f"clip {clip_id!r}: tokens of shape {tokens.shape}; expected (N, {self._spec.dim})")
        num = len(tokens)
        stored = to_stored(tokens, self._spec.dtype, clip_id)
        own_time_s, own_valid = _usual_companions(num)
        if time_s is not None:
            own_time_s = _beside(clip_id, "time_s", np.array(time_s, np.float32), num)
        if valid is not None:
            own_valid = _beside(clip_id, "valid", np.array(valid, bool), num)
        own_aux = {name: _beside(clip_id, name, np.array(array), num) for name, array in aux.items()} if aux else {}
        self._take((clip_id, int(source, 16), view), stored, own_time_s, own_valid, own_aux, None)

    def add_stored(self, clip: ClipTokens) -> None:
        """Take one clip in the stored type, as another part holds it; its tokens are copied."""
        self._take((clip.clip_id, clip.source, clip.view), clip.tokens, clip.time_s, clip.valid, clip.aux, clip.crc32c)

    def _take(
        self,
        key: tuple[str, int, int],
        stored: np.ndarray,
        time_s: np.ndarray,
        valid: np.ndarray,
        aux: dict[str, np.ndarray],
        crc32c: int | None,
    ) -> None:
        if key in self._pending:
            self.commit()  # of entries with the same key the first one counts
        stop = self._num_rows + len(stored)
        if stop > len(self._rows):
            self._make_room(stop)
        own = self._rows[self._num_rows : stop]
        own[...] = stored
        if crc32c is None:
            crc32c = array_checksum(own)  # now, while they are in the processor's cache
        self._pending[key] = ClipTokens(*key, own, time_s, valid, aux, crc32c), stop

    def commit_if_due(self) -> None:
        """Commit when the part is full or enough time has passed; call it after every batch."""
        now = time.monotonic()
        wait_s = max(
            _COMMIT_LEAST_S,
            _COMMIT_COST_FACTOR * self._commit_cost_s,
            _COMMIT_RUN_SHARE * (now - self._opened_at),
        )
        if self._num_rows * self._row_bytes >= self._part_bytes or now - self._committed_at >= wait_s:
            self.commit()

    def commit(self) -> None:
        """Write all pending clips as one part, complete or not at all.

        Raises:
            CacheError: disk full or no permission; what was committed before is safe.
        """
        if not self._pending:
            return
        clips, tokens = [clip for clip, _ in self._pending.values()], self._rows[: self._num_rows]
        self._pending = {}
        started = time.monotonic()
        arrays, attributes = pack_clips(clips, self._spec.fingerprint, tokens)
        with writing(self._folder):
            make_folder(self._folder)
            expect_room(self._folder, sum(array.nbytes for array in arrays.values()))
            self._part.write(self._folder / self._next_name(), arrays, attributes)
        self._committed_at = time.monotonic()
        self._commit_cost_s = self._committed_at - started
        self._on_commit()

    @property
    def _num_rows(self) -> int:
        """Of all pending clips together."""
        return next(reversed(self._pending.values()))[1] if self._pending else 0

    @property
    def _row_bytes(self) -> int:
        return self._spec.dim * self._rows.itemsize

    def _make_room(self, num_rows: int) -> None:
        """Room for a part's tokens and more, which is kept from part to part; pages not used cost nothing."""
        usual = min(self._part_bytes, _MOST_ROOM_BYTES) // self._row_bytes
        room = np.empty((max(2 * num_rows, usual), self._spec.dim), self._rows.dtype)
        room[: self._num_rows] = self._rows[: self._num_rows]
        self._rows = room

    def _next_name(self) -> str:
        """The next number; two writers that choose the same one are told apart by the random digits."""
        numbers = [part_number(path.name) for path in children(self._folder)]
        return part_name(max(numbers, default=-1) + 1, self._part.suffix)


def _beside(clip_id: str, name: str, array: np.ndarray, num_tokens: int) -> np.ndarray:
    if len(array) != num_tokens:
        raise ValueError(f"clip {clip_id!r}: {name} has {len(array)} entries for {num_tokens} tokens")
    return array


@lru_cache(256)
def _usual_companions(num_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """(N,) times spread evenly over [0, 1], and (N,) True."""
    return ((np.arange(num_tokens) + 0.5) / num_tokens).astype(np.float32), np.ones(num_tokens, bool)
