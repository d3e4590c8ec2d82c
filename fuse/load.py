"""From the cache to `ClipTensors`: which tokens a clip table names, and where each lies in its clip.

# Shapes: R rows (all tokens of a modality), n clips, V views (the plain one first), D token width.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mgcli.cache import ClipSelection, FeatureSet
from mgcli.fuse.data import ClipTensors, ModalityTokens
from mgcli.fuse.stored_tokens import StoredTokens

OUTSIDE_CLIP_S = 0.5  # a token's time may lie this far outside its clip, as half a window does


def load_clips(
    feature_sets: Mapping[str, FeatureSet],
    table: pd.DataFrame,
    labels: np.ndarray,
    max_tokens: int,
    views: int = 0,
    fits: Callable[[int], bool] = lambda num_bytes: True,
) -> ClipTensors:
    """Read the tokens of a clip table; a clip that a feature set lacks is masked there.

    Args:
        feature_sets: modality -> where its tokens are.
        table: a checked clip table; row i becomes clip i.
        labels: (n,) int64, class of each clip.
        max_tokens: see ClipTensors.
        views: augmented views 1..views of the training clips are read too, where the feature sets have them.
        fits: whether so many bytes of tokens fit into memory; if not, they stay in the cache's files.
    """
    found = {name: _look_up(each, table, views) for name, each in feature_sets.items()}
    rows = {name: sum(int(each.counts.sum()) for each in selections) for name, (selections, _) in found.items()}
    in_memory = fits(sum(rows[name] * each.spec.dim * _item_bytes(each) for name, each in feature_sets.items()))
    modalities = {
        name: _load_modality(each, table, *found[name], in_memory=in_memory) for name, each in feature_sets.items()
    }
    return ClipTensors(modalities, torch.as_tensor(labels, dtype=torch.int64), max_tokens)


def _item_bytes(features: FeatureSet) -> int:
    """Of a number in memory: float16 stays, everything else becomes or is float32."""
    return 2 if features.spec.dtype == "float16" else 4


def _look_up(features: FeatureSet, table: pd.DataFrame, views: int) -> tuple[list[ClipSelection], list[list[int]]]:
    """For the plain view of all clips, then each augmented one of the training clips: where it is, and who has it."""
    clip_ids = table["clip_id"].tolist()
    training = (table["split"] == "train").to_numpy()
    selections, rows = [], []
    for view in range(views + 1):
        wanted = training if view else np.ones(len(table), bool)
        sources = features.sources_of(table, view)
        known = np.flatnonzero(features.holds(clip_ids, sources, view) & wanted).tolist()
        ids, id_sources = [clip_ids[i] for i in known], [sources[i] for i in known]
        selections.append(features.select(ids, sources=id_sources, view=view))
        rows.append(known)
    return selections, rows


def _load_modality(
    features: FeatureSet,
    table: pd.DataFrame,
    selections: list[ClipSelection],
    rows: list[list[int]],
    *,
    in_memory: bool,
) -> ModalityTokens:
    """What `_look_up` found, view after view; a clip that lacks an augmented view has its plain one there."""
    start: list[np.ndarray] = []
    count: list[np.ndarray] = []
    valid, time = [], []
    first_row = 0
    for selection, known in zip(selections, rows, strict=True):
        of_view = [np.zeros(len(table), np.int64) for _ in range(2)]
        of_view[0][known] = first_row + np.cumsum(selection.counts) - selection.counts
        of_view[1][known] = selection.counts
        if start:
            lacks = of_view[1] == 0
            of_view = [np.where(lacks, plain, own) for plain, own in zip((start[0], count[0]), of_view, strict=True)]
        start.append(of_view[0])
        count.append(of_view[1])
        valid.append(np.array(selection.load_companions("valid"), dtype=bool))
        time_s = np.asarray(selection.load_companions("time_s"), np.float64)
        span = table[["start_s", "end_s"]].to_numpy(np.float64)[known]
        time.append(_clip_time(time_s, np.concatenate([[0], np.cumsum(selection.counts)]), span).astype(np.float32))
        first_row += int(selection.counts.sum())
    tokens: Tensor | StoredTokens
    if first_row == 0:  # nobody has it
        tokens, valid, time = torch.zeros(1, features.spec.dim), [np.zeros(1, bool)], [np.zeros(1, np.float32)]
    elif in_memory:
        loaded = [selection.load()[0] for selection in selections]
        tokens = _as_tensor(loaded[0] if len(loaded) == 1 else np.concatenate(loaded))
    else:
        tokens = StoredTokens(
            selections, features.spec.dim, torch.float16 if _item_bytes(features) == 2 else torch.float32
        )
    return ModalityTokens(
        tokens=tokens,
        valid=torch.from_numpy(np.concatenate(valid)),
        time=torch.from_numpy(np.concatenate(time)),
        start=torch.from_numpy(np.stack(start, axis=1)),
        count=torch.from_numpy(np.stack(count, axis=1)),
    )


def _as_tensor(array: np.ndarray) -> Tensor:
    """The array as a tensor, without a copy: a memory map stays one, and nobody writes to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def _clip_time(time_s: np.ndarray, offsets: np.ndarray, span: np.ndarray) -> np.ndarray:
    """(R,) times scaled so that a clip's start is 0 and its end 1.

    The clip table's interval decides; where it gives none, or the tokens lie outside it (times of imported
    tokens may count from anywhere), the first and the last token of the clip do.
    """
    length = np.diff(offsets)
    if not len(length):
        return time_s
    first = np.minimum.reduceat(time_s, offsets[:-1])  # (n,); a stored clip has at least one token
    last = np.maximum.reduceat(time_s, offsets[:-1])
    inside = (first >= span[:, 0] - OUTSIDE_CLIP_S) & (last <= span[:, 1] + OUTSIDE_CLIP_S)  # False for NaN
    low, high = np.where(inside, span[:, 0], first), np.where(inside, span[:, 1], last)
    extent = np.repeat(high - low, length)
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled = (time_s - np.repeat(low, length)) / extent
    return np.where(extent > 0, scaled, 0.5).clip(0.0, 1.0)
