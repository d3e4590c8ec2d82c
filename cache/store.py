"""The cache: a folder of feature sets and clip tables, opened in an instant and read by clip id."""

from __future__ import annotations

import hashlib
import io
import os
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from mgcli.cache.clips import SOURCE_COLUMNS, check_clip_table, clip_table_csv
from mgcli.cache.durable import TEMPORARY_PREFIX, committed_file, read_json, reading, write_json, writing
from mgcli.cache.errors import CacheError
from mgcli.cache.feature_set import SPEC_FILE, FeatureSet
from mgcli.cache.part import PART_FORMATS, open_part
from mgcli.cache.place import as_place, children, is_file, is_remote, make_folder, modified_ns, remove_tree
from mgcli.cache.spec import FORMAT_VERSION, FeatureSpec

CACHE_FILE = "mgcache.json"
CLIPS_FOLDER = "clips"
REMOVED_FILE = "removed"  # in a set's folder in an object store: what is left of it is no loss


def open_cache(path: str | Path, *, create: bool = False, format: str = "hdf5") -> FeatureCache:
    """Open the cache in a folder.

    Args:
        path: the cache's folder.
        create: make an empty cache where there is none.
        format: of the parts that a new cache will hold: hdf5 or zarr. A cache keeps the format it was made with.

    Raises:
        CacheError: no cache there, not a cache, a newer format, or no permission.
    """
    path = as_place(path)
    if format not in PART_FORMATS:
        raise CacheError(f"unknown cache format {format!r}; known: {', '.join(PART_FORMATS)}")
    marker = path / CACHE_FILE
    with reading(path):
        if not is_remote(path) and path.exists() and not path.is_dir():
            raise CacheError(f"the cache path {path} is a file; choose a folder with --cache DIR")
        if not is_remote(path) and path.is_symlink() and not path.exists():
            raise CacheError(f"the cache path {path} is a link that leads to no folder; mend or remove the link")
        found = is_file(marker)
    if not found:
        if not create:
            raise CacheError(
                f"no cache in {path}; fill one with: mgcli extract --modality video, or mgcli cache import; "
                "or name another with --cache DIR"
            )
        if is_remote(path) and format != "zarr":
            raise CacheError(f"an object store holds parts in zarr: give --format zarr for {path}")
        with reading(path):
            others = [each for each in children(path) if not each.name.startswith(TEMPORARY_PREFIX)]
        if others and not is_file(marker):  # else another process has just made the cache
            raise CacheError(f"{path} holds other files and no {CACHE_FILE}; choose an empty folder with --cache DIR")
        with writing(path):
            make_folder(path)
            made = {
                "format_version": FORMAT_VERSION,
                "created_by": f"mgcli {version('mgcli')}",
                "format": format,
            }
            write_json(marker, made)
    settings = read_json(marker)
    version_found = settings.get("format_version")
    if version_found != FORMAT_VERSION:
        raise CacheError(
            f"the cache {path} has format version {version_found}; this mgcli reads version {FORMAT_VERSION}. "
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
        return [FeatureSet.open(folder, self.format) for folder in self.set_folders()]

    def set_folders(self) -> list[Path]:
        """The folders of all feature sets, in name order."""
        with reading(self.path):
            return [folder for folder in self._folders_named_as_sets() if is_file(folder / SPEC_FILE)]

    def folders_without_spec(self) -> list[Path]:
        """Folders that hold committed parts, but lost the file that makes them feature sets; in name order."""
        with reading(self.path):
            return [
                folder
                for folder in self._folders_named_as_sets()
                if not is_file(folder / SPEC_FILE)
                and not is_file(folder / REMOVED_FILE)
                and any(open_part(path) is not None for path in children(folder / "parts"))
            ]

    def _folders_named_as_sets(self) -> list[Path]:
        return [each for each in children(self.path) if "--" in each.name and not each.name.startswith(".")]

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

    def set_folder(self, name: str) -> Path:
        """The folder of the one feature set with this folder name, or a fingerprint that starts so.

        Raises:
            CacheError: none or several fit the name, or it is empty.
        """
        folders = self.set_folders()
        if not name:
            there = ", ".join(folder.name for folder in folders) or "none"
            raise CacheError(f"the name of a feature set is empty; name one of: {there}")
        fitting = [f for f in folders if f.name == name or f.name.rsplit("--", 1)[-1].startswith(name)]
        if len(fitting) != 1:
            there = ", ".join(sorted(folder.name for folder in fitting or folders)) or "none"
            raise CacheError(f"{len(fitting)} feature sets fit {name!r}; name one of: {there}")
        return fitting[0]

    def named_set(self, name: str) -> FeatureSet:
        """The one feature set with this folder name, or a fingerprint that starts so.

        Raises:
            CacheError: none or several fit the name.
        """
        return FeatureSet.open(self.set_folder(name), self.format)

    def create_feature_set(self, spec: FeatureSpec, provenance: dict[str, Any] | None = None) -> FeatureSet:
        """Open the feature set of this spec, made first where there is none.

        Args:
            spec: what decides the tokens.
            provenance: what does not (versions, device, host); kept beside the spec of a new set.
        """
        path = self.path / spec.name
        if not is_file(path / SPEC_FILE):
            content = {
                "spec": spec.to_dict(),
                "fingerprint": spec.fingerprint,
                "provenance": provenance or {},
            }
            with writing(path):
                make_folder(path / "parts")
                remove_tree(path / REMOVED_FILE)
                write_json(path / SPEC_FILE, content)
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
        path = self.path / CLIPS_FOLDER / f"{protocol}--{hashlib.sha256(content).hexdigest()[:8]}.csv"
        with writing(path):
            make_folder(path.parent)
            here = is_file(path) and path.read_bytes() == content
            if here and path == self._newest_clips(None):
                return path  # a run with nothing to do asks for no permission to write
            if here and not is_remote(path):
                os.utime(path)
            else:
                with committed_file(path) as temporary:
                    temporary.write_bytes(content)
        return path

    def keep_clip_table(self, name: str, content: bytes, made_ns: int) -> bool:
        """Keep a table that another cache made, as old as it was there; False where it is here already."""
        path = self.path / CLIPS_FOLDER / name
        if is_file(path):
            return False
        with writing(path):
            make_folder(path.parent)
            with committed_file(path) as temporary:
                temporary.write_bytes(content)
                os.utime(temporary, ns=(made_ns, made_ns))
        return True

    def read_clips(self, protocol: str | None = None) -> pd.DataFrame:
        """The newest clip table of a protocol, or of all where none is named.

        Its `attrs` say which: "path" and "protocol".

        Raises:
            CacheError: there is none.
        """
        newest = self._newest_clips(protocol)
        if newest is None:
            what = f"no clip table of protocol {protocol!r}" if protocol else "no clip table"
            raise CacheError(f"{what} in {self.path}; run mgcli extract or mgcli cache import, or give --clips FILE")
        table = _read_stored_clips(newest)
        table.attrs["path"] = str(newest)
        table.attrs["protocol"] = newest.name.rpartition("--")[0]
        return table

    def info(self) -> dict[str, Any]:
        """What the cache holds, as plain JSON values."""
        sets = [each.info() for each in self.feature_sets()]
        return {"path": str(self.path), "format_version": FORMAT_VERSION, "feature_sets": sets}

    def _newest_clips(self, protocol: str | None) -> Path | None:
        tables = [path for path in self.clip_tables() if protocol in (None, path.name.rpartition("--")[0])]
        return max(tables, key=lambda path: (modified_ns(path), path.name), default=None)

    def clip_tables(self) -> list[Path]:
        """The files of all clip tables, in name order; each bears its protocol and the hash of its content."""
        with reading(self.path):
            return [
                path for path in children(self.path / CLIPS_FOLDER) if re.fullmatch(r".*--[0-9a-f]{8}\.csv", path.name)
            ]


def clip_table_content(path: Path) -> bytes:
    """The bytes of a clip table that a cache keeps.

    Raises:
        CacheError: they are not those whose hash its name bears.
    """
    with reading(path):
        content = path.read_bytes()
    if hashlib.sha256(content).hexdigest()[:8] != path.stem.rsplit("--", 1)[-1]:
        raise CacheError(
            f"{path} does not hold what its name says: it is damaged, or was edited. Restore it from a copy; or remove "
            "it, and run mgcli extract or mgcli cache import again, which writes it anew"
        )
    return content


def _read_stored_clips(path: Path) -> pd.DataFrame:
    table = pd.read_csv(io.BytesIO(clip_table_content(path)), dtype=str, keep_default_na=False)
    return check_clip_table(table, str(path))
