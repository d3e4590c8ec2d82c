"""What lies at a path that a clip table names: a file to read, or the reason why there is none."""

from __future__ import annotations

import stat
from pathlib import Path

NO_SUCH_FILE = "no such file"


def why_unreadable(path: Path, *, or_folder: bool = False) -> str:
    """Why nothing can be read at a path, as the end of a message; empty where it leads to a regular file.

    A pipe or a device is refused unopened, as reading it might never end.

    Args:
        path: any.
        or_folder: a folder will do too.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return NO_SUCH_FILE
    except OSError as error:  # a link to itself, too long a name, a folder that may not be looked into
        return f"cannot be opened ({error.strerror}); correct the path in the clip table, or what lies there"
    if stat.S_ISDIR(mode):
        return "" if or_folder else "is a folder, not a file"
    return "" if stat.S_ISREG(mode) else "not a regular file; copy what it gives into one"
