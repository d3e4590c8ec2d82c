"""Take entries out of a feature set as they are stored, checked, in lots that make a part each."""

from __future__ import annotations

import numpy as np

from mgcli.cache.errors import CacheError
from mgcli.cache.part import ClipTokens, array_checksum
from mgcli.cache.reader import EntryReader, aligned_empty


def plan_lots(reader: EntryReader, entries: np.ndarray, part_bytes: int) -> list[np.ndarray]:
    """The entries in this order, in lots of at most `part_bytes`; entries with other companions go apart.

    Args:
        reader: of the feature set.
        entries: (n,) rows of its index.
        part_bytes: of the tokens of a lot; a clip larger than this is a lot of its own.

    Raises:
        PartGoneError: another process compacts the set.
    """
    parts = reader.index.entries["part"][entries]
    companions = {part: reader.aux_names(part) for part in np.unique(parts).tolist()}
    lots = []
    for names in sorted(set(companions.values())):
        alike = entries[np.array([companions[part] == names for part in parts.tolist()], dtype=bool)]
        num_bytes = np.cumsum(reader.index.entries["count"][alike]) * reader.spec.dim * reader.dtype.itemsize
        first = 0
        while first < len(alike):
            done = num_bytes[first - 1] if first else 0
            last = max(first + 1, int(np.searchsorted(num_bytes, done + part_bytes, "right")))
            lots.append(alike[first:last])
            first = last
    return lots


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
        if array_checksum(tokens[rows]) != columns["crc32c"][i]:
            part = reader.index.names[columns["part"][i]]
            raise CacheError(
                f"clip {clip_id!r} in {part}: its tokens do not match their checksum; run mgcli cache verify, "
                "and delete the parts that it names"
            )
        own_aux = {name: array[rows] for name, array in aux.items()}
        source, view = int(columns["source"][i]), int(columns["view"][i])
        clips.append(ClipTokens(clip_id, source, view, tokens[rows], time_s[rows], valid[rows], own_aux))
    return clips
