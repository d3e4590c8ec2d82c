"""Take entries out of a feature set as they are stored, checked, in lots that make a part each."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np

from mgcli.cache.entries import EntryIndex
from mgcli.cache.errors import CacheError
from mgcli.cache.feature_set import FeatureSet
from mgcli.cache.part import ClipTokens, array_checksum
from mgcli.cache.reader import EntryReader, aligned_empty

EntryKey = tuple[str, int, int]  # clip id, source, view
_LOT_BYTES = 64 << 20
_LOT_CLIPS = 1 << 16  # tiny clips weigh more by what stands around them than by their tokens


def entry_lengths(features: FeatureSet) -> dict[EntryKey, int]:
    """Number of tokens of every entry, in the order in which `read_entries` gives them."""
    index = features.reader.index
    return dict(zip(_keys(index), index.entries["count"][index.winners].tolist(), strict=True))


def read_entries(features: FeatureSet, keys: Collection[EntryKey] | None = None) -> Iterator[ClipTokens]:
    """Entries with all that is kept of them, tokens in the stored type, each checked against its checksums.

    Args:
        features: where from.
        keys: which entries; None for all of them.

    Raises:
        CacheError: a part is damaged.
        PartGoneError: another process compacts the set.
    """
    reader = features.reader
    rows = reader.index.winners
    if keys is not None:
        rows = rows[np.array([key in keys for key in _keys(reader.index)], dtype=bool)]
    for lot in plan_lots(reader, rows, _LOT_BYTES):
        yield from read_lot(reader, lot)


def plan_lots(reader: EntryReader, entries: np.ndarray, part_bytes: int) -> list[np.ndarray]:
    """The entries in this order, in lots of at most `part_bytes` and 65,536 clips, with the same companions.

    Args:
        reader: of the feature set.
        entries: (n,) rows of its index.
        part_bytes: of the tokens of a lot; a clip larger than this is a lot of its own.

    Raises:
        PartGoneError: another process compacts the set.
    """
    if not len(entries):
        return []
    kind = companion_kinds(reader, entries)
    num_bytes = np.cumsum(reader.index.entries["count"][entries]) * reader.spec.dim * reader.dtype.itemsize
    changes = [*(np.flatnonzero(np.diff(kind)) + 1).tolist(), len(entries)]
    lots = []
    first = 0
    for change in changes:
        while first < change:
            done = num_bytes[first - 1] if first else 0
            reach = int(np.searchsorted(num_bytes, done + part_bytes, "right"))
            last = min(change, first + _LOT_CLIPS, max(first + 1, reach))
            lots.append(entries[first:last])
            first = last
    return lots


def companion_kinds(reader: EntryReader, entries: np.ndarray) -> np.ndarray:
    """(n,) int64: the same number for entries with companions of the same names."""
    parts = reader.index.entries["part"][entries]
    names = {part: reader.aux_names(part) for part in np.unique(parts).tolist()}
    kinds = {each: kind for kind, each in enumerate(sorted(set(names.values())))}
    return np.array([kinds[names[part]] for part in parts.tolist()], dtype=np.int64)


def read_lot(reader: EntryReader, entries: np.ndarray) -> list[ClipTokens]:
    """The entries of one lot, as they are stored.

    Raises:
        CacheError: tokens that do not match their checksum.
        PartGoneError: another process compacts the set.
    """
    columns = {name: column[entries] for name, column in reader.index.entries.items()}
    stop = np.cumsum(columns["count"])
    tokens = aligned_empty((int(stop[-1]), reader.spec.dim), reader.dtype)
    reader.gather(entries, tokens)
    time_s, valid = reader.companions("time_s", entries), reader.companions("valid", entries)
    aux = {name: reader.companions(f"aux/{name}", entries) for name in reader.aux_names(int(columns["part"][0]))}
    clips = []
    for i, clip_id in enumerate(reader.index.clip_ids(entries)):
        rows = slice(int(stop[i] - columns["count"][i]), int(stop[i]))
        crc32c = array_checksum(tokens[rows])
        if crc32c != columns["crc32c"][i]:
            part = reader.index.names[columns["part"][i]]
            raise CacheError(
                f"clip {clip_id!r} in {part}: its tokens do not match their checksum; run mgcli cache verify, "
                "and delete the parts that it names"
            )
        own_aux = {name: array[rows] for name, array in aux.items()}
        source, view = int(columns["source"][i]), int(columns["view"][i])
        clips.append(ClipTokens(clip_id, source, view, tokens[rows], time_s[rows], valid[rows], own_aux, crc32c))
    return clips


def _keys(index: EntryIndex) -> Iterator[EntryKey]:
    """The keys of the entries that count, in part order."""
    rows = index.winners
    source, view = index.entries["source"][rows].tolist(), index.entries["view"][rows].tolist()
    return zip(index.clip_ids(rows), source, view, strict=True)
