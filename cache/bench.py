"""How fast a cache reads and writes on this machine: against a plain memory map, and the libraries' own readers.

Everything is measured in turn in one run, on the same bytes, and reported as medians and ratios.
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import h5py
import numpy as np
import zarr

from mgcli.cache.feature_set import FeatureSet
from mgcli.cache.part import PART_FORMATS
from mgcli.cache.reader import aligned_empty
from mgcli.cache.spec import FeatureSpec
from mgcli.cache.store import open_cache
from mgcli.cache.writer import FeatureWriter

BATCH_CLIPS = 64
CLIP_ROWS = (393, 8)  # tokens a clip: MViTv2-S `full`, and about its `time`
DIM = 768
MIN_ROUNDS = 7
_PART_BYTES = 64 << 20
_DTYPE = np.dtype(np.float16)

_Place = tuple[Any, int, int]  # an open array, first row, one past the last row


@dataclass(frozen=True, kw_only=True)
class CacheRate:
    """One thing that was timed, for clips of one size."""

    what: str  # read or write
    how: str  # plain, hdf5, zarr, hdf5 by id, h5py, ...
    clip_rows: int
    seconds: float  # median over the rounds, for one batch or one part
    gb_per_s: float
    ratio: float  # plain seconds over these seconds: 1 is as fast as plain


@dataclass(frozen=True, kw_only=True)
class CacheBenchReport:
    """What `bench_cache` measured, and on what."""

    machine: str
    cores: int
    folder: str
    megabytes: int  # of tokens, for each size of clip and each format
    versions: dict[str, str]
    rates: tuple[CacheRate, ...]

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return {**vars(self), "rates": [asdict(rate) for rate in self.rates]}

    def summary(self) -> str:
        """Small tables with their circumstances."""
        libraries = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        lines = [f"{self.machine}, {self.cores} cores, {self.folder}; {libraries}"]
        for what, said in (
            ("read", f"random batches of {BATCH_CLIPS} clips, warm, into one buffer; plain: numpy memory map"),
            ("write", f"parts of {_PART_BYTES >> 20} MB with checksums, flushed to disk; plain: one file and fsync"),
        ):
            lines += ["", f"{what}: {said}", f"  {'clip':>10}  {'':<12} {'ms':>9} {'GB/s':>7} {'of plain':>9}"]
            for rate in (each for each in self.rates if each.what == what):
                size = f"{rate.clip_rows} x {DIM}"
                row = f"  {size:>10}  {rate.how:<12} {rate.seconds * 1e3:9.3f} {rate.gb_per_s:7.2f}"
                lines.append(f"{row} {rate.ratio:9.3f}")
        return "\n".join(lines)


def bench_cache(folder: Path | None = None, *, megabytes: int = 256, seconds: float = 30.0) -> CacheBenchReport:
    """Time reads and writes of both part formats.

    Args:
        folder: on the disk in question; a temporary folder in it holds all files, and goes at the end.
        megabytes: of tokens for each size of clip and each format; they must fit in memory for the reads to be warm.
        seconds: to spend on measuring; so many rounds as fit, 7 at least.
    """
    with tempfile.TemporaryDirectory(prefix=".mgcli-bench-", dir=folder) as work:
        rates = []
        for clip_rows in CLIP_ROWS:
            rates += _bench_size(Path(work) / str(clip_rows), clip_rows, megabytes << 20, seconds / len(CLIP_ROWS))
        where = str(Path(work).parent)
    return CacheBenchReport(
        machine=platform.processor() or platform.machine(),
        cores=os.cpu_count() or 1,
        folder=where,
        megabytes=megabytes,
        versions={name: version(name) for name in ("numpy", "h5py", "zarr")},
        rates=tuple(sorted(rates, key=lambda rate: rate.what)),
    )


def _bench_size(folder: Path, clip_rows: int, num_bytes: int, seconds: float) -> list[CacheRate]:
    """Reads and writes of clips of one size."""
    folder.mkdir()
    clip_bytes = clip_rows * DIM * _DTYPE.itemsize
    num_clips = max(BATCH_CLIPS, num_bytes // clip_bytes)
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((min(num_clips, 512), clip_rows, DIM), dtype=np.float32).astype(_DTYPE)
    clips = [tokens[i % len(tokens)] for i in range(num_clips)]
    # In pieces as large as a part's: the system then keeps the file in huge pages, which map and read the fastest.
    with (folder / "plain").open("wb", buffering=_PART_BYTES) as file:
        file.writelines(clip.data for clip in clips)
    sets = {format: _filled(folder, format, clips) for format in PART_FORMATS}
    reads = _readers(folder, sets, num_clips, clip_rows)
    writes = _writers(folder, sets, clips[: max(1, _PART_BYTES // clip_bytes)])
    write_bytes = max(1, _PART_BYTES // clip_bytes) * clip_bytes
    return [
        *_rates("read", clip_rows, BATCH_CLIPS * clip_bytes, _medians(reads, seconds / 2, rng, num_clips)),
        *_rates("write", clip_rows, write_bytes, _medians(writes, seconds / 2, rng, num_clips)),
    ]


def _rates(what: str, clip_rows: int, num_bytes: int, seconds: dict[str, float]) -> list[CacheRate]:
    return [
        CacheRate(
            what=what,
            how=how,
            clip_rows=clip_rows,
            seconds=each,
            gb_per_s=num_bytes / each / 1e9,
            ratio=seconds["plain"] / each,
        )
        for how, each in seconds.items()
    ]


def _filled(folder: Path, format: str, clips: list[np.ndarray]) -> FeatureSet:
    """A feature set of all clips, in parts of the writer's usual size."""
    cache = open_cache(folder / format, create=True, format=format)
    spec = FeatureSpec(
        modality="video",
        backbone="bench",
        reads="imported",
        weights="imported",
        weights_sha256="",
        tokens="full",
        dim=DIM,
        dtype=_DTYPE.name,
        precision="float32",
    )
    features = cache.create_feature_set(spec)
    with features.writer(part_bytes=_PART_BYTES) as writer:
        pending = 0
        for i, clip in enumerate(clips):
            writer.add(_clip_id(i), clip)
            pending += clip.nbytes
            if pending >= _PART_BYTES:
                writer.commit()
                pending = 0
    return features


