"""The cache: a folder of feature sets and clip tables, opened in an instant and read by clip id."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mgcli.cache.clips import SOURCE_COLUMNS, check_clip_table, clip_table_csv
from mgcli.cache.durable import committed_file, writing
from mgcli.cache.errors import CacheError
from mgcli.cache.part import PART_FORMATS, Part, from_stored, open_part, part_class
from mgcli.cache.spec import FORMAT_VERSION, FeatureSpec
from mgcli.cache.writer import FeatureWriter

_CACHE_FILE = "mgcache.json"
_SPEC_FILE = "spec.json"
_FAILURES_FILE = "failures.csv"
_FAILURE_COLUMNS = ["clip_id", "stage", "reason"]


@dataclass(frozen=True)
class Failure:
    """A clip that gave no tokens, and why."""

    clip_id: str
    stage: str  # decode, skeleton, forward, ...
    reason: str


@dataclass(frozen=True)
class _Entry:
    """Where one clip's tokens lie."""

    part: Part
    start: int  # first row
    stop: int  # one past the last row


def open_cache(path: str | Path, *, create: bool = False, format: str = "hdf5") -> FeatureCache:
    """Open the cache in a folder.

    Args:
        path: the cache's folder.
        create: make an empty cache where there is none.
        format: of the parts that a new cache will hold: hdf5 or zarr. A cache keeps the format it was made with.

    Raises:
        CacheError: no cache there, not a cache, a newer format, or no permission.
    """
    path = Path(path)
    if format not in PART_FORMATS:
        raise CacheError(f"unknown cache format {format!r}; known: {', '.join(PART_FORMATS)}")
    if path.exists() and not path.is_dir():
        raise CacheError(f"the cache path {path} is a file; choose a folder with --cache DIR")
    marker = path / _CACHE_FILE
    if not marker.is_file():
        if not create:
            raise CacheError(
                f"no cache in {path}; fill one with: mgcli extract --modality video, or mgcli cache import"
            )
        if path.is_dir() and any(path.iterdir()):
            raise CacheError(f"{path} holds other files and no {_CACHE_FILE}; choose an empty folder with --cache DIR")
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
            made = {
                "format_version": FORMAT_VERSION,
                "created_by": f"mgcli {version('mgcli')}",
                "format": format,
            }
            with committed_file(marker) as temporary:
                temporary.write_text(json.dumps(made, indent=1) + "\n")
    settings = _read_json(marker)
    found = settings.get("format_version")
    if found != FORMAT_VERSION:
        raise CacheError(
            f"the cache {path} has format version {found}; this mgcli reads version {FORMAT_VERSION}. "
            "Upgrade with: pip install -U mgcli"
        )
    if settings.get("format") not in PART_FORMATS:
        raise CacheError(f"{marker}: unknown format {settings.get('format')!r}; known: {', '.join(PART_FORMATS)}")
    return FeatureCache(path, settings["format"])


