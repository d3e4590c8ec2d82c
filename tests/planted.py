"""Small caches whose labels are planted in their tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from samples import make_spec

from mgcli.cache import FeatureCache, check_clip_table, open_cache
from mgcli.fuse import HeadConfig, TrainConfig

# A training for the traces it leaves, not for its scores.
QUICK = TrainConfig(epochs=2, min_steps=1, head=HeadConfig(width=16, num_heads=2, rank=8))


def planted_tokens(
    bits: np.ndarray, dim: int, amplitude: float, rng: np.random.Generator, num_tokens: int = 8
) -> np.ndarray:
    """(n, num_tokens, dim) noise, with +-amplitude along one direction in one random token a clip.

    Args:
        bits: (n,) of 0 and 1.
        dim: token width.
        amplitude: in standard deviations of the noise along the direction.
        rng: where chance comes from.
        num_tokens: of a clip.
    """
    tokens = rng.standard_normal((len(bits), num_tokens, dim))
    direction = rng.standard_normal(dim)
    direction *= amplitude / np.linalg.norm(direction)
    tokens[np.arange(len(bits)), rng.integers(num_tokens, size=len(bits))] += np.outer(2 * bits - 1, direction)
    return tokens.astype(np.float32)


def planted_cache(
    path: Path,
    *,
    task: str = "gesture",
    rule: str = "xor",
    num_train: int = 160,
    num_test: int = 80,
    num_subjects: tuple[int, int] = (8, 6),
    dim: int = 8,
    amplitude: float = 8.0,
    scale: float = 1.0,
    seed: int = 0,
    modalities: tuple[str, ...] = ("video", "pose"),
) -> FeatureCache:
    """A cache of two modalities, each with one bit in one of 8 tokens, and its clip table.

    Args:
        path: folder to make.
        task: which label column to fill.
        rule: xor: two classes; product: four, one for each pair of bits; shuffled: xor, then mixed up.
        num_train: training clips.
        num_test: test clips.
        num_subjects: of training and test.
        dim: token width.
        amplitude: of the planted bits.
        scale: of all tokens.
        seed: same seed, same cache.
        modalities: names of the two.
    """
    rng = np.random.default_rng(seed)
    num_clips = num_train + num_test
    bits = rng.integers(2, size=(num_clips, 2))
    labels = bits[:, 0] ^ bits[:, 1] if rule != "product" else 2 * bits[:, 0] + bits[:, 1]
    if rule == "shuffled":
        labels = rng.permutation(labels)
    subjects = [*(np.arange(num_train) % num_subjects[0]), *(100 + np.arange(num_test) % num_subjects[1])]
    table = pd.DataFrame(
        {
            "clip_id": [f"c{i:05d}" for i in range(num_clips)],
            "subject_id": [f"s{subject:03d}" for subject in subjects],
            "split": ["train"] * num_train + ["test"] * num_test,
            task: labels if task == "gesture" else np.array(["lose", "win"])[labels],
        }
    )
    cache = open_cache(path, create=True)
    for i, modality in enumerate(modalities):
        spec = make_spec(modality=modality, dim=dim, reads="imported", weights="imported")
        tokens = scale * planted_tokens(bits[:, i], dim, amplitude, rng)
        with cache.create_feature_set(spec).writer() as writer:
            for clip_id, clip_tokens in zip(table["clip_id"], tokens, strict=True):
                writer.add(clip_id, clip_tokens)
    cache.write_clips(check_clip_table(table), "planted")
    return cache


def clips_of(cache: FeatureCache, **columns: object) -> pd.DataFrame:
    """The cache's clip table with some columns replaced."""
    return cache.read_clips().assign(**columns)
