"""One feature set: all clips' tokens of one modality and one fingerprint, looked up by clip id."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mgcli.cache.durable import read_json, reading, write_json, writing
from mgcli.cache.entries import MISSING, EntryIndex, read_index, write_index
from mgcli.cache.entry_count import EntryCount
from mgcli.cache.errors import CacheError
from mgcli.cache.failures import Failure, read_failures, write_failures
from mgcli.cache.part import Part, open_part, part_class
from mgcli.cache.place import children, is_remote
from mgcli.cache.reader import EntryReader
from mgcli.cache.selection import ClipSelection
from mgcli.cache.spec import FeatureSpec
from mgcli.cache.views import VIEWS_KEY, view_source
from mgcli.cache.writer import FeatureWriter

SPEC_FILE = "spec.json"
INDEX_FILE = "index.h5"

_INDEX_FROM_PARTS = 16  # so many parts that came, or went, make it worth writing the index file anew
_KEPT_LOOK_UPS = 1 << 20
_LISTINGS = 100  # of a set that many processes write to, until two in a row are the same
_REMOTE_THREADS = 16  # that look at parts in an object store

_Key = str | tuple[str, str]  # a clip, or a clip and its source


class FeatureSet:
    """All clips' tokens of one modality and one fingerprint. Only committed parts are seen."""

    def __init__(self, path: Path, spec: FeatureSpec, provenance: dict[str, Any], format: str) -> None:
        self.path = path
        self.name = path.name
        self.spec = spec
        self.provenance = provenance
        self.format = format
        self._parts: dict[str, Part] = {}
        self._index: EntryIndex | None = None
        self._found: dict[int, dict[_Key, int]] = {}  # view -> clip, or clip and source -> entry

    @classmethod
    def open(cls, path: Path, format: str) -> FeatureSet:
        """Open the feature set in a folder; `format` is what its writer will write.

        Raises:
            CacheError: `spec.json` cannot be read, or does not fit the folder's name.
        """
        file = path / SPEC_FILE
        content = read_json(file)
        spec = FeatureSpec.from_dict(content.get("spec", {}), str(file))
        if spec.name != path.name:
            raise CacheError(
                f"{file} describes {spec.name}, but lies in {path.name}: it was edited, or the folder renamed. "
                f"Restore it, or remove the set with: mgcli cache rm {path.name}"
            )
        return cls(path, spec, content.get("provenance", {}), format)

    def __len__(self) -> int:
        """Number of entries."""
        return len(self.reader.index.winners)

    def describe(self) -> str:
        """One line for people: backbone, layout, weights, clips, views."""
        spec = self.spec
        return f"{spec.backbone}, {spec.tokens} tokens, weights {spec.weights}, {self.count()}"

    def parts(self) -> list[Part]:
        """The committed parts, in name order.

        Listing and opening take time: while another process compacts, they could miss a new part that was not
        there when they began, and an old one that was gone when they ended. So a second listing must say the same.
        """
        with reading(self.path):
            paths = children(self.path / "parts")
            for _ in range(_LISTINGS):
                self._parts = self._opened(paths)
                before, paths = paths, children(self.path / "parts")
                if paths == before:
                    break
        return list(self._parts.values())

    def _opened(self, paths: Sequence[Path]) -> dict[str, Part]:
        """Name -> part, of those that are committed."""
        if is_remote(self.path):
            with ThreadPoolExecutor(_REMOTE_THREADS) as pool:
                opened = list(pool.map(lambda path: self._parts.get(path.name) or open_part(path), paths))
        else:
            opened = [self._parts.get(path.name) or open_part(path) for path in paths]
        return {part.name: part for part in opened if part is not None}

    def count(self) -> EntryCount:
        """How many entries and clips it holds."""
        index = self.reader.index
        return EntryCount.of_columns(*(index.entries[name][index.winners] for name in ("id_hash", "view")))

    def refresh(self) -> None:
        """See parts that were committed, or removed, since the last look."""
        self.__dict__.pop("reader", None)
        self._found = {}

    @cached_property
    def reader(self) -> EntryReader:
        """Reads the entries of the parts that are there now; `refresh` makes a new one."""
        while True:
            parts = self.parts()
            try:
                self._index = self._bring_up_to_date(parts)
            except FileNotFoundError:  # compacted by another process since it was listed
                continue
            return EntryReader(parts, self._index, self.spec)

    def clips(self) -> pd.DataFrame:
        """One row per entry: clip_id, source (16 hex digits), view, num_tokens, part."""
        index = self.reader.index
        rows = index.winners
        names = np.array(index.names, dtype=object)
        return pd.DataFrame(
            {
                "clip_id": index.clip_ids(rows),
                "source": [f"{source:016x}" for source in index.entries["source"][rows].tolist()],
                "view": index.entries["view"][rows].astype(np.int64),
                "num_tokens": index.entries["count"][rows],
                "part": names[index.entries["part"][rows]] if len(rows) else [],
            }
        )

    def has(self, clip_id: str, source: str, view: int = 0) -> bool:
        """Whether this entry is committed; `source` in hex digits."""
        return bool(self.holds([clip_id], [source], view)[0])

    def holds(self, clip_ids: Sequence[str], sources: Sequence[str] | None = None, view: int = 0) -> np.ndarray:
        """(n,) bool: which clips have tokens here, of the source that is given in hex, or of any where none is."""
        return self.find(clip_ids, sources, view) != MISSING

    def find(self, clip_ids: Sequence[str], sources: Sequence[str] | None = None, view: int = 0) -> np.ndarray:
        """(n,) int64: the entry of each clip as a row of the index; negative: see `EntryIndex.find`.

        Args:
            clip_ids: which clips.
            sources: the source of each, in hex; without it (or where it is empty) any one will do.
            view: 0 the plain view; 1 and up augmented ones.
        """
        if sources is not None and len(sources) != len(clip_ids):
            raise ValueError(f"{len(clip_ids)} clip ids but {len(sources)} sources")
        keys: Sequence[_Key] = clip_ids
        if sources is not None and self.spec.source_column is not None:
            keys = [(clip_id, source) if source else clip_id for clip_id, source in zip(clip_ids, sources, strict=True)]
        found = self._found.setdefault(view, {})
        rows = [found.get(key, MISSING) for key in keys]
        if MISSING in rows:
            new = self._look_up([key for key, row in zip(keys, rows, strict=True) if row == MISSING], view)
            rows = [new.get(key, row) for key, row in zip(keys, rows, strict=True)]
        return np.array(rows, dtype=np.int64)

    @property
    def view_recipe(self) -> dict[str, Any] | None:
        """What the views 1 and up are made by, see `mgcli.cache.views`; None: none were extracted."""
        recipe = self.provenance.get(VIEWS_KEY)
        return recipe if isinstance(recipe, dict) else None

    def sources_of(self, table: pd.DataFrame, view: int = 0) -> list[str]:
        """The source of each clip's entry in a view, in hex, as this set and a clip table mean it.

        Args:
            table: with a column `clip_id`; one that names no sources, or tokens that were imported, give "", with
                which any one entry will do.
            view: 0 the plain view; the source of another holds the recipe too, where the set has one.
        """
        column = self.spec.source_column
        sources = table[column].tolist() if column is not None and column in table else [""] * len(table)
        if view == 0 or self.view_recipe is None:
            return sources
        unnamed = [i for i, source in enumerate(sources) if not source]
        plain = self.find([table["clip_id"].iloc[i] for i in unnamed])
        for i, row in zip(unnamed, plain.tolist(), strict=True):
            sources[i] = f"{self.reader.index.entries['source'][row]:016x}" if row >= 0 else ""
        return [view_source(source, self.view_recipe) if source else "" for source in sources]

    def select(self, clip_ids: Sequence[str], *, sources: Sequence[str] | None = None, view: int = 0) -> ClipSelection:
        """Look clips up once, to read them in many batches.

        Args:
            clip_ids: which clips.
            sources: the source of each, in hex, as the clip table names it; without it (or where it is
                empty) the clip must have just one.
            view: 0 the plain view; 1 and up augmented ones.

        Raises:
            CacheError: clips that are not here, or that have several sources.
        """
        return ClipSelection(self, clip_ids, sources, view)

    def load(
        self,
        clip_ids: Sequence[str],
        *,
        sources: Sequence[str] | None = None,
        view: int = 0,
        out: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of some clips, in the order asked for: see `select` and `ClipSelection.load`."""
        return self.select(clip_ids, sources=sources, view=view).load(out=out)

    def load_times(
        self, clip_ids: Sequence[str], *, sources: Sequence[str] | None = None, view: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Centre times and validity of the tokens that `load` gives, (R,) float32 and (R,) bool."""
        selection = self.select(clip_ids, sources=sources, view=view)
        return selection.load_companions("time_s"), selection.load_companions("valid")

    def writer(self, *, part_bytes: int = 64 << 20) -> FeatureWriter:
        """A writer that commits parts of about `part_bytes` to this set; use it in a `with` block."""
        return FeatureWriter(self.path / "parts", self.spec, part_class(self.format), part_bytes, self.refresh)

    def write_provenance(self, **more: Any) -> None:
        """Set entries of the provenance; what decides the tokens stays as it is.

        Args:
            more: plain JSON values. Of two writers at once, the entries of one stay.
        """
        content = read_json(self.path / SPEC_FILE)
        content["provenance"] = self.provenance = content.get("provenance", {}) | more
        with writing(self.path):
            write_json(self.path / SPEC_FILE, content)

    def write_failures(self, failures: Sequence[Failure], shard: tuple[int, int] | None = None) -> Path:
        """Replace the list of failed clips, or one shard's share of it: see `mgcli.cache.failures`."""
        return write_failures(self.path, failures, shard)

    def failures(self) -> pd.DataFrame:
        """The clips that failed in the last run: clip_id, stage, reason."""
        return read_failures(self.path)

    def info(self) -> dict[str, Any]:
        """What the set holds, as plain JSON values; `tokens` counts rows."""
        parts = self.parts()
        spec = self.spec
        index = self.reader.index
        count = self.count()
        return {
            "modality": spec.modality,
            "backbone": spec.backbone,
            "fingerprint": spec.fingerprint,
            "weights": spec.weights,
            "layout": spec.tokens,
            "format": "+".join(sorted({part.format for part in parts})) or self.format,
            "clips": count.clips,
            "entries": count.entries,
            "views": int(index.entries["view"][index.winners].max(initial=0)),  # the highest
            "view_entries": count.views,
            "tokens": int(index.entries["count"][index.winners].sum()),
            "dim": spec.dim,
            "dtype": spec.dtype,
            "bytes": sum(part.num_bytes for part in parts),
            "parts": len(parts),
            "failures": len(self.failures()),
        }

    def _look_up(self, keys: Sequence[_Key], view: int) -> dict[_Key, int]:
        """Find entries, and remember them."""
        pairs = [(key, None) if isinstance(key, str) else (key[0], int(key[1], 16)) for key in keys]
        rows = self.reader.index.find([clip_id for clip_id, _ in pairs], [source for _, source in pairs], view)
        new = dict(zip(keys, rows.tolist(), strict=True))
        found = self._found[view]
        if len(found) + len(new) > _KEPT_LOOK_UPS:
            found.clear()
        found.update(new)
        return new

    def _bring_up_to_date(self, parts: Sequence[Part]) -> EntryIndex:
        """The index of these parts: what is known of them, and what the new ones say."""
        names = [part.name for part in parts]
        kept = self._index or read_index(self.path / INDEX_FILE, self.spec.fingerprint) or EntryIndex.empty()
        there = set(names)
        index = kept.of_names(name for name in kept.names if name in there)
        unknown = there - set(index.names)
        unread = [part for part in parts if part.name in unknown]
        if is_remote(self.path):
            with ThreadPoolExecutor(_REMOTE_THREADS) as pool:
                new = list(pool.map(lambda part: EntryIndex.of_part(part, self.spec), unread))
        else:
            new = [EntryIndex.of_part(part, self.spec) for part in unread]
        index = index.joined(new)
        if len(new) + len(kept.names) - len(there & set(kept.names)) >= _INDEX_FROM_PARTS:
            with suppress(OSError):  # read-only or full: the index only saves time
                write_index(index, self.path / INDEX_FILE, self.spec.fingerprint)
        return index
