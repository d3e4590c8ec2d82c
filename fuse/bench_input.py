"""A generated cache to time stage two on: labels that its tokens show, but not at once."""

# Shapes: n clips, N tokens, D token width, K classes.

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from mgcli.cache import FeatureCache, FeatureSpec, check_clip_table, open_cache

NUM_CLASSES = 32
_SIGNAL = 12.0  # length of what a class adds to a clip's mean token, in standard deviations of the noise along it
_SUBJECTS = {"train": 40, "val": 10}


def make_bench_cache(
    path: Path, sizes: Mapping[str, tuple[int, int]], *, train_clips: int, val_clips: int, seed: int = 0
) -> FeatureCache:
    """A cache of float16 noise in which each class has a direction of its own in each modality.

    Args:
        path: folder to make.
        sizes: modality -> N, D of every clip.
        train_clips: clips to learn from.
        val_clips: clips that choose the epoch.
        seed: same seed, same cache.
    """
    rng = np.random.default_rng(seed)
    splits = ["train"] * train_clips + ["val"] * val_clips
    labels = np.arange(len(splits)) % NUM_CLASSES
    table = pd.DataFrame(
        {
            "clip_id": [f"c{i:06d}" for i in range(len(splits))],
            "subject_id": [f"{split}{i % _SUBJECTS[split]}" for i, split in enumerate(splits)],
            "split": splits,
            "gesture": labels,
        }
    )
    cache = open_cache(path, create=True)
    for modality, (num_tokens, dim) in sizes.items():
        directions = rng.standard_normal((NUM_CLASSES, dim), dtype=np.float32)
        directions *= _SIGNAL / np.linalg.norm(directions, axis=1, keepdims=True) / np.sqrt(num_tokens)
        with cache.create_feature_set(_spec(modality, dim)).writer() as writer:
            for clip_id, label in zip(table["clip_id"], labels.tolist(), strict=True):
                noise = rng.standard_normal((num_tokens, dim), dtype=np.float32)
                writer.add(clip_id, (noise + directions[label]).astype(np.float16))
                writer.commit_if_due()
    cache.write_clips(check_clip_table(table), "bench")
    return cache


def _spec(modality: str, dim: int) -> FeatureSpec:
    return FeatureSpec(
        modality=modality,
        backbone="bench",
        reads="imported",
        weights="imported",
        weights_sha256="",
        tokens="time",
        dim=dim,
        dtype="float16",
        precision="float32",
    )
