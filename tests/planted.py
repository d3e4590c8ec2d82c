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
    distractors: tuple[str, ...] = (),
    num_tokens: int = 8,
    missing: float = 0.0,
) -> FeatureCache:
    """A cache of modalities, each with one bit in one token of a clip, and its clip table.

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
        modalities: names of the two whose bits make the label.
        distractors: further modalities, each with a bit of its own that says nothing of the label.
        num_tokens: of a clip and modality.
        missing: chance that a training clip lacks a modality; never all. Test clips have all.
    """
    rng = np.random.default_rng(seed)
    num_clips = num_train + num_test
    names = modalities + distractors
    bits = rng.integers(2, size=(num_clips, len(names)))
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
    lacks = rng.random((num_clips, len(names))) < missing if missing else np.zeros((num_clips, len(names)), bool)
    lacks[num_train:] = False
    lacks[lacks.all(axis=1), 0] = False
    for i, modality in enumerate(names):
        spec = make_spec(modality=modality, dim=dim, reads="imported", weights="imported")
        tokens = scale * planted_tokens(bits[:, i], dim, amplitude, rng, num_tokens)
        with cache.create_feature_set(spec).writer() as writer:
            for clip_id, clip_tokens, lacking in zip(table["clip_id"], tokens, lacks[:, i], strict=True):
                if not lacking:
                    writer.add(clip_id, clip_tokens)
    cache.write_clips(check_clip_table(table), "planted")
    return cache


def clips_of(cache: FeatureCache, **columns: object) -> pd.DataFrame:
    """The cache's clip table with some columns replaced."""
    return cache.read_clips().assign(**columns)