class FeatureCache:
    """A cache folder; make one with `open_cache`."""

    def __init__(self, path: Path, format: str) -> None:
        self.path = path
        self.format = format

    def feature_sets(self) -> list[FeatureSet]:
        """Every feature set, in name order."""
        specs = sorted(self.path.glob(f"*--*/{_SPEC_FILE}"))
        return [FeatureSet.open(file.parent, self.format) for file in specs if not file.parent.name.startswith(".")]

    def feature_set(self, modality: str, selector: str | None = None) -> FeatureSet:
        """The one feature set of a modality.

        Args:
            modality: video, pose, ...
            selector: start of a fingerprint, or a backbone's name, where the modality has several sets.

        Raises:
            CacheError: none, or more than one; the message lists what there is.
        """
        all_sets = self.feature_sets()
        of_modality = [each for each in all_sets if each.spec.modality == modality]
        if not of_modality:
            there = ", ".join(dict.fromkeys(each.spec.modality for each in all_sets)) or "nothing"
            raise CacheError(
                f"no tokens of {modality!r} in {self.path} (it holds: {there}). "
                f"Run: mgcli extract --modality {modality}"
            )
        wanted = selector or ""
        chosen = [s for s in of_modality if s.spec.fingerprint.startswith(wanted) or s.spec.backbone == wanted]
        if len(chosen) == 1:
            return chosen[0]
        listed = "; ".join(f"{each.spec.fingerprint}: {each.describe()}" for each in chosen or of_modality)
        if not chosen:
            raise CacheError(f"no feature set of {modality!r} is named {selector!r}; there are: {listed}")
        raise CacheError(
            f"{len(chosen)} feature sets of {modality!r}; choose one with "
            f"--features {modality}={chosen[0].spec.fingerprint}: {listed}"
        )

    def create_feature_set(self, spec: FeatureSpec, provenance: dict[str, Any] | None = None) -> FeatureSet:
        """Open the feature set of this spec, made first where there is none.

        Args:
            spec: what decides the tokens.
            provenance: what does not (versions, device, host); kept beside the spec of a new set.
        """
        path = self.path / spec.name
        if not (path / _SPEC_FILE).is_file():
            content = {
                "spec": spec.to_dict(),
                "fingerprint": spec.fingerprint,
                "provenance": provenance or {},
            }
            with writing(path):
                (path / "parts").mkdir(parents=True, exist_ok=True)
                with committed_file(path / _SPEC_FILE) as temporary:
                    temporary.write_text(json.dumps(content, indent=1) + "\n")
        return FeatureSet.open(path, self.format)

    def write_clips(self, table: pd.DataFrame, protocol: str) -> Path:
        """Keep a clip table under its protocol and content; it becomes the protocol's newest.

        A table without sources that otherwise equals the newest one changes nothing: the sources that
        stage one wrote stay.
        """
        protocol = re.sub(r"[^A-Za-z0-9._-]+", "_", protocol)
        newest = self._newest_clips(protocol)
        sources = [column for column in SOURCE_COLUMNS if column in table]
        if newest is not None and (table[sources] == "").all(axis=None):
            kept = clip_table_csv(_read_stored_clips(newest).assign(**dict.fromkeys(SOURCE_COLUMNS, "")))
            if kept == clip_table_csv(table.assign(**dict.fromkeys(SOURCE_COLUMNS, ""))):
                return newest
        content = clip_table_csv(table)
        path = self.path / "clips" / f"{protocol}--{hashlib.sha256(content).hexdigest()[:8]}.csv"
        with writing(path):
            path.parent.mkdir(exist_ok=True)
            if path.exists():
                os.utime(path)
            else:
                with committed_file(path) as temporary:
                    temporary.write_bytes(content)
        return path

    def read_clips(self, protocol: str | None = None) -> pd.DataFrame:
        """The newest clip table of a protocol, or of all where none is named; `attrs["path"]` says which.

        Raises:
            CacheError: there is none.
        """
        newest = self._newest_clips(protocol)
        if newest is None:
            what = f"no clip table of protocol {protocol!r}" if protocol else "no clip table"
            raise CacheError(f"{what} in {self.path}; run mgcli extract or mgcli cache import, or give --clips FILE")
        table = _read_stored_clips(newest)
        table.attrs["path"] = str(newest)
        return table

    def info(self) -> dict[str, Any]:
        """What the cache holds, as plain JSON values."""
        sets = [each.info() for each in self.feature_sets()]
        return {"path": str(self.path), "format_version": FORMAT_VERSION, "feature_sets": sets}

    def _newest_clips(self, protocol: str | None) -> Path | None:
        tables = list((self.path / "clips").glob(f"{protocol or '*'}--????????.csv"))
        return max(tables, key=lambda path: (path.stat().st_mtime_ns, path.name), default=None)


