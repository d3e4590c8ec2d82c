"""One `.safetensors` file keyed by clip id: float16, bfloat16 or float32 tokens.

The layout (https://huggingface.co/docs/safetensors): the header's length as a little-endian uint64, a JSON
header of types, shapes and byte ranges, then the bytes. The library checks a file; tensors are read here,
because numpy, through which the library gives them, has no bfloat16.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from mgcli.cache.errors import CacheError
from mgcli.cache.exchange import ClipError, ClipSource, ClipValues, Export, check_size, clip_values
from mgcli.cache.part import from_stored

_DTYPES = {
    **{"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8"},
    **{"I8": "<i1", "I16": "<i2", "I32": "<i4", "I64": "<i8", "U8": "<u1", "U16": "<u2", "U32": "<u4", "U64": "<u8"},
}
_WRITTEN = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}
_METADATA = "__metadata__"


class SafetensorsSource(ClipSource):
    """The tensors of one file that the library has found sound."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file = file
        length = int.from_bytes(file.read(8), "little")
        twice: list[str] = []

        def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            twice.extend(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
            return dict(pairs)

        self._header: dict[str, Any] = json.loads(file.read(length), object_pairs_hook=once)
        self._header.pop(_METADATA, None)
        self._start = 8 + length
        self.refused |= dict.fromkeys(twice, "is in the file twice")

    def ids(self) -> Sequence[str]:
        """See `ClipSource`."""
        return [name for name in self._header if name not in self.refused]

    def read(self, clip_id: str) -> ClipValues:
        """See `ClipSource`."""
        entry = self._header[clip_id]
        kind, shape = entry["dtype"], entry["shape"]
        if kind not in _DTYPES:
            raise ClipError(f"holds {kind}, which cannot be taken")
        num_bytes = check_size(shape, np.dtype(_DTYPES[kind]).itemsize)
        self._file.seek(self._start + entry["data_offsets"][0])
        content = self._file.read(num_bytes)
        if len(content) != num_bytes:
            raise ClipError("is truncated")
        tokens = np.frombuffer(content, _DTYPES[kind]).reshape(shape)
        is_bfloat16 = kind == "BF16"
        return clip_values(from_stored(tokens, "bfloat16") if is_bfloat16 else tokens, bfloat16=is_bfloat16)


@contextmanager
def open_safetensors(path: Path, key: str | None = None, pattern: str | None = None) -> Iterator[SafetensorsSource]:
    """See `open_source`."""
    if key is not None:
        raise CacheError(f"--key names an array of a clip; the tensors of {path} are keyed by clip id")
    try:
        with safe_open(path, framework="np"):  # header, types, shapes and byte ranges fit each other and the file
            pass
        file = path.open("rb")
        source = SafetensorsSource(file)
    except (OSError, ValueError, SafetensorError) as error:
        raise CacheError(f"{path} is not a readable .safetensors file: {error}") from None
    with file:
        yield source


def write_safetensors(path: Path, export: Export) -> None:
    """One file with an (N, D) tensor for each clip, in the stored type."""
    if any(clip_id == _METADATA for clip_id, _, _ in export.lengths):
        raise CacheError(f"a clip is called {_METADATA!r}, which .safetensors keeps for itself; choose another --form")
    dim, kind = export.spec.dim, _WRITTEN[export.spec.dtype]
    token_bytes = dim * np.dtype(_DTYPES[kind]).itemsize
    header: dict[str, Any] = {_METADATA: {"made_by": "mgcli cache export", "spec": json.dumps(export.spec.to_dict())}}
    stop = 0
    for (clip_id, _, _), num_tokens in export.lengths.items():
        start, stop = stop, stop + num_tokens * token_bytes
        header[clip_id] = {"dtype": kind, "shape": [num_tokens, dim], "data_offsets": [start, stop]}
    encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    encoded += b" " * (-len(encoded) % 8)  # so that the tensors start at a multiple of 8
    with path.open("xb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for clip, key in zip(export.entries(), export.lengths, strict=True):
            assert (clip.clip_id, clip.source, clip.view) == key, "entries come in the order of the header"
            file.write(clip.tokens.astype(_DTYPES[kind], copy=False).tobytes())
