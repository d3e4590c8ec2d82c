"""A part in one Zarr v3 group: `tokens` is one uncompressed shard, so that it can be mapped."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from zarr.storage import LocalStore

from mgcli.cache.durable import committed_file, sync_all
from mgcli.cache.part import Part, RawTokens

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
        return (path / _COMMIT_FILE).is_file()

    @staticmethod
    def write(path: Path, arrays: dict[str, np.ndarray], attributes: dict[str, Any]) -> None:
        """Write every array, flush all files to disk, then `part.json`."""
        path.mkdir()
        group = zarr.create_group(LocalStore(path), zarr_format=3, attributes=attributes)
        for name, array in arrays.items():
            if name == "tokens":
                _write_tokens(path, group, array)
                continue
            strings = array.dtype == object
            written = group.create_array(
                name,
                shape=array.shape,
                dtype="string" if strings else array.dtype,
                chunks=tuple(max(1, size) for size in array.shape),
                compressors=None,
                config={"write_empty_chunks": True},
            )
            written[...] = array
        sync_all([path, *path.rglob("*")])
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
        names = [file.parent.relative_to(self.path).as_posix() for file in self.path.rglob("zarr.json")]
        members = {name: group[name] for name in names if name != "."}
        return {name: (item.shape, item.dtype) for name, item in members.items() if isinstance(item, zarr.Array)}

    def read_arrays(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """See `Part`."""
        with self._expecting_it():
            group = self._group()
            return {name: np.asarray(group[name][:]) for name in names}  # type: ignore[index]

    def read_rows(self, name: str, runs: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """See `Part`."""
        with self._expecting_it():
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
        if not _chunks_in_order(shard, shard_rows // chunk_rows, chunk_rows * dim * dtype.itemsize):
            return None
        return RawTokens(0, (num_rows, dim), dtype)

    @staticmethod
    def token_file(path: Path) -> Path:
        """See `Part`."""
        return path / _SHARD_FILE

    def remove(self) -> None:
        """See `Part`."""
        (self.path / _COMMIT_FILE).unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)

    @property
    def num_bytes(self) -> int:
        """See `Part`."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())

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
        return zarr.open_group(LocalStore(self.path, read_only=True), mode="r", zarr_format=3)


def _write_tokens(path: Path, group: zarr.Group, tokens: np.ndarray) -> None:
    """One shard with all rows, in uncompressed chunks of about 1 MB.

    Zarr makes the metadata; the shard itself is written here, in one go: its chunks in order, then their index
    (Zarr v3, sharding_indexed codec), as zarr would write it and `_chunks_in_order` expects it.
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
        file.write(np.ascontiguousarray(tokens, tokens.dtype.newbyteorder("<")).data)
        file.write(bytes(num_chunks * chunk_bytes - tokens.nbytes))  # the last chunk is filled up with zeros
        index = _shard_index(num_chunks, chunk_bytes)
        file.write(index)
        file.write(google_crc32c.value(index).to_bytes(4, "little"))


def _shard_index(num_chunks: int, chunk_bytes: int) -> bytes:
    """(offset, length) of every chunk as little-endian uint64, for chunks one after another from byte 0."""
    entries = np.full((num_chunks, 2), chunk_bytes, "<u8")
    entries[:, 0] = np.arange(num_chunks, dtype="<u8") * np.uint64(chunk_bytes)
    return entries.tobytes()


def _chunks_in_order(shard: Path, num_chunks: int, chunk_bytes: int) -> bool:
    """Whether the shard's index, at its end, lists whole chunks one after another from byte 0, and nothing else."""
    expected = _shard_index(num_chunks, chunk_bytes)
    with shard.open("rb") as file:
        file.seek(-(len(expected) + 4), os.SEEK_END)
        index, checksum = file.read(len(expected)), file.read(4)
    return index == expected and google_crc32c.value(index) == int.from_bytes(checksum, "little")
