"""Check a cache: every file that a reader believes, every byte of every part."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, repeat
from pathlib import Path
from typing import Any

import numpy as np

from mgcli.cache.durable import checked_json
from mgcli.cache.entries import EntryIndex, expect_fingerprint
from mgcli.cache.entry_count import EntryCount
from mgcli.cache.errors import CacheError
from mgcli.cache.feature_set import SPEC_FILE, FeatureSet
from mgcli.cache.interrupt import WorkerPool
from mgcli.cache.part import (
    ARRAY_DTYPES,
    STORED_NUMPY_DTYPES,
    Part,
    PartRefusedError,
    array_checksum,
    attributes_checksum,
    open_part,
    unreadable,
)
from mgcli.cache.place import is_remote
from mgcli.cache.spec import FeatureSpec
from mgcli.cache.store import CACHE_FILE, FeatureCache, clip_table_content

_PARALLEL_FROM_BYTES = 1 << 30  # below it, starting processes takes longer than checking
_READ_ROWS_BYTES = 16 << 20  # of tokens that are not mapped, read at once


@dataclass(frozen=True)
class Problem:
    """One fault, or one duplicate, that `verify_cache` found."""

    part: str
    clip_id: str  # empty where the fault is not one clip's
    problem: str
    damaged: bool = True  # False: `problem` says what to do, and nothing is to be deleted

    def to_json(self) -> dict[str, str]:
        """The problem as a JSON object."""
        return {"part": self.part, "clip_id": self.clip_id, "problem": self.problem}


@dataclass(frozen=True)
class VerifyReport:
    """What `verify_cache` found."""

    parts: int
    count: EntryCount  # what sound parts hold; a clip of several feature sets is one clip
    problems: list[Problem]
    duplicates: list[Problem]  # harmless: the first part in name order wins
    fast: bool  # the tokens' bytes were not looked at

    @property
    def ok(self) -> bool:
        """No fault; duplicates are no fault."""
        return not self.problems

    def summary(self) -> str:
        """The report for people: one line, then one for each fault and each duplicate."""
        counted = f"{self.parts} part(s), {self.count} checked"
        counted += " (structure only, not the tokens)" if self.fast else ""
        lines = [f"ok: {counted}" if self.ok else f"NOT OK: {len(self.problems)} problem(s); {counted}"]
        for kind, problems in (("problem", self.problems), ("duplicate (harmless)", self.duplicates)):
            lines += [f"  {kind}: {' '.join(filter(None, (p.part, p.clip_id, p.problem)))}" for p in problems]
        if any(problem.damaged for problem in self.problems):
            named = "parts named above" if all(problem.damaged for problem in self.problems) else "damaged parts"
            lines.append(f"  keep a copy, delete the {named}, and extract again: only their clips are missing")
        elif self.ok and self.duplicates:
            lines.append("  the first part in name order wins; remove the others with: mgcli cache compact")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return {
            "ok": self.ok,
            "fast": self.fast,
            "parts": self.parts,
            **self.count.to_json(),
            "problems": [problem.to_json() for problem in self.problems],
            "duplicates": [problem.to_json() for problem in self.duplicates],
        }


@dataclass(frozen=True)
class _Checked:
    """What one part gave: its faults, or the index of its entries."""

    problems: list[tuple[str, str]]  # (clip id, problem)
    index: EntryIndex | None
    damaged: bool = True  # where it has problems: False if it may be sound


_GONE = _Checked([], None)  # compacted by another process since it was listed


def verify_cache(
    cache: FeatureCache,
    *,
    fast: bool = False,
    jobs: int | None = None,
    progress: Callable[[list[Part]], Iterable[Part]] = iter,
) -> VerifyReport:
    """Check the cache's own files, and every part of every feature set: readable, shapes, offsets, ids, checksums.

    A part that fails is reported and left as it is.

    Args:
        cache: which.
        fast: look at all but the bytes of the tokens.
        jobs: processes that check parts; None: one a core where there is enough to check.
        progress: wraps the list of parts, to show how far the check is.
    """
    problems = _cache_files_problems(cache)
    duplicates: list[Problem] = []
    num_parts = num_entries = num_views = 0
    clips: set[int] = set()  # hashes of their ids
    for folder in cache.set_folders():
        try:
            checked_json(folder / SPEC_FILE)
            features = FeatureSet.open(folder, cache.format)
        except CacheError as error:
            problems.append(Problem(folder.name, "", str(error), damaged=False))
            continue
        parts = features.parts()
        num_parts += len(parts)
        whole = EntryIndex.empty()
        indices = []
        for part, checked in zip(progress(parts), _check_parts(features, parts, fast, jobs), strict=True):
            name = f"{folder.name}/{part.name}"
            problems += [Problem(name, clip_id, text, checked.damaged) for clip_id, text in checked.problems]
            if checked.index is not None:
                indices.append(checked.index)
        whole = whole.joined(indices)
        num_entries += len(whole)
        num_views += int((whole.entries["view"] > 0).sum())
        clips.update(whole.entries["id_hash"].tolist())
        duplicates += _duplicates(folder.name, whole)
    return VerifyReport(num_parts, EntryCount(len(clips), num_entries, num_views), problems, duplicates, fast)


def _cache_files_problems(cache: FeatureCache) -> list[Problem]:
    """Faults of `mgcache.json`, of the clip tables, and of feature sets without the file that makes them one."""
    lost = "has parts but no spec.json: restore it from a copy, or extract again with the same settings"
    problems = [Problem(folder.name, "", lost, damaged=False) for folder in cache.folders_without_spec()]
    try:
        checked_json(cache.path / CACHE_FILE)
    except CacheError as error:
        problems.append(Problem(CACHE_FILE, "", str(error), damaged=False))
    for path in cache.clip_tables():
        try:
            clip_table_content(path)
        except CacheError as error:
            problems.append(Problem(f"clips/{path.name}", "", str(error), damaged=False))
    return problems


def _check_parts(features: FeatureSet, parts: Sequence[Part], fast: bool, jobs: int | None) -> Iterator[_Checked]:
    paths = [part.path for part in parts]
    arguments = (repeat(features.spec), repeat(fast))
    if jobs is None:
        much = not fast and sum(part.num_bytes for part in parts) >= _PARALLEL_FROM_BYTES
        jobs = min(len(parts), os.cpu_count() or 1) if much else 1
    if jobs <= 1:
        yield from map(_check_part, paths, *arguments)
        return
    with WorkerPool(jobs) as pool:
        yield from pool.map(_check_part, paths, *arguments)


def _check_part(path: Path, spec: FeatureSpec, fast: bool) -> _Checked:
    part = open_part(path)
    if part is None:
        return _GONE
    try:
        problems = list(_part_problems(part, spec, fast))
        return _Checked(problems, None if problems else EntryIndex.of_part(part, spec))
    except PartRefusedError as error:
        return _Checked([("", str(error))], None, damaged=False)
    except Exception as error:  # whatever the storage library trips over is what verify is for
        if not part.is_committed(path):
            return _GONE
        said = unreadable(path, error)
        if isinstance(said, PartRefusedError):
            return _Checked([("", str(said))], None, damaged=False)
        return _Checked([("", f"cannot be read: {error}")], None)


def _part_problems(part: Part, spec: FeatureSpec, fast: bool) -> Iterator[tuple[str, str]]:
    """(clip id, problem) for each fault; the first faults of the structure hide those that follow from them."""
    attributes = part.attributes
    if attributes.get("checksum") != attributes_checksum(attributes):
        yield "", "the attributes do not match their checksum"
        return
    expect_fingerprint(part, spec.fingerprint)
    if part.shown_attributes() != attributes:
        yield "", "the attributes that other programs see are not those of the part"
        return
    num_clips, num_rows = attributes["clips"], attributes["rows"]
    shapes = part.array_shapes()
    if shapes.get("tokens") != ((num_rows, spec.dim), np.dtype(STORED_NUMPY_DTYPES[spec.dtype])):
        yield "", f"tokens are {shapes.get('tokens')}, expected ({num_rows}, {spec.dim}) of {spec.dtype}"
        return
    if set(shapes) != {"tokens", *attributes["crc32c"]}:
        yield "", f"holds the arrays {sorted(shapes)}, expected {sorted(attributes['crc32c'])} and tokens"
        return
    entries = {"offset": num_clips + 1} | dict.fromkeys(("clip_id", "source", "view", "crc32c"), num_clips)
    wrong = [name for name, (shape, _) in shapes.items() if shape[0] != entries.get(name, num_rows)]
    wrong += [name for name, expected in ARRAY_DTYPES.items() if shapes[name][1] != expected]
    if wrong:
        found = {name: shapes[name] for name in wrong}
        yield "", f"arrays of wrong shape or type for {num_clips} clips and {num_rows} rows: {found}"
        return
    arrays = part.read_arrays(list(attributes["crc32c"]))
    damaged = [name for name, crc in attributes["crc32c"].items() if array_checksum(arrays[name]) != crc]
    if damaged:
        yield from (("", f"array {name} does not match its checksum") for name in damaged)
        return
    offset, ids = arrays["offset"], [str(clip_id) for clip_id in arrays["clip_id"]]
    if offset[0] != 0 or offset[-1] != num_rows or (np.diff(offset) < 1).any():
        yield "", "offsets do not divide the rows among the clips"
        return
    keys = Counter(zip(ids, arrays["source"].tolist(), arrays["view"].tolist(), strict=True))
    yield from ((key[0], f"{_of_view(key[2])}is in this part twice") for key, count in keys.items() if count > 1)
    if not fast:
        for i, checksum in enumerate(_token_checksums(part, offset)):
            if checksum != arrays["crc32c"][i]:
                yield ids[i], f"{_of_view(arrays['view'][i])}tokens do not match their checksum"


def _token_checksums(part: Part, offset: np.ndarray) -> Iterator[int]:
    """CRC-32C of every clip's tokens, from the raw bytes that a map would give, else through the library."""
    raw = part.raw_tokens()
    if raw is not None and not is_remote(part.path):
        tokens = np.memmap(part.token_file(part.path), raw.dtype, "r", raw.offset_bytes, raw.shape)
        yield from (array_checksum(tokens[start:stop]) for start, stop in pairwise(offset.tolist()))
        return
    row_bytes = (shape := part.array_shapes()["tokens"])[0][1] * shape[1].itemsize
    first = 0
    while first < len(offset) - 1:
        reach = offset[first] + max(1, _READ_ROWS_BYTES // row_bytes)
        last = max(first + 1, int(np.searchsorted(offset, reach, "right")) - 1)
        [rows] = part.read_rows("tokens", [(int(offset[first]), int(offset[last]))])
        for i in range(first, last):
            yield array_checksum(rows[offset[i] - offset[first] : offset[i + 1] - offset[first]])
        first = last


def _of_view(view: int) -> str:
    return f"(view {view}) " if view else ""


def _duplicates(name: str, index: EntryIndex) -> list[Problem]:
    """Entries whose key an earlier part holds too."""
    lost = np.setdiff1d(np.arange(len(index)), index.winners)
    found = []
    for row, clip_id in zip(lost.tolist(), index.clip_ids(lost), strict=True):
        source, view = int(index.entries["source"][row]), int(index.entries["view"][row])
        winner = index.names[index.entries["part"][index.find([clip_id], [source], view)[0]]]
        part = index.names[index.entries["part"][row]]
        found.append(Problem(f"{name}/{part}", clip_id, f"{_of_view(view)}is also in {winner}, which wins"))
    return found
