"""What the fault tests do to a cache: each action can be killed, and done again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import zarr
from samples import make_spec, make_table

from mgcli.cache import FeatureCache, FeatureSet, collect_garbage, compact, merge_cache, open_cache

DIM, NUM_CLIPS = 24, 18
SPEC = make_spec(dim=DIM, dtype="float16")


def clip_tokens(number: int) -> np.ndarray:
    """(1..5, DIM) float32: always the same for the same number."""
    rng = np.random.default_rng(number)
    return rng.standard_normal((1 + number % 5, DIM), dtype=np.float32)


def add_clip(writer: Any, number: int) -> None:
    """Clip `number` with everything that a clip can have."""
    tokens = clip_tokens(number)
    valid = np.arange(len(tokens)) % 3 != 1
    boxes = tokens[:, :4] * 100
    writer.add(f"clip {number:03d}", tokens, source=f"{number + 1:016x}", valid=valid, aux={"boxes": boxes})


def write(path: Path, numbers: range, clips_a_part: int = 3) -> None:
    """Extract, as it were, the clips that are not there."""
    features = open_cache(path).create_feature_set(SPEC)
    with features.writer() as writer:
        for done, number in enumerate(numbers):
            if not features.has(f"clip {number:03d}", f"{number + 1:016x}"):
                add_clip(writer, number)
            if done % clips_a_part == clips_a_part - 1:
                writer.commit()


def make_cache(path: Path, format: str, numbers: range = range(0)) -> FeatureCache:
    """A cache with some of the clips and a clip table."""
    cache = open_cache(path, create=True, format=format)
    cache.create_feature_set(SPEC, {"host": "here"})
    cache.write_clips(make_table(), "p")
    write(path, numbers)
    return cache


def actions(path: Path, other: Path) -> dict[str, Callable[[], Any]]:
    """Name -> what can be killed. All of them together bring every clip into the cache."""

    def feature_set() -> FeatureSet:
        return open_cache(path).create_feature_set(SPEC)

    return {
        "write": lambda: write(path, range(NUM_CLIPS)),
        "compact": lambda: compact(feature_set(), part_bytes=30 * DIM * 2),
        "merge": lambda: merge_cache(open_cache(path), open_cache(other)),
        "gc": lambda: collect_garbage(open_cache(path), age_s=0.0),
    }


def killed(action: Callable[[], Any], delay_s: float) -> bool:
    """Run an action in a process of its own and kill it after a while; whether it had not finished."""
    child = os.fork()
    if child == 0:
        try:
            action()
            os._exit(0)
        except BaseException:
            os._exit(1)
    time.sleep(delay_s)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert not (os.WIFEXITED(status) and os.WEXITSTATUS(status) == 1), "the action failed by itself"
    return os.WIFSIGNALED(status)


def content(path: Path) -> dict[str, bytes]:
    """Clip id -> all that a reader gets of it."""
    found = {}
    for features in open_cache(path).feature_sets():
        for row in features.clips().itertuples():
            selection = features.select([row.clip_id], sources=[row.source])
            arrays = [selection.load()[0], *(selection.load_companions(n) for n in ("time_s", "valid", "aux/boxes"))]
            found[row.clip_id] = row.source.encode() + b"".join(np.ascontiguousarray(each).tobytes() for each in arrays)
    return found


def everything(path: Path) -> dict[str, Any]:
    """All values that mgcli, h5py and zarr give of a cache, by name; a fault is a value too."""
    values: dict[str, Any] = {}

    def note(name: str, read: Callable[[], Any]) -> None:
        try:
            values[name] = read()
        except Exception as error:
            values[name] = type(error).__name__

    note("content", lambda: content(path))
    note("info", lambda: open_cache(path).info() | {"path": ""})
    note("provenance", lambda: [each.provenance for each in open_cache(path).feature_sets()])
    note("table", lambda: open_cache(path).read_clips("p").pipe(pd.DataFrame.to_csv))
    for file in sorted(path.rglob("mgcache.json")):
        note(file.name, file.read_text)
    for part in sorted(path.glob("*--*/parts/*")):
        note(f"library {part.name}", lambda part=part: _through_library(part))
    return values


def _through_library(part: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        if hasattr(item, "dtype"):
            found[name] = (str(item.dtype), item.shape, np.asarray(item[...]).tolist(), dict(item.attrs))

    if part.suffix == ".h5":
        with h5py.File(part, "r", locking=False) as file:
            file.visititems(visit)
            found["attributes"] = {key: str(value) for key, value in file.attrs.items()}
    else:
        group = zarr.open_group(part, mode="r", zarr_format=3)
        for name in ("tokens", "offset", "clip_id", "source", "view", "time_s", "valid", "crc32c", "aux/boxes"):
            visit(name, group[name])
        found["attributes"] = dict(group.attrs)
    return found
