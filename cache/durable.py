"""Files that are there whole or not at all, also after a kill or a power cut."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mgcli.cache.errors import CacheError

TEMPORARY_PREFIX = ".tmp-"


@contextmanager
def committed_file(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; flush it to disk and rename it to `path` when the block ends.

    A block that raises leaves nothing behind; a killed one leaves a `.tmp-` file that every reader ignores.
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}-{path.name}")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Flush a file or a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing(what: Path) -> Iterator[None]:
    """Turn the faults of a disk into errors that say what to do.

    Raises:
        CacheError: the disk is full, read-only, or may not be written to.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "No space left" in str(error)
        if full:
            raise CacheError(
                f"no space left while writing {what}; what was committed is safe. Make space and run the command again"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise CacheError(f"no permission to write {what}; make it writable or choose another folder") from error
        raise
