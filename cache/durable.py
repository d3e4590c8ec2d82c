"""Files that are there whole or not at all, also after a kill or a power cut."""

from __future__ import annotations

import ctypes
import errno
import json
import math
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from mgcli.cache.errors import CacheError
from mgcli.cache.place import is_remote, upload

TEMPORARY_PREFIX = ".tmp-"
_SYNC_THREADS = 16
_FLUSH_BYTES = 8 << 20  # the disk begins with so much while the next is written to memory
_SYNC_FILE_RANGE_WRITE = 2
_REFUSALS = dict.fromkeys((errno.EACCES, errno.EPERM), "make it readable for this user") | {
    errno.EMFILE: "allow more open files with: ulimit -n 4096",
    errno.ENFILE: "end programs that hold many files open",
    errno.ENOMEM: "make room in memory",
    **dict.fromkeys((errno.EIO, errno.ESTALE, errno.ETIMEDOUT), "check the disk or the network that it lies on"),
}
_NO_SUCH_NAME = {
    errno.ENAMETOOLONG: "{} has a name that is too long for its disk; choose a shorter one",
    errno.ELOOP: "{} is, or lies behind, a link that leads back to itself; remove the link",
}

# Linux only, and not in Python's os; elsewhere the disk begins with the fsync.
_sync_file_range: Any = getattr(ctypes.CDLL(None), "sync_file_range", None) if os.name == "posix" else None
if _sync_file_range is not None:
    _sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]


@contextmanager
def committed_file(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; flush it to disk and rename it to `path` when the block ends.

    A block that raises leaves nothing behind; a killed one leaves a `.tmp-` file that every reader ignores.
    For an object store the temporary file is local, and becomes one object.
    """
    if is_remote(path):
        with tempfile.TemporaryDirectory(prefix="mgcli-") as folder:
            local = Path(folder) / path.name
            yield local
            upload({path.name: local}, path.parent)
        return
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}-{path.name}")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def start_flush(descriptor: int) -> None:
    """Have the disk begin with what an open file holds so far, and do not wait; `sync` still has to follow."""
    if _sync_file_range is not None:
        _sync_file_range(descriptor, 0, 0, _SYNC_FILE_RANGE_WRITE)


def blocks(array: np.ndarray) -> Iterator[slice]:
    """The rows of an array, in blocks that are worth a `start_flush` each."""
    rows = max(1, _FLUSH_BYTES * len(array) // max(1, array.nbytes))
    for start in range(0, len(array), rows):
        yield slice(start, start + rows)


def sync(path: Path) -> None:
    """Flush a file or a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(paths: Sequence[Path]) -> None:
    """Flush files and folders to disk, side by side: the disk then does many in one go."""
    with ThreadPoolExecutor(_SYNC_THREADS) as pool:
        list(pool.map(sync, paths))


def free_bytes(folder: Path) -> float:
    """What a folder's disk has room for; an object store has no end."""
    return math.inf if is_remote(folder) else shutil.disk_usage(folder).free


def expect_room(folder: Path, num_bytes: int) -> None:
    """Refuse to start writing what does not fit: half-way, HDF5 would add tracebacks of its own.

    Raises:
        OSError: ENOSPC.
    """
    if free_bytes(folder) < num_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def expect_growth(path: Path, num_bytes: int) -> None:
    """Refuse a file that is not there yet if it may not grow so large: for want of space, by a quota, by a limit.

    HDF5 does not survive the refusal of a write: what it still has open then crashes the process.

    Raises:
        OSError: ENOSPC, EDQUOT or EFBIG; or the file is there.
    """
    if hasattr(os, "posix_fallocate"):
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        try:
            os.posix_fallocate(descriptor, 0, num_bytes)
        finally:
            os.close(descriptor)
            path.unlink()


@contextmanager
def writing(what: Path) -> Iterator[None]:
    """Turn the faults of a disk into errors that say what to do.

    Raises:
        CacheError: the disk is full, read-only, or may not be written to.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise CacheError(
                f"no space left while writing {what}; what was committed is safe. Make space and run the command again"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise CacheError(f"no permission to write {what}; make it writable or choose another folder") from error
        if is_remote(what):
            raise _unreachable(what, error) from error
        if error.errno in _NO_SUCH_NAME:
            raise CacheError(_NO_SUCH_NAME[error.errno].format(what)) from error
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EEXIST) and not what.parent.is_dir():
            if what.parent.is_symlink():
                raise CacheError(f"cannot write {what}: {what.parent} is a link that leads to no folder") from error
            raise CacheError(f"cannot write {what}: there is no folder {what.parent}; make it first") from error
        raise
    except CacheError:
        raise
    except Exception as error:  # the store's client has errors of its own
        if is_remote(what):
            raise _unreachable(what, error) from error
        raise


@contextmanager
def reading(what: Path) -> Iterator[None]:
    """Turn the faults of a disk or an object store into errors that say what to do.

    Raises:
        CacheError: the disk or the store refuses, the store does not answer, or there can be no such name.
    """
    try:
        yield
    except CacheError:
        raise
    except Exception as error:
        if is_remote(what):
            raise _unreachable(what, error) from error
        if not isinstance(error, OSError):
            raise
        if error.errno in _NO_SUCH_NAME:
            raise CacheError(_NO_SUCH_NAME[error.errno].format(what)) from error
        refusal = refusal_of(error)
        if refusal is None:
            raise
        raise CacheError(f"cannot read {error.filename or what}: {refusal}, and run the command again") from error


def refusal_of(error: Exception) -> str | None:
    """Why the system refused to read what may well be sound, and what to do; None of any other error."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (found := re.search(r"errno = (\d+)", str(error))):  # HDF5 names it in its text only
        number = int(found[1])
    if number is None or number not in _REFUSALS:
        return None
    return f"{os.strerror(number)}; {_REFUSALS[number]}"


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Keep a JSON object in a file, with a checksum of the rest as its last field."""
    with committed_file(path) as temporary:
        temporary.write_text(json.dumps(content | {"crc32c": _json_checksum(content)}, indent=1))


def _json_checksum(content: dict[str, Any]) -> int:
    """CRC-32C of a JSON object's canonical text, without its field `crc32c`."""
    covered = {key: value for key, value in content.items() if key != "crc32c"}
    return google_crc32c.value(json.dumps(covered, sort_keys=True).encode("utf-8"))


def checked_json(path: Path) -> dict[str, Any]:
    """What `write_json` kept.

    Raises:
        CacheError: it is missing or damaged, or was edited.
    """
    content = read_json(path)
    if content.get("crc32c") != _json_checksum(content):
        raise CacheError(f"{path} does not match its checksum: it is damaged, or was edited; restore it from a copy")
    return content


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object in a file.

    Raises:
        CacheError: missing, damaged, or no permission.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CacheError(f"{path} is missing; restore it from a copy of the cache") from None
    except PermissionError:
        raise CacheError(f"no permission to read {path}; make it readable for this user") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CacheError(f"{path} is damaged ({error}); restore it from a copy of the cache") from None
    if not isinstance(content, dict):
        raise CacheError(f"{path} is damaged: it holds no JSON object; restore it from a copy of the cache")
    return content


def _unreachable(what: Path, error: Exception) -> CacheError:
    return CacheError(
        f"the object store gives no access to {what} ({error}); what was committed is safe. Credentials and endpoint "
        "come from the environment (AWS_...) or ~/.aws, as for any program that uses s3fs"
    )
