"""Bring in tokens that other programs made."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from mgcli.cache.errors import CacheError, MgcliError
from mgcli.cache.feature_set import Failure, FeatureSet
from mgcli.cache.part import array_checksum, to_stored
from mgcli.cache.spec import FeatureSpec
from mgcli.cache.store import FeatureCache


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
        }


def import_features(
    cache: FeatureCache,
    file: Path,
    modality: str,
    backbone: str,
    table: pd.DataFrame,
    *,
    protocol: str,
    progress: Callable[[list[str]], Iterator[str]] = iter,
) -> ImportReport:
    """Store the tokens of a file as a feature set, and the clip table beside them.

    Args:
        cache: where to.
        file: `.npz`, or `.h5` / `.hdf5` with a data set per clip, keyed by clip id: arrays (N, D), or (D,)
            for one token; float32 stays float32, float16 stays float16, other types become float32.
        modality: under which name stage two will find them.
        backbone: what made them, for the tables.
        table: a checked clip table; its clips are taken, other keys of the file are left out.
        protocol: name under which the table is kept.
        progress: wraps the list of clip ids, to show how far the import is.

    Returns:
        A report; a clip with NaN, a wrong shape or a wrong width is listed there and the others go on.

    Raises:
        CacheError: the file cannot be read or holds no clip of the table, or a clip is already in the
            cache with other tokens.
    """
    with _open_arrays(file) as arrays:
        ids = [clip_id for clip_id in table["clip_id"] if clip_id in arrays]
        absent = [clip_id for clip_id in table["clip_id"] if clip_id not in arrays]
        if not ids:
            some = ", ".join(map(repr, list(arrays)[:3])) or "none"
            raise CacheError(f"{file} holds no clip of the clip table; its keys are clip ids such as: {some}")
        unknown = sorted(set(arrays) - set(table["clip_id"]))
        first = _first_good(arrays, ids, file)
        spec = FeatureSpec(
            modality=modality,
            backbone=backbone,
            reads="imported",
            weights="imported",
            weights_sha256="",
            tokens="imported",
            dim=first.shape[1],
            dtype="float16" if first.dtype == np.float16 else "float32",
            precision="float32",
        )
        features = cache.create_feature_set(spec, {"file": file.name})
        spans = dict(zip(table["clip_id"], zip(table["start_s"], table["end_s"], strict=True), strict=True))
        failures: list[Failure] = []
        done = skipped = 0
        with features.writer() as writer:
            for clip_id in progress(ids):
                try:
                    tokens = _clip_array(arrays, clip_id, spec.dim)
                    if features.has(clip_id, "0"):
                        _check_same(features, clip_id, tokens)
                        skipped += 1
                        continue
                    writer.add(clip_id, tokens, time_s=_spread_times(len(tokens), *spans[clip_id]))
                    writer.commit_if_due()
                    done += 1
                except _ClipError as error:
                    failures.append(Failure(clip_id, "import", str(error)))
        features.write_failures(failures)
    cache.write_clips(table, protocol)
    return ImportReport(features.name, done, skipped, failures, absent, unknown)


class _ClipError(MgcliError):
    """One clip of an import that cannot be taken; the others go on."""


def _first_good(arrays: Mapping[str, Any], ids: list[str], file: Path) -> np.ndarray:
    """The first clip's array that can be taken; its width and type are those of the feature set."""
    problem = ""
    for clip_id in ids:
        try:
            return _clip_array(arrays, clip_id)
        except _ClipError as error:
            problem = problem or f"clip {clip_id!r} {error}"
    raise CacheError(f"{file} holds no clip that can be taken; {problem}")


def _clip_array(arrays: Mapping[str, Any], clip_id: str, dim: int | None = None) -> np.ndarray:
    """(N, D) tokens of one clip; any width where `dim` is None."""
    try:
        tokens = np.asarray(arrays[clip_id])
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise _ClipError(f"cannot be read: {error}") from None
    if tokens.dtype.kind not in "fiu":
        raise _ClipError(f"holds {tokens.dtype}, not numbers")
    tokens = tokens[None] if tokens.ndim == 1 else tokens
    if tokens.ndim != 2 or 0 in tokens.shape:
        raise _ClipError(f"has shape {tokens.shape}; expected (N, D) with N and D at least 1")
    if dim is not None and tokens.shape[1] != dim:
        raise _ClipError(f"has tokens {tokens.shape[1]} wide; the others are {dim} wide")
    if not np.isfinite(tokens).all():
        raise _ClipError("has tokens with NaN or infinity")
    return tokens


def _spread_times(num_tokens: int, start_s: float, end_s: float) -> np.ndarray:
    """(N,) centre times of tokens spread evenly over the clip, over [0, 1] where its interval is not known."""
    middles = (np.arange(num_tokens) + 0.5) / num_tokens
    return start_s + middles * (end_s - start_s) if np.isfinite(end_s - start_s) else middles


def _check_same(features: FeatureSet, clip_id: str, tokens: np.ndarray) -> None:
    stored, _ = features.load([clip_id])
    same = to_stored(tokens, features.spec.dtype, clip_id)
    if stored.shape != same.shape or array_checksum(stored) != array_checksum(same):
        raise CacheError(
            f"clip {clip_id!r} is already in {features.name} with other tokens; "
            f"give --backbone another name, or first run: mgcli cache rm {features.name}"
        )


@contextmanager
def _open_arrays(file: Path) -> Iterator[Mapping[str, Any]]:
    """The arrays of a file by clip id, read one by one."""
    if not file.is_file():
        raise CacheError(f"no file {file} to import")
    if file.suffix == ".npz":
        try:
            archive = np.load(file, allow_pickle=False)
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise CacheError(f"{file} is not a readable .npz archive: {error}") from None
        with archive:
            yield archive
    elif file.suffix in (".h5", ".hdf5"):
        try:
            opened = h5py.File(file, "r")
        except OSError as error:
            raise CacheError(f"{file} is not a readable HDF5 file: {error}") from None
        with opened:
            datasets: dict[str, h5py.Dataset] = {}
            opened.visititems(lambda name, item: datasets.update({name: item}) if hasattr(item, "dtype") else None)
            yield datasets
    else:
        raise CacheError(f"cannot import {file.name}; give an .npz, .h5 or .hdf5 file keyed by clip id")
