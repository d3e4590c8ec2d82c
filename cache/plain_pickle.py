"""Pickles of plain data, read without running anything that is in them.

A pickle may name any function and have it called with any arguments. Here a name is looked up in a short table of
stand-ins, written in Python, that can only rebuild arrays of numbers and text; any other name is refused.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from mgcli.cache.errors import MgcliError

_StandIns = Mapping[tuple[str, str], Callable[..., Any]]

_KINDS = "biufSU"  # of arrays: numbers and text, no objects


def read_plain_pickle(path: Path, *, error: type[MgcliError], more: _StandIns | None = None) -> Any:
    """What a pickle of containers, text, numbers and numpy arrays holds.

    Args:
        path: the file.
        error: raised with a message for people.
        more: (module, name) -> what stands for it, beside the names known here; it must be harmless.

    Raises:
        MgcliError: of the kind `error`: the file cannot be read, or asks for anything else.
    """
    try:
        return _finished(_PlainUnpickler(path.read_bytes(), {**_STAND_INS, **(more or {})}).load(), {})
    except _NotPlainError as fault:
        raise error(f"{path}: {fault}") from fault
    except OSError as fault:
        raise error(f"{path}: cannot be read ({fault.strerror})") from fault
    except Exception as fault:  # a damaged pickle can fail in any way
        raise error(f"{path}: not a pickle of arrays, or cut short ({fault})") from fault


class _NotPlainError(Exception):
    """The pickle asks for more than plain data."""


class _PlainUnpickler(pickle.Unpickler):
    """Knows no names but those of a table."""

    def __init__(self, content: bytes, stand_ins: _StandIns) -> None:
        super().__init__(io.BytesIO(content))
        self._stand_ins = stand_ins

    def find_class(self, module: str, name: str) -> Any:
        stand_in = self._stand_ins.get((module.replace("numpy.core", "numpy._core"), name))
        if stand_in is None:
            raise _NotPlainError(f"it asks for {module}.{name}, which could run code; only plain data are read")
        return stand_in

    def persistent_load(self, pid: Any) -> NoReturn:
        raise _NotPlainError("it refers to objects outside the file")


class _Dtype:
    """Stands for numpy.dtype."""

    def __init__(self, description: str, *_: bool) -> None:
        self.dtype = np.dtype(str(description))
        if self.dtype.kind not in _KINDS:
            raise _NotPlainError(f"it holds an array of {self.dtype}; only numbers and text are read")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands for an array until the file is read; numpy makes an empty one, then gives it its state."""

    value: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, content = state
        self.value = _array_from_buffer(content, dtype, shape, "F" if is_fortran else "C")


def _new_array(kind: object, shape: tuple[int, ...], typecode: bytes) -> _Array:
    return _Array()


def _array_from_buffer(content: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    return np.frombuffer(bytes(content), dtype=dtype.dtype).reshape(shape, order="F" if order == "F" else "C")


def _scalar(dtype: _Dtype, content: bytes) -> Any:
    return np.frombuffer(content, dtype=dtype.dtype)[0]


def _latin1(text: str, encoding: str) -> bytes:
    """How protocol 2 writes bytes."""
    if encoding != "latin1":
        raise _NotPlainError(f"it holds bytes written as {encoding}")
    return text.encode("latin1")


_STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy._core.multiarray", "_reconstruct"): _new_array,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy._core.numeric", "_frombuffer"): _array_from_buffer,
    ("_codecs", "encode"): _latin1,
    ("collections", "OrderedDict"): OrderedDict,
}


def _finished(data: Any, done: dict[int, Any]) -> Any:
    """The data with arrays in the places of their stand-ins; shared parts stay shared."""
    if id(data) in done:
        return done[id(data)]
    finished = data
    if isinstance(data, _Array):
        finished = data.value
    elif isinstance(data, dict):
        finished = {key: _finished(value, done) for key, value in data.items()}
    elif isinstance(data, list | tuple):
        finished = type(data)(_finished(value, done) for value in data)
    done[id(data)] = finished
    return finished
