"""Tokens in other programs' files: the contract of what is read, and the tables of forms.

Members: `exchange_folder.py`, `exchange_npz.py`, `exchange_hdf5.py`, `exchange_safetensors.py`, and
`exchange_share.py`, one file with all of a feature set. `importing.py`, `importing_share.py` and `exporting.py`
use them.
"""

# Shapes: N tokens, D token width.

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from mgcli.cache.errors import CacheError, MgcliError
from mgcli.cache.part import ClipTokens
from mgcli.cache.shared_tables import SharedTable
from mgcli.cache.spec import FeatureSpec
from mgcli.cache.stored_entries import EntryKey

FOLDER = "folder"
SOURCES: dict[str, str] = {  # what a path is -> what opens it; imported when asked for
    FOLDER: "mgcli.cache.exchange_folder:open_folder",
    ".npz": "mgcli.cache.exchange_npz:open_npz",
    ".h5": "mgcli.cache.exchange_hdf5:open_hdf5",
    ".hdf5": "mgcli.cache.exchange_hdf5:open_hdf5",
    ".safetensors": "mgcli.cache.exchange_safetensors:open_safetensors",
}
FORMS: dict[str, str] = {  # form of an export -> what writes it
    "npy": "mgcli.cache.exchange_folder:write_npy_folder",
    "npz-per-clip": "mgcli.cache.exchange_folder:write_npz_folder",
    "npz": "mgcli.cache.exchange_npz:write_npz",
    "hdf5": "mgcli.cache.exchange_hdf5:write_hdf5",
    "safetensors": "mgcli.cache.exchange_safetensors:write_safetensors",
    "share": "mgcli.cache.exchange_share:write_share",
}
TOKENS = "tokens"  # the array of a clip that has several, where no --key names another
MOST_CLIP_BYTES = 4 << 30  # a header that promises more is not believed


class ClipError(MgcliError):
    """One clip that cannot be taken; the others go on."""


@dataclass(frozen=True, eq=False)
class ClipValues:
    """What a file holds of one clip; `clip_values` makes it."""

    tokens: np.ndarray  # (N, D) float16 or float32
    dtype: str  # the stored type that keeps them as they are: float16, float32 or bfloat16
    time_s: np.ndarray | None = None  # (N,) float32
    valid: np.ndarray | None = None  # (N,) bool


class ClipSource(ABC):
    """The clips of a file or folder, read one at a time."""

    def __init__(self) -> None:
        self.refused: dict[str, str] = {}  # clip or file -> why it is not among the clips

    @abstractmethod
    def ids(self) -> Sequence[str]:
        """The clip ids, each once."""

    @abstractmethod
    def read(self, clip_id: str) -> ClipValues:
        """What there is of one clip.

        Raises:
            ClipError: it cannot be taken.
        """


@dataclass(frozen=True, eq=False)
class Export:
    """What is to be written; all forms but `share` get one entry for each clip id."""

    spec: FeatureSpec
    lengths: dict[EntryKey, int]  # entry -> N, in the order of `entries`
    entries: Callable[[], Iterator[ClipTokens]]
    provenance: dict[str, Any] = field(default_factory=dict)  # `share` alone asks for this and the next
    tables: list[SharedTable] = field(default_factory=list)


def open_source(path: Path, key: str | None, pattern: str | None) -> AbstractContextManager[ClipSource]:
    """The clips of a file or folder.

    Args:
        path: what to read.
        key: name of the array, where a clip has several.
        pattern: of the file names in a folder, with `{clip_id}` in it.

    Raises:
        CacheError: there is no such path, nothing here reads it, or it is damaged.
    """
    if not path.exists():
        raise CacheError(f"no file {path} to import")
    kind = FOLDER if path.is_dir() else path.suffix.lower()
    if kind not in SOURCES:
        raise CacheError(
            f"cannot import {path.name}; give an .npz, .h5 or .hdf5, or .safetensors file keyed by clip id, "
            "a folder of .npy or .npz files, or a file of: mgcli cache export --form share"
        )
    if pattern is not None and kind != FOLDER:
        raise CacheError(f"--pattern names the files of a folder; {path} is a file")
    return named_function(SOURCES[kind])(path, key, pattern)


def named_function(where: str) -> Callable:
    """The function behind `module:name` of a table above."""
    module, _, name = where.partition(":")
    return getattr(import_module(module), name)


def clip_values(
    tokens: np.ndarray, beside: Mapping[str, np.ndarray] | None = None, *, bfloat16: bool = False
) -> ClipValues:
    """One clip's arrays, checked and in types that the cache stores; (D,) is one token.

    Args:
        tokens: (N, D) or (D,) numbers; float16 stays float16, all others become float32.
        beside: `time_s`, (N,) centre times, and `valid`, (N,) bool, where there are such.
        bfloat16: they are float32, but came as bfloat16.

    Raises:
        ClipError: not numbers, another shape, or NaN.
    """
    if tokens.dtype.kind not in "fiu":
        raise ClipError(f"holds {tokens.dtype}, not numbers")
    tokens = tokens[None] if tokens.ndim == 1 else tokens
    if tokens.ndim != 2 or 0 in tokens.shape:
        raise ClipError(f"has shape {tokens.shape}; expected (N, D) with N and D at least 1")
    if not np.isfinite(tokens).all():
        raise ClipError("has tokens with NaN or infinity")
    beside = beside or {}
    time_s, valid = beside.get("time_s"), beside.get("valid")
    for name, array, kinds in (("time_s", time_s, "fiu"), ("valid", valid, "biu")):
        if array is not None and (array.shape != (len(tokens),) or array.dtype.kind not in kinds):
            raise ClipError(f"has {name} of shape {array.shape} and type {array.dtype} for {len(tokens)} tokens")
    if time_s is not None and not np.isfinite(time_s).all():
        raise ClipError("has time_s with NaN or infinity")
    narrow = tokens.dtype.newbyteorder("=") == np.float16
    with np.errstate(over="ignore"):  # what overflows float32 is found when it is stored
        tokens = np.ascontiguousarray(tokens, dtype=np.float16 if narrow else np.float32)
    return ClipValues(
        tokens=tokens,
        dtype="bfloat16" if bfloat16 else tokens.dtype.name,
        time_s=None if time_s is None else time_s.astype(np.float32),
        valid=None if valid is None else valid.astype(bool),
    )


def check_size(shape: Sequence[int], itemsize: int) -> int:
    """Bytes of an array that a header promises.

    Raises:
        ClipError: more than one clip can have; nothing of it was read.
    """
    num_bytes = math.prod(shape) * itemsize
    if not 0 <= num_bytes <= MOST_CLIP_BYTES:
        raise ClipError(f"claims shape {tuple(shape)}, {num_bytes / 1e9:.1f} GB; one clip may have 4 GB")
    return num_bytes
