"""One file with all of a feature set, for sharing: an HDF5 file that imports back bit-equal.

Its arrays are those of a part, over all entries (see `part.py`); beside them lie

| name             | shape, type    | meaning                                                          |
|------------------|----------------|------------------------------------------------------------------|
| spec, provenance | string         | as in `spec.json`                                                |
| crc32c_beside    | (n,) uint32    | of each entry's `time_s`, `valid` and companions, in name order  |
| clip_tables/NAME | string         | the clip tables of the cache, see `shared_tables.py`             |

The first 512 bytes are an HDF5 user block: a line with the name and version of this format, then the length
and the SHA-256 of all that follows it. Damage is found before anything else of the file is looked at.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import google_crc32c
import h5py
import numpy as np

from mgcli.cache.errors import CacheError
from mgcli.cache.exchange import Export
from mgcli.cache.part import ClipTokens, array_checksum, from_stored
from mgcli.cache.shared_tables import SharedTable, parse_clip_table
from mgcli.cache.spec import FORMAT_VERSION, FeatureSpec
from mgcli.cache.stored_entries import EntryKey

SHARE_VERSION = 1
_BLOCK_BYTES = 512
_MAGIC = b"mgcli-share "
_BATCH_BYTES = 16 << 20  # of tokens, read or written at once
_STORED: dict[str, np.dtype] = {"float16": np.dtype("<f2"), "float32": np.dtype("<f4"), "bfloat16": np.dtype("<u2")}
_SPEC_KINDS: dict[str, type] = {"weights": str, "weights_sha256": str, "tokens": str, "precision": str, "dim": int}
_SPEC_KINDS |= {"sampling": dict, "transform": dict, "views": int}
_PLAIN_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*")
_TABLE_NAME = re.compile(r"[A-Za-z0-9._-]+--([0-9a-f]{8})\.csv")
_UNREADABLE = (OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, MemoryError)


def is_share(path: Path) -> bool:
    """Whether a file says that it was written by `write_share`."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def write_share(path: Path, export: Export) -> None:
    """All entries, with every source and view, streamed.

    Raises:
        CacheError: entries have different companions, or such that cannot be shared.
    """
    entries = export.entries()
    first = next(entries)
    with h5py.File(path, "x", libver=("v110", "v110"), userblock_size=_BLOCK_BYTES) as file:
        _write_head(file, export)
        _make_row_arrays(file, export, first)
        _write_rows(file, chain([first], entries), first, iter(export.lengths))
    with path.open("r+b") as stream:
        stream.seek(_BLOCK_BYTES)
        digest, num_bytes = hashlib.file_digest(stream, "sha256").hexdigest(), stream.tell() - _BLOCK_BYTES
        stream.seek(0)
        stream.write(_MAGIC + f"{SHARE_VERSION}\n{num_bytes}\n{digest}\n".encode())


def _write_head(file: h5py.File, export: Export) -> None:
    """What there is one of, and one of for each entry."""
    file["spec"] = json.dumps(export.spec.to_dict())
    file["provenance"] = json.dumps(export.provenance)
    file["offset"] = np.concatenate([[0], np.cumsum(list(export.lengths.values()))]).astype(np.int64)
    ids, sources, views = zip(*export.lengths, strict=True)
    file.create_dataset("clip_id", data=np.array(ids, dtype=object), dtype=h5py.string_dtype())
    file["source"], file["view"] = np.array(sources, np.uint64), np.array(views, np.int16)
    for table in export.tables:
        kept = file.create_dataset(f"clip_tables/{table.name}", data=table.content.decode("utf-8"))
        kept.attrs["mtime_ns"] = table.mtime_ns


def _make_row_arrays(file: h5py.File, export: Export, first: ClipTokens) -> None:
    """The arrays with one row a token, still empty."""
    num_rows = sum(export.lengths.values())
    file.create_dataset("tokens", (num_rows, export.spec.dim), _STORED[export.spec.dtype])
    for name, array in _beside(first).items():
        if not _PLAIN_NAME.fullmatch(name) or array.dtype.kind not in "biuf":
            raise CacheError(f"companion {name} of {array.dtype} cannot be shared; only plain names and numbers can")
        file.create_dataset(name, (num_rows, *array.shape[1:]), array.dtype)


