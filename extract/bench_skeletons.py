"""How long the skeletons of a data set like iMiGUE take to read: the first time, and once they were parsed."""

# Shapes: T frames, V joints.

from __future__ import annotations

import os
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mgcli.cache import MgcliError, Progress, check_clip_table, writing
from mgcli.extract.backbone import Backbone, Prepared
from mgcli.extract.clip_request import ClipFailed, InputReady
from mgcli.extract.decoder import InlineDecoders
from mgcli.extract.device import choose_workers
from mgcli.extract.inputs import by_file, read_file
from mgcli.extract.modality import clip_requests
from mgcli.extract.read_ahead import read_ahead
from mgcli.extract.skeleton_layouts import joint_layout
from mgcli.extract.skeleton_store import SETTLED_S, STORE_VARIABLE
from mgcli.extract.source import add_sources

NUM_VIDEOS, NUM_CLIPS, MINUTES = 359, 18_500, 2092.0  # of iMiGUE (facts: imigue, section 1)
LENGTHS_MIN = (0.5, 26.0)  # of its videos
FPS = 25.0
MEDIAN_CLIP_S, CLIP_SPREAD = 1.57, 0.95  # clip lengths: log-normal with iMiGUE's median and mean
FORMS = {"csv": ("light_hand.csv", 35), "xlsx": ("openpose.xlsx", 137)}  # form -> end of the name, points a row
_POOL_ROWS = 1000  # rows that are made up; every file repeats them


@dataclass(frozen=True, kw_only=True)
class ReadTime:
    """One pass over all clips, as `extract --modality pose` and `backbone-train` begin."""

    sources_s: float  # to know which content each file has
    joints_s: float  # until every clip has its joints
    cpu_s: float  # of all threads together, which a busy machine changes less

    @property
    def seconds(self) -> float:
        return self.sources_s + self.joints_s


@dataclass(frozen=True, kw_only=True)
class SkeletonBenchReport:
    """What was read, and how fast."""

    form: str
    videos: int
    clips: int
    minutes: float
    file_bytes: int
    workers: int
    first: ReadTime  # from the files
    second: ReadTime  # from the store of parsed skeletons
    store_bytes: int

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        plain = asdict(self)
        for name, read in (("first", self.first), ("second", self.second)):
            plain[name]["seconds"] = read.seconds
        return plain

    def summary(self) -> str:
        """A small table with its circumstances."""
        lines = [
            f"{self.clips} clips of {self.videos} videos, {self.minutes:.0f} min in all at {FPS:.0f} frames/s, "
            f"as {FORMS[self.form][0]}: {self.file_bytes / 1e9:.2f} GB; files read at once: {self.workers}",
            "",
            f"{'reading':<24} {'identities':>10} {'joints':>9} {'together':>9} {'CPU':>9}",
        ]
        stored = f"from the store, {self.store_bytes / 1e9:.2f} GB"
        for name, read in (("from the files", self.first), (stored, self.second)):
            times = f"{read.sources_s:>8.2f} s {read.joints_s:>7.2f} s {read.seconds:>7.2f} s {read.cpu_s:>7.2f} s"
            lines.append(f"{name:<24} {times}")
        return "\n".join(lines)


def bench_skeleton_reading(
    *,
    scale: float = 0.05,
    form: str = "csv",
    workers: int | None = None,
    folder: Path | None = None,
    seed: int = 0,
    progress: bool = True,
) -> SkeletonBenchReport:
    """Make skeleton files of realistic length, and read the joints of every clip twice.

    Args:
        scale: share of iMiGUE's videos and clips, above 0; at 1 the files take 2.9 GB as csv.
        form: csv (`VVVV_light_hand.csv`) or xlsx (`VVVV_openpose.xlsx`).
        workers: files read at once; None suits the machine.
        folder: where a temporary folder is made; None for the system's.
        seed: of lengths and clips.
        progress: show it on stderr.

    Raises:
        MgcliError: no such form, a scale that is none, no room on the disk, or a clip that could not be read.
    """
    if form not in FORMS:
        raise MgcliError(f"no form {form!r} of skeleton files; there is: {', '.join(FORMS)}")
    if not 0 < scale <= 10:
        raise MgcliError(f"scale is {scale}; it must be above 0, up to 10")
    workers = choose_workers(workers)
    with (
        tempfile.TemporaryDirectory(prefix="mgcli-bench-", dir=folder) as made,
        writing(Path(made)),
        _store_in(Path(made) / "store"),
    ):
        table = _make_files(Path(made), scale, form, np.random.default_rng(seed), progress)
        time.sleep(SETTLED_S)  # as long as the store waits before it trusts a file
        first = _read(table, workers, progress)
        second = _read(table, workers, progress)
        files = [Path(path) for path in table["skeleton"].unique()]
        return SkeletonBenchReport(
            form=form,
            videos=len(files),
            clips=len(table),
            minutes=float(table.attrs["minutes"]),
            file_bytes=sum(path.stat().st_size for path in files),
            workers=workers,
            first=first,
            second=second,
            store_bytes=sum(path.stat().st_size for path in (Path(made) / "store").iterdir()),
        )


