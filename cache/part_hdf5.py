"""A part in one HDF5 file: every array contiguous, so that `tokens` can be mapped."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mgcli.cache.durable import blocks, committed_file, expect_growth, start_flush
from mgcli.cache.part import Part, RawTokens

_LAYOUT: dict[str, Any] = {
    "libver": ("v110", "v110"),  # object headers carry checksums, and every HDF5 since 1.10 reads it
    "alignment_threshold": 2048,  # arrays of this many bytes and more start on a page, so that they map well
    "alignment_interval": 4096,
}
_HEADER_BYTES = 1024  # an object header, more than one needs
_TEXT_BYTES = 64  # around a string in a heap, more than one needs


class Hdf5Part(Part):
    """One HDF5 file; committed by renaming it to its final name."""

    format = "hdf5"
    suffix = ".h5"

    @staticmethod
    def is_committed(path: Path) -> bool:
        """A file under its final name is complete."""
        return path.is_file()

    @staticmethod
    def write(path: Path, arrays: dict[str, np.ndarray], attributes: dict[str, Any]) -> None:
        """Write under a temporary name, flush to disk, rename."""
        try:
            with committed_file(path) as temporary:
                expect_growth(temporary, _most_bytes(arrays, attributes))
                _write_file(temporary, arrays, attributes)
        except (OSError, RuntimeError) as error:  # HDF5 names the system's fault in its text only
            found = re.search(r"errno = (\d+)", str(error))
            if found is None:
                raise
            raise OSError(int(found[1]), str(error)) from error

    def read_attributes(self) -> dict[str, Any]:
        """See `Part`."""
        with self._open() as file:
            attributes = {key: value.item() if hasattr(value, "item") else value for key, value in file.attrs.items()}
        return {key: json.loads(value) if key == "crc32c" else value for key, value in attributes.items()}

    def array_shapes(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """See `Part`."""
        shapes: dict[str, tuple[tuple[int, ...], np.dtype]] = {}

        def visit(name: str, item: h5py.HLObject) -> None:
            if isinstance(item, h5py.Dataset):
                shapes[name] = (item.shape, item.dtype)

        with self._open() as file:
            file.visititems(visit)
        return shapes

    def read_arrays(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """See `Part`."""
        with self._open() as file:
            return {name: _plain(file[name])[:] for name in names}

    def read_rows(self, name: str, runs: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """See `Part`."""
        with self._open() as file:
            dataset = _plain(file[name])
            return [dataset[start:stop] for start, stop in runs]

    def raw_tokens(self) -> RawTokens | None:
        """See `Part`; None for a file that another program wrote chunked, compressed or big-endian."""
        with self._open() as file:
            dataset = file["tokens"]
            offset_bytes = dataset.id.get_offset()
            external = dataset.id.get_create_plist().get_external_count()
            if offset_bytes is None or dataset.chunks is not None or external or not dataset.dtype.isnative:
                return None
            return RawTokens(offset_bytes, dataset.shape, dataset.dtype)

    @staticmethod
    def token_file(path: Path) -> Path:
        """See `Part`."""
        return path

    def remove(self) -> None:
        """See `Part`."""
        self.path.unlink(missing_ok=True)

    @property
    def num_bytes(self) -> int:
        """See `Part`."""
        return self.path.stat().st_size

    def _open(self) -> h5py.File:
        return h5py.File(self.path, "r", locking=False)  # a part never changes; network disks often cannot lock


def _write_file(path: Path, arrays: dict[str, np.ndarray], attributes: dict[str, Any]) -> None:
    with h5py.File(path, "x", **_LAYOUT) as file:
        for key, value in attributes.items():
            file.attrs[key] = json.dumps(value, sort_keys=True) if isinstance(value, dict) else value
        for name, array in arrays.items():
            dtype = h5py.string_dtype() if array.dtype == object else array.dtype
            dataset = file.create_dataset(name, array.shape, dtype, track_times=False)
            for rows in blocks(array):
                dataset[rows] = array[rows]
                start_flush(file.id.get_vfd_handle())


def _most_bytes(arrays: dict[str, np.ndarray], attributes: dict[str, Any]) -> int:
    """What a file of these takes at most: their bytes, and generously what HDF5 puts around them."""
    texts = [text for array in arrays.values() if array.dtype == object for text in array]
    around = _LAYOUT["alignment_interval"] + _HEADER_BYTES
    return (
        sum(array.nbytes + around for array in arrays.values())
        + sum(len(text.encode()) + _TEXT_BYTES for text in texts)
        + sum(len(json.dumps(value, default=str)) + _TEXT_BYTES for value in attributes.values())
        + 4 * around
    )


def _plain(dataset: h5py.Dataset) -> h5py.Dataset:
    """The data set, its strings as text."""
    return dataset.asstr() if h5py.check_string_dtype(dataset.dtype) else dataset
