"""One HDF5 file with a data set, or a group, for each clip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import h5py
import numpy as np

from mgcli.cache.errors import CacheError
from mgcli.cache.exchange import TOKENS, ClipError, ClipSource, ClipValues, Export, check_size, clip_values
from mgcli.cache.part import from_stored

_BESIDE = ("time_s", "valid")
_ID_ATTRIBUTE = "clip_id"  # of a group, where its name is not the clip id as it stands
_UNREADABLE = (OSError, RuntimeError, ValueError, KeyError, TypeError, MemoryError)


class Hdf5Source(ClipSource):
    """The data sets of one file: named by clip id, or one by one in groups named so."""

    def __init__(self, file: h5py.File, key: str | None) -> None:
        super().__init__()
        self._file = file
        names: list[str] = []  # of the data sets in the file itself: links to others are never followed
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        if key is None and _all_in_groups_with_tokens(names):
            key = TOKENS
        self._paths: dict[str, str] = {}
        self._grouped = key is not None
        for name in names:
            if key is None:
                self._paths[name] = name
            elif name.endswith(f"/{key}"):
                group = name[: -len(key) - 1]
                clip_id = str(file[group].attrs.get(_ID_ATTRIBUTE, group))
                if clip_id in self._paths:
                    self.refused[clip_id] = f"has two groups: {self._paths[clip_id].rpartition('/')[0]} and {group}"
                self._paths[clip_id] = name
        for clip_id in self.refused:
            del self._paths[clip_id]

    def ids(self) -> Sequence[str]:
        """See `ClipSource`."""
        return list(self._paths)

    def read(self, clip_id: str) -> ClipValues:
        """See `ClipSource`."""
        path = self._paths[clip_id]
        try:
            tokens = _read(self._file[path])
            beside = {}
            if self._grouped:
                group = self._file[path].parent
                own = {name for name in _BESIDE if isinstance(group.get(name, getlink=True), h5py.HardLink)}
                beside = {name: _read(group[name]) for name in own}
        except _UNREADABLE as error:
            raise ClipError(f"cannot be read: {error}") from None
        return clip_values(tokens, beside)


@contextmanager
def open_hdf5(path: Path, key: str | None = None, pattern: str | None = None) -> Iterator[Hdf5Source]:
    """See `open_source`; `key` names the data set of each clip's group."""
    try:
        file = h5py.File(path, "r")
        source = Hdf5Source(file, key)
    except _UNREADABLE as error:
        raise CacheError(f"{path} is not a readable HDF5 file: {error}") from None
    with file:
        yield source


def _all_in_groups_with_tokens(names: Sequence[str]) -> bool:
    """Whether every data set is the `tokens` of a group, or lies beside such."""
    groups = {name.removesuffix(f"/{TOKENS}") for name in names if name.endswith(f"/{TOKENS}")}
    return bool(groups) and all(any(str(each) in groups for each in PurePosixPath(name).parents) for name in names)


def _read(dataset: h5py.Dataset) -> np.ndarray:
    if not isinstance(dataset, h5py.Dataset):
        raise ClipError("is a group where an array is expected")
    if dataset.is_virtual or dataset.external:
        raise ClipError("takes its numbers from other files, which are not opened")
    if dataset.dtype.kind not in "biuf" or dataset.shape is None:
        raise ClipError(f"holds {dataset.dtype}, not numbers")
    check_size(dataset.shape, dataset.dtype.itemsize)
    return np.asarray(dataset[()])


def write_hdf5(path: Path, export: Export) -> None:
    """A group for each clip with `tokens`, `time_s`, `valid` and companions; bfloat16 becomes float32.

    A group's name is the clip id with `/` escaped as `%2F`; its attribute `clip_id` is the clip id as it is.
    """
    with h5py.File(path, "x", libver=("v110", "v110")) as file:
        file.attrs["spec"] = export.spec.fingerprint
        for clip in export.entries():
            group = file.create_group(_group_name(clip.clip_id))
            group.attrs[_ID_ATTRIBUTE] = clip.clip_id
            group[TOKENS] = from_stored(clip.tokens, export.spec.dtype)
            group["time_s"], group["valid"] = clip.time_s, clip.valid
            for name, array in clip.aux.items():
                group[f"aux/{name}"] = array


def _group_name(clip_id: str) -> str:
    escaped = clip_id.replace("%", "%25").replace("/", "%2F")
    return f"%2E{escaped[1:]}" if escaped.startswith(".") else escaped
