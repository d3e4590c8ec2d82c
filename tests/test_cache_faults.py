"""Kills, flipped bits, cut files, full disks, many writers. Seeded; the long runs: pytest -m faults."""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import time
from collections import Counter
from pathlib import Path

import fault_actions
import numpy as np
import pytest
from fault_actions import (
    DIM,
    NUM_CLIPS,
    SPEC,
    actions,
    assert_kills_lose_nothing,
    content,
    everything,
    killed,
    make_cache,
)
from samples import FORMATS

from mgcli.cache import CacheError, FeatureCache, collect_garbage, compact, open_cache, verify_cache


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kills", [20, pytest.param(250, marks=pytest.mark.faults)])
def test_a_kill_at_any_moment_loses_nothing(tmp_path: Path, format: str, kills: int) -> None:
    other, undisturbed = tmp_path / "other", tmp_path / "undisturbed"
    make_cache(other, format, range(5, NUM_CLIPS, 2))
    make_cache(undisturbed, format, range(NUM_CLIPS))

    def kill(path: Path | str, name: str, rng: np.random.Generator) -> bool:
        copy = tmp_path / "copy"
        shutil.copytree(path, copy)
        rehearsal = actions(copy, other)[name]
        hit = killed(actions(path, other)[name], rehearsal, rng.uniform(), by_line=bool(rng.integers(2)))
        shutil.rmtree(copy)
        return hit

    hit = assert_kills_lose_nothing(
        lambda number: tmp_path / f"cache{number}",
        format,
        other,
        content(undisturbed),
        kill,
        kills=kills,
        kills_a_cache=10,
        seed=4,
    )
    assert not list(tmp_path.glob("cache*/**/.tmp-*"))
    assert sum(hit.values()) > kills / 3  # those that are told by lines always hit


def committed_files(cache: FeatureCache) -> list[Path]:
    derived = {"index.h5", "failures.csv"}
    return [path for path in sorted(cache.path.rglob("*")) if path.is_file() and path.name not in derived]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("flips", [60, pytest.param(1000, marks=pytest.mark.faults)])
