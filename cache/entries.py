"""Which entries a feature set holds and where: one row an entry, all columns arrays, found by a hash of the id.

It is derived from the parts: the file that keeps it is safe to delete, and is not believed where it is damaged.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np

from mgcli.cache.durable import committed_file
from mgcli.cache.errors import CacheError
from mgcli.cache.part import (
    STORED_NUMPY_DTYPES,
    Part,
    PartRefusedError,
    array_checksum,
    attributes_checksum,
    unreadable,
)
from mgcli.cache.place import is_remote
from mgcli.cache.spec import FeatureSpec

MISSING, AMBIGUOUS = -1, -2  # instead of an entry's row number

_INDEX_VERSION = 2  # version 1 may hold entries of parts that belong to another feature set
_SOURCE_FACTOR, _VIEW_FACTOR = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)  # odd: they mix the bits
_ENTRY_COLUMNS = {
    "part": np.int32,  # position among the parts
    "start": np.int64,  # first row in its part
    "count": np.int64,  # number of rows
    "source": np.uint64,
    "view": np.int16,
    "crc32c": np.uint32,  # of its tokens
    "id_hash": np.uint64,
    "id_bytes": np.int64,  # length of the id in UTF-8
}
_PART_COLUMNS = {"raw_offset": np.int64, "num_rows": np.int64}  # raw_offset: see `Part.raw_tokens`; -1: not raw


@dataclass(frozen=True)
class EntryIndex:
    """Every entry of some parts, in part order; of entries with the same key the first is the one that counts."""

    names: tuple[str, ...]  # of the parts, sorted
    parts: dict[str, np.ndarray]  # column -> (P,)
    entries: dict[str, np.ndarray]  # column -> (n,)
    ids: np.ndarray  # uint8: all ids in UTF-8, one after another

    def __len__(self) -> int:
        return len(self.entries["part"])

    @staticmethod
    def empty() -> EntryIndex:
        """No part, no entry."""
        parts = {name: np.empty(0, dtype) for name, dtype in _PART_COLUMNS.items()}
        entries = {name: np.empty(0, dtype) for name, dtype in _ENTRY_COLUMNS.items()}
        return EntryIndex((), parts, entries, np.empty(0, np.uint8))

    @staticmethod
    def of_part(part: Part, spec: FeatureSpec) -> EntryIndex:
        """The entries of one part.

        Args:
            part: a committed part.
            spec: of the feature set that it lies in.

        Raises:
            CacheError: the part is damaged, of a newer format, or of another feature set.
            FileNotFoundError: the part is gone.
        """
        expected = np.dtype(STORED_NUMPY_DTYPES[spec.dtype])
        try:
            attributes = part.attributes
            num_rows = attributes["rows"]
            arrays = part.read_arrays(("clip_id", "source", "view", "offset", "crc32c"))
            damaged = [name for name in arrays if array_checksum(arrays[name]) != attributes["crc32c"][name]]
            if damaged or attributes["checksum"] != attributes_checksum(attributes):
                raise ValueError(f"{', '.join(damaged) or 'its attributes'} does not match the checksum")
            expect_fingerprint(part, spec.fingerprint)
            raw = part.raw_tokens()
            shape, dtype = part.array_shapes()["tokens"] if raw is None else (raw.shape, raw.dtype)
            if shape != (num_rows, spec.dim) or dtype.newbyteorder("=") != expected:
                raise ValueError(f"its tokens are {shape} of {dtype}, not {(num_rows, spec.dim)} of {expected}")
            offset = arrays["offset"].astype(np.int64)
            if len(offset) != len(arrays["clip_id"]) + 1 or offset[0] != 0 or offset[-1] != num_rows:
                raise ValueError("its offsets do not fit its rows")
            if (np.diff(offset) < 1).any():
                raise ValueError("its offsets do not rise")
            encoded = [str(clip_id).encode("utf-8") for clip_id in arrays["clip_id"]]
        except CacheError:
            raise
        except Exception as error:  # whatever the storage library trips over in a damaged file
            if not part.is_committed(part.path):
                raise FileNotFoundError(part.path) from error
            raise unreadable(part.path, error) from error
        finally:
            part.forget()
        is_raw = raw is not None and raw.dtype == expected
        columns = {
            "part": np.zeros(len(encoded)),
            "start": offset[:-1],
            "count": np.diff(offset),
            "source": arrays["source"],
            "view": arrays["view"],
            "crc32c": arrays["crc32c"],
            "id_hash": _hashes(encoded),
            "id_bytes": np.array([len(each) for each in encoded]),
        }
        return EntryIndex(
            (part.name,),
            {"raw_offset": np.array([raw.offset_bytes if raw and is_raw else -1]), "num_rows": np.array([num_rows])},
            {name: np.asarray(columns[name], dtype) for name, dtype in _ENTRY_COLUMNS.items()},
            np.frombuffer(b"".join(encoded), np.uint8),
        )

    def joined(self, others: Sequence[EntryIndex]) -> EntryIndex:
        """This index and others, of other parts, as one."""
        if not others:
            return self
        every = [self, *others]
        first = np.cumsum([0, *(len(each.names) for each in every)])
        shifted = [each.entries["part"] + np.int32(shift) for each, shift in zip(every, first[:-1], strict=True)]
        entries = {name: np.concatenate([each.entries[name] for each in every]) for name in _ENTRY_COLUMNS}
        whole = EntryIndex(
            tuple(name for each in every for name in each.names),
            {name: np.concatenate([each.parts[name] for each in every]) for name in _PART_COLUMNS},
            {**entries, "part": np.concatenate(shifted)},
            np.concatenate([each.ids for each in every]),
        )
        return whole.of_names(sorted(whole.names))

    def of_names(self, names: Iterable[str]) -> EntryIndex:
        """The entries of some of the parts, in this order of parts."""
        names = tuple(names)
        if names == self.names:
            return self
        position = {name: i for i, name in enumerate(self.names)}
        chosen = np.array([position[name] for name in names], dtype=np.int64)
        new_position = np.full(len(self.names), len(names), np.int32)  # of a part that is left out: behind the last
        new_position[chosen] = np.arange(len(names), dtype=np.int32)
        part = new_position[self.entries["part"]]
        order = np.argsort(part, kind="stable")[: int((part < len(names)).sum())]
        entries = {name: column[order] for name, column in self.entries.items()}
        ends = np.cumsum(self.entries["id_bytes"])[order]
        lengths = entries["id_bytes"]
        shift = ends - np.cumsum(lengths)  # of each id's bytes, from their new place to their old
        ids = self.ids[np.repeat(shift, lengths) + np.arange(lengths.sum())]
        parts = {name: column[chosen] for name, column in self.parts.items()}
        return EntryIndex(names, parts, {**entries, "part": part[order]}, ids)

    def clip_id(self, row: int) -> str:
        """The clip id of one entry."""
        return bytes(self.ids[self._id_start[row] : self._id_start[row + 1]]).decode("utf-8")

    def clip_ids(self, rows: np.ndarray) -> list[str]:
        """The clip ids of some entries."""
        ids = self.ids.tobytes()
        starts, stops = self._id_start[rows].tolist(), self._id_start[rows + 1].tolist()
        return [ids[start:stop].decode("utf-8") for start, stop in zip(starts, stops, strict=True)]

    def find(self, clip_ids: Sequence[str], sources: Sequence[int | None], view: int) -> np.ndarray:
        """(n,) int64: the entry of each clip; MISSING; AMBIGUOUS where no source is given and there are several."""
        encoded = [clip_id.encode("utf-8") for clip_id in clip_ids]
        by_hash, sorted_hash = self._by_hash
        hashes = _hashes(encoded)
        first = np.searchsorted(sorted_hash, hashes, "left").tolist()
        last = np.searchsorted(sorted_hash, hashes, "right").tolist()
        entry_source, entry_view, id_start = self.entries["source"], self.entries["view"], self._id_start
        ids = self.ids.data
        found = np.full(len(encoded), MISSING, np.int64)
        for i, clip_id in enumerate(encoded):
            wanted = sources[i]
            for row in by_hash[first[i] : last[i]].tolist():
                if entry_view[row] != view or ids[id_start[row] : id_start[row + 1]] != clip_id:
                    continue
                if wanted is not None and entry_source[row] != wanted:
                    continue
                if found[i] == MISSING:
                    found[i] = row
                elif entry_source[row] != entry_source[found[i]]:
                    found[i] = AMBIGUOUS
                    break
        return found

    @cached_property
    def winners(self) -> np.ndarray:
        """Rows of the entries that count, in part order: the first of each key."""
        source, view = self.entries["source"], self.entries["view"].astype(np.uint64)
        key = self.entries["id_hash"] ^ (source * _SOURCE_FACTOR) ^ (view * _VIEW_FACTOR)
        by_key = np.argsort(key, kind="stable")  # part order is kept where it is the same
        repeats = np.flatnonzero(np.diff(key[by_key]) == 0)
        runs = np.split(repeats, np.flatnonzero(np.diff(repeats) > 1) + 1) if len(repeats) else []
        lost = [row for run in runs for row in self._lost_among(by_key[run[0] : run[-1] + 2].tolist())]
        keep = np.ones(len(self), bool)
        keep[lost] = False
        return np.flatnonzero(keep)

    @cached_property
    def usual_count(self) -> int:
        """The number of rows that most clips have, 1 where there is none."""
        counts, times = np.unique(self.entries["count"], return_counts=True)
        return int(counts[times.argmax()]) if len(counts) else 1

    def _lost_among(self, rows: list[int]) -> list[int]:
        """Which of these entries repeat the key of an earlier one."""
        seen, lost = set(), []
        for row in rows:
            key = (self.clip_id(row), int(self.entries["source"][row]), int(self.entries["view"][row]))
            if key in seen:
                lost.append(row)
            seen.add(key)
        return lost

    @cached_property
    def _id_start(self) -> np.ndarray:
        """(n + 1,) where each id starts in `ids`."""
        return np.concatenate([[0], np.cumsum(self.entries["id_bytes"])])

    @cached_property
    def _by_hash(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows in order of their id's hash, in part order where it is the same; and those hashes."""
        by_hash = np.argsort(self.entries["id_hash"], kind="stable")
        return by_hash, self.entries["id_hash"][by_hash]