class FeatureSet:
    """All clips' tokens of one modality and one fingerprint. Only committed parts are seen."""

    def __init__(self, path: Path, spec: FeatureSpec, provenance: dict[str, Any], format: str) -> None:
        self.path = path
        self.name = path.name
        self.spec = spec
        self.provenance = provenance
        self.format = format
        self._parts: dict[str, Part] = {}

    @classmethod
    def open(cls, path: Path, format: str) -> FeatureSet:
        """Open the feature set in a folder; `format` is what its writer will write.

        Raises:
            CacheError: `spec.json` cannot be read, or does not fit the folder's name.
        """
        file = path / _SPEC_FILE
        content = _read_json(file)
        spec = FeatureSpec.from_dict(content.get("spec", {}), str(file))
        if spec.name != path.name:
            raise CacheError(
                f"{file} describes {spec.name}, but lies in {path.name}: it was edited, or the folder renamed. "
                f"Restore it, or remove the set with: mgcli cache rm {path.name}"
            )
        return cls(path, spec, content.get("provenance", {}), format)

    def describe(self) -> str:
        """One line for people: backbone, layout, weights, clips."""
        spec = self.spec
        return f"{spec.backbone}, {spec.tokens} tokens, weights {spec.weights}, {len(self._index)} clips"

    def parts(self) -> list[Part]:
        """The committed parts, in name order."""
        found = {}
        for path in sorted((self.path / "parts").glob("*")):
            part = self._parts.get(path.name) or open_part(path)
            if part is not None:
                found[path.name] = part
        self._parts = found
        return list(found.values())

    def refresh(self) -> None:
        """See parts that were committed since the last look."""
        self.__dict__.pop("_index", None)
        self.__dict__.pop("_sources", None)

    @cached_property
    def _index(self) -> dict[tuple[str, int, int], _Entry]:
        """(clip id, source, view) -> where its tokens lie; the first part in name order wins."""
        index: dict[tuple[str, int, int], _Entry] = {}
        for part in self.parts():
            _ = part.attributes  # a part of a newer format stops here
            offset = part.offset.tolist()
            keys = zip(part.clip_id, part.source.tolist(), part.view.tolist(), strict=True)
            for i, key in enumerate(keys):
                index.setdefault(key, _Entry(part, offset[i], offset[i + 1]))
        return index

    @cached_property
    def _sources(self) -> dict[tuple[str, int], list[int]]:
        sources: dict[tuple[str, int], list[int]] = {}
        for clip_id, source, view in self._index:
            sources.setdefault((clip_id, view), []).append(source)
        return sources

    def clips(self) -> pd.DataFrame:
        """One row per entry: clip_id, source (16 hex digits), view, num_tokens, part."""
        rows = [
            (clip_id, f"{source:016x}", view, entry.stop - entry.start, entry.part.name)
            for (clip_id, source, view), entry in self._index.items()
        ]
        return pd.DataFrame(rows, columns=["clip_id", "source", "view", "num_tokens", "part"])

    def has(self, clip_id: str, source: str, view: int = 0) -> bool:
        """Whether this entry is committed; `source` in hex digits."""
        return (clip_id, int(source, 16), view) in self._index

    def load(
        self, clip_ids: Sequence[str], *, sources: Sequence[str] | None = None, view: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of some clips, in the order asked for.

        Args:
            clip_ids: which clips.
            sources: the source of each, in hex, as the clip table names it; without it (or where it is
                empty) the clip must have just one.
            view: 0 the plain view; 1 and up augmented ones.

        Returns:
            tokens (R, D), float16 or float32, and offsets (n + 1,) int64: clip i owns rows
            offsets[i]:offsets[i + 1]. The tokens are a read-only view of the memory map where the clips
            lie one after another in one part, a copy otherwise.

        Raises:
            CacheError: clips that are not here, or that have several sources.
        """
        entries = self._find(clip_ids, sources, view)
        offsets = np.concatenate([[0], np.cumsum([entry.stop - entry.start for entry in entries])]).astype(np.int64)
        if not entries:
            return np.empty((0, self.spec.dim), np.float32), offsets
        first, last = entries[0], entries[-1]
        in_a_row = all(a.part is b.part and a.stop == b.start for a, b in pairwise(entries))
        if in_a_row:
            return from_stored(first.part.tokens(first.start, last.stop), self.spec.dtype), offsets
        stored = np.empty((int(offsets[-1]), self.spec.dim), first.part.tokens(first.start, first.start + 1).dtype)
        by_place = sorted(range(len(entries)), key=lambda i: (entries[i].part.name, entries[i].start))
        for i in by_place:
            stored[offsets[i] : offsets[i + 1]] = entries[i].part.tokens(entries[i].start, entries[i].stop)
        return from_stored(stored, self.spec.dtype), offsets

    def load_times(
        self, clip_ids: Sequence[str], *, sources: Sequence[str] | None = None, view: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Centre times and validity of the tokens that `load` gives, (R,) float32 and (R,) bool."""
        entries = self._find(clip_ids, sources, view)
        times = [entry.part.time_s[entry.start : entry.stop] for entry in entries]
        valid = [entry.part.valid[entry.start : entry.stop] for entry in entries]
        return np.concatenate([np.empty(0, np.float32), *times]), np.concatenate([np.empty(0, bool), *valid])

    def writer(self, *, part_bytes: int = 64 << 20) -> FeatureWriter:
        """A writer that commits parts of about `part_bytes` to this set; use it in a `with` block."""
        return FeatureWriter(self.path / "parts", self.spec, part_class(self.format), part_bytes, self.refresh)

    def write_failures(self, failures: Sequence[Failure]) -> Path:
        """Replace the list of failed clips."""
        rows = [(failure.clip_id, failure.stage, failure.reason) for failure in failures]
        path = self.path / _FAILURES_FILE
        with writing(path), committed_file(path) as temporary:
            pd.DataFrame(rows, columns=_FAILURE_COLUMNS).to_csv(temporary, index=False)
        return path

    def failures(self) -> pd.DataFrame:
        """The clips that failed in the last run: clip_id, stage, reason."""
        path = self.path / _FAILURES_FILE
        if not path.is_file():
            return pd.DataFrame(columns=_FAILURE_COLUMNS)
        return pd.read_csv(path, dtype=str, keep_default_na=False)

    def info(self) -> dict[str, Any]:
        """What the set holds, as plain JSON values; `tokens` counts rows."""
        parts = self.parts()
        spec = self.spec
        return {
            "modality": spec.modality,
            "backbone": spec.backbone,
            "fingerprint": spec.fingerprint,
            "weights": spec.weights,
            "layout": spec.tokens,
            "format": "+".join(sorted({part.format for part in parts})) or self.format,
            "clips": len(self._index),
            "tokens": sum(entry.stop - entry.start for entry in self._index.values()),
            "dim": spec.dim,
            "dtype": spec.dtype,
            "bytes": sum(part.num_bytes for part in parts),
            "parts": len(parts),
            "failures": len(self.failures()),
        }

    def _find(self, clip_ids: Sequence[str], sources: Sequence[str] | None, view: int) -> list[_Entry]:
        if sources is not None and len(sources) != len(clip_ids):
            raise ValueError(f"{len(clip_ids)} clip ids but {len(sources)} sources")
        entries, missing = [], []
        for i, clip_id in enumerate(clip_ids):
            given = sources[i] if sources is not None and self.spec.source_column else ""
            known = [int(given, 16)] if given else self._sources.get((clip_id, view), [])
            if len(known) > 1:
                raise CacheError(
                    f"clip {clip_id!r} has tokens of {len(known)} sources in {self.name} (its video or interval "
                    f"changed); run mgcli extract --modality {self.spec.modality} so that the clip table names one"
                )
            entry = self._index.get((clip_id, known[0], view)) if known else None
            if entry is None:
                missing.append(clip_id)
            else:
                entries.append(entry)
        if missing:
            near = get_close_matches(missing[0], [key[0] for key in self._index][:10_000], n=1)
            hint = f" (did you mean {near[0]!r}?)" if near and near[0] not in missing else ""
            shown = ", ".join(map(repr, missing[:5])) + (" ..." if len(missing) > 5 else "")
            raise CacheError(f"{self.name} has no tokens of {len(missing)} clip(s): {shown}{hint}")
        return entries


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CacheError(f"{path} is missing; restore it from a copy of the cache") from None
    except PermissionError:
        raise CacheError(f"no permission to read {path}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CacheError(f"{path} is damaged ({error}); restore it from a copy of the cache") from None
    if not isinstance(content, dict):
        raise CacheError(f"{path} is damaged: it holds no JSON object; restore it from a copy of the cache")
    return content


def _read_stored_clips(path: Path) -> pd.DataFrame:
    return check_clip_table(pd.read_csv(path, dtype=str, keep_default_na=False), str(path))
