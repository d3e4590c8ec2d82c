"""Words that a shell completes: names of heads."""

from __future__ import annotations


def head_names() -> list[str]:
    """Those of the table."""
    from mgcli.fuse.names import HEADS

    return list(HEADS)