def expect_fingerprint(part: Part, fingerprint: str) -> None:
    """Refuse a part that was copied here from another feature set: its tokens mean something else.

    Raises:
        PartRefusedError: it belongs to another fingerprint.
    """
    found = part.attributes["fingerprint"]
    if found != fingerprint:
        raise PartRefusedError(
            f"part {part.path} belongs to fingerprint {found}, not to {fingerprint}: move it out of this folder, to "
            "the feature set of its own; mgcli cache verify names all such parts"
        )


def write_index(index: EntryIndex, path: Path, fingerprint: str) -> None:
    """Keep the index of a feature set's parts in a file."""
    columns = {**index.parts, **index.entries, "ids": index.ids}
    with committed_file(path) as temporary, h5py.File(temporary, "x", libver=("v110", "v110")) as file:
        for name, column in columns.items():
            file.create_dataset(name, data=column, track_times=False)
        names = np.frombuffer(json.dumps(index.names).encode("utf-8"), np.uint8)
        file.create_dataset("names", data=names, track_times=False)
        columns["names"] = names
        file.attrs["version"] = _INDEX_VERSION
        file.attrs["fingerprint"] = fingerprint
        file.attrs["crc32c"] = json.dumps({name: array_checksum(column) for name, column in columns.items()})


def read_index(path: Path, fingerprint: str) -> EntryIndex | None:
    """The index that `write_index` kept; None where there is none, a damaged one, or one of another version or set."""
    expected = {"names", "ids", *_PART_COLUMNS, *_ENTRY_COLUMNS}
    try:
        source = io.BytesIO(path.read_bytes()) if is_remote(path) else path
        with h5py.File(source, "r", locking=False) as file:
            if file.attrs["version"] != _INDEX_VERSION or file.attrs["fingerprint"] != fingerprint:
                return None
            checksums = json.loads(file.attrs["crc32c"])
            columns = {name: file[name][:] for name in file}
        if set(columns) != expected or any(array_checksum(columns[name]) != checksums[name] for name in expected):
            return None
        return EntryIndex(
            tuple(json.loads(columns["names"].tobytes())),
            {name: columns[name] for name in _PART_COLUMNS},
            {name: columns[name] for name in _ENTRY_COLUMNS},
            columns["ids"],
        )
    except Exception:  # a derived file: whatever is wrong with it, the parts say it all again
        return None


def _hashes(encoded: Iterable[bytes]) -> np.ndarray:
    """(n,) uint64 of ids in UTF-8."""
    digests = b"".join([hashlib.blake2b(each, digest_size=8).digest() for each in encoded])
    return np.frombuffer(digests, "<u8").astype(np.uint64)