def _write_rows(file: h5py.File, entries: Iterator[ClipTokens], first: ClipTokens, keys: Iterator[EntryKey]) -> None:
    checksums, row = [], 0
    for batch in _batches(entries):
        beside = [_beside(clip) for clip in batch]
        for clip, arrays in zip(batch, beside, strict=True):
            assert (clip.clip_id, clip.source, clip.view) == next(keys), "entries come in the order of the head"
            if _kinds(arrays) != _kinds(_beside(first)):
                raise CacheError(f"clip {clip.clip_id!r} has other companions than {first.clip_id!r}; share them apart")
            checksums.append((array_checksum(clip.tokens), _checksum_beside(arrays)))
        stop = row + sum(len(clip.tokens) for clip in batch)
        file["tokens"][row:stop] = np.concatenate([clip.tokens for clip in batch])
        for name in beside[0]:
            file[name][row:stop] = np.concatenate([arrays[name] for arrays in beside])
        row = stop
    file["crc32c"], file["crc32c_beside"] = np.array(checksums, np.uint32).T


@contextmanager
def open_share(path: Path) -> Iterator[Share]:
    """A shared file, every checksum of which has been checked.

    Raises:
        CacheError: it is damaged, of a newer version, or not what it says.
    """
    _check_block(path)
    try:
        file = h5py.File(path, "r")
    except _UNREADABLE as error:
        raise _damaged(path, error) from None
    with file:
        try:
            share = Share(path, file)
            share.check()
        except _UNREADABLE as error:
            raise _damaged(path, error) from None
        yield share


class Share:
    """The content of a shared file; make one with `open_share`."""

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path = path
        self._file = file
        self._names: list[str] = []  # of what lies in the file itself; links to others are never followed
        file.visititems(lambda name, item: self._names.append(name) if isinstance(item, h5py.Dataset) else None)
        self._by_row = ["time_s", "valid", *(name for name in self._names if name.startswith("aux/"))]
        self.spec = FeatureSpec.from_dict(json.loads(self._text("spec")), str(path))
        self.provenance: dict[str, Any] = json.loads(self._text("provenance"))
        ids = self._file["clip_id"].asstr()[()].tolist()
        views = self._file["view"][()].astype(np.int16).tolist()
        self.keys: list[EntryKey] = list(zip(ids, self._file["source"][()].tolist(), views, strict=True))
        self._offset = self._file["offset"][()].tolist()
        self._checksums = self._file["crc32c"][()].tolist()
        self._beside = self._file["crc32c_beside"][()].tolist()

    @cached_property
    def checksums(self) -> dict[EntryKey, tuple[int, int, int]]:
        """Entry -> its number of tokens, and the checksums of these and of what lies beside them."""
        lengths = np.diff(self._offset).tolist()
        return dict(zip(self.keys, zip(lengths, self._checksums, self._beside, strict=True), strict=True))

    def check(self) -> None:
        """Check all that `entries` and `tables` will give.

        Raises:
            CacheError: something does not fit, or a checksum is wrong.
        """
        if self.spec.format_version != FORMAT_VERSION:
            raise _newer(self.path, f"format version {self.spec.format_version}", FORMAT_VERSION)
        if not (self._plain() and self._fits()):
            raise _damaged(self.path, "its arrays do not fit each other")
        for clip in self.entries():
            if not np.isfinite(from_stored(clip.tokens, self.spec.dtype)).all():
                raise _damaged(self.path, f"tokens of clip {clip.clip_id!r} hold NaN or infinity")
        self.tables()

    def _plain(self) -> bool:
        """Whether types are as they should be, and all bytes lie in this file, as many as it says."""
        datasets = [self._file[name] for name in self._names]
        return (
            all(isinstance(getattr(self.spec, name), kind) for name, kind in _SPEC_KINDS.items())
            and isinstance(self.provenance, dict)
            and not any(each.chunks or each.external or each.is_virtual for each in datasets)
            and all(_PLAIN_NAME.fullmatch(name) for name in self._by_row)
            and all(self._file[name].dtype.kind in "biuf" for name in self._by_row)
            and self._file["tokens"].dtype == _STORED[self.spec.dtype]
            and (self._file["time_s"].dtype, self._file["valid"].dtype) == (np.float32, bool)
        )

    def _fits(self) -> bool:
        """Whether offsets divide the rows among the entries, and every array has that many."""
        num_rows, num_clips = self._offset[-1], len(self.keys)
        return bool(
            self._file["tokens"].shape == (num_rows, self.spec.dim)
            and all(self._file[name].shape[:1] == (num_rows,) for name in self._by_row)
            and self._offset[0] == 0
            and (np.diff(self._offset) >= 1).all()
            and len(self._offset) - 1 == num_clips == len(set(self.keys))
            and len(self._checksums) == len(self._beside) == num_clips
        )

    def entries(self) -> Iterator[ClipTokens]:
        """Every entry, in the order of `keys`, its checksums checked.

        Raises:
            CacheError: one is damaged.
        """
        row_bytes = self.spec.dim * _STORED[self.spec.dtype].itemsize
        first = 0
        while first < len(self.keys):
            last = first + 1
            while last < len(self.keys) and (self._offset[last + 1] - self._offset[first]) * row_bytes <= _BATCH_BYTES:
                last += 1
            start, stop = self._offset[first], self._offset[last]
            rows = {name: self._file[name][start:stop] for name in ("tokens", *self._by_row)}
            for i in range(first, last):
                own = {
                    name: array[self._offset[i] - start : self._offset[i + 1] - start] for name, array in rows.items()
                }
                tokens = own.pop("tokens")
                crc32c = array_checksum(tokens)
                if crc32c != self._checksums[i] or _checksum_beside(own) != self._beside[i]:
                    raise _damaged(self.path, f"clip {self.keys[i][0]!r} does not match its checksum")
                aux = {name.removeprefix("aux/"): array for name, array in own.items() if name.startswith("aux/")}
                yield ClipTokens(*self.keys[i], tokens, own["time_s"], own["valid"], aux, crc32c)
            first = last

    def tables(self) -> list[SharedTable]:
        """The clip tables, oldest first.

        Raises:
            CacheError: one does not match its name.
        """
        found = []
        for name in [each for each in self._names if each.startswith("clip_tables/")]:
            content, own_name = self._text(name).encode("utf-8"), name.removeprefix("clip_tables/")
            digits = _TABLE_NAME.fullmatch(own_name)
            if digits is None or hashlib.sha256(content).hexdigest()[:8] != digits[1]:
                raise _damaged(self.path, f"its clip table {own_name!r} does not match its name")
            parse_clip_table(content, f"{self.path}: {own_name}")
            found.append(SharedTable(own_name, content, int(self._file[name].attrs["mtime_ns"])))
        return sorted(found, key=lambda table: table.mtime_ns)

    def _text(self, name: str) -> str:
        return self._file[name].asstr()[()]


