"""Which decoder processes this process has, by a look at /proc."""

from __future__ import annotations

import os
from pathlib import Path


def child_ids(parent: int | None = None) -> list[int]:
    """Decoder processes of a process, of this one by default, that have not ended."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent_id = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            command = (folder / "cmdline").read_bytes()
        except OSError:  # it ended meanwhile
            continue
        if int(parent_id) == (parent or os.getpid()) and state != "Z" and b"decoder_worker" in command:
            found.append(int(folder.name))
    return found
