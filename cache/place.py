"""Where a cache lies: a local folder, or a prefix of an object store, which behaves like a path.

Remote places are `universal_pathlib` paths over fsspec (s3fs for `s3://`): credentials, endpoints and retries are
that library's, by its usual means.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG
from typing import Any, cast

from mgcli.cache.errors import CacheError


def as_place(path: str | Path) -> Path:
    """A path, or the remote place that a URL such as s3://bucket/prefix names.

    Raises:
        CacheError: a URL that needs a library which is not here.
    """
    if "://" not in str(path):
        return Path(path)
    try:
        from upath import UPath

        return cast(Path, UPath(str(path).rstrip("/"), use_listings_cache=False))
    except (ImportError, ValueError) as error:
        raise CacheError(f"{path} needs more than is installed ({error}); for s3://: pip install 'mgcli[s3]'") from None


def is_remote(path: Path) -> bool:
    """Whether a place is in an object store."""
    return not isinstance(path, Path)


def is_file(path: Path) -> bool:
    """Whether a file or object is there. A store that does not answer is an error, not an absence."""
    if not is_remote(path):
        return path.is_file()
    fs, name = _fsspec(path)
    try:
        return fs.info(name)["type"] == "file"
    except FileNotFoundError:
        return False


def children(folder: Path) -> list[Path]:
    """What lies directly in a folder, in name order; nothing where there is no folder."""
    try:
        if not is_remote(folder):
            return sorted(folder.iterdir())
        fs, base = _fsspec(folder)
        names = {str(each).rstrip("/").rpartition("/")[2] for each in fs.ls(base, detail=False)}
        return [folder / name for name in sorted(names - {base.rpartition("/")[2], ""})]
    except (FileNotFoundError, NotADirectoryError):
        return []


def modified_ns(path: Path) -> int:
    """When a file was last written, in nanoseconds since 1970."""
    return int(path.stat().st_mtime * 1e9) if is_remote(path) else path.stat().st_mtime_ns


def tree_state(path: Path) -> tuple[int, float]:
    """Size in bytes of all that lies at and below a place, and when something there was last written, in seconds.

    Raises:
        FileNotFoundError: something of it went meanwhile.
    """
    if is_remote(path):
        fs, base = _fsspec(path)
        found = list(fs.find(base, detail=True).values())
        newest = max((entry["LastModified"].timestamp() for entry in found), default=0.0)
        return sum(int(entry["size"]) for entry in found), newest
    stats = [each.stat() for each in ([path, *path.rglob("*")] if path.is_dir() else [path])]
    return sum(each.st_size for each in stats if S_ISREG(each.st_mode)), max(each.st_mtime for each in stats)


def make_folder(folder: Path) -> None:
    """Make a local folder where there is none; an object store knows no folders."""
    if not is_remote(folder):
        folder.mkdir(parents=True, exist_ok=True)


def upload(files: dict[str, bytes | Path], place: Path) -> None:
    """Put some objects below a remote place, side by side; each is there whole or not at all.

    Args:
        files: name below the place -> bytes, or the local file that holds them.
        place: a remote place.
    """
    fs, base = _fsspec(place)
    small = {f"{base}/{name}": content for name, content in files.items() if isinstance(content, bytes)}
    large = {f"{base}/{name}": str(file) for name, file in files.items() if isinstance(file, Path)}
    if small:
        fs.pipe(small)
    if large:
        fs.put(list(large.values()), list(large))


def objects_below(place: Path) -> dict[str, int]:
    """Name below a remote place -> size in bytes, of all objects."""
    fs, base = _fsspec(place)
    found = fs.find(base, detail=True)
    return {name[len(base) + 1 :]: int(entry["size"]) for name, entry in found.items()}


def fetch(place: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Some objects below a remote place, whole, side by side.

    Raises:
        FileNotFoundError: one is gone.
    """
    fs, base = _fsspec(place)
    if not names:
        return {}
    paths = [f"{base}/{name}" for name in names]
    found = fs.cat_ranges(paths, [None] * len(paths), [None] * len(paths), on_error="raise")
    return dict(zip(names, found, strict=True))


def fetch_ranges(file: Path, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """Bytes [start, stop) of one remote object for each range, side by side; a negative start counts from the end.

    Raises:
        FileNotFoundError: it is gone.
    """
    fs, path = _fsspec(file)
    starts = [start for start, _ in ranges]
    stops = [stop or None for _, stop in ranges]
    return list(fs.cat_ranges([path] * len(ranges), starts, stops, on_error="raise"))


def remove_tree(path: Path) -> None:
    """Delete a place and all below it; gone already is fine."""
    with suppress(FileNotFoundError):
        if is_remote(path):
            fs, base = _fsspec(path)
            fs.rm(base, recursive=True)
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _fsspec(place: Path) -> tuple[Any, str]:
    """The file system of a remote place, and its path there."""
    remote: Any = place
    return remote.fs, remote.path.rstrip("/")