def entry_checksums(clip: ClipTokens) -> tuple[int, int, int]:
    """What `Share.checksums` says of an entry."""
    return len(clip.tokens), array_checksum(clip.tokens), _checksum_beside(_beside(clip))


def _check_block(path: Path) -> None:
    with path.open("rb") as stream:
        lines = stream.read(_BLOCK_BYTES).rstrip(b"\0").split(b"\n")
        version = lines[0].removeprefix(_MAGIC)
        if version.isdigit() and int(version) > SHARE_VERSION:
            raise _newer(path, f"share version {int(version)}", SHARE_VERSION)
        if version != b"%d" % SHARE_VERSION or len(lines) != 4 or not lines[1].isdigit():
            raise _damaged(path, "its first line does not make sense")
        num_bytes, there = int(lines[1]), path.stat().st_size - _BLOCK_BYTES
        if there != num_bytes:
            raise _damaged(path, f"it has {there} bytes of {num_bytes}; it was cut short or added to")
        if hashlib.file_digest(stream, "sha256").hexdigest().encode() != lines[2]:
            raise _damaged(path, "its content does not match its SHA-256")


def _newer(path: Path, what: str, known: int) -> CacheError:
    return CacheError(f"{path} has {what}; this mgcli reads version {known}. Upgrade with: pip install -U mgcli")


def _damaged(path: Path, what: object) -> CacheError:
    return CacheError(f"{path} is damaged ({what}); nothing of it was imported. Get the file again")


def _batches(entries: Iterator[ClipTokens]) -> Iterator[list[ClipTokens]]:
    batch: list[ClipTokens] = []
    num_bytes = 0
    for clip in entries:
        batch.append(clip)
        num_bytes += clip.tokens.nbytes
        if num_bytes >= _BATCH_BYTES:
            yield batch
            batch, num_bytes = [], 0
    if batch:
        yield batch


def _beside(clip: ClipTokens) -> dict[str, np.ndarray]:
    return {"time_s": clip.time_s, "valid": clip.valid, **{f"aux/{name}": array for name, array in clip.aux.items()}}


def _kinds(arrays: dict[str, np.ndarray]) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    return {name: (array.dtype, array.shape[1:]) for name, array in arrays.items()}


def _checksum_beside(arrays: dict[str, np.ndarray]) -> int:
    checksum = google_crc32c.Checksum()
    for name in sorted(arrays):
        checksum.update(np.ascontiguousarray(arrays[name]).tobytes())
    return int.from_bytes(checksum.digest(), "big")
