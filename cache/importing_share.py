"""Bring in what `cache export --form share` wrote: the same feature set, bit for bit."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mgcli.cache.entry_count import EntryCount
from mgcli.cache.errors import CacheError
from mgcli.cache.exchange_share import Share, entry_checksums, open_share
from mgcli.cache.feature_set import FeatureSet
from mgcli.cache.part import from_stored
from mgcli.cache.progress import Progress
from mgcli.cache.shared_tables import keep_shared_tables
from mgcli.cache.store import FeatureCache
from mgcli.cache.stored_entries import entry_lengths, read_entries
from mgcli.cache.views import VIEWS_KEY, adopt_views

_MOST_NAMED = 5


@dataclass(frozen=True)
class ShareReport:
    """What one import of a shared file did."""

    feature_set: str
    done: EntryCount
    skipped: EntryCount  # already there, bit for bit
    clip_tables: int  # that the cache did not have

    def summary(self) -> str:
        """The report for people."""
        return (
            f"{self.feature_set}: {self.done} imported, {self.skipped} already there, "
            f"{self.clip_tables} new clip table(s)"
        )

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return asdict(self)


def import_share(cache: FeatureCache, file: Path, *, progress: bool = True) -> ShareReport:
    """Store a shared feature set, in this cache's own part format, and the clip tables that came with it.

    All of the file is checked before anything is written. Memory holds one part's worth of it.

    Args:
        cache: where to; it may have the feature set already, or some of its clips.
        file: of `cache export --form share`.
        progress: show it on stderr.

    Raises:
        CacheError: the file is damaged, or an entry is in the cache with other content; nothing was imported.
    """
    with open_share(file) as share:
        features = cache.create_feature_set(share.spec, share.provenance)
        there = _already_there(features, share)
        new = [key for key in share.keys if key not in there]
        done, skipped = (EntryCount.of((key[0], key[2]) for key in keys) for keys in (new, there))
        with features.writer() as writer, Progress("import", done.entries, unit=done.unit, shown=progress) as bar:
            for clip in share.entries():
                if (clip.clip_id, clip.source, clip.view) in there:
                    continue
                writer.add(
                    clip.clip_id,
                    from_stored(clip.tokens, share.spec.dtype),
                    source=f"{clip.source:016x}",
                    view=clip.view,
                    time_s=clip.time_s,
                    valid=clip.valid,
                    aux=clip.aux,
                )
                writer.commit_if_due()
                bar.step()
        adopt_views(features, share.provenance.get(VIEWS_KEY))
        return ShareReport(features.name, done, skipped, keep_shared_tables(cache, share.tables()))


def _already_there(features: FeatureSet, share: Share) -> set[tuple[str, int, int]]:
    """The entries that the cache has, bit for bit.

    Raises:
        CacheError: it has some of them with other content.
    """
    there = set(entry_lengths(features)) & set(share.keys)
    other = [
        (clip.clip_id, clip.view)
        for clip in read_entries(features, there)
        if entry_checksums(clip) != share.checksums[clip.clip_id, clip.source, clip.view]
    ]
    if other:
        named = [f"{clip_id!r}" + (f" (view {view})" if view else "") for clip_id, view in other[:_MOST_NAMED]]
        shown = ", ".join(named) + (" ..." if len(other) > _MOST_NAMED else "")
        raise CacheError(
            f"{EntryCount.of(other)} of {share.path}: already in {features.name} with other content: {shown}; "
            "nothing was imported. Import into another cache with --cache DIR"
        )
    return there
