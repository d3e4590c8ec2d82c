"""The clips of a feature set that gave no tokens, in one readable file, also when many processes write it at once."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path

import pandas as pd

from mgcli.cache.durable import committed_file, reading, writing
from mgcli.cache.place import children, is_file, make_folder, remove_tree

FAILURES_FILE = "failures.csv"
SHARES_FOLDER = "failures"

_COLUMNS = ["clip_id", "stage", "reason"]


@dataclass(frozen=True)
class Failure:
    """A clip that gave no tokens, and why."""

    clip_id: str
    stage: str  # decode, skeleton, forward, ...
    reason: str


def read_failures(folder: Path) -> pd.DataFrame:
    """The clips of a feature set's folder that failed in the last run: clip_id, stage, reason."""
    file = folder / FAILURES_FILE
    with reading(file):
        if not is_file(file):
            return pd.DataFrame(columns=_COLUMNS)
        return _parse(file.read_bytes())


def write_failures(folder: Path, failures: Sequence[Failure], shard: tuple[int, int] | None = None) -> Path:
    """Replace the list of failed clips: all of it, or what one shard of a run that is split has to say.

    What would stay the same is not written, so that a run with nothing to do asks for no permission to write.

    Each shard keeps a file of its own below `failures/`, and `failures.csv` is made of all of them. It needs no lock:
    whoever wrote it looks once more, and writes again if a shard has said something else meanwhile. So the last one to
    write has seen all. Files of a run that was split otherwise, or of shards before a run of the whole, are removed.

    Args:
        folder: of the feature set.
        failures: of this run, or of this shard.
        shard: its number, from 0, and how many there are; None: the run has all clips.
    """
    file = folder / FAILURES_FILE
    shares = folder / SHARES_FOLDER
    content = _csv(pd.DataFrame([astuple(failure) for failure in failures], columns=_COLUMNS))
    with writing(file):
        if shard is None:
            if children(shares):
                remove_tree(shares)
            _replace(file, content)
            return file
        make_folder(shares)
        _replace(shares / f"{shard[0]}-of-{shard[1]}.csv", content)
        for path in children(shares):
            if re.fullmatch(r"\d+-of-\d+\.csv", path.name) and not path.name.endswith(f"-of-{shard[1]}.csv"):
                remove_tree(path)
        said = _of_all_shards(shares, shard[1])
        while True:
            _replace(file, said)
            before, said = said, _of_all_shards(shares, shard[1])
            if said == before:
                return file


def _of_all_shards(shares: Path, count: int) -> bytes:
    """What `failures.csv` should hold, by what the shards say now."""
    tables = []
    for path in (shares / f"{index}-of-{count}.csv" for index in _there(shares, count)):
        try:
            tables.append(_parse(path.read_bytes()))
        except FileNotFoundError:  # a run that is split otherwise has begun
            continue
    return _csv(pd.concat(tables) if tables else pd.DataFrame(columns=_COLUMNS))


def _there(shares: Path, count: int) -> list[int]:
    """Numbers of the shards that have a file."""
    found = (re.fullmatch(rf"(\d+)-of-{count}\.csv", path.name) for path in children(shares))
    return sorted(int(match[1]) for match in found if match is not None)


def _replace(file: Path, content: bytes) -> None:
    with suppress(FileNotFoundError):
        if file.read_bytes() == content:
            return
    with committed_file(file) as temporary:
        temporary.write_bytes(content)


def _csv(table: pd.DataFrame) -> bytes:
    return bytes(table.to_csv(index=False), "utf-8")


def _parse(content: bytes) -> pd.DataFrame:
    """The table in a file of failures; empty where it is damaged: the next run says it all again."""
    try:
        table = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
    except ValueError:  # what pandas says of an empty file, of other bytes than text, and of lines that do not fit
        table = pd.DataFrame()
    return table if list(table) == _COLUMNS else pd.DataFrame(columns=_COLUMNS)
