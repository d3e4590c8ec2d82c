"""Write one feature set in forms that other programs, and `cache import`, read."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from mgcli.cache.durable import TEMPORARY_PREFIX, committed_file, sync, writing
from mgcli.cache.entry_count import EntryCount
from mgcli.cache.errors import CacheError
from mgcli.cache.exchange import FORMS, Export, named_function
from mgcli.cache.exchange_folder import INDEX_FILE
from mgcli.cache.feature_set import FeatureSet
from mgcli.cache.part import ClipTokens
from mgcli.cache.place import is_remote
from mgcli.cache.progress import Progress
from mgcli.cache.shared_tables import provenance_to_share, tables_to_share
from mgcli.cache.store import FeatureCache
from mgcli.cache.stored_entries import EntryKey, entry_lengths, read_entries

_SUFFIXES = {"npz": (".npz",), "hdf5": (".h5", ".hdf5"), "safetensors": (".safetensors",)}
_SUFFIXES["share"] = _SUFFIXES["hdf5"]


@dataclass(frozen=True)
class ExportReport:
    """What one export wrote."""

    feature_set: str
    path: str
    form: str
    count: EntryCount
    tokens: int
    bytes: int
    absent: list[str]  # clips of the table that the feature set does not hold

    def summary(self) -> str:
        """The report for people."""
        text = f"{self.path}: {self.count}, {self.tokens} tokens of {self.feature_set}, {self.bytes / 1e6:.1f} MB"
        if self.absent:
            more = " ..." if len(self.absent) > 5 else ""
            text += f"\n  {len(self.absent)} of the clip table have no tokens: {'; '.join(self.absent[:5])}{more}"
        return text

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        plain = {name: value for name, value in vars(self).items() if name != "count"}
        return plain | self.count.to_json()


def export_features(
    cache: FeatureCache,
    name: str,
    out: Path,
    form: str,
    *,
    table: pd.DataFrame | None = None,
    view: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> ExportReport:
    """Write the tokens of one feature set; clip ids of any kind survive.

    Args:
        cache: where from.
        name: folder name of the feature set, or start of its fingerprint.
        out: file, or folder, to write; it is there whole or not at all.
        form: npy or npz-per-clip, a folder with a file a clip; npz, hdf5 or safetensors, one file; share, one
            file with all that is kept of every entry, every source and view, and the clip tables of the cache.
        table: only the clips of this clip table; where it names sources, the tokens of these.
        view: 0 the plain view; 1 and up augmented ones.
        overwrite: replace what is there.
        progress: show it on stderr.

    Raises:
        CacheError: no such feature set, form, view or clips, a damaged part, or something is there already.
    """
    if form not in FORMS:
        raise CacheError(f"unknown form {form!r}; known: {', '.join(FORMS)}")
    if form == "share" and view:
        raise CacheError("a shared file takes every view with it; leave out --view")
    features = cache.named_set(name)
    lengths = entry_lengths(features)
    if form == "share":
        keys, absent = _entries_of_clips(features, lengths, table)
    else:
        keys, absent = _one_entry_a_clip(cache, features, lengths, table, view)
    lengths = {key: lengths[key] for key in lengths if key in keys}
    count = EntryCount.of((key[0], key[2]) for key in keys)
    with Progress("export", count.entries, unit=count.unit, shown=progress) as bar:
        export = Export(features.spec, lengths, partial(_counted_entries, features, keys, bar))
        if form == "share":
            tables = tables_to_share(cache, None if table is None else {key[0] for key in keys})
            export = replace(export, provenance=provenance_to_share(features.provenance), tables=tables)
        with new_output(out, cache, _SUFFIXES.get(form), overwrite=overwrite) as temporary:
            named_function(FORMS[form])(temporary, export)
    files = [file for file in out.rglob("*") if file.is_file()] if out.is_dir() else [out]
    return ExportReport(
        feature_set=features.name,
        path=str(out),
        form=form,
        count=count,
        tokens=sum(lengths.values()),
        bytes=sum(file.stat().st_size for file in files),
        absent=absent,
    )


def _counted_entries(features: FeatureSet, keys: set[EntryKey], bar: Progress) -> Iterator[ClipTokens]:
    """The entries of `read_entries`, shown on a bar."""
    for entry in read_entries(features, keys):
        yield entry
        bar.step()


@contextmanager
def new_output(out: Path, cache: FeatureCache, suffixes: tuple[str, ...] | None, *, overwrite: bool) -> Iterator[Path]:
    """A temporary path beside `out`, which becomes `out` when the block ends well and is removed otherwise.

    Args:
        out: file or folder to be.
        cache: which must not be written into.
        suffixes: that a file's name may end in; None for a folder.
        overwrite: replace what is there.

    Raises:
        CacheError: something is there, the name would not be known again, or the disk is full.
    """
    if suffixes is not None and not out.name.lower().endswith(suffixes):
        raise CacheError(f"name the file {out.name}{suffixes[0]}: it is known by its suffix, {' or '.join(suffixes)}")
    if not is_remote(cache.path) and out.resolve().is_relative_to(cache.path.resolve()):
        raise CacheError(f"{out} lies in the cache itself; choose a place outside of {cache.path}")
    if out.exists() and not overwrite:
        raise CacheError(f"{out} exists; choose another name, or replace it with --overwrite")
    if out.exists() and (suffixes is None) != out.is_dir():
        raise CacheError(f"{out} is a {'folder' if out.is_dir() else 'file'}, which this form does not replace")
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        if suffixes is not None:
            with committed_file(out) as temporary:
                yield temporary
        else:
            with _committed_folder(out) as temporary:
                yield temporary


@contextmanager
def _committed_folder(path: Path) -> Iterator[Path]:
    if path.exists() and any(path.iterdir()) and not (path / INDEX_FILE).is_file():
        raise CacheError(f"{path} holds other files and no {INDEX_FILE}, so it is no export; remove it yourself")
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}-{path.name}")
    try:
        yield temporary
        for file in temporary.iterdir():
            sync(file)
        sync(temporary)
        if path.exists():
            replaced = path.rename(path.with_name(f"{temporary.name}-replaced"))
            temporary.rename(path)
            shutil.rmtree(replaced)
        else:
            temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync(path.parent)


def _entries_of_clips(
    features: FeatureSet, lengths: dict[EntryKey, int], table: pd.DataFrame | None
) -> tuple[set[EntryKey], list[str]]:
    """All entries of the clips of a table, or of the set, and the clips of the table that have none."""
    there = {key[0] for key in lengths}
    wanted = there if table is None else set(table["clip_id"])
    if not wanted & there:
        raise CacheError(f"{features.name} has no tokens{'' if table is None else ' of the clips of this table'}")
    absent = [] if table is None else [clip_id for clip_id in table["clip_id"] if clip_id not in there]
    return {key for key in lengths if key[0] in wanted}, absent


def _one_entry_a_clip(
    cache: FeatureCache,
    features: FeatureSet,
    lengths: dict[EntryKey, int],
    table: pd.DataFrame | None,
    view: int,
) -> tuple[set[EntryKey], list[str]]:
    """The entry of each clip, and the clips of the table that have none.

    Raises:
        CacheError: there are none, or a clip has several sources and no clip table names one.
    """
    of_clip: dict[str, list[EntryKey]] = {}
    for key in lengths:
        if key[2] == view:
            of_clip.setdefault(key[0], []).append(key)
    wanted = list(of_clip) if table is None else table["clip_id"].tolist()
    absent = [clip_id for clip_id in wanted if clip_id not in of_clip]
    if len(absent) == len(wanted):
        what = "tokens" if table is None else "tokens of the clips of this table"
        raise CacheError(f"{features.name} has no {what}" + (f" in view {view}" if view else ""))
    sources = _named_sources(cache, features, table, view)
    chosen: set[EntryKey] = set()
    for clip_id in wanted:
        entries = of_clip.get(clip_id, [])
        named = [key for key in entries if f"{key[1]:016x}" == sources.get(clip_id)]
        if len(entries) > 1 and not named:
            raise CacheError(
                f"clip {clip_id!r} has tokens of {len(entries)} sources in {features.name} (its video or interval "
                f"changed); name one with a clip table of the cache: --clips {cache.path}/clips/NAME.csv"
            )
        chosen.update(named or entries)
    return chosen, absent


def _named_sources(cache: FeatureCache, features: FeatureSet, table: pd.DataFrame | None, view: int) -> dict[str, str]:
    """Clip id -> source of its entry in a view, as the given table names them, or else the cache's newest."""
    column = features.spec.source_column
    if column is None:
        return {}
    if table is None or (table[column] == "").all():
        if not cache.clip_tables():
            return {}
        table = cache.read_clips()
    return dict(zip(table["clip_id"], features.sources_of(table, view), strict=True))
