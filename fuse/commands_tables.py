"""Tables of many runs that shall not be lost where their folder will not do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from mgcli.cache import CacheError
from mgcli.cache.console import print_result


def check_tables_folder(folder: Path) -> None:
    """Make the folder that --out names, and find out before the training whether it takes files.

    Raises:
        CacheError: it cannot be made, or not be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except (FileExistsError, NotADirectoryError):
        raise CacheError(
            f"--out {folder} is a file, or lies below one; the tables want a folder: give another with --out DIR"
        ) from None
    except OSError as error:
        raise CacheError(
            f"cannot write the tables to --out {folder}: {error.strerror}; give another with --out DIR"
        ) from None


@contextmanager
def printed_anyway(result: dict[str, Any], text: str, as_json: bool, folder: Path) -> Iterator[None]:
    """Print the result, too, where the block cannot write it to the folder: it took long to get.

    Raises:
        CacheError: the block cannot.
    """
    try:
        yield
    except CacheError:
        print_result(result, text, as_json)
        raise
    except OSError as error:
        print_result(result, text, as_json)
        raise CacheError(
            f"cannot write the tables to {folder}: {error.strerror}; run the same command again with --out DIR, "
            "which trains nothing anew"
        ) from None
