"""Look after a cache: remove what is not wanted."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

from mgcli.cache.durable import TEMPORARY_PREFIX, writing
from mgcli.cache.errors import CacheError
from mgcli.cache.store import FeatureCache


def remove_feature_set(cache: FeatureCache, name: str) -> Path:
    """Delete one feature set, named by its folder or by the start of its fingerprint.

    The folder is renamed first, so that a kill half-way leaves no half set behind.

    Raises:
        CacheError: none or several fit the name.
    """
    folders = [path.parent for path in cache.path.glob("*--*/spec.json") if not path.parent.name.startswith(".")]
    fitting = [f for f in folders if f.name == name or f.name.rsplit("--", 1)[-1].startswith(name)]
    if len(fitting) != 1:
        there = ", ".join(sorted(folder.name for folder in fitting or folders)) or "none"
        raise CacheError(f"{len(fitting)} feature sets fit {name!r}; name one of: {there}")
    with writing(fitting[0]):
        doomed = fitting[0].rename(cache.path / f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}-{fitting[0].name}")
        shutil.rmtree(doomed)
    return fitting[0]