class _Joints(Backbone):
    """Gives each clip its joints, frame by frame, in the layout that the pose backbones read; nothing is computed."""

    name = "bench_joints"
    reads = "skeleton"
    layouts = ("time",)
    has_weights = False

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.embed_dim, self.sampling, self.transform = "time", 66, {}, {}
        self.joints = joint_layout("imigue22")

    def windows(self, start_s: float, end_s: float) -> list[np.ndarray]:
        """All frames of the clip in one window."""
        return [np.arange(start_s, end_s, 1 / FPS)]

    def prepare(self, media: np.ndarray, times_s: np.ndarray) -> Prepared:
        """(T, 22, 3) -> the same."""
        return Prepared(inputs=torch.from_numpy(media), time_s=times_s, valid=np.ones(len(media), dtype=bool))

    def forward(self, inputs: Tensor) -> Tensor:
        """Never called."""
        raise NotImplementedError


def _read(table: pd.DataFrame, workers: int, progress: bool) -> ReadTime:
    cpu_before, started = time.process_time(), time.perf_counter()
    with_sources = add_sources(table)
    known = time.perf_counter()
    requests = clip_requests(with_sources, _Joints(), modality="pose")
    read = partial(read_file, decoders=InlineDecoders())  # no video is read
    with Progress("skeletons", len(requests), unit="clip", shown=progress) as bar:
        for event in read_ahead(by_file(requests), read, workers=workers, lookahead=16):
            if isinstance(event, ClipFailed):
                raise MgcliError(f"clip {event.request.clip_id}: {event.reason}")
            if isinstance(event, InputReady):
                bar.step()
    cpu_s = time.process_time() - cpu_before
    return ReadTime(sources_s=known - started, joints_s=time.perf_counter() - known, cpu_s=cpu_s)


def _make_files(folder: Path, scale: float, form: str, rng: np.random.Generator, progress: bool) -> pd.DataFrame:
    """Files, and the clip table on them."""
    num_videos, num_clips = max(1, round(NUM_VIDEOS * scale)), max(1, round(NUM_CLIPS * scale))
    num_frames = (_lengths(num_videos, MINUTES * num_videos / NUM_VIDEOS, rng) * 60 * FPS).astype(int)  # (videos,)
    ending, num_points = FORMS[form]
    points = rng.uniform(0, 720, (_POOL_ROWS, num_points, 3))
    points[..., 2] = rng.random(points.shape[:2])
    numbers = points.reshape(_POOL_ROWS, -1).tolist()
    pool = [[f"{value:.6f}" if i % 3 == 2 else f"{value:.3f}" for i, value in enumerate(row)] for row in numbers]
    write = _csv_writer(pool) if form == "csv" else _xlsx_writer(pool)
    paths = []
    with Progress("files", num_videos, unit="file", shown=progress) as bar:
        for video, frames in enumerate(num_frames.tolist()):
            paths.append(folder / f"{video:04d}_{ending}")
            write(paths[-1], frames)
            bar.step()
    of_clip = np.sort(rng.choice(num_videos, num_clips, p=num_frames / num_frames.sum()))
    length = np.clip(rng.lognormal(np.log(MEDIAN_CLIP_S), CLIP_SPREAD, num_clips) * FPS, 4, num_frames[of_clip])
    start = rng.random(num_clips) * (num_frames[of_clip] - length)
    table = pd.DataFrame(
        {
            "clip_id": [f"{i:05d}" for i in range(num_clips)],
            "skeleton": [str(paths[video]) for video in of_clip],
            "skeleton_fps": FPS,
            "start_frame": start.astype(int),
            "end_frame": (start + length).astype(int),
        }
    )
    table = check_clip_table(table)
    table.attrs["minutes"] = num_frames.sum() / FPS / 60
    return table


def _lengths(num_videos: int, minutes: float, rng: np.random.Generator) -> np.ndarray:
    """(num_videos,) minutes: many short videos, few long ones, so many minutes in all as far as the limits allow."""
    shortest, longest = LENGTHS_MIN
    lengths = shortest + (longest - shortest) * rng.beta(1.0, 3.8, num_videos)
    for _ in range(50):
        lengths = np.clip(shortest + (lengths - shortest) * (minutes / lengths.sum()), shortest, longest)
    return lengths


def _csv_writer(pool: list[list[str]]) -> Callable[[Path, int], None]:
    rows = [",".join(row) for row in pool]
    header = "," + ",".join(map(str, range(len(pool[0])))) + "\n"

    def write(path: Path, frames: int) -> None:
        with path.open("w", encoding="ascii") as file:
            file.write(header)
            file.writelines(f"{frame},{rows[frame % len(rows)]}\n" for frame in range(frames))

    return write


def _xlsx_writer(pool: list[list[str]]) -> Callable[[Path, int], None]:
    letters = ["".join(pair).strip() for pair in ((a, chr(65 + b)) for a in " ABCDEFGHIJKLMNO" for b in range(26))]
    rows = [
        "".join(f'<c r="{letter}#"><v>{value}</v></c>' for letter, value in zip(letters, row, strict=False))
        for row in pool
    ]
    space = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"

    def write(path: Path, frames: int) -> None:
        with (
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
            archive.open("xl/worksheets/sheet1.xml", "w", force_zip64=True) as sheet,
        ):
            sheet.write(f'<?xml version="1.0"?><worksheet xmlns="{space}"><sheetData>'.encode())
            for frame in range(frames):
                cells = rows[frame % len(rows)].replace("#", str(frame + 1))
                sheet.write(f'<row r="{frame + 1}">{cells}</row>'.encode())
            sheet.write(b"</sheetData></worksheet>")

    return write


@contextmanager
def _store_in(folder: Path) -> Iterator[None]:
    """A store of parsed skeletons of this benchmark's own."""
    before = os.environ.get(STORE_VARIABLE)
    os.environ[STORE_VARIABLE] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[STORE_VARIABLE]
        else:
            os.environ[STORE_VARIABLE] = before
