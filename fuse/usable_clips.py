"""Which clips of a table can be used at all, those with a label, a split and tokens; and their tokens, read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from mgcli.cache import (
    FeatureCache,
    FeatureSet,
    MgcliError,
    check_clip_table,
    classes_by_group,
    label_classes,
    read_clip_table,
)
from mgcli.fuse.data import ClipTensors
from mgcli.fuse.load import load_clips
from mgcli.fuse.residency import fits_ram

Warn = Callable[[str], None]


class SelectionError(MgcliError):
    """A clip table that a task cannot be trained or scored on."""


@dataclass(frozen=True)
class LoadedClips:
    """The clips of a task that have tokens, before a run draws its validation split; several runs can share them."""

    given: pd.DataFrame  # the whole clip table
    table: pd.DataFrame
    tensors: ClipTensors
    classes: list[str]
    class_groups: dict[str, list[str]]
    warnings: list[str]  # what was left out, or is missing


def load_for_training(
    table: pd.DataFrame,
    task: str,
    feature_sets: dict[str, FeatureSet],
    *,
    max_tokens: int,
    views: int = 0,
    residency: str = "auto",
) -> LoadedClips:
    """Settle which clips of a table can be used, and read their tokens.

    Args:
        table: a checked clip table.
        task: the label column.
        feature_sets: modality -> its tokens.
        max_tokens: of a clip and modality.
        views: augmented views of the training clips to read, beside the plain one.
        residency: where tokens are to lie, see `place_clips`.

    Raises:
        SelectionError: nothing to train on, or one class only.
    """
    warnings: list[str] = []
    used = _with_split(_labelled(table, task), warnings.append)
    classes = label_classes(used, task)
    groups = classes_by_group(used, task, classes)
    used, tensors = with_tokens(used, task, classes, feature_sets, max_tokens, warnings.append, views, residency)
    if not (used["split"] == "train").any():
        raise SelectionError(f"no training clip has a {task} label and tokens; mark some clips as split=train")
    _check_class_count(used, task)
    return LoadedClips(table, used, tensors, classes, groups, warnings)


def read_table(cache: FeatureCache, clips: pd.DataFrame | str | Path | None) -> pd.DataFrame:
    """The clip table of a caller: given, in a file, or the cache's newest."""
    if clips is None:
        return cache.read_clips()
    return check_clip_table(clips) if isinstance(clips, pd.DataFrame) else read_clip_table(clips)


def have_tokens(table: pd.DataFrame, feature_sets: dict[str, FeatureSet]) -> np.ndarray:
    """(n,) bool: which clips have tokens in any of the feature sets."""
    there = np.zeros(len(table), bool)
    for each in feature_sets.values():
        there |= each.holds(table["clip_id"].tolist(), each.sources_of(table))
    return there


def with_tokens(
    table: pd.DataFrame,
    task: str,
    classes: list[str],
    feature_sets: dict[str, FeatureSet],
    max_tokens: int,
    warn: Warn,
    views: int = 0,
    residency: str = "auto",
) -> tuple[pd.DataFrame, ClipTensors]:
    """Leave out clips that no modality has tokens of; say which modalities are missing where."""
    index = {name: i for i, name in enumerate(classes)}
    labels = np.array([index.get(label, -1) for label in table[task]], np.int64)
    tensors = load_clips(feature_sets, table, labels, max_tokens, views, partial(fits_ram, residency))
    has_tokens = tensors.has_tokens().numpy()
    names = " or ".join(feature_sets)
    if not has_tokens.any():
        modality = next(iter(feature_sets))
        raise SelectionError(
            f"none of the {len(table)} clips has {names} tokens in the cache; is this the clip table that they were "
            f"made from? To make them: mgcli extract --modality {modality}"
        )
    if not has_tokens.all():
        warn(f"{_named(table[~has_tokens])} left out: no {names} tokens in the cache")
        tensors = tensors.subset(np.flatnonzero(has_tokens))
        table = table[has_tokens].reset_index(drop=True)
    for name, count in tensors.missing().items():
        if count:
            warn(f"{count} of {len(table)} clips have no {name} tokens; the head sees them without")
    return table, tensors


def _labelled(table: pd.DataFrame, task: str) -> pd.DataFrame:
    labelled = table[table[task] != ""]
    if labelled.empty:
        raise SelectionError(
            f"no clip of the clip table has a label in column {task!r}; fill it in, or give --clips FILE"
        )
    return labelled


def _with_split(table: pd.DataFrame, warn: Warn) -> pd.DataFrame:
    has_split = table["split"] != ""
    if not has_split.any():
        raise SelectionError("no clip has a split; fill the column split of the clip table with train, val or test")
    if not has_split.all():
        warn(f"{_named(table[~has_split])} left out: no split (train, val or test) in the clip table")
    return table[has_split].reset_index(drop=True)


def _check_class_count(table: pd.DataFrame, task: str) -> None:
    there = sorted(set(table[task]))
    if len(there) < 2:
        raise SelectionError(
            f"all clips with tokens have the {task} label {there[0]!r}; a head needs two classes or more"
        )


def _named(table: pd.DataFrame) -> str:
    """`3 clips ('a', 'b', ...)`."""
    some = ", ".join(map(repr, table["clip_id"].head(3))) + (", ..." if len(table) > 3 else "")
    return f"{len(table)} clip(s) ({some})"
