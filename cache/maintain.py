"""Look after a cache: check every byte, remove what is not wanted."""

from __future__ import annotations

import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgcli.cache.durable import TEMPORARY_PREFIX, writing
from mgcli.cache.errors import CacheError
from mgcli.cache.part import Problem
from mgcli.cache.store import FeatureCache, FeatureSet


@dataclass(frozen=True)
class VerifyReport:
    """What `verify_cache` found."""

    parts: int
    clips: int
    problems: list[Problem]
    duplicates: list[Problem]  # harmless: the first part in name order wins

    @property
    def ok(self) -> bool:
        """No fault; duplicates are no fault."""
        return not self.problems

    def summary(self) -> str:
        """The report for people: one line, then one for each fault and each duplicate."""
        counted = f"{self.parts} part(s), {self.clips} clip(s) checked"
        lines = [f"ok: {counted}" if self.ok else f"NOT OK: {len(self.problems)} problem(s); {counted}"]
        for kind, problems in (("problem", self.problems), ("duplicate (harmless)", self.duplicates)):
            lines += [f"  {kind}: {' '.join(filter(None, (p.part, p.clip_id, p.problem)))}" for p in problems]
        if not self.ok:
            lines.append("  keep a copy, delete the parts named above, and extract again: only their clips are missing")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return {
            "ok": self.ok,
            "parts": self.parts,
            "clips": self.clips,
            "problems": [problem.to_json() for problem in self.problems],
            "duplicates": [problem.to_json() for problem in self.duplicates],
        }


def verify_cache(cache: FeatureCache) -> VerifyReport:
    """Check every part of every feature set: readable, shapes, offsets, ids, all checksums, duplicates.

    A part that fails is reported and left as it is.
    """
    num_parts = num_clips = 0
    problems: list[Problem] = []
    duplicates: list[Problem] = []
    for folder in sorted(path.parent for path in cache.path.glob("*--*/spec.json")):
        try:
            features = FeatureSet.open(folder, cache.format)
        except CacheError as error:
            problems.append(Problem(folder.name, "", str(error)))
            continue
        seen: dict[tuple[str, int, int], str] = {}
        for part in features.parts():
            num_parts += 1
            spec = features.spec
            found = part.find_problems(spec.fingerprint, spec.dtype, spec.dim)
            problems += [Problem(f"{folder.name}/{each.part}", each.clip_id, each.problem) for each in found]
            if found:
                continue
            num_clips += len(part.clip_id)
            for key in zip(part.clip_id, part.source.tolist(), part.view.tolist(), strict=True):
                first = seen.setdefault(key, part.name)
                if first != part.name:
                    text = f"is also in {first}, which wins"
                    duplicates.append(Problem(f"{folder.name}/{part.name}", key[0], text))
    return VerifyReport(num_parts, num_clips, problems, duplicates)


def remove_feature_set(cache: FeatureCache, name: str) -> Path:
    """Delete one feature set, named by its folder or by the start of its fingerprint.

    The folder is renamed first, so that a kill half-way leaves no half set behind.

    Raises:
        CacheError: none or several fit the name.
    """
    folders = [path.parent for path in cache.path.glob("*--*/spec.json") if not path.parent.name.startswith(".")]
    fitting = [f for f in folders if f.name == name or f.name.rsplit("--", 1)[-1].startswith(name)]
    if len(fitting) != 1:
        there = ", ".join(sorted(folder.name for folder in fitting or folders)) or "none"
        raise CacheError(f"{len(fitting)} feature sets fit {name!r}; name one of: {there}")
    with writing(fitting[0]):
        doomed = fitting[0].rename(cache.path / f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}-{fitting[0].name}")
        shutil.rmtree(doomed)
    return fitting[0]
