"""An extraction killed at any moment goes on where it was: nothing committed is lost, changed or done twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_media import make_video

from mgcli.cache import FeatureCache, open_cache, verify_cache

NUM_VIDEOS = 6
CLIPS_PER_VIDEO = 10
# a run of its own process, which lists each clip whose inputs it takes
RUNNER = """
import sys
from pathlib import Path
from mgcli.cache import open_cache, read_clip_table
from mgcli.extract import extract_modalities, run

folder, log, delay_s = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
add = run.ModalityEmbedder.add
def noted(self, ready):
    with log.open("a") as file:
        file.write(ready.request.clip_id + "\\n")
    add(self, ready)
run.ModalityEmbedder.add = noted
log.touch()
extract_modalities(
    open_cache(folder / "cache", create=True), read_clip_table(folder / "clips.csv"), ["video"],
    backbones={"video": "tiny_backbones:TinyVideo"}, options={"video": {"delay_s": delay_s}},
    weights="random:0", precision="float32", workers=1, progress=False,
)
"""


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for i in range(NUM_VIDEOS):
        make_video(folder / f"v{i}.mp4", 50, first_number=20 * i)
    return folder


def write_table(folder: Path, videos: Path) -> None:
    rows = [
        {"clip_id": f"v{i}/{k}", "video": str(videos / f"v{i}.mp4"), "start_s": 0.15 * k, "end_s": 0.15 * k + 0.5}
        for i in range(NUM_VIDEOS)
        for k in range(CLIPS_PER_VIDEO)
    ]
    folder.mkdir(exist_ok=True)
    pd.DataFrame(rows).to_csv(folder / "clips.csv", index=False)


def start_run(folder: Path, log: Path, delay_s: float) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUNNER, str(folder), str(log), str(delay_s)]
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def committed(folder: Path) -> tuple[FeatureCache, dict[str, bytes]]:
    """The cache as a reader sees it, and the bytes of every clip in it."""
    cache = open_cache(folder / "cache")
    if not cache.feature_sets():
        return cache, {}
    feature_set = cache.feature_set("video")
    return cache, {clip_id: feature_set.load([clip_id])[0].tobytes() for clip_id in feature_set.clips()["clip_id"]}


def kill_and_resume(tmp_path: Path, videos: Path, num_kills: int, delay_s: float) -> None:
    folder, log = tmp_path / "killed", tmp_path / "log"
    write_table(folder, videos)
    rng = np.random.default_rng()
    before: dict[str, bytes] = {}
    for _ in range(num_kills):
        log.unlink(missing_ok=True)
        run = start_run(folder, log, delay_s)
        while not log.exists() and run.poll() is None:
            time.sleep(0.02)
        with_time_left = NUM_VIDEOS * CLIPS_PER_VIDEO / 2 * delay_s
        time.sleep(rng.uniform(0, with_time_left))
        run.send_signal(signal.SIGKILL)
        run.communicate()
        if not (folder / "cache" / "mgcache.json").exists():
            continue
        cache, after = committed(folder)
        assert verify_cache(cache).ok
        assert {clip_id: after[clip_id] for clip_id in before} == before
        assert not set(log.read_text().split()) & set(before)
        before = after

    for place in (folder, tmp_path / "undisturbed"):
        write_table(place, videos)
        log.unlink(missing_ok=True)
        run = start_run(place, log, delay_s=delay_s if place == folder else 0.0)
        _, errors = run.communicate(timeout=120)
        assert run.returncode == 0, errors.decode()
        if place == folder:
            assert not set(log.read_text().split()) & set(before)
    cache, final = committed(folder)
    assert verify_cache(cache).ok
    assert {clip_id: final[clip_id] for clip_id in before} == before
    assert len(cache.feature_set("video").clips()) == NUM_VIDEOS * CLIPS_PER_VIDEO
    _, undisturbed = committed(tmp_path / "undisturbed")
    assert final.keys() == undisturbed.keys()
    for clip_id, expected in undisturbed.items():
        tokens, other = np.frombuffer(final[clip_id], np.float32), np.frombuffer(expected, np.float32)
        assert np.abs(tokens - other).max() <= 1e-5 * np.abs(other).max()


def test_a_killed_run_resumes(tmp_path: Path, videos: Path) -> None:
    kill_and_resume(tmp_path, videos, num_kills=2, delay_s=0.08)


@pytest.mark.faults
def test_a_run_killed_twenty_times_resumes(tmp_path: Path, videos: Path) -> None:
    kill_and_resume(tmp_path, videos, num_kills=20, delay_s=0.08)


def test_ctrl_c_commits_whole_clips(tmp_path: Path, videos: Path) -> None:
    folder, log = tmp_path / "stopped", tmp_path / "log"
    write_table(folder, videos)
    run = start_run(folder, log, delay_s=0.05)
    while run.poll() is None and (not log.exists() or len(log.read_text().split()) < 10):
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=30)
    assert "KeyboardInterrupt" in errors.decode()
    cache, tokens = committed(folder)
    assert verify_cache(cache).ok
    assert len(tokens) >= 6
