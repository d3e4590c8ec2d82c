"""`mgcli cache explain`: why a clip would be computed, or passed over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from tiny_media import make_video

from mgcli.cache import ClipTableError, Explanation, open_cache, read_clip_table
from mgcli.extract import explain_extraction, extract_modalities

ASKED_FOR = {"backbones": {"video": "tiny_backbones:TinyVideo"}, "weights": "random:0", "precision": "float32"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two clips, the second of a video that is not there, extracted once."""
    make_video(tmp_path / "v0.mp4", 30)
    rows = [{"clip_id": f"c{i}", "video": str(tmp_path / f"v{i}.mp4"), "start_s": 0.0, "end_s": 0.5} for i in range(2)]
    pd.DataFrame(rows).to_csv(tmp_path / "clips.csv", index=False)
    cache = open_cache(tmp_path / "features", create=True)
    extract_modalities(cache, read_clip_table(tmp_path / "clips.csv"), ["video"], **ASKED_FOR, progress=False)
    return tmp_path


def explain(folder: Path, clip_id: str, **changes: object) -> Explanation:
    table = read_clip_table(folder / "clips.csv")
    cache = open_cache(folder / "features")
    [found] = explain_extraction(cache, table, clip_id, ["video"], **(ASKED_FOR | changes))
    return found


def test_a_clip_that_is_there_is_up_to_date(folder: Path) -> None:
    found = explain(folder, "c0")
    assert found.verdict == "up to date"
    assert found.others == []
    assert "passes over it" in found.summary()


def test_a_changed_setting_is_named_with_both_values(folder: Path) -> None:
    found = explain(folder, "c0", options={"video": {"num_frames": 3}}, weights="random:7")
    assert found.verdict == "missing"
    [other] = found.others
    assert set(other.fields) == {"weights", "weights_sha256", "sampling.num_frames"}
    assert other.fields["weights"] == ("random:0", "random:7")
    assert other.fields["sampling.num_frames"] == (4, 3)
    assert "sampling.num_frames: 4, now 3" in found.summary()


def test_a_changed_video_or_interval_makes_a_clip_stale(folder: Path) -> None:
    table = pd.read_csv(folder / "clips.csv")
    table.loc[0, "end_s"] = 0.75
    table.to_csv(folder / "clips.csv", index=False)
    found = explain(folder, "c0")
    assert found.verdict == "stale"
    assert "the clip's interval in it, changed; run mgcli extract --modality video" in found.because
    (folder / "v0.mp4").unlink()
    assert "is the media file where it was?" in explain(folder, "c0").because


def test_a_clip_that_failed_says_why(folder: Path) -> None:
    found = explain(folder, "c1")
    assert found.verdict == "failed"
    assert "v1.mp4" in found.because


def test_a_clip_that_is_not_in_the_table_is_an_error_with_a_near_name(folder: Path) -> None:
    with pytest.raises(ClipTableError, match=r"no clip 'c00' in the clip table; did you mean 'c0'\?"):
        explain(folder, "c00")


def test_the_command_prints_it(folder: Path) -> None:
    command = [sys.executable, "-m", "mgcli.cli", "cache", "explain", "c0", "--modality", "video"]
    command += ["--backbone", "tiny_backbones:TinyVideo", "--weights", "random:0", "--precision", "float32"]
    command += ["--clips", "clips.csv", "--cache", "features", "--json"]
    environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    [found] = json.loads(done.stdout)
    assert (found["clip_id"], found["verdict"]) == ("c0", "up to date")