def test_a_flipped_bit_that_changes_a_value_is_found(tmp_path: Path, format: str, flips: int) -> None:
    rng = np.random.default_rng(5)
    cache = make_cache(tmp_path / "c", format, range(7))
    files = committed_files(cache)
    healthy = everything(cache.path)
    assert verify_cache(cache).ok
    sizes = np.array([path.stat().st_size for path in files])
    found: Counter[str] = Counter()
    for i in range(flips):
        file = files[rng.choice(len(files), p=sizes / sizes.sum() if i % 2 else None)]
        whole = file.read_bytes()
        position = int(rng.integers(0, 8 * len(whole)))
        flipped = bytearray(whole)
        flipped[position // 8] ^= 1 << position % 8
        file.write_bytes(flipped)
        changed = everything(cache.path) != healthy
        ok = _verified_ok(cache.path)
        where = f"bit {position} of {file.relative_to(cache.path)}"
        assert not (changed and ok), f"{where} changes what a reader gets, and verify does not see it"
        found["found" if not ok else f"harmless, in {file.name}"] += 1
        file.write_bytes(whole)
    print(f"{format}: {dict(found)}")
    assert found["found"] > flips / 2
    assert verify_cache(cache).ok


def _verified_ok(path: Path) -> bool:
    try:
        return verify_cache(open_cache(path)).ok
    except CacheError:  # the cache does not even open
        return False


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("cuts", [25, pytest.param(100, marks=pytest.mark.faults)])
def test_a_cut_file_is_found(tmp_path: Path, format: str, cuts: int) -> None:
    rng = np.random.default_rng(6)
    cache = make_cache(tmp_path / "c", format, range(7))
    files = committed_files(cache)
    for _ in range(cuts):
        file = files[rng.integers(len(files))]
        whole = file.read_bytes()
        length = int(rng.integers(0, len(whole)))
        file.write_bytes(whole[:length])
        assert not _verified_ok(cache.path), f"{file.relative_to(cache.path)} cut to {length} of {len(whole)} bytes"
        file.write_bytes(whole)
    assert verify_cache(cache).ok


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("times", [5, pytest.param(25, marks=pytest.mark.faults)])
def test_a_full_disk_loses_nothing(tmp_path: Path, format: str, times: int) -> None:
    """The system refuses to let a file grow beyond a random size, as a full disk does."""
    rng = np.random.default_rng(7)
    whole_cache = make_cache(tmp_path / "whole", format, range(NUM_CLIPS))
    whole = content(whole_cache.path)
    largest = max(path.stat().st_size for path in whole_cache.path.rglob("*") if path.is_file())
    refused = 0
    for i in range(times):
        path = tmp_path / f"c{i}"
        make_cache(path, format, range(3))
        before = content(path)
        limit = int(rng.integers(1, largest))
        message = _said_under_a_limit(path, limit)
        if message:
            refused += 1
            assert "no space left while writing" in message, message
            assert "what was committed is safe. Make space and run the command again" in message
        after = content(path)
        assert before.items() <= after.items() <= whole.items()
        assert verify_cache(open_cache(path)).ok
        fault_actions.write(path, range(NUM_CLIPS))
        collect_garbage(open_cache(path), age_s=0.0)
        assert content(path) == whole
        assert not list(path.rglob(".tmp-*"))
        shutil.rmtree(path)
    assert refused > times / 2


def _said_under_a_limit(path: Path, limit: int) -> str:
    """Write all clips in a process whose files may not grow beyond `limit` bytes; the error's message, or nothing."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        message = ""
        try:
            fault_actions.write(path, range(NUM_CLIPS), clips_a_part=6)
        except CacheError as error:
            message = str(error)
        except BaseException as error:
            message = f"{type(error).__name__}: {error}"
        os.write(write, message.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        message = pipe.read().decode()
    assert os.waitpid(child, 0)[1] == 0
    return message


def _write_some(path: Path, seed: int, num_clips: int) -> None:
    """One of many writers: its clips in an order of its own, some of which others write too."""
    rng = np.random.default_rng(seed)
    features = open_cache(path).create_feature_set(SPEC)
    for number in rng.permutation(num_clips)[: num_clips * 2 // 3].tolist():
        with features.writer() as writer:
            if not features.has(f"clip {number:03d}", f"{number + 1:016x}"):
                fault_actions.add_clip(writer, number)
        features.refresh()


def _read_until(path: Path, whole: dict[str, bytes], stop: multiprocessing.synchronize.Event, seen: object) -> None:
    """Read all there is, over and over; every clip must be whole and right, and none may go."""
    before: dict[str, bytes] = {}
    while not stop.is_set():
        after = content(path)
        assert before.items() <= after.items() <= whole.items()
        before = after
        with seen.get_lock():  # type: ignore[attr-defined]
            seen.value += 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("num_clips", [12, pytest.param(96, marks=pytest.mark.faults)])
def test_many_writers_and_readers_share_a_cache(tmp_path: Path, format: str, num_clips: int) -> None:
    path = tmp_path / "shared"
    make_cache(path, format)
    whole = content(make_cache(tmp_path / "whole", format, range(num_clips)).path)
    context = multiprocessing.get_context("fork")
    stop, seen = context.Event(), context.Value("i", 0)
    readers = [context.Process(target=_read_until, args=(path, whole, stop, seen)) for _ in range(2)]
    writers = [context.Process(target=_write_some, args=(path, seed, num_clips)) for seed in range(8)]
    for process in (*readers, *writers):
        process.start()
    for process in writers:
        process.join()
    compact(open_cache(path).create_feature_set(SPEC))  # while the readers read on
    time.sleep(0.3)
    stop.set()
    for process in readers:
        process.join()
    assert [process.exitcode for process in (*readers, *writers)] == [0] * 10
    assert seen.value >= 2
    assert content(path) == whole
    report = verify_cache(open_cache(path))
    assert report.ok
    assert report.duplicates == []


def test_duplicates_of_two_writers_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "c"
    make_cache(path, "hdf5")
    sets = [open_cache(path).create_feature_set(SPEC) for _ in range(2)]
    for features in sets:
        features.clips()  # both look before either writes
    for features in sets:
        with features.writer() as writer:
            fault_actions.add_clip(writer, 1)
    report = verify_cache(open_cache(path))
    assert report.ok
    assert [each.clip_id for each in report.duplicates] == ["clip 001"]
    assert sets[0].spec.dim == DIM
