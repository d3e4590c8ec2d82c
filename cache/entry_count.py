"""How many entries there are, and of how many clips: what reports about a cache count."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass


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

    @property
    def unit(self) -> str:
        """What an entry is called where they are counted one by one."""
        return "clip" if self.entries == self.clips else "view"

    def __str__(self) -> str:
        clips, views = _counted(self.clips, "clip"), _counted(self.views, "augmented view")
        if self.entries - self.views == self.clips:
            return f"{clips} and {views}" if self.views else clips
        if self.entries == self.views:
            return f"{views} of {clips}"
        entries = f"{self.entries} entries of {clips}"
        return f"{entries}, {self.views} of them augmented views" if self.views else entries

    def to_json(self) -> dict[str, int]:
        """The count as a JSON object."""
        return asdict(self)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