def _clip_id(number: int) -> str:
    return f"video_{number // 50:05d}_{number % 50:03d}"


def _readers(
    folder: Path, sets: dict[str, FeatureSet], num_clips: int, clip_rows: int
) -> dict[str, Callable[[np.ndarray], float]]:
    """Name -> reads a batch of clips by number; gives the seconds it took. All maps are warm."""
    ids = [_clip_id(i) for i in range(num_clips)]
    plain = np.asarray(np.memmap(folder / "plain", _DTYPE, "r", shape=(num_clips, clip_rows * DIM)))
    out = aligned_empty((BATCH_CLIPS * clip_rows, DIM), _DTYPE)
    out[:] = 0
    plain.view(np.uint16).max()

    def read_plain(rows: np.ndarray) -> float:
        return _timed(lambda: np.take(plain, rows, 0, out.reshape(BATCH_CLIPS, -1), "clip"))

    readers: dict[str, Callable[[np.ndarray], float]] = {"plain": read_plain}
    for format, features in sets.items():
        selection = features.select(ids)
        for start in range(0, num_clips, BATCH_CLIPS):
            selection.load(np.arange(start, min(start + BATCH_CLIPS, num_clips)))[0].view(np.uint16).max()

        def read(rows: np.ndarray, selection: Any = selection) -> float:
            return _timed(lambda: selection.load(rows, out=out))

        def read_by_id(rows: np.ndarray, features: FeatureSet = features) -> float:
            wanted = [ids[row] for row in rows.tolist()]
            return _timed(lambda: features.load(wanted, out=out))

        places = _library_places(features, format)

        def read_by_library(rows: np.ndarray, places: list[_Place] = places) -> float:
            return _timed(lambda: _copy_places([places[row] for row in rows.tolist()], out))

        library = {"hdf5": "h5py", "zarr": "zarr-python"}[format]
        readers |= {format: read, f"{format} by id": read_by_id, library: read_by_library}
    return readers


def _library_places(features: FeatureSet, format: str) -> list[_Place]:
    """(open array, start, stop) of every clip, in order of their numbers, through the storage library alone."""
    places = []
    for path in sorted((features.path / "parts").iterdir()):
        group: Any = h5py.File(path, "r") if format == "hdf5" else zarr.open_group(path, mode="r")
        offset = group["offset"][:].tolist()
        ids = [each.decode() if isinstance(each, bytes) else str(each) for each in group["clip_id"][:]]
        places += [(clip_id, group["tokens"], *rows) for clip_id, rows in zip(ids, pairwise(offset), strict=True)]
    return [(array, start, stop) for _, array, start, stop in sorted(places, key=lambda place: place[0])]


def _copy_places(places: list[_Place], out: np.ndarray) -> None:
    first = 0
    for array, start, stop in places:
        out[first : first + stop - start] = array[start:stop]
        first += stop - start


def _writers(
    folder: Path, sets: dict[str, FeatureSet], clips: list[np.ndarray]
) -> dict[str, Callable[[np.ndarray], float]]:
    """Name -> writes one part's worth of clips durably; gives the seconds it took. What is written goes again."""
    target = folder / "written"

    def write_plain(_: np.ndarray) -> float:
        def write() -> None:
            with target.open("wb") as file:
                for clip in clips:
                    file.write(clip.data)
                file.flush()
                os.fsync(file.fileno())

        seconds = _timed(write)
        target.unlink()
        return seconds

    writers: dict[str, Callable[[np.ndarray], float]] = {"plain": write_plain}
    for format, features in sets.items():
        writer = features.writer(part_bytes=1 << 62)  # one for all parts, as an extraction has

        def write_part(_: np.ndarray, features: FeatureSet = features, writer: FeatureWriter = writer) -> float:
            def write() -> None:
                for i, clip in enumerate(clips):
                    writer.add(f"new {i}", clip)
                writer.commit()

            seconds = _timed(write)
            features.parts()[-1].remove()
            features.refresh()
            return seconds

        writers[format] = write_part
    return writers


def _medians(
    timed: dict[str, Callable[[np.ndarray], float]], seconds: float, rng: np.random.Generator, num_clips: int
) -> dict[str, float]:
    """Each in turn, in another order every round, each time with other clips; the first round only warms up."""
    found: dict[str, list[float]] = {name: [] for name in timed}
    started, rounds = time.perf_counter(), -1
    while rounds < MIN_ROUNDS or time.perf_counter() - started < seconds:
        for name in rng.permutation(list(timed)).tolist():
            took = timed[name](rng.integers(0, num_clips, BATCH_CLIPS))
            if rounds >= 0:
                found[name].append(took)
        rounds += 1
    return {name: median(each) for name, each in found.items()}


def _timed(action: Callable[[], Any]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started
