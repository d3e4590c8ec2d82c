"""All that a feature set keeps, entry by entry, for what copies it elsewhere: checked, and one part at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from mgcli.cache.errors import CacheError
from mgcli.cache.part import ClipTokens, Part, array_checksum
from mgcli.cache.store import FeatureCache, FeatureSet

EntryKey = tuple[str, int, int]  # clip id, source, view
_AUX = "aux/"


def find_feature_set(cache: FeatureCache, name: str) -> FeatureSet:
    """The feature set with this folder name, or start of its fingerprint.

    Raises:
        CacheError: none or several fit the name.
    """
    every = cache.feature_sets()
    fitting = [each for each in every if each.name == name or each.spec.fingerprint.startswith(name)]
    if len(fitting) != 1:
        there = ", ".join(each.name for each in fitting or every) or "none"
        raise CacheError(f"{len(fitting)} feature sets fit {name!r}; name one of: {there}")
    return fitting[0]


def entry_lengths(features: FeatureSet) -> dict[EntryKey, int]:
    """Number of tokens of every entry, in the order in which `read_entries` gives them."""
    lengths: dict[EntryKey, int] = {}
    for part, wanted in _by_part(features, None):
        lengths |= {key: stop - start for key, _, start, stop in _rows_of(part, wanted)}
    return lengths


def read_entries(features: FeatureSet, keys: Collection[EntryKey] | None = None) -> Iterator[ClipTokens]:
    """Entries with all that is kept of them, tokens in the stored type, each checked against its checksums.

    Memory holds the times and companions of one part, and the tokens of one clip.

    Args:
        features: where from.
        keys: which entries; None for all of them.

    Raises:
        CacheError: a part is damaged.
    """
    for part, wanted in _by_part(features, keys):
        yield from _entries_of(part, wanted)


def _by_part(features: FeatureSet, keys: Collection[EntryKey] | None) -> list[tuple[Part, set[EntryKey]]]:
    """The parts in name order, each with those of the entries that are read from it."""
    rows = features.clips()
    wanted: dict[str, set[EntryKey]] = {}
    for clip_id, source, view, part in zip(rows["clip_id"], rows["source"], rows["view"], rows["part"], strict=True):
        key = (clip_id, int(source, 16), int(view))
        if keys is None or key in keys:
            wanted.setdefault(part, set()).add(key)
    parts = [part for part in features.parts() if part.name in wanted]
    if len(parts) < len(wanted):
        raise CacheError(
            f"parts of {features.name} were removed while it was read (compact, rm); run the command again"
        )
    return [(part, wanted[part.name]) for part in parts]


def _rows_of(part: Part, wanted: set[EntryKey]) -> Iterator[tuple[EntryKey, int, int, int]]:
    """Entry, its number in the part, its first row and one past its last, in the order of the part."""
    left = set(wanted)
    keys = zip(part.clip_id, part.source.tolist(), part.view.tolist(), strict=True)
    for i, (key, start, stop) in enumerate(zip(keys, part.offset[:-1].tolist(), part.offset[1:].tolist(), strict=True)):
        if key in left:
            left.remove(key)
            yield key, i, start, stop


def _entries_of(part: Part, wanted: set[EntryKey]) -> Iterator[ClipTokens]:
    checksums = part.attributes["crc32c"]
    try:
        beside = {name: part.read(name) for name in checksums if name in ("time_s", "valid") or name.startswith(_AUX)}
        of_clips = part.read("crc32c").tolist()
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise CacheError(f"part {part.path} cannot be read ({error}); run: mgcli cache verify") from error
    for name, array in beside.items():
        if array_checksum(array) != checksums[name]:
            raise CacheError(f"array {name} of part {part.path} does not match its checksum; run: mgcli cache verify")
    for key, i, start, stop in _rows_of(part, wanted):
        tokens = part.tokens(start, stop)
        if array_checksum(tokens) != of_clips[i]:
            raise CacheError(f"clip {key[0]!r} of part {part.path} is damaged; run: mgcli cache verify")
        aux = {name.removeprefix(_AUX): beside[name][start:stop] for name in beside if name.startswith(_AUX)}
        yield ClipTokens(*key, tokens, beside["time_s"][start:stop], beside["valid"][start:stop], aux)
