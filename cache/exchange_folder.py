"""A folder with one `.npy` or `.npz` file a clip.

Files of other programs are named by the clip id, or by a pattern with the clip id in it, and may lie in
subfolders. Our own exports escape the clip id (`a/b` becomes `a%2Fb`), shorten long ones, and list which
file is whose in `mgcli-index.json`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import numpy as np

from mgcli.cache.errors import CacheError
from mgcli.cache.exchange import TOKENS, ClipError, ClipSource, ClipValues, Export, clip_values
from mgcli.cache.exchange_npz import NPY, open_archive, read_member, read_npy, write_member
from mgcli.cache.part import ClipTokens, from_stored

INDEX_FILE = "mgcli-index.json"
NPZ = ".npz"
_PLACE = "{clip_id}"
_LONGEST_NAME = 150  # of an escaped clip id; file systems take 255 bytes


class FolderSource(ClipSource):
    """The files of a folder, by clip id."""

    def __init__(self, folder: Path, key: str | None, pattern: str | None) -> None:
        super().__init__()
        self._root = folder.resolve()
        self._key = key
        self._files: dict[str, Path] = {}
        found = _index_of(self._root) if pattern is None else None
        for clip_id, name in found if found is not None else self._scan(_name_pattern(pattern)):
            self._take(clip_id, name)
        for clip_id in self.refused:
            self._files.pop(clip_id, None)

    def ids(self) -> Sequence[str]:
        """See `ClipSource`."""
        return list(self._files)

    def read(self, clip_id: str) -> ClipValues:
        """See `ClipSource`."""
        path = self._files[clip_id]
        try:
            if path.suffix == NPZ:
                with open_archive(path) as archive:
                    return _values_of(archive, self._key)
            with path.open("rb") as stream:
                return clip_values(read_npy(stream, os.fstat(stream.fileno()).st_size))
        except (OSError, CacheError) as error:
            raise ClipError(f"cannot be read: {error}") from None

    def _scan(self, pattern: re.Pattern[str] | None) -> Iterator[tuple[str, str]]:
        """Clip id and file of every file that can be one; hidden ones are passed over."""
        for folder, subfolders, files in os.walk(self._root):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            for name in [each for each in subfolders if (Path(folder) / each).is_symlink()]:
                self.refused[_relative(self._root, folder, name)] = "is a link to a folder, which is not followed"
            for name in sorted(files):
                file = _relative(self._root, folder, name)
                if name.startswith(".") or not file.endswith((NPY, NPZ)):
                    continue
                if pattern is None:
                    yield file[: -len(NPY)], file
                elif match := pattern.fullmatch(file):
                    yield match["clip_id"], file

    def _take(self, clip_id: str, name: str) -> None:
        path = self._root / name
        try:
            target = path.resolve()
        except (OSError, RuntimeError):  # RuntimeError: what pathlib says of a loop
            self.refused[clip_id] = "is a link that leads back to itself"
            return
        if clip_id in self._files:
            other = self._files[clip_id].relative_to(self._root)
            self.refused[clip_id] = f"has two files: {other} and {name}"
        elif not target.is_relative_to(self._root):
            self.refused[clip_id] = f"is a link that leads out of {self._root}"
        else:
            self._files[clip_id] = path


@contextmanager
def open_folder(path: Path, key: str | None = None, pattern: str | None = None) -> Iterator[FolderSource]:
    """See `open_source`."""
    yield FolderSource(path, key, pattern)


def _relative(root: Path, folder: str, name: str) -> str:
    return (Path(folder) / name).relative_to(root).as_posix()


def _name_pattern(pattern: str | None) -> re.Pattern[str] | None:
    """What file names, relative to the folder, must look like."""
    if pattern is None:
        return None
    before, place, after = pattern.partition(_PLACE)
    if not place or _PLACE in after or not after.endswith((NPY, NPZ)):
        raise CacheError(
            f"--pattern is {pattern!r}; it names files with {_PLACE} in it once, such as '{_PLACE}_i3d_rgb.npy'"
        )
    return re.compile(re.escape(before) + "(?P<clip_id>.+)" + re.escape(after), re.DOTALL)


def _index_of(root: Path) -> list[tuple[str, str]] | None:
    """Clip ids and files of one of our own exports; None of any other folder.

    Raises:
        CacheError: its index is damaged, or names files elsewhere.
    """
    file = root / INDEX_FILE
    if not file.is_file():
        return None
    try:
        files = json.loads(file.read_text(encoding="utf-8"))["files"]
        pairs = [(str(each["clip_id"]), str(each["file"])) for each in files]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CacheError(f"{file} is damaged ({error}); export again, or remove it to go by the file names") from None
    odd = [name for _, name in pairs if "/" in name or "\\" in name or not name.endswith((NPY, NPZ))]
    if odd:
        raise CacheError(f"{file} names {odd[0]!r}, which is no .npy or .npz file of this folder")
    return pairs


def _values_of(archive: zipfile.ZipFile, key: str | None) -> ClipValues:
    """The clip of an archive of its own, with `time_s` and `valid` where they lie beside the tokens."""
    names = [name.removesuffix(NPY) for name in archive.namelist() if name.endswith(NPY)]
    wanted = key or (names[0] if len(names) == 1 else TOKENS)
    if wanted not in names:
        shown = ", ".join(names[:8]) or "none"
        raise ClipError(
            f"has no array {wanted!r}; it has: {shown}" if key else f"has several arrays; name one with --key: {shown}"
        )
    own = [name for name in ("time_s", "valid") if name in names and name != wanted]
    beside: dict[str, np.ndarray] = {name: read_member(archive, name) for name in own}
    return clip_values(read_member(archive, wanted), beside)


def write_npy_folder(path: Path, export: Export) -> None:
    """One `.npy` file a clip, (N, D); bfloat16 tokens are written as float32."""

    def write(file: Path, clip: ClipTokens) -> None:
        np.save(file, from_stored(clip.tokens, export.spec.dtype), allow_pickle=False)

    _write_folder(path, export, NPY, write)


def write_npz_folder(path: Path, export: Export) -> None:
    """One `.npz` file a clip with `tokens`, `time_s` and `valid`."""

    def write(file: Path, clip: ClipTokens) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            write_member(archive, TOKENS, from_stored(clip.tokens, export.spec.dtype))
            write_member(archive, "time_s", clip.time_s)
            write_member(archive, "valid", clip.valid)

    _write_folder(path, export, NPZ, write)


def _write_folder(path: Path, export: Export, suffix: str, write: object) -> None:
    assert callable(write)
    path.mkdir()
    taken: set[str] = set()
    files = []
    for clip in export.entries():
        name = file_name(clip.clip_id, suffix, taken)
        write(path / name, clip)
        files.append({"clip_id": clip.clip_id, "file": name})
    content = {"made_by": "mgcli cache export", "spec": export.spec.to_dict(), "files": files}
    (path / INDEX_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def file_name(clip_id: str, suffix: str, taken: set[str]) -> str:
    """A file name for a clip id, that any file system takes; `taken` holds those given so far, in lower case.

    Letters, digits and `_.-~` stay, all else is percent-escaped as in a URL. A name that is too long, or
    differs from another in case only, is cut and ends in a hash of the clip id.
    """
    escaped = quote(clip_id, safe="")
    escaped = "%2E" + escaped[1:] if escaped.startswith(".") else escaped
    if len(escaped) > _LONGEST_NAME or (escaped + suffix).lower() in taken:
        digits = hashlib.sha256(clip_id.encode("utf-8")).hexdigest()[:16]
        escaped = f"{escaped[:_LONGEST_NAME]}~{digits}"
    taken.add((escaped + suffix).lower())
    return escaped + suffix
