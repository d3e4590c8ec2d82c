"""Bring in tokens that other programs made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mgcli.cache.errors import CacheError, NonFiniteTokensError
from mgcli.cache.exchange import ClipError, ClipSource, ClipValues, open_source
from mgcli.cache.failures import Failure
from mgcli.cache.feature_set import FeatureSet
from mgcli.cache.part import array_checksum, from_stored, to_stored
from mgcli.cache.progress import Progress
from mgcli.cache.spec import FeatureSpec
from mgcli.cache.store import FeatureCache

_SOURCE = "0" * 16  # of imported tokens


@dataclass(frozen=True)
class ImportReport:
    """What one import did."""

    feature_set: str
    done: int
    skipped: int  # already there, with the same tokens
    failures: list[Failure]
    absent: list[str]  # clips of the table that the file does not hold
    unknown: list[str]  # keys of the file that the table does not hold

    def summary(self) -> str:
        """The report for people."""
        lines = [f"{self.feature_set}: {self.done} clip(s) imported, {self.skipped} already there"]
        for count, what, names in (
            (len(self.failures), "could not be taken", [f"{f.clip_id} {f.reason}" for f in self.failures]),
            (len(self.absent), "of the clip table are not in the file", self.absent),
            (len(self.unknown), "of the file are not in the clip table", self.unknown),
        ):
            if count:
                lines.append(f"  {count} {what}: {'; '.join(names[:5])}{' ...' if count > 5 else ''}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return {
            "feature_set": self.feature_set,
            "done": self.done,
            "skipped": self.skipped,
            "failed": len(self.failures),
            "absent": len(self.absent),
            "unknown": len(self.unknown),
            "failures": [{"clip_id": each.clip_id, "reason": each.reason} for each in self.failures],
        }


def import_features(
    cache: FeatureCache,
    file: Path,
    modality: str,
    backbone: str,
    table: pd.DataFrame,
    *,
    protocol: str,
    key: str | None = None,
    pattern: str | None = None,
    progress: bool = True,
) -> ImportReport:
    """Store the tokens of a file or folder as a feature set, and the clip table beside them.

    Args:
        cache: where to.
        file: `.npz`, `.safetensors`, or `.h5` / `.hdf5` keyed by clip id; or a folder with one `.npy` or `.npz`
            a clip. Arrays (N, D), or (D,) for one token; float32, float16 and bfloat16 stay what they are, other
            types become float32.
        modality: under which name stage two will find them.
        backbone: what made them, for the tables.
        table: a checked clip table; its clips are taken, other keys of the file are left out.
        protocol: name under which the table is kept.
        key: name of the array, where a clip has several.
        pattern: of the file names in a folder, such as `{clip_id}_i3d_rgb.npy`.
        progress: show it on stderr.

    Returns:
        A report; a clip with NaN, a wrong shape or a wrong width is listed there and the others go on.

    Raises:
        CacheError: the file cannot be read or holds no clip of the table, or a clip is already in the
            cache with other tokens.
    """
    with open_source(file, key, pattern) as source:
        there, known = set(source.ids()), set(table["clip_id"])
        ids = [clip_id for clip_id in table["clip_id"] if clip_id in there]
        failures = [Failure(name, "import", why) for name, why in source.refused.items() if name in known]
        if not ids:
            raise CacheError(_nothing_to_take(file, source))
        first = _first_good(source, ids, file)
        spec = FeatureSpec(
            modality=modality,
            backbone=backbone,
            reads="imported",
            weights="imported",
            weights_sha256="",
            tokens="imported",
            dim=first.tokens.shape[1],
            dtype=first.dtype,
            precision="float32",
        )
        features = cache.create_feature_set(spec, {"file": file.name})
        spans = dict(zip(table["clip_id"], zip(table["start_s"], table["end_s"], strict=True), strict=True))
        done = skipped = 0
        with features.writer() as writer, Progress("import", len(ids), unit="clip", shown=progress) as bar:
            for clip_id in ids:
                bar.step()
                try:
                    clip = _fitting(source.read(clip_id), spec)
                    if features.has(clip_id, _SOURCE):
                        _check_same(features, clip_id, clip.tokens)
                        skipped += 1
                        continue
                    time_s = _spread_times(len(clip.tokens), *spans[clip_id]) if clip.time_s is None else clip.time_s
                    writer.add(clip_id, clip.tokens, time_s=time_s, valid=clip.valid)
                except (ClipError, NonFiniteTokensError) as error:
                    failures.append(Failure(clip_id, "import", str(error)))
                    continue
                done += 1
                writer.commit_if_due()
        features.write_failures(failures)
    cache.write_clips(table, protocol)
    absent = [clip_id for clip_id in table["clip_id"] if clip_id not in there and clip_id not in source.refused]
    unknown = sorted((there | set(source.refused)) - known)
    return ImportReport(features.name, done, skipped, failures, absent, unknown)


def _nothing_to_take(file: Path, source: ClipSource) -> str:
    ids: Sequence[str] = source.ids()
    if source.refused and not ids:
        name, why = next(iter(source.refused.items()))
        return f"{file} holds no clip that can be taken; {name!r} {why}"
    some = ", ".join(map(repr, ids[:3])) or "none"
    hint = "; if file names hold more than that, give --pattern '{clip_id}_i3d_rgb.npy'" if file.is_dir() else ""
    return f"{file} holds no clip of the clip table; its keys are clip ids such as: {some}{hint}"


def _first_good(source: ClipSource, ids: Sequence[str], file: Path) -> ClipValues:
    """The first clip that can be taken; its width and type are those of the feature set."""
    problem = ""
    for clip_id in ids:
        try:
            return source.read(clip_id)
        except ClipError as error:
            problem = problem or f"clip {clip_id!r} {error}"
    raise CacheError(f"{file} holds no clip that can be taken; {problem}")


def _fitting(clip: ClipValues, spec: FeatureSpec) -> ClipValues:
    """The clip, if it has the width of the others and nothing is lost in their type."""
    if clip.tokens.shape[1] != spec.dim:
        raise ClipError(f"has tokens {clip.tokens.shape[1]} wide; the others are {spec.dim} wide")
    if spec.dtype not in ("float32", clip.dtype):
        raise ClipError(f"is {clip.dtype}, the others {spec.dtype}: it would lose digits; save all in one type")
    return clip


def _spread_times(num_tokens: int, start_s: float, end_s: float) -> np.ndarray:
    """(N,) centre times of tokens spread evenly over the clip, over [0, 1] where its interval is not known."""
    middles = (np.arange(num_tokens) + 0.5) / num_tokens
    return start_s + middles * (end_s - start_s) if np.isfinite(end_s - start_s) else middles


def _check_same(features: FeatureSet, clip_id: str, tokens: np.ndarray) -> None:
    stored, _ = features.load([clip_id])
    dtype = features.spec.dtype
    same = from_stored(to_stored(tokens, dtype, clip_id), dtype)
    if stored.shape != same.shape or array_checksum(stored) != array_checksum(same):
        raise CacheError(
            f"clip {clip_id!r} is already in {features.name} with other tokens; "
            f"give --backbone another name, or first run: mgcli cache rm {features.name}"
        )
