"""How many entries there are, and of how many clips: what reports about a cache count."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class EntryCount:
    """Entries, and the clips whose tokens they are; `str` says it as shortly as is true.

    A clip has one entry, and more where it has augmented views, or where its video or interval changed.
    """

    clips: int = 0
    entries: int = 0
    views: int = 0  # of the entries: augmented views

    @classmethod
    def of(cls, entries: Iterable[tuple[str, int]]) -> EntryCount:
        """Of entries that are given by the clip and the view of each."""
        entries = list(entries)
        return cls(len({clip_id for clip_id, _ in entries}), len(entries), sum(view > 0 for _, view in entries))

    @classmethod
    def of_columns(cls, id_hash: np.ndarray, view: np.ndarray) -> EntryCount:
        """Of (n,) entries by the columns of an index: of a million clips at once, without their names."""
        return cls(len(np.unique(id_hash)), len(view), int(np.count_nonzero(view)))

    @property
    def unit(self) -> str:
        """What an entry is called where they are counted one by one."""
        return "clip" if self.entries == self.clips else "view"

    def __str__(self) -> str:
        clips, views = counted(self.clips, "clip"), counted(self.views, "augmented view")
        if self.entries - self.views == self.clips:
            return f"{clips} and {views}" if self.views else clips
        if self.entries == self.views:
            return f"{views} of {clips}"
        entries = f"{self.entries:,} entries of {clips}"
        return f"{entries}, {self.views:,} of them augmented views" if self.views else entries

    def to_json(self) -> dict[str, int]:
        """The count as a JSON object."""
        return asdict(self)


def counted(number: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
