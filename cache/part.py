"""A part: one immutable file (HDF5) or group (Zarr) with some clips of one feature set.

The contract of both formats. The arrays of a part, with R rows (tokens), D numbers a token and n clips:

| name       | shape, type          | meaning                                                    |
|------------|----------------------|------------------------------------------------------------|
| tokens     | (R, D) stored dtype  | the tokens of all clips, one after another                 |
| offset     | (n + 1,) int64       | clip i owns rows offset[i]:offset[i + 1]                   |
| clip_id    | (n,) string          | (clip_id, source, view) is the key of an entry             |
| source     | (n,) uint64          | hash of what the tokens were made from; 0 where imported   |
| view       | (n,) int16           | 0 the plain view; 1 and up augmented ones                  |
| time_s     | (R,) float32         | centre time of each token in the source video              |
| valid      | (R,) bool            | False where there was nothing to see                       |
| crc32c     | (n,) uint32          | of each clip's token bytes                                 |
| aux/NAME   | (R, ...)             | optional companions of the tokens                          |

The attributes hold the format version, the fingerprint, the counts of clips and rows, the CRC-32C of
every array but `tokens` (whose clips have their own), and a checksum of all that. bfloat16 tokens are
stored as their bits in uint16.
"""

from __future__ import annotations

import json
import secrets
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import google_crc32c
import numpy as np

from mgcli.cache.durable import refusal_of
from mgcli.cache.errors import CacheError, NonFiniteTokensError
from mgcli.cache.spec import FORMAT_VERSION

PART_FORMATS: dict[str, str] = {  # format -> where it is; imported when asked for
    "hdf5": "mgcli.cache.part_hdf5:Hdf5Part",
    "zarr": "mgcli.cache.part_zarr:ZarrPart",
}
ARRAY_DTYPES = {  # of the arrays that every part has, beside the strings of `clip_id` and the tokens
    "offset": np.dtype(np.int64),
    "source": np.dtype(np.uint64),
    "view": np.dtype(np.int16),
    "time_s": np.dtype(np.float32),
    "valid": np.dtype(bool),
    "crc32c": np.dtype(np.uint32),
}
STORED_NUMPY_DTYPES = {"float16": np.float16, "float32": np.float32, "bfloat16": np.uint16}
_BITS = np.dtype(np.uint16)
_INFINITY_BITS = {"float16": 0x7C00, "bfloat16": 0x7F80}  # without the sign; NaN lies above


class PartRefusedError(CacheError):
    """A part that may be sound, and must not be deleted: it may not be read, is newer, or of another feature set."""


class ClipTokens(NamedTuple):
    """The tokens of one clip, as they go into a part; a tuple, since a part of tiny clips makes very many."""

    clip_id: str
    source: int
    view: int
    tokens: np.ndarray  # (N, D) in the stored dtype
    time_s: np.ndarray  # (N,) float32
    valid: np.ndarray  # (N,) bool
    aux: dict[str, np.ndarray]  # name -> (N, ...)
    crc32c: int  # of the token bytes


@dataclass(frozen=True)
class RawTokens:
    """Where the tokens of a part lie as plain bytes, row after row."""

    offset_bytes: int  # of the first row, in the part's `token_file`
    shape: tuple[int, int]  # (R, D)
    dtype: np.dtype


