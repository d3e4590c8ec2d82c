"""Skeletons that were parsed before: raw arrays, kept per user, safe to delete at any time.

Reading text is what takes long: a minute for the tables of iMiGUE, a second for the same numbers as raw float32. Every
file (or folder) of text that is large enough gets an entry here, named after its absolute path:

    a line of JSON, filled up to 4096 bytes, with its own checksum: which content the entry was made from, and when
    that was last changed; the checksum, shape and layout of the joints
    the joints, float32

An entry counts while its file has the size and the two times (of content and of status) that it had when it was read
whole, as git's index does it; a file changed within the last two seconds is not kept, since another change might leave
no trace. A damaged or foreign entry is made again. Entries appear whole under their names, so any number of processes
may read and write. When the store grows beyond its size, what was not used for longest goes.

It lies in the user's cache folder, not in a project: a data set is parsed once for all projects that use it, caches of
tokens stay free of skeletons (they may be shared, or lie in an object store), and data folders may be read-only.
`MGCLI_SKELETON_STORE` names another folder, or `off`; `MGCLI_SKELETON_STORE_GB` its size.
"""

# Shapes: T frames, M people, V joints.

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from mgcli.cache import CacheError, committed_file, warn, writing
from mgcli.extract.media_file import why_unreadable
from mgcli.extract.skeleton_layouts import LAYOUTS
from mgcli.extract.skeleton_readers import SkeletonFile, read_skeleton_file

VERSION = 1  # of an entry, and of what the readers make of a file: raised when either changes
STORE_VARIABLE = "MGCLI_SKELETON_STORE"
SIZE_VARIABLE = "MGCLI_SKELETON_STORE_GB"
MIN_BYTES = 1 << 18  # smaller files are parsed in milliseconds
SETTLED_S = 2.0  # clocks of file systems are coarse: a younger file may change again without a trace
_USUAL_GB = 16.0
_HEADER_BYTES = 4096
_ENDING = ".mgcli-joints"  # with 32 hex digits before it: nobody else's files look like that
_ENTRY = re.compile(r"(\.tmp-[0-9a-f]+-)?[0-9a-f]{32}" + re.escape(_ENDING))
_ABANDONED_S = 86400.0  # after which a file that some process never finished is deleted
_FREE_BYTES = 1 << 30  # of the disk, which the store leaves alone
_SUFFIXES = (".csv", ".xlsx", ".skeleton")  # the others are as fast as an entry

_complained: set[Path] = set()  # stores whose fault was said


@dataclass(frozen=True)
class _Stamp:
    """What the file system says of a file, or of a folder with one file a frame."""

    text: str  # changes whenever the content does
    num_bytes: int
    changed_ns: int  # the latest of its times


def load_skeleton(path: Path) -> SkeletonFile:
    """What `read_skeleton_file` gives, from the store where the file was read before.

    Raises:
        SkeletonError: missing, damaged, or of an unknown kind.
    """
    entry = _entry_of(path)
    if entry is None:
        return read_skeleton_file(path)
    stamp = _stamp(path)
    header = _read_header(entry, stamp)
    if header is not None:
        joints = _read_joints(entry, header)
        if joints is not None:
            return SkeletonFile(joints, LAYOUTS[header["layout"]] if header["layout"] else None)
    skeleton = read_skeleton_file(path)
    if stamp is not None and stamp.num_bytes >= MIN_BYTES:
        _keep(entry, path, stamp, skeleton)
    return skeleton


def skeleton_identity(path: Path) -> str | None:
    """SHA-256 of a skeleton file's content, or of a folder's names and contents; None where it cannot be read."""
    entry = _entry_of(path)
    header = None if entry is None else _read_header(entry, _stamp(path))
    return header["identity"] if header is not None else content_identity(path)


def content_identity(path: Path) -> str | None:
    """The same, from the bytes themselves."""
    if why_unreadable(path, or_folder=True):
        return None
    if path.is_dir():
        files = [(file.name, content_identity(file)) for file in sorted(path.glob("*.json"))]
        return hashlib.sha256(json.dumps(files).encode()).hexdigest()
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def store_folder() -> Path | None:
    """Where entries lie; None where they are turned off, or the user has no home."""
    named = os.environ.get(STORE_VARIABLE, "")
    if named:
        return None if named.lower() == "off" else Path(named)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mgcli" / "skeletons"
    except RuntimeError:
        return None


def _entry_of(path: Path) -> Path | None:
    folder = None if why_unreadable(path, or_folder=True) else store_folder()
    if folder is None or not (path.is_dir() or path.suffix.lower() in _SUFFIXES):
        return None
    return folder / (hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32] + _ENDING)


