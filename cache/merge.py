"""Bring the entries of caches that other machines made into this one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mgcli.cache.entry_count import EntryCount
from mgcli.cache.errors import CacheError
from mgcli.cache.feature_set import FeatureSet
from mgcli.cache.place import modified_ns
from mgcli.cache.store import FeatureCache, clip_table_content
from mgcli.cache.stored_entries import plan_lots, read_lot
from mgcli.cache.views import adopt_views

_PART_BYTES = 64 << 20


@dataclass(frozen=True)
class MergeReport:
    """What one merge did."""

    copied: dict[str, EntryCount]  # feature set -> what is new here
    skipped: EntryCount  # here already, with the same tokens; a clip of several feature sets is one clip
    conflicts: list[tuple[str, str, int]]  # (feature set, clip id, view): here with other tokens, which stay
    clip_tables: int  # that are new here
    other_views: list[str]  # feature sets whose views are made otherwise here; those that came are not read

    def summary(self) -> str:
        """The report for people."""
        lines = [f"{name}: {count} copied" for name, count in self.copied.items()]
        lines.append(f"here already: {self.skipped}; {self.clip_tables} new clip table(s)")
        if self.conflicts:
            named = "; ".join(
                f"{clip_id}{f' (view {view})' if view else ''} in {name}" for name, clip_id, view in self.conflicts[:5]
            )
            more = " ..." if len(self.conflicts) > 5 else ""
            count = EntryCount.of((clip_id, view) for _, clip_id, view in self.conflicts)
            lines.append(f"here with other tokens, which were kept: {count}: {named}{more}")
        lines += [
            f"{name}: the views that came were made with another seed or other settings than those here; they are kept "
            "and not read"
            for name in self.other_views
        ]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        conflicts = [{"feature_set": name, "clip_id": clip_id, "view": view} for name, clip_id, view in self.conflicts]
        copied = {name: count.to_json() for name, count in self.copied.items()}
        return {**vars(self), "copied": copied, "skipped": self.skipped.to_json(), "conflicts": conflicts}


def merge_cache(
    cache: FeatureCache, other: FeatureCache, *, progress: Callable[[list[np.ndarray]], Iterable[np.ndarray]] = iter
) -> MergeReport:
    """Copy every entry and clip table of `other` that `cache` lacks; sets of another spec stand beside the others.

    Args:
        cache: where to.
        other: is only read; its parts may have the other format.
        progress: wraps the list of lots of one feature set, to show how far it is.

    Raises:
        CacheError: damaged tokens or tables in `other`, or no space: what was copied before is committed.
    """
    if cache.path.resolve() == other.path.resolve():
        raise CacheError(f"{other.path} is the cache itself; name another to merge into it")
    tables = [(table, clip_table_content(table)) for table in sorted(other.clip_tables(), key=modified_ns)]
    copied: dict[str, EntryCount] = {}
    skipped: list[tuple[str, int]] = []  # clip id, view
    conflicts: list[tuple[str, str, int]] = []
    other_views: list[str] = []
    for theirs in other.feature_sets():
        ours = cache.create_feature_set(theirs.spec, theirs.provenance)
        reader = theirs.reader
        entries, keys, here = _compare(ours, theirs)
        same = here >= 0
        same[same] = ours.reader.index.entries["crc32c"][here[same]] == reader.index.entries["crc32c"][entries[same]]
        skipped += [keys[i] for i in np.flatnonzero(same).tolist()]
        conflicts += [(theirs.name, *keys[i]) for i in np.flatnonzero((here >= 0) & ~same).tolist()]
        with ours.writer() as writer:
            for lot in progress(plan_lots(reader, entries[here < 0], _PART_BYTES)):
                for clip in read_lot(reader, lot):
                    writer.add_stored(clip)
                writer.commit()
        copied[theirs.name] = EntryCount.of(keys[i] for i in np.flatnonzero(here < 0).tolist())
        if not adopt_views(ours, theirs.view_recipe):
            other_views.append(theirs.name)
    # with their age: the newest of both caches is the newest here
    new_tables = sum(cache.keep_clip_table(table.name, content, modified_ns(table)) for table, content in tables)
    return MergeReport(copied, EntryCount.of(skipped), conflicts, new_tables, other_views)


def _compare(ours: FeatureSet, theirs: FeatureSet) -> tuple[np.ndarray, list[tuple[str, int]], np.ndarray]:
    """(n,) entries that count over there, clip and view of each, and (n,) the same entry here, or a negative."""
    index = theirs.reader.index
    entries = index.winners
    clip_ids = index.clip_ids(entries)
    source, view = index.entries["source"][entries], index.entries["view"][entries]
    here = np.full(len(entries), -1, np.int64)
    for each in np.unique(view).tolist():
        rows = np.flatnonzero(view == each)
        wanted = source[rows].tolist()
        here[rows] = ours.reader.index.find([clip_ids[i] for i in rows.tolist()], wanted, each)
    return entries, list(zip(clip_ids, view.tolist(), strict=True)), here
