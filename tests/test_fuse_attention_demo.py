"""Attention on the demo's own videos: interviews in which the mood shows for a fifth of the time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mgcli.cache import FeatureCache, open_cache
from mgcli.extract import DemoConfig, extract_modalities, load_dataset, make_demo
from mgcli.extract.dataset_demo import plan_videos
from mgcli.extract.dataset_demo_drawing import FPS
from mgcli.fuse import make_config, run_attention, train_head

DEMO = DemoConfig(train_subjects=12, test_subjects=4, clip_frames=28, interview_frames=140)


@pytest.fixture(scope="module")
def interviews(tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureCache, pd.DataFrame]:
    """64 interviews, labelled by their mood: with so short a moment, what the banner adds is too much to learn."""
    folder = tmp_path_factory.mktemp("demo")
    make_demo(folder / "data", DEMO)
    table = load_dataset("demo", folder / "data")
    cache = open_cache(folder / "features", create=True)
    weights = {"context": "random:0", "face": "random:0"}
    extract_modalities(cache, table, ["context", "face"], weights=weights, task="emotion", protocol="demo")
    table = cache.read_clips()
    table = table[table["emotion"] != ""].reset_index(drop=True)
    moods = {video.name: video.acts[0].face for video in plan_videos(DEMO)}
    return cache, table.assign(emotion=["win" if moods[name] == "smile" else "lose" for name in table["clip_id"]])


@pytest.mark.slow  # extracts 64 interviews with both networks
@pytest.mark.parametrize("head", ["inter_fusion", "cross_modal_token_fusion"])
def test_a_head_looks_at_the_face_while_it_shows_the_mood(
    interviews: tuple[FeatureCache, pd.DataFrame], tmp_path: Path, head: str
) -> None:
    cache, table = interviews
    config = make_config({"min_steps": 250})
    run = train_head(cache, "emotion", head=head, seeds=2, config=config, runs=tmp_path, clips=table, progress=False)
    clip_ids, faces = table.loc[table["split"] == "test", "clip_id"].tolist(), cache.feature_set("face")
    acts = {video.name: video.acts[0] for video in plan_videos(DEMO)}
    given, uniform = [], []
    for seed in (0, 1):
        found = run_attention(run, cache, clip_ids, seed=seed, clips=table)
        for clip_id in clip_ids:
            frame = faces.load_times([clip_id])[0] * FPS
            shown = (frame >= acts[clip_id].start_frame) & (frame < acts[clip_id].end_frame)
            given.append(found.clips[clip_id].tokens["face"][shown].sum())
            uniform.append(shown.mean())
    top1 = run.metrics["test"]["top1"]["mean"]
    print(f"{head}: attention to the mood {np.mean(given):.3f}, uniform {np.mean(uniform):.3f}, top-1 {top1:.3f}")
    assert top1 >= 0.75
    assert np.mean(given) >= 2 * np.mean(uniform)
