"""Attention on the demo's own videos: interviews in which the mood shows for a fifth of the time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mgcli.cache import open_cache
from mgcli.extract import DemoConfig, extract_modalities, load_dataset, make_demo
from mgcli.extract.dataset_demo import plan_videos
from mgcli.extract.dataset_demo_drawing import FPS
from mgcli.fuse import make_config, run_attention, train_head


@pytest.mark.slow  # extracts 64 interviews with both networks
def test_the_head_looks_at_the_face_while_it_shows_the_mood(tmp_path: Path) -> None:
    demo = DemoConfig(train_subjects=12, test_subjects=4, clip_frames=28, interview_frames=140)
    make_demo(tmp_path / "data", demo)
    table = load_dataset("demo", tmp_path / "data")
    cache = open_cache(tmp_path / "features", create=True)
    weights = {"context": "random:0", "face": "random:0"}
    extract_modalities(cache, table, ["context", "face"], weights=weights, task="emotion", protocol="demo")
    table = cache.read_clips()
    config = make_config({"min_steps": 250})
    run = train_head(cache, "emotion", seeds=1, config=config, runs=tmp_path / "runs", clips=table, progress=False)
    clip_ids = table.loc[(table["split"] == "test") & (table["emotion"] != ""), "clip_id"].tolist()
    found, faces = run_attention(run, cache, clip_ids, clips=table), cache.feature_set("face")
    acts = {video.name: video.acts[0] for video in plan_videos(demo) if video.place}
    given, uniform = [], []
    for clip_id in clip_ids:
        time_s, _ = faces.load_times([clip_id])
        act = acts[clip_id]
        shown = (time_s * FPS >= act.start_frame) & (time_s * FPS < act.end_frame)
        given.append(found.clips[clip_id].tokens["face"][shown].sum())
        uniform.append(shown.mean())
    print(f"attention to the mood {np.mean(given):.3f}, uniform {np.mean(uniform):.3f}, {run.metrics['test']['top1']}")
    assert np.mean(given) >= 2 * np.mean(uniform)
