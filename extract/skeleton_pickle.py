"""Pickles of plain data, read without running anything that is in them.

A pickle may name any function and have it called with any arguments. Here a name is looked up in a short table of
stand-ins, written in Python, that can only rebuild arrays of numbers and text; any other name is refused.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from mgcli.extract.skeleton_layouts import SkeletonError

_KINDS = "biufSU"  # of arrays: numbers and text, no objects


def read_plain_pickle(path: Path) -> Any:
    """What a pickle of containers, text, numbers and numpy arrays holds.

    Raises:
        SkeletonError: the file cannot be read, or asks for anything else.
    """
    try:
        return _finished(_PlainUnpickler(io.BytesIO(path.read_bytes())).load(), {})
    except SkeletonError as error:
        raise SkeletonError(f"{path}: {error}") from error
    except OSError as error:
        raise SkeletonError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # a damaged pickle can fail in any way
        raise SkeletonError(f"{path}: not a pickle of arrays, or cut short ({error})") from error


class _PlainUnpickler(pickle.Unpickler):
    """Knows no names but those of `_STAND_INS`."""

    def find_class(self, module: str, name: str) -> Any:
        stand_in = _STAND_INS.get((module.replace("numpy.core", "numpy._core"), name))
        if stand_in is None:
            raise SkeletonError(f"it asks for {module}.{name}, which could run code; only plain data are read")
        return stand_in

    def persistent_load(self, pid: Any) -> NoReturn:
        raise SkeletonError("it refers to objects outside the file")


class _Dtype:
    """Stands for numpy.dtype."""

    def __init__(self, description: str, *_: bool) -> None:
        self.dtype = np.dtype(str(description))
        if self.dtype.kind not in _KINDS:
            raise SkeletonError(f"it holds an array of {self.dtype}; only numbers and text are read")

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
        raise SkeletonError(f"it holds bytes written as {encoding}")
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
