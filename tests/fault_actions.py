"""What the fault tests do to a cache: each action can be killed, and done again."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import zarr
from samples import make_spec, make_table

from mgcli.cache import FeatureCache, FeatureSet, collect_garbage, compact, merge_cache, open_cache, verify_cache

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


def write(path: Path | str, numbers: range, clips_a_part: int = 3) -> None:
    """Extract, as it were, the clips that are not there."""
    features = open_cache(path).create_feature_set(SPEC)
    with features.writer() as writer:
        for done, number in enumerate(numbers):
            if not features.has(f"clip {number:03d}", f"{number + 1:016x}"):
                add_clip(writer, number)
            if done % clips_a_part == clips_a_part - 1:
                writer.commit()


def make_cache(path: Path | str, format: str, numbers: range = range(0)) -> FeatureCache:
    """A cache with some of the clips and a clip table."""
    cache = open_cache(path, create=True, format=format)
    cache.create_feature_set(SPEC, {"host": "here"})
    cache.write_clips(make_table(), "p")
    write(path, numbers)
    return cache


def actions(path: Path | str, other: Path) -> dict[str, Callable[[], Any]]:
    """Name -> what can be killed. All of them together bring every clip into the cache."""

    def feature_set() -> FeatureSet:
        return open_cache(path).create_feature_set(SPEC)

    return {
        "write": lambda: write(path, range(NUM_CLIPS)),
        "compact": lambda: compact(feature_set(), part_bytes=30 * DIM * 2),
        "merge": lambda: merge_cache(open_cache(path), open_cache(other)),
        "gc": lambda: collect_garbage(open_cache(path), age_s=0.0),
    }


def assert_kills_lose_nothing(
    make_path: Callable[[int], Path | str],
    format: str,
    other: Path,
    whole: dict[str, bytes],
    kill: Callable[[Path | str, str, np.random.Generator], bool],
    *,
    kills: int,
    kills_a_cache: int,
    seed: int,
) -> Counter[str]:
    """Kill actions at random moments; after each one the cache is ok, and nothing committed is lost or changed.

    Args:
        make_path: number -> where to begin a new cache.
        format: of these caches.
        other: a cache to merge.
        whole: what an undisturbed cache holds at the end.
        kill: kills the named action on the cache at a path; whether it had not finished.
        kills: in all.
        kills_a_cache: then it is finished, compared with the undisturbed one, and a new one begun.
        seed: of the actions and moments.

    Returns:
        Name of an action -> how often it was killed before it had finished.
    """
    rng = np.random.default_rng(seed)
    hit: Counter[str] = Counter()
    for start in range(0, kills, kills_a_cache):
        path = make_path(start)
        make_cache(path, format, range(3))
        before = content(path)
        for _ in range(min(kills_a_cache, kills - start)):
            name = str(rng.choice(["write", "compact", "merge", "gc"], p=[0.4, 0.3, 0.2, 0.1]))
            hit[name] += kill(path, name, rng)
            after = content(path)
            assert {clip_id: after.get(clip_id) for clip_id in before} == before, f"{name} lost or changed a clip"
            assert after.items() <= whole.items()
            report = verify_cache(open_cache(path))
            assert report.ok, report.summary()
            before = after
        for action in actions(path, other).values():
            action()
        assert content(path) == whole
        assert verify_cache(open_cache(path)).duplicates == []
    print(f"{format} in {path}: killed in the middle of {dict(hit)}")
    return hit


def killed(action: Callable[[], Any], rehearsal: Callable[[], Any], share: float, *, by_line: bool) -> bool:
    """Run an action in a process of its own and kill it on its way; whether it had not finished.

    Args:
        action: what is killed.
        rehearsal: the same on a copy, which is run to its end to learn how long it is.
        share: of that length, after which the kill comes.
        by_line: measure in lines of mgcli.cache that ran, which any machine repeats exactly; else in seconds,
            which can hit the storage libraries too.
    """
    length = _forked(rehearsal, by_line=by_line)
    assert length is not None
    return _forked(action, by_line=by_line, kill_at=share * length) is None


def stopped_by_a_kill(action: Callable[[], Any], after_s: float) -> bool:
    """Run an action in a process of its own and kill it after a while; whether it had not finished."""
    return _forked(action, by_line=False, kill_at=after_s) is None


def _forked(action: Callable[[], Any], *, by_line: bool, kill_at: float | None = None) -> float | None:
    """Run an action in a child; its length in lines or seconds, None where it was killed."""
    read, written = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            lines = _count_lines(kill_at) if by_line else [0]
            started = time.monotonic()
            action()
            sys.settrace(None)
            os.write(written, str(lines[0] if by_line else time.monotonic() - started).encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(written)
    if kill_at is not None and not by_line:
        time.sleep(kill_at)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    assert not (os.WIFEXITED(status) and os.WEXITSTATUS(status) == 1), "the action failed by itself"
    return None if os.WIFSIGNALED(status) or not said else float(said)


def _count_lines(kill_at: float | None) -> list[int]:
    """Count, from now on, the lines that run in mgcli.cache; at line `kill_at` the process kills itself."""
    lines = [0]

    def trace(frame: Any, event: str, _: Any) -> Any:
        if "/cache/" not in frame.f_code.co_filename or "site-packages/zarr" in frame.f_code.co_filename:
            return None
        if event == "line":
            lines[0] += 1
            if kill_at is not None and lines[0] > kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    return lines


def content(path: Path | str) -> dict[str, bytes]:
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
