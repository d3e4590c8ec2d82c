"""Two hundred tiny clips of ten videos, what one process makes of them, and whether another run made the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tiny_media import make_video

from mgcli.cache import FeatureCache, check_clip_table, open_cache, verify_cache
from mgcli.extract import extract_modalities

NUM_VIDEOS = 10
NUM_CLIPS = 200
TINY: dict[str, Any] = {
    "backbones": {"video": "tiny_backbones:TinyVideo"},
    "weights": "random:0",
    "precision": "float32",
    "progress": False,
}


def make_many_clips(folder: Path) -> pd.DataFrame:
    """Videos of 10 to 55 frames with 20 clips each; also as `clips.csv` in that folder."""
    rows = []
    for i in range(NUM_VIDEOS):
        num_frames = 10 + 5 * i
        video = make_video(folder / f"v{i}.mp4", num_frames, first_number=20 * i)
        for k in range(NUM_CLIPS // NUM_VIDEOS):
            start_s = k * (num_frames / 25 - 0.3) / 20
            rows.append({"clip_id": f"v{i}/{k}", "video": str(video), "start_s": start_s, "end_s": start_s + 0.25})
    table = pd.DataFrame(rows)
    table.to_csv(folder / "clips.csv", index=False)
    return check_clip_table(table)


def local_tokens(table: pd.DataFrame, folder: Path) -> dict[str, np.ndarray]:
    """What a run of one process makes: clip -> tokens."""
    cache = open_cache(folder, create=True)
    extract_modalities(cache, table, ["video"], workers=0, **TINY)
    return tokens_of(cache)


def tokens_of(cache: FeatureCache, modality: str = "video") -> dict[str, np.ndarray]:
    """Clip -> tokens, of all that a cache holds."""
    feature_set = cache.feature_set(modality)
    clip_ids = feature_set.clips()["clip_id"].tolist()
    tokens, offsets = feature_set.load(clip_ids)
    return {clip_id: tokens[offsets[i] : offsets[i + 1]].copy() for i, clip_id in enumerate(clip_ids)}


def check_equal(cache: FeatureCache, expected: dict[str, np.ndarray]) -> None:
    """All clips are there with these tokens, but for rounding, and every byte is sound."""
    found = tokens_of(cache)
    assert found.keys() == expected.keys()
    largest = max(np.abs(tokens).max() for tokens in expected.values())
    assert max(np.abs(found[clip_id] - expected[clip_id]).max() for clip_id in expected) <= 1e-5 * largest
    report = verify_cache(cache)
    assert report.ok, report.summary()
