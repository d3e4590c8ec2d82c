"""What of a cache's clip tables and provenance goes into a shared file, and how it is kept where it arrives.

Absolute paths are cut to their last part, with as many folders before it as tell two of them apart, and the
name of the host is left out: a shared file does not say where its maker's videos lie. Clip ids, subject ids,
splits, labels and intervals are kept.
"""

from __future__ import annotations

import hashlib
import io
import re
import time
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mgcli.cache.clips import check_clip_table, clip_table_csv
from mgcli.cache.place import modified_ns
from mgcli.cache.store import FeatureCache, clip_table_content

_ABSOLUTE = re.compile(r"(?:/|~|\\\\|[A-Za-z]:[\\/]|file:)")
_SEPARATORS = re.compile(r"[\\/]+")
_LEFT_OUT = ("host",)


@dataclass(frozen=True)
class SharedTable:
    """A clip table on its way from one cache to another."""

    name: str  # PROTOCOL--HASH.csv
    content: bytes  # CSV
    mtime_ns: int  # when it was kept: the newest of a protocol counts


def tables_to_share(cache: FeatureCache, clip_ids: Collection[str] | None) -> list[SharedTable]:
    """The clip tables of a cache, oldest first, without folders of this machine.

    Args:
        cache: where they are.
        clip_ids: keep the rows of these clips; None for all.
    """
    shared: dict[str, SharedTable] = {}
    files = sorted(cache.clip_tables(), key=modified_ns)
    for file in files:
        table = parse_clip_table(clip_table_content(file), str(file))
        if clip_ids is not None:
            table = table[table["clip_id"].isin(list(clip_ids))]
        if len(table):
            content = clip_table_csv(without_folders(table))
            name = f"{file.name.rpartition('--')[0]}--{hashlib.sha256(content).hexdigest()[:8]}.csv"
            shared[name] = SharedTable(name, content, modified_ns(file))
    return list(shared.values())


def parse_clip_table(content: bytes, where: str) -> pd.DataFrame:
    """The checked table of a CSV that a cache keeps, `clip_id` first.

    Raises:
        ClipTableError: it does not make sense.
    """
    table = check_clip_table(pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False), where)
    return table[["clip_id", *(column for column in table if column != "clip_id")]]


def keep_shared_tables(cache: FeatureCache, tables: Iterable[SharedTable]) -> int:
    """Write the tables that the cache lacks, no newer than they were; give their number."""
    num_new = 0
    for table in tables:
        # a microsecond before: where both meet, the table with its maker's own paths stays the newest
        made_ns = min(max(table.mtime_ns - 1000, 0), time.time_ns())
        num_new += cache.keep_clip_table(table.name, table.content, made_ns)
    return num_new


def without_folders(table: pd.DataFrame) -> pd.DataFrame:
    """The table with every absolute path cut; two paths that differ still do."""
    cells = {column: [cell for cell in table[column] if isinstance(cell, str)] for column in table.columns[1:]}
    assert table.columns[0] == "clip_id", "clip ids are the keys of the tokens, and stay as they are"
    short = _shortened({cell for column in cells.values() for cell in column})
    cut = table.copy()
    for column in (name for name, texts in cells.items() if texts):
        cut[column] = [short.get(cell, cell) for cell in table[column]]
    return cut


def provenance_to_share(provenance: dict[str, Any]) -> dict[str, Any]:
    """The provenance without the host's name and with every absolute path cut to its last part."""

    def cut(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: cut(each) for key, each in value.items()}
        if isinstance(value, list):
            return [cut(each) for each in value]
        return _parts(value)[-1] if isinstance(value, str) and _ABSOLUTE.match(value) else value

    return cut({key: value for key, value in provenance.items() if key not in _LEFT_OUT})


def _shortened(cells: set[str]) -> dict[str, str]:
    """Absolute path -> its last parts, as many as are needed so that no two cells become one."""
    absolute = {cell: _parts(cell) for cell in cells if _ABSOLUTE.match(cell)}
    taken = cells - set(absolute)
    depth = dict.fromkeys(absolute, 1)
    while True:
        same = defaultdict(list)
        for cell, parts in absolute.items():
            same["/".join(parts[-depth[cell] :])].append(cell)
        longer = [
            cell
            for name, meeting in same.items()
            if len(meeting) > 1 or name in taken
            for cell in meeting
            if depth[cell] < len(absolute[cell])
        ]
        if not longer:
            return {cell: name for name, meeting in same.items() for cell in meeting}
        for cell in longer:
            depth[cell] += 1


def _parts(path: str) -> list[str]:
    return [part for part in _SEPARATORS.split(path) if part and part not in ("~", "file:")] or [""]
