"""A head beside all its baselines, on the same clips with the same seeds; and what heads there are."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from mgcli.cache import FeatureCache, open_cache
from mgcli.fuse.head import HEADS
from mgcli.fuse.run import Run
from mgcli.fuse.task import SINGLE, choose, get_task
from mgcli.fuse.train import train_head

JOINT_BASELINES = ("logistic", "score_average", "concat")  # what joins modalities without letting them talk


def compare_heads(
    cache: FeatureCache | str | Path,
    task: str,
    *,
    head: str | None = None,
    modalities: Sequence[str] | None = None,
    **settings: Any,
) -> list[Run]:
    """Train a head and every baseline of its modalities.

    Args:
        cache: an open cache, or its folder.
        task: gesture or emotion.
        head: by default the task's.
        modalities: by default the task's that the cache has.
        settings: of `train_head`, the same for all.

    Returns:
        The runs: constant, each modality alone, the baselines that join them, the head itself last.

    Raises:
        MgcliError: as `train_head`.
    """
    opened = cache if isinstance(cache, FeatureCache) else open_cache(cache)
    chosen = choose(opened, get_task(task), head, modalities, settings.get("features"))
    names = ["constant", *(f"{SINGLE}_{modality}" for modality in chosen.modalities)]
    if len(chosen.modalities) > 1:
        names += JOINT_BASELINES
    names = [name for name in names if name not in (chosen.head, chosen.label)]
    runs = []
    for name in [*names, chosen.head]:
        alone = name.startswith(f"{SINGLE}_")
        runs.append(train_head(opened, task, head=name, modalities=None if alone else chosen.modalities, **settings))
    return runs


def describe_heads() -> list[dict[str, Any]]:
    """One row a head: name, and the first line of its class."""
    rows = []
    for name, place in HEADS.items():
        module, kind = place.split(":")
        text = inspect.getdoc(getattr(import_module(module), kind)) or ""
        rows.append({"name": name, "about": text.splitlines()[0] if text else ""})
    return rows