def _stamp(path: Path) -> _Stamp | None:
    try:
        files = sorted(path.glob("*.json")) if path.is_dir() else [path]
        stats = [file.stat() for file in files]
    except OSError:
        return None
    seen = [[file.name, s.st_size, s.st_mtime_ns, s.st_ctime_ns] for file, s in zip(files, stats, strict=True)]
    return _Stamp(
        text=hashlib.sha256(json.dumps(seen).encode()).hexdigest(),
        num_bytes=sum(s.st_size for s in stats),
        changed_ns=max((max(s.st_mtime_ns, s.st_ctime_ns) for s in stats), default=0),
    )


def _read_header(entry: Path, stamp: _Stamp | None) -> dict[str, Any] | None:
    """What an entry says of itself, if it is whole and made from the file as it is now."""
    try:
        with entry.open("rb") as file:
            checksum, _, content = file.read(_HEADER_BYTES).rstrip().partition(b" ")
        if checksum != b"%08x" % google_crc32c.value(content):
            return None
        header = json.loads(content)
    except (OSError, ValueError):
        return None
    return header if stamp is not None and (header["version"], header["stamp"]) == (VERSION, stamp.text) else None


def _read_joints(entry: Path, header: dict[str, Any]) -> np.ndarray | None:
    """(T, M, V, 3) float32; None where they are damaged."""
    try:
        joints = np.fromfile(entry, dtype="<f4", offset=_HEADER_BYTES)
    except (OSError, ValueError):  # gone, or shorter than its header
        return None
    if joints.size != np.prod(header["shape"], dtype=np.int64) or _checksum(joints) != header["crc32c"]:
        return None
    with suppress(OSError):
        os.utime(entry)  # used now
    return joints.reshape(header["shape"])


def _checksum(joints: np.ndarray) -> int:
    return google_crc32c.value(joints.reshape(-1).view(np.uint8))


def _keep(entry: Path, path: Path, before: _Stamp, skeleton: SkeletonFile) -> None:
    """Write an entry, unless the file has just changed or the disk is short of room; a fault is said, once."""
    if time.time_ns() - before.changed_ns < SETTLED_S * 1e9:
        return
    identity = content_identity(path)
    if identity is None or _stamp(path) != before:  # it changed while it was read
        return
    joints = np.ascontiguousarray(skeleton.joints, dtype="<f4")
    header = {
        "version": VERSION,
        "file": path.name,
        "stamp": before.text,
        "identity": identity,
        "layout": skeleton.layout.name if skeleton.layout else None,
        "shape": joints.shape,
        "crc32c": _checksum(joints),
    }
    content = json.dumps(header).encode()
    try:
        with writing(entry.parent):
            entry.parent.mkdir(parents=True, exist_ok=True)
            if not _make_room(entry.parent, joints.nbytes):
                return
            with committed_file(entry) as temporary, temporary.open("wb") as file:
                file.write((b"%08x " % google_crc32c.value(content) + content).ljust(_HEADER_BYTES - 1) + b"\n")
                file.write(joints.data)
    except (CacheError, OSError) as error:
        if entry.parent not in _complained:
            _complained.add(entry.parent)
            warn(f"parsed skeletons are not kept ({error}); {STORE_VARIABLE} names another folder, or off")


def _make_room(folder: Path, num_bytes: int) -> bool:
    """Delete what was not used for longest until so much fits; False where it never can, or the disk is short."""
    largest = _store_bytes()
    entries: list[tuple[float, int, Path]] = []  # last use, size
    for file in folder.iterdir():
        found = _ENTRY.fullmatch(file.name)
        with suppress(OSError):  # another process deleted it
            if found and found[1] and time.time() - file.stat().st_mtime > _ABANDONED_S:
                file.unlink()
            elif found and not found[1]:
                entries.append((file.stat().st_mtime, file.stat().st_size, file))
    fits = num_bytes <= largest
    total = sum(size for _, size, _ in entries) + (num_bytes if fits else 0)
    for _, size, file in sorted(entries):
        if total <= largest:
            break
        file.unlink(missing_ok=True)
        total -= size
    return fits and shutil.disk_usage(folder).free > 2 * num_bytes + _FREE_BYTES


def _store_bytes() -> float:
    given = os.environ.get(SIZE_VARIABLE, "")
    try:
        gigabytes = float(given) if given else _USUAL_GB
    except ValueError:
        gigabytes = -1.0
    if not gigabytes >= 0:
        raise CacheError(f"{SIZE_VARIABLE} is {given!r}; it must be a number of gigabytes")
    return gigabytes * (1 << 30)
