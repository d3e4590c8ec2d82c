"""What decides a run, in hashes: two runs with the same key were made from the same things in the same way."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import torch

from mgcli.cache import FeatureSet
from mgcli.fuse.head import head_class
from mgcli.fuse.settings import NOT_DECIDING, TrainConfig
from mgcli.fuse.source_hash import source_hash

_TABLE_COLUMNS = (
    "clip_id",
    "split",
    "subject_id",
    "start_s",
    "end_s",
    "video_source",
    "skeleton_source",
    "face_source",
)
_DECIDING_PACKAGES = ("mgcli", "torch")


def tokens_hash(features: FeatureSet, table: pd.DataFrame, views: int = 0) -> str:
    """16 hex digits that change with any token of these clips, and with which of them have tokens.

    The fingerprint says how tokens are made; this says what they are: a clip more, or one that was imported anew
    with other numbers, changes it. It reads the stored checksums, not the tokens.

    Args:
        features: whose tokens.
        table: the clips.
        views: augmented views 1..views count too.
    """
    clip_ids = table["clip_id"].tolist()
    rows: list[tuple[int, str, int]] = []
    for view in range(views + 1):
        sources = features.sources_of(table, view)
        known = np.flatnonzero(features.holds(clip_ids, sources, view)).tolist()
        ids = [clip_ids[i] for i in known]
        selection = features.select(ids, sources=[sources[i] for i in known], view=view)
        rows += zip([view] * len(ids), ids, selection.checksums.tolist(), strict=True)
    return _short_hash(sorted(rows))


def table_hash(table: pd.DataFrame, task: str) -> str:
    """16 hex digits that change with the clips of a table, their intervals, sources, splits, subjects or labels."""
    rows = table[[*_TABLE_COLUMNS, task]].astype(str).sort_values("clip_id")
    return _short_hash(rows.to_numpy().tolist())


def run_key(
    task: str,
    head: str,
    tokens: Mapping[str, Sequence[str]],
    clips: str,
    config: TrainConfig,
    seeds: Sequence[int],
) -> str:
    """16 hex digits of all that decides a run.

    Args:
        task: gesture or emotion.
        head: a name of HEADS, or `package.module:Class`, whose files count too.
        tokens: modality -> fingerprint and `tokens_hash`, in the order that the head reads them.
        clips: `table_hash`.
        config: how it is trained.
        seeds: which.
    """
    packages = {name: version(name) for name in _DECIDING_PACKAGES}
    own = source_hash(head_class(head)) if ":" in head else ""
    ordered = [(name, *each) for name, each in tokens.items()]
    settings = {name: value for name, value in asdict(config).items() if name not in NOT_DECIDING}
    return _short_hash([task, head, own, ordered, clips, settings, list(seeds), packages])


def machine(threads: int) -> dict[str, Any]:
    """What else than the run's own settings can change the last bits of a result."""
    return {
        "torch_build": f"{torch.__version__}, git {str(torch.version.git_version)[:12]}",
        "cuda": torch.version.cuda or "",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "processor": platform.processor() or platform.machine(),
        "threads": threads,
    }


def _short_hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode("utf-8")).hexdigest()[:16]
