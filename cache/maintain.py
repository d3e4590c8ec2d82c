"""Look after a cache: remove what is not wanted or was never finished, and make few large parts of many small."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mgcli.cache.durable import TEMPORARY_PREFIX, free_bytes, reading, writing
from mgcli.cache.entry_count import EntryCount
from mgcli.cache.errors import CacheError
from mgcli.cache.failures import SHARES_FOLDER
from mgcli.cache.feature_set import SPEC_FILE, FeatureSet
from mgcli.cache.part import open_part, pack_clips, part_class, part_name, part_number
from mgcli.cache.place import children, is_file, is_remote, remove_tree, tree_state, upload
from mgcli.cache.store import CLIPS_FOLDER, REMOVED_FILE, FeatureCache
from mgcli.cache.stored_entries import companion_kinds, plan_lots, read_lot

PART_BYTES = 256 << 20  # of a compacted part
_FEWEST_DIGITS = 4  # of a fingerprint, to delete its feature set
GARBAGE_AGE_S = 24 * 3600.0  # a writer that has been silent for so long is dead


@dataclass(frozen=True)
class GarbageReport:
    """What `collect_garbage` removed, or would remove."""

    removed: list[str]  # relative to the cache
    num_bytes: int
    kept: int  # leftovers too young to be sure that their writer is dead

    def summary(self) -> str:
        """The report for people."""
        young = f"; {self.kept} too young to touch (see --older-than-h)" if self.kept else ""
        lines = [f"{len(self.removed)} leftover(s), {self.num_bytes / 1e6:.1f} MB{young}"]
        return "\n".join(lines + [f"  {name}" for name in self.removed])

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return vars(self)


@dataclass(frozen=True)
class CompactReport:
    """What `compact` did to one feature set."""

    feature_set: str
    count: EntryCount  # what it holds, before and after
    parts_before: int
    parts_after: int
    duplicates: int  # entries that another part held too, now gone

    def summary(self) -> str:
        """The report for people."""
        if self.parts_before == self.parts_after and not self.duplicates:
            return f"{self.feature_set}: {self.count} in {self.parts_after} part(s), nothing to do"
        gone = f", {self.duplicates} duplicate(s) removed" if self.duplicates else ""
        return f"{self.feature_set}: {self.count}; {self.parts_before} -> {self.parts_after} part(s){gone}"

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        parts = {"parts_before": self.parts_before, "parts_after": self.parts_after}
        return {"feature_set": self.feature_set, **self.count.to_json(), **parts, "duplicates": self.duplicates}


def compact(
    features: FeatureSet,
    *,
    part_bytes: int = PART_BYTES,
    progress: Callable[[list[int]], Iterable[int]] = iter,
) -> CompactReport:
    """Write all entries anew, in order of their clip ids, in parts of about `part_bytes`; then remove the old parts.

    Readers and writers may go on meanwhile. Killed at any moment it leaves every clip, some of them twice.

    Args:
        features: which set.
        part_bytes: of the tokens of a new part.
        progress: wraps the list of the new parts' numbers, to show how far it is.

    Raises:
        CacheError: a damaged part, or too little space: nothing is lost.
    """
    features.refresh()
    reader = features.reader
    index, old = reader.index, reader.parts  # not the parts that may have come since
    winners = index.winners
    ids = index.clip_ids(winners)
    source, view = index.entries["source"][winners], index.entries["view"][winners]
    count = features.count()
    kind = companion_kinds(reader, winners)
    order = sorted(range(len(winners)), key=lambda i: (kind[i], ids[i], view[i], source[i]))
    entries = winners[np.array(order, dtype=np.int64)]
    lots = plan_lots(reader, entries, part_bytes)
    duplicates = len(index) - len(winners)
    in_order = not duplicates and bool((np.diff(entries) > 0).all())
    if in_order and len(old) <= len(lots) and {part.format for part in old} <= {features.format}:
        return CompactReport(features.name, count, len(old), len(old), 0)
    tokens_bytes = int(index.entries["count"][entries].sum()) * features.spec.dim * reader.dtype.itemsize
    free = free_bytes(features.path)
    if free < tokens_bytes * 1.05:  # what stands beside the tokens takes space too
        raise CacheError(
            f"compacting {features.name} needs {tokens_bytes / 1e9:.1f} GB for the new parts before the old ones go, "
            f"and {features.path} has {free / 1e9:.1f} GB free; make space first"
        )
    # The new parts take the lowest number, so that they come before every part that others write meanwhile:
    # they hold what counts, and stay what counts.
    number = min(part.number for part in old)
    cls, folder = part_class(features.format), features.path / "parts"
    for place in progress(list(range(len(lots)))):
        arrays, attributes = pack_clips(read_lot(reader, lots[place]), features.spec.fingerprint)
        with writing(folder):
            cls.write(folder / part_name(number, cls.suffix, place), arrays, attributes)
    for part in reversed(old):
        with writing(folder):
            part.remove()
    features.refresh()
    return CompactReport(features.name, count, len(old), len(lots), duplicates)


def collect_garbage(cache: FeatureCache, *, age_s: float = GARBAGE_AGE_S, dry_run: bool = False) -> GarbageReport:
    """Remove what killed writers left: temporary files, parts and feature sets that were never committed.

    Args:
        cache: which.
        age_s: what was touched since is left alone: its writer may be alive.
        dry_run: only say what would be removed.
    """
    with reading(cache.path):
        leftovers = _leftovers(cache)
    removed, num_bytes, kept = [], 0, 0
    for path in sorted(leftovers):
        try:
            size, touched_s = tree_state(path)
        except FileNotFoundError:  # its writer finished, or cleared up after itself
            continue
        if touched_s > time.time() - age_s:
            kept += 1
            continue
        removed.append(path.relative_to(cache.path).as_posix())
        num_bytes += size
        if not dry_run:
            with writing(path):
                remove_tree(path)
    return GarbageReport(removed, num_bytes, kept)


def _leftovers(cache: FeatureCache) -> list[Path]:
    """Temporary files, and parts and feature sets without what commits them."""
    found = []
    lost = cache.folders_without_spec()  # verify names them
    for path in children(cache.path):
        if path.name.startswith(TEMPORARY_PREFIX):
            found.append(path)
        elif path.name == CLIPS_FOLDER:
            found += [each for each in children(path) if each.name.startswith(TEMPORARY_PREFIX)]
        elif "--" in path.name and (is_remote(path) or path.is_dir()):
            if not is_file(path / SPEC_FILE) and path not in lost:
                found.append(path)
                continue
            for folder in (path, path / SHARES_FOLDER):
                found += [each for each in children(folder) if each.name.startswith(TEMPORARY_PREFIX)]
            parts = children(path / "parts")
            found += [each for each in parts if each.name.startswith(TEMPORARY_PREFIX)]
            unfinished = [each for each in parts if each.suffix == ".zarr" and part_number(each.name) >= 0]
            found += [each for each in unfinished if open_part(each) is None]
    return found


def remove_feature_set(cache: FeatureCache, name: str) -> Path:
    """Delete one feature set, named as `FeatureCache.set_folder` takes it.

    It stops being a feature set at once, so that a kill half-way leaves no half set behind, only work for `gc`.

    Raises:
        CacheError: none or several fit the name, or it is too short to delete by.
    """
    folder = cache.set_folder(name)
    if name != folder.name and len(name) < _FEWEST_DIGITS:
        raise CacheError(
            f"{name!r} is short for a name to delete by; give {_FEWEST_DIGITS} digits of the fingerprint or more, "
            f"or the folder's name: {folder.name}"
        )
    with writing(folder):
        if is_remote(folder):
            upload({REMOVED_FILE: b"by mgcli cache rm\n"}, folder)
            remove_tree(folder / SPEC_FILE)
            remove_tree(folder / "parts")
            remove_tree(folder)
        else:
            doomed = folder.rename(cache.path / f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}-{folder.name}")
            remove_tree(doomed)
    return folder
