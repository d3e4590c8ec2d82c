"""What `mgcli doctor` finds of a project: its file, its cache, the disks that it writes to."""

from __future__ import annotations

import math
import os
import secrets
import time
from dataclasses import replace
from pathlib import Path

from mgcli.cache.doctor import Check, State, check_open_files
from mgcli.cache.durable import TEMPORARY_PREFIX, committed_file, free_bytes, writing
from mgcli.cache.errors import CacheError, MgcliError
from mgcli.cache.part import PART_FORMATS
from mgcli.cache.place import is_file, is_remote, remove_tree
from mgcli.cache.project import PROJECT_FILE, Project, load_project
from mgcli.cache.store import CACHE_FILE, open_cache

TRIAL_BYTES = 32 << 20
SLOW_MB_PER_S = 20
LITTLE_BYTES = 5 << 30  # pooled tokens of a large data set; `full` ones want far more


def find_project() -> tuple[Project, Check]:
    """The project of this folder, or the defaults where its file is missing or wrong, and which of these it is."""
    try:
        project = load_project()
    except MgcliError as error:
        return Project(), Check(name="project file", state="fault", found=str(error), do=f"correct {PROJECT_FILE}")
    if project.file is None:
        found = f"no {PROJECT_FILE} in this folder or above it; flags and defaults apply"
        return project, Check(
            name="project file", state="warning", found=found, do="mgcli init table --clips clips.csv, or mgcli demo"
        )
    if project.format not in PART_FORMATS:
        found = f"{project.file}: [cache] format is {project.format!r}; known: {', '.join(PART_FORMATS)}"
        check = Check(name="project file", state="fault", found=found, do=f"correct {PROJECT_FILE}")
        return replace(project, format="hdf5"), check
    return project, Check(name="project file", state="ok", found=str(project.file))


def storage_checks(project: Project) -> list[Check]:
    """The cache, how fast it can be written, the room on its disk, the folder of the runs, open files."""
    return [
        check_cache(project.cache),
        check_writing("cache disk", project.cache, num_bytes=TRIAL_BYTES, flag="--cache DIR"),
        check_room(project.cache),
        check_writing("runs folder", project.runs, num_bytes=1, flag="--runs DIR"),
        check_open_files(),
    ]


def check_cache(path: Path) -> Check:
    """Whether there is a cache, and it can be opened."""
    try:
        if not is_file(path / CACHE_FILE) and (is_remote(path) or not path.exists()):
            return Check(
                name="cache", state="ok", found=f"none yet in {path}", do="to fill one: mgcli extract --modality video"
            )
        sets = open_cache(path).feature_sets()
    except MgcliError as error:
        return Check(name="cache", state="fault", found=str(error), do="mgcli cache verify, or another --cache DIR")
    return Check(name="cache", state="ok", found=f"{path}, {len(sets)} feature set(s)")


def check_writing(name: str, folder: Path, *, num_bytes: int, flag: str) -> Check:
    """Write a file of that size where a folder is or will be, flush it to disk, remove it."""
    place = folder if is_remote(folder) else _nearest_folder(folder)
    trial = place / f"{TEMPORARY_PREFIX}doctor-{secrets.token_hex(4)}"
    content = os.urandom(num_bytes)
    try:
        started = time.perf_counter()
        with writing(trial), committed_file(trial) as temporary:
            temporary.write_bytes(content)
        seconds = time.perf_counter() - started
        remove_tree(trial)
    except (CacheError, OSError) as error:
        return Check(
            name=name, state="fault", found=f"cannot write to {place}: {error}", do=f"choose another with {flag}"
        )
    rate = num_bytes / 1e6 / seconds
    if num_bytes < 1e6:  # tells nothing of the speed
        return Check(name=name, state="ok", found=f"{place} can be written to")
    found = f"{place} takes {rate:.0f} MB/s ({num_bytes / 1e6:.0f} MB, flushed)"
    if rate >= SLOW_MB_PER_S:
        return Check(name=name, state="ok", found=found)
    return Check(
        name=name,
        state="warning",
        found=f"{found}: slow",
        do=f"put the cache on a local disk with {flag}; mgcli bench cache",
    )


def check_room(folder: Path) -> Check:
    """How much the cache's disk has room for."""
    place = folder if is_remote(folder) else _nearest_folder(folder)
    free = free_bytes(place)
    if free == math.inf:
        return Check(name="free space", state="ok", found=f"{place} is an object store")
    found = f"{free / 1e9:.1f} GB on the disk of {place}"
    if free >= LITTLE_BYTES:
        return Check(name="free space", state="ok", found=found)
    state: State = "fault" if free < TRIAL_BYTES else "warning"
    return Check(name="free space", state=state, found=found, do="make space, or choose another disk with --cache DIR")


def _nearest_folder(path: Path) -> Path:
    """A folder, or the nearest one above it that is there."""
    path = path.absolute()
    return next(each for each in (path, *path.parents) if each.is_dir())