class Part(ABC):
    """One committed part, opened for reading. Members: `part_hdf5.py`, `part_zarr.py`."""

    format: ClassVar[str]
    suffix: ClassVar[str]

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name

    @staticmethod
    @abstractmethod
    def is_committed(path: Path) -> bool:
        """Whether the part at `path` is complete; readers ignore every other."""

    @staticmethod
    @abstractmethod
    def write(path: Path, arrays: dict[str, np.ndarray], attributes: dict[str, Any]) -> None:
        """Write all arrays and attributes and commit them at once: a kill leaves all or nothing."""

    @abstractmethod
    def read_attributes(self) -> dict[str, Any]:
        """The attributes, as `pack_clips` made them."""

    def shown_attributes(self) -> dict[str, Any]:
        """The attributes as a program that knows only the storage library finds them."""
        return self.read_attributes()

    @abstractmethod
    def array_shapes(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape and type of every array, by name."""

    @abstractmethod
    def read_arrays(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Some arrays, whole, through the library's own reader."""

    @abstractmethod
    def read_rows(self, name: str, runs: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """Rows [start, stop) of one array for each run, through the library's own reader."""

    @abstractmethod
    def raw_tokens(self) -> RawTokens | None:
        """Where the tokens can be mapped, or None where they do not lie raw in one file."""

    @staticmethod
    @abstractmethod
    def token_file(path: Path) -> Path:
        """The file that `raw_tokens` speaks of."""

    @abstractmethod
    def remove(self) -> None:
        """Delete it, so that a kill half-way leaves nothing that looks committed; gone already is fine."""

    def forget(self) -> None:  # noqa: B027 - most formats keep nothing
        """Let go of what is kept in memory of its files; the next read fetches it again."""

    @property
    def number(self) -> int:
        """The number that its name starts with."""
        return part_number(self.name)

    @property
    @abstractmethod
    def num_bytes(self) -> int:
        """Size on disk."""

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """The attributes, once their format version is known to be one that this package reads.

        Raises:
            PartRefusedError: the part was written by a newer format.
        """
        attributes = self.read_attributes()
        version = attributes.get("format_version")
        if version != FORMAT_VERSION:
            raise PartRefusedError(
                f"part {self.path} has format version {version}; this mgcli reads version {FORMAT_VERSION}. "
                "Upgrade with: pip install -U mgcli"
            )
        return attributes


def part_class(format: str) -> type[Part]:
    """The class that reads and writes parts of `format`."""
    module, name = PART_FORMATS[format].split(":")
    return getattr(import_module(module), name)


def part_name(number: int, suffix: str, place: int | None = None) -> str:
    """A name that no other writer chooses: the number, then random digits, behind `place` where an order is wanted."""
    digits = secrets.token_hex(4) if place is None else f"{place:06x}{secrets.token_hex(2)}"
    return f"{number:05d}-{digits}{suffix}"


def part_number(name: str) -> int:
    """The number that a part's name starts with; -1 where it has none."""
    number = name.partition("-")[0]
    return int(number) if number.isdecimal() else -1


def open_part(path: Path) -> Part | None:
    """The committed part at `path`, or None where there is none (a leftover, another file)."""
    format = {".h5": "hdf5", ".zarr": "zarr"}.get(path.suffix)
    if format is None or path.name.startswith("."):
        return None
    cls = part_class(format)
    return cls(path) if cls.is_committed(path) else None


def unreadable(path: Path, error: Exception) -> CacheError:
    """What to say of a committed part that gave an error: that it is damaged, unless the system refused to read it."""
    refusal = refusal_of(error)
    if refusal is not None:
        return PartRefusedError(f"part {path} may be sound, but cannot be read: {refusal}, and run the command again")
    return CacheError(
        f"part {path} cannot be read ({error}); run mgcli cache verify, delete the parts that it names and extract "
        "again: only their clips are missing"
    )


def pack_clips(
    clips: Sequence[ClipTokens], fingerprint: str, tokens: np.ndarray | None = None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and attributes of a part that holds these clips, in this order.

    Args:
        clips: with the same companions.
        fingerprint: of their feature set.
        tokens: (R, D) of all of them, one after another, where they lie so already.
    """
    lengths = [len(clip.tokens) for clip in clips]
    arrays = {
        "tokens": np.concatenate([clip.tokens for clip in clips]) if tokens is None else tokens,
        "offset": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        "clip_id": np.array([clip.clip_id for clip in clips], dtype=object),
        "source": np.array([clip.source for clip in clips], dtype=np.uint64),
        "view": np.array([clip.view for clip in clips], dtype=np.int16),
        "time_s": np.concatenate([clip.time_s for clip in clips]).astype(np.float32),
        "valid": np.concatenate([clip.valid for clip in clips]).astype(bool),
        "crc32c": np.array([clip.crc32c for clip in clips], dtype=np.uint32),
    }
    for name in clips[0].aux:
        arrays[f"aux/{name}"] = np.concatenate([clip.aux[name] for clip in clips])
    attributes: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "fingerprint": fingerprint,
        "clips": len(clips),
        "rows": int(sum(lengths)),
        "crc32c": {name: array_checksum(array) for name, array in arrays.items() if name != "tokens"},
    }
    attributes["checksum"] = attributes_checksum(attributes)
    return arrays, attributes


def array_checksum(array: np.ndarray) -> int:
    """CRC-32C of an array's bytes in C order; of strings, of each one's UTF-8 with a NUL behind it."""
    if array.dtype.kind not in "biuf":
        return google_crc32c.value(b"".join(str(text).encode("utf-8") + b"\0" for text in array))
    return google_crc32c.value(np.ascontiguousarray(array))


def to_stored(tokens: np.ndarray, dtype: str, clip_id: str) -> np.ndarray:
    """Tokens in the stored type, themselves where they are of it.

    Args:
        tokens: (N, D) floating.
        dtype: float16, float32 or bfloat16 (as bits in uint16).

    Raises:
        NonFiniteTokensError: a value is NaN or infinite, or overflows the stored type.
    """
    if dtype == "bfloat16":  # round to nearest even on the upper 16 bits
        bits = np.ascontiguousarray(tokens, dtype=np.float32).view(np.uint32)
        stored = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
        finite = np.isfinite(tokens).all() and int((stored & 0x7FFF).max()) < _INFINITY_BITS["bfloat16"]
    else:
        stored = tokens
        if tokens.dtype != STORED_NUMPY_DTYPES[dtype]:
            with np.errstate(over="ignore"):
                stored = tokens.astype(STORED_NUMPY_DTYPES[dtype])
        finite = _all_finite(stored)
    if finite:
        return stored
    if np.isfinite(tokens).all():
        largest = float(np.abs(tokens).max())
        raise NonFiniteTokensError(f"clip {clip_id!r}: tokens up to {largest:.3g} overflow {dtype}; store float32")
    bad = int((~np.isfinite(tokens)).any(axis=1).sum())
    raise NonFiniteTokensError(f"clip {clip_id!r}: {bad} of {len(tokens)} tokens hold NaN or infinity")


def from_stored(stored: np.ndarray, dtype: str) -> np.ndarray:
    """Stored tokens as floats: float16 and float32 as they are, bfloat16 bits widened to float32."""
    return (stored.astype(np.uint32) << 16).view(np.float32) if dtype == "bfloat16" else stored


def _all_finite(stored: np.ndarray) -> bool:
    """Whether no number is NaN or infinite; float16 by its bits, which takes a tenth of numpy's time."""
    if stored.dtype == np.float16:
        bits = stored.view(_BITS)
        without_sign = bits + bits  # shifted out: the fastest way to lose it
        return bool(np.maximum.reduce(without_sign, axis=None) < 2 * _INFINITY_BITS["float16"])
    return bool(np.isfinite(stored).all())


def attributes_checksum(attributes: dict[str, Any]) -> int:
    covered = {key: value for key, value in attributes.items() if key != "checksum"}
    return google_crc32c.value(json.dumps(covered, sort_keys=True).encode("utf-8"))
