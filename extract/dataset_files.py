"""Files of a data set found by their names, whatever folders it was unpacked into."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov")
_SUFFIXES = (".csv", ".xlsx", *VIDEO_SUFFIXES)
MAX_DEPTH = 7  # folders below the root; the deepest known layout has five, with one folder around it
MOST_NAMED = 10


def files_below(root: Path, package_names: re.Pattern[str], warnings: list[str]) -> Iterator[Path]:
    """Every table, sheet and video of a data set, in path order; hidden files and folders are passed over.

    Args:
        root: the folder with the data set's packages, one around it, or one of the packages; then the packages beside
            it are looked through too.
        package_names: fits the name of a package's folder, in lower case.
        warnings: told of folders that cannot be read.
    """

    def unreadable(error: OSError) -> None:
        warnings.append(f"{error.filename}: cannot be read ({error.strerror}); what is in it is passed over")

    tops = [root]
    if package_names.match(root.resolve().name.lower()):
        beside = sorted(root.resolve().parent.glob("*"))
        tops = [path for path in beside if package_names.match(path.name.lower())] or [root]
    for top in tops:
        for folder, inner, names in os.walk(top, followlinks=True, onerror=unreadable):
            depth = len(Path(folder).relative_to(top).parts)
            inner[:] = sorted(name for name in inner if not name.startswith(".") and depth < MAX_DEPTH)
            for path in (Path(folder, name) for name in sorted(names) if not name.startswith(".")):
                if path.suffix.lower() in _SUFFIXES and path.is_file():  # no link to a file that is gone
                    yield path


def one_of(paths: list[Path], what: str, warnings: list[str]) -> Path:
    """The first of several files that should be one; says so unless all have the same size and ends."""
    if len(paths) > 1 and len({_likeness(path) for path in paths}) > 1:
        others = ", ".join(str(path) for path in paths[1:])
        warnings.append(f"{what}: {len(paths)} different files; {paths[0]} is used, not {others}")
    return paths[0]


def listed(names: Iterable[str]) -> str:
    """`a, b, c and 7 more`."""
    names = list(names)
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def _likeness(path: Path, num_bytes: int = 1 << 16) -> bytes:
    """Size and ends of a file; the path itself where it cannot be read."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(num_bytes)
            file.seek(max(0, size - num_bytes))
            return b"%d " % size + head + file.read(num_bytes)
    except OSError:
        return os.fsencode(path)
