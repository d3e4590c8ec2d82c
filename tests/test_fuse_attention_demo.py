"""Attention on the demo itself: do heads look at the faces that show the mood, which has a moment of its own?

The figures: pytest -s -m slow tests/test_fuse_attention_demo.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mgcli.cache import open_cache
from mgcli.extract import DemoConfig
from mgcli.extract.dataset_demo import plan_videos
from mgcli.extract.dataset_demo_drawing import FPS
from mgcli.fuse import Run, make_config, run_attention, train_head

MOMENTS = {video.name: video.acts[0] for video in plan_videos(DemoConfig()) if video.place}  # of each interview


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `mgcli demo` has run."""
    folder = tmp_path_factory.mktemp("demo")
    nowhere = str(folder / "no-weights")
    done = subprocess.run(
        [sys.executable, "-m", "mgcli.cli", "demo", "--folder", "mgcli-demo"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"MGCLI_WEIGHTS_DIR": nowhere, "TORCH_HOME": nowhere},
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    return folder / "mgcli-demo"


@pytest.mark.slow  # the whole demo
def test_the_demos_own_emotion_head_looks_at_the_face_while_it_shows_the_mood(demo: Path) -> None:
    runs = [Run.load(folder) for folder in (demo / "runs").iterdir()]
    (run,) = (run for run in runs if run.label == "inter_fusion")
    check_that_it_looks_at_the_mood(run, demo)


@pytest.mark.slow
def test_so_does_cross_modal_token_fusion_where_the_mood_alone_decides(demo: Path, tmp_path: Path) -> None:
    """The exclusive-or with the banner is too much for it to learn from so few interviews."""
    cache, config = open_cache(demo / "features"), make_config({"min_steps": 250})  # as the demo trains
    table = cache.read_clips()
    table = table[table["clip_id"].isin(list(MOMENTS))].reset_index(drop=True)
    table["emotion"] = ["win" if MOMENTS[clip_id].face == "smile" else "lose" for clip_id in table["clip_id"]]
    run = train_head(
        cache,
        "emotion",
        head="cross_modal_token_fusion",
        seeds=3,
        config=config,
        clips=table,
        runs=tmp_path,
        progress=False,
    )
    check_that_it_looks_at_the_mood(run, demo)


def check_that_it_looks_at_the_mood(run: Run, demo: Path) -> None:
    """Test interviews alone: the right answer, and at least twice the uniform share on the faces of the moment."""
    faces = open_cache(demo / "features").feature_set("face")
    clip_ids = sorted(set(run.predictions().query("split == 'test'")["clip_id"]))
    frames = {clip_id: faces.load_times([clip_id])[0] * FPS for clip_id in clip_ids}
    shown = {
        clip_id: (frame >= MOMENTS[clip_id].start_frame) & (frame < MOMENTS[clip_id].end_frame)
        for clip_id, frame in frames.items()
    }
    uniform = np.mean([each.mean() for each in shown.values()])
    given = []
    for seed in run.config["seeds"]:
        found = run_attention(run, demo / "features", clip_ids, seed=seed).clips
        given.append(np.mean([found[clip_id].tokens["face"][shown[clip_id]].sum() for clip_id in clip_ids]))
    times = ", ".join(f"{share / uniform:.2f}" for share in given)
    top1 = run.metrics["test"]["top1"]
    print(f"{run.label}: top-1 {top1['values']}; {uniform:.3f} of the faces show the mood, attended {times} x uniform")
    assert top1["mean"] >= 0.85
    assert np.mean(given) >= 2 * uniform
