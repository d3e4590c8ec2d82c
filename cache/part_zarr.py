"""A part in one Zarr v3 group: `tokens` is one uncompressed shard, so that it can be mapped."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.core.buffer import Buffer, cpu
from zarr.storage import FsspecStore, LocalStore, MemoryStore

from mgcli.cache.durable import blocks, committed_file, start_flush, sync, sync_all
from mgcli.cache.errors import CacheError
from mgcli.cache.part import Part, RawTokens
from mgcli.cache.place import fetch, fetch_ranges, is_file, is_remote, objects_below, remove_tree, upload

_COMMIT_FILE = "part.json"
_CHUNK_BYTES = 1 << 20
_SHARD_FILE = "tokens/c/0/0"
_RAW_CODECS = [{"name": "bytes", "configuration": {"endian": "little"}}]
_INDEX_CODECS = [*_RAW_CODECS, {"name": "crc32c"}]


class ZarrPart(Part):
    """One Zarr group; committed by `part.json`, which is written last."""

    format = "zarr"
    suffix = ".zarr"

    @staticmethod
    def is_committed(path: Path) -> bool:
        """A group counts once its `part.json` exists."""
        return is_file(path / _COMMIT_FILE)

    @staticmethod
    def write(path: Path, arrays: dict[str, np.ndarray], attributes: dict[str, Any]) -> None:
        """Write every array, flush all files to disk, then `part.json`; to an object store, by way of local files."""
        if is_remote(path):
            with tempfile.TemporaryDirectory(prefix="mgcli-") as folder:
                local = Path(folder) / path.name
                ZarrPart.write(local, arrays, attributes)
                files = {file.relative_to(local).as_posix(): file for file in local.rglob("*") if file.is_file()}
                last = files.pop(_COMMIT_FILE).read_bytes()
                upload(dict(files), path)
                there = objects_below(path)
                if any(there.get(name) != file.stat().st_size for name, file in files.items()):
                    raise CacheError(f"objects of {path} vanished while it was written; run the command again")
                upload({_COMMIT_FILE: last}, path)
            return
        path.mkdir()
        objects: dict[str, Buffer] = {}  # zarr makes them in memory: its own way to files hops between threads
        group = zarr.create_group(MemoryStore(objects), zarr_format=3, attributes=attributes)
        with ThreadPoolExecutor(1) as pool:
            shard = _write_tokens(path, group, arrays["tokens"])
            flushed = pool.submit(sync, shard)  # while the others are made
            for name, array in arrays.items():
                if name != "tokens":
                    _write_array(group, name, array)
            for name, content in objects.items():
                file = path / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content.to_bytes())
            flushed.result()
        sync_all([each for each in (path, *path.rglob("*")) if each != shard])
        with committed_file(path / _COMMIT_FILE) as temporary:
            temporary.write_text(json.dumps(attributes, sort_keys=True, indent=1))

    def read_attributes(self) -> dict[str, Any]:
        """See `Part`."""
        return json.loads((self.path / _COMMIT_FILE).read_text())

    def shown_attributes(self) -> dict[str, Any]:
        """See `Part`; `part.json` repeats them, as its last word."""
        return dict(self._group().attrs)

    def array_shapes(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """See `Part`."""
        group = self._group()
        names = [name.removesuffix("/zarr.json") for name in self._file_sizes() if name.endswith("/zarr.json")]
        members = {name: group[name] for name in names}
        return {name: (item.shape, item.dtype) for name, item in members.items() if isinstance(item, zarr.Array)}

    def read_arrays(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """See `Part`."""
        with self._expecting_it():
            group = self._group()
            return {name: np.asarray(group[name][:]) for name in names}  # type: ignore[index]

    def read_rows(self, name: str, runs: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """See `Part`."""
        with self._expecting_it():
            if name == "tokens" and is_remote(self.path) and (raw := self._raw) is not None:
                width = raw.shape[1] * raw.dtype.itemsize
                ranges = [(raw.offset_bytes + start * width, raw.offset_bytes + stop * width) for start, stop in runs]
                found = fetch_ranges(self.token_file(self.path), ranges)
                return [np.frombuffer(each, raw.dtype).reshape(-1, raw.shape[1]) for each in found]
            array = self._group()[name]
            return [np.asarray(array[start:stop]) for start, stop in runs]  # type: ignore[index]

    def raw_tokens(self) -> RawTokens | None:
        """See `Part`; None unless the metadata and the shard's own index say that the rows lie raw, in order."""
        metadata = json.loads((self.path / "tokens" / "zarr.json").read_text())
        shard_rows = metadata["chunk_grid"]["configuration"]["chunk_shape"][0]
        num_rows, dim = metadata["shape"]
        sharding = metadata["codecs"][0]
        settings = sharding.get("configuration", {})
        raw = (
            len(metadata["codecs"]) == 1
            and sharding["name"] == "sharding_indexed"
            and settings["codecs"] == _RAW_CODECS
            and settings["index_codecs"] == _INDEX_CODECS
            and settings["index_location"] == "end"
            and settings["chunk_shape"][1] == dim
            and shard_rows >= num_rows
        )
        if not raw:
            return None
        dtype = np.dtype(metadata["data_type"]).newbyteorder("<")
        chunk_rows = settings["chunk_shape"][0]
        shard = self.token_file(self.path)
        expected = _shard_index(shard_rows // chunk_rows, chunk_rows * dim * dtype.itemsize)
        if _last_bytes(shard, len(expected)) != expected:
            return None
        return RawTokens(0, (num_rows, dim), dtype)

    @staticmethod
    def token_file(path: Path) -> Path:
        """See `Part`."""
        return path / _SHARD_FILE

    def remove(self) -> None:
        """See `Part`."""
        remove_tree(self.path / _COMMIT_FILE)
        remove_tree(self.path)

    @property
    def num_bytes(self) -> int:
        """See `Part`."""
        return sum(self._file_sizes().values())

    def forget(self) -> None:
        """See `Part`."""
        self.__dict__.pop("_fetched_store", None)

    @cached_property
    def _raw(self) -> RawTokens | None:
        return self.raw_tokens()

    def _file_sizes(self) -> dict[str, int]:
        """Name in the part -> size in bytes, of all its files."""
        if is_remote(self.path):
            return objects_below(self.path)
        files = [file for file in self.path.rglob("*") if file.is_file()]
        return {file.relative_to(self.path).as_posix(): file.stat().st_size for file in files}

    @contextmanager
    def _expecting_it(self) -> Iterator[None]:
        """Read inside: what is read counts only if the part is still there behind it.

        Zarr gives zeros for a chunk that is gone, and all kinds of errors for metadata that is; but whoever
        removes a part lets its `part.json` vanish first.

        Raises:
            FileNotFoundError: the part was removed meanwhile.
        """
        try:
            yield
        finally:
            if not self.is_committed(self.path):
                raise FileNotFoundError(self.path)

    def _group(self) -> zarr.Group:
        return zarr.open_group(self._store(), mode="r", zarr_format=3)

    def _store(self) -> Store:
        """Where zarr reads from: of a remote part, all but the tokens is fetched at once, unless they are not raw."""
        if not is_remote(self.path):
            return LocalStore(self.path, read_only=True)
        return self._fetched_store if self._raw is not None else FsspecStore.from_url(str(self.path), read_only=True)

    @cached_property
    def _fetched_store(self) -> Store:
        small = fetch(self.path, [name for name in self._file_sizes() if name != _SHARD_FILE])
        return MemoryStore({name: cpu.Buffer.from_bytes(content) for name, content in small.items()}, read_only=True)


def _write_array(group: zarr.Group, name: str, array: np.ndarray) -> None:
    """One array in one plain chunk."""
    written = group.create_array(
        name,
        shape=array.shape,
        dtype="string" if array.dtype == object else array.dtype,
        chunks=tuple(max(1, size) for size in array.shape),
        compressors=None,
        config={"write_empty_chunks": True},
    )
    written[...] = array


def _write_tokens(path: Path, group: zarr.Group, tokens: np.ndarray) -> Path:
    """One shard with all rows, in uncompressed chunks of about 1 MB.

    Zarr makes the metadata; the shard itself is written here, in one go: its chunks in order, then their index
    (Zarr v3, sharding_indexed codec), as zarr would write it. Gives its file.
    """
    num_rows, dim = tokens.shape
    chunk_rows = min(num_rows, max(1, _CHUNK_BYTES // (dim * tokens.itemsize)))
    num_chunks = math.ceil(num_rows / chunk_rows)
    group.create_array(
        "tokens",
        shape=tokens.shape,
        dtype=tokens.dtype,
        chunks=(chunk_rows, dim),
        shards=(chunk_rows * num_chunks, dim),
        compressors=None,
        filters=None,
        fill_value=0,
    )
    shard = path / _SHARD_FILE
    shard.parent.mkdir(parents=True)
    chunk_bytes = chunk_rows * dim * tokens.itemsize
    with shard.open("xb") as file:
        for rows in blocks(tokens):
            file.write(np.ascontiguousarray(tokens[rows], tokens.dtype.newbyteorder("<")).data)
            start_flush(file.fileno())
        file.write(bytes(num_chunks * chunk_bytes - tokens.nbytes))  # the last chunk is filled up with zeros
        index = _shard_index(num_chunks, chunk_bytes)
        file.write(index)
        file.write(google_crc32c.value(index).to_bytes(4, "little"))
    return shard


def _shard_index(num_chunks: int, chunk_bytes: int) -> bytes:
    """(offset, length) of every chunk as little-endian uint64, for chunks one after another from byte 0."""
    entries = np.full((num_chunks, 2), chunk_bytes, "<u8")
    entries[:, 0] = np.arange(num_chunks, dtype="<u8") * np.uint64(chunk_bytes)
    return entries.tobytes()


def _last_bytes(shard: Path, num_bytes: int) -> bytes | None:
    """The bytes at a shard's end, in front of their CRC-32C; None where that does not fit."""
    if is_remote(shard):
        [end] = fetch_ranges(shard, [(-(num_bytes + 4), 0)])
    else:
        with shard.open("rb") as file:
            file.seek(-(num_bytes + 4), os.SEEK_END)
            end = file.read()
    return end[:-4] if google_crc32c.value(end[:-4]) == int.from_bytes(end[-4:], "little") else None
