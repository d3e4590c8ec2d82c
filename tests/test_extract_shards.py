"""Shards: every video is in just one, they are of equal size, and as many as there are may run at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from many_clips import NUM_CLIPS, check_equal, local_tokens, make_many_clips
from samples import FORMATS
from tiny_media import make_skeleton

from mgcli.cache import check_clip_table, open_cache
from mgcli.extract import Shard, extract_modalities
from mgcli.extract.shard import files_of, share_of

TESTS = Path(__file__).parent


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start `mgcli extract` with a tiny backbone, as a user does."""
    command = [sys.executable, "-m", "mgcli.cli", "extract", "--modality", "video", "--clips", "clips.csv"]
    command += ["--backbone", "tiny_backbones:TinyVideo", "--weights", "random:0", "--precision", "float32"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    pipe = subprocess.PIPE
    return subprocess.Popen([*command, *words], cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)


def finish(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    said, errors = process.communicate(timeout=300)
    assert process.returncode == code, f"exit {process.returncode}\n{said}\n{errors}"
    return said, errors


@pytest.mark.parametrize("format", FORMATS)
def test_three_shards_at_once_fill_one_cache(format: str, tmp_path: Path) -> None:
    table = make_many_clips(tmp_path)
    gone = pd.DataFrame([{"clip_id": f"gone/{i}", "video": str(tmp_path / f"gone{i}.mp4")} for i in range(9)])
    pd.concat([table, gone]).to_csv(tmp_path / "clips.csv", index=False)
    shards = [start(tmp_path, "--cache", "features", "--format", format, "--shard", f"{i}/3") for i in range(3)]
    for shard in shards:
        said, _ = finish(shard, code=3)
        assert "3 of" in said
    cache = open_cache(tmp_path / "features")
    assert len(cache.feature_set("video").clips()) == NUM_CLIPS
    check_equal(cache, local_tokens(table, tmp_path / "local"))
    assert sorted(cache.feature_set("video").failures()["clip_id"]) == [f"gone/{i}" for i in range(9)]
    assert len(cache.clip_tables()) == 1


def test_a_shard_with_nothing_to_do_says_so(tmp_path: Path) -> None:
    make_many_clips(tmp_path)
    said, errors = finish(start(tmp_path, "--shard", "11/12"))
    assert "nothing to do for shard 11/12: there are fewer videos than shards" in said
    assert errors == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shard", "3/3"], "there is no shard 3/3: shards count from 0, so the last one of 3 is 2/3"),
        (["--shard", "0/0"], "there is no shard 0/0"),
        (["--shard", "-1/3"], "'-1/3' is no shard; give I/N, counted from 0, such as 0/3"),
        (["--shard", "1"], "'1' is no shard"),
        (["--shard", "1/3", "--engine", "ray"], "leave --devices and --shard away"),
        (["--devices", "cpu", "--engine", "ray"], "leave --devices and --shard away"),
        (["--devices", "cpu,", "--shard", "0/2"], "--devices takes names with commas between them"),
        (["--devices", "cpu", "--device", "cpu"], "give --device or --devices, not both"),
        (["--engine", "spark"], "--engine 'spark': known: ray"),
    ],
)
def test_wrong_usage_exits_2(words: list[str], message: str, tmp_path: Path) -> None:
    _, errors = finish(start(tmp_path, *words), code=2)
    assert message in " ".join(errors.split())


@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=40),
    clips=st.lists(st.integers(1, 5), min_size=40, max_size=40),
    count=st.integers(1, 50),
)
def test_every_file_is_in_just_one_shard_and_the_shards_are_balanced(
    lengths: list[int], clips: list[int], count: int
) -> None:
    rows = [
        {"clip_id": f"{i}/{k}", "video": f"v{i}.mp4", "start_s": 0.0, "end_s": float(length)}
        for i, length in enumerate(lengths)
        for k in range(clips[i])
    ]
    table = pd.DataFrame(rows).assign(start_frame=np.nan, end_frame=np.nan, skeleton="")
    shares = [share_of([table, table.iloc[::2]], Shard(i, count)) for i in range(count)]
    assert sorted(file for share in shares for file in share) == sorted(set(table["video"]))
    # the largest share is at most one video above the average
    work = {f"v{i}.mp4": length + 2 * clips[i] for i, length in enumerate(lengths)}
    loads = [sum(work[file] for file in share) for share in shares]
    assert max(loads) <= sum(work.values()) / count + max(work.values())


def test_a_share_depends_neither_on_what_is_done_nor_on_the_files(tmp_path: Path) -> None:
    """Skeletons without a video are shared out by file, and each has its share again after others have finished."""
    rows = []
    for i in range(5):
        make_skeleton(tmp_path / f"s{i}.npy", 60, seed=i)
        files = {"skeleton": str(tmp_path / f"s{i}.npy"), "skeleton_fps": 25}
        rows += [{"clip_id": f"{i}/{k}", **files, "start_frame": 10 * k, "end_frame": 10 * k + 20} for k in range(3)]
    table = check_clip_table(pd.DataFrame(rows))
    share = share_of([table], Shard(1, 2))
    cache = open_cache(tmp_path / "features", create=True)
    options = {"backbones": {"pose": "joints"}, "workers": 0, "progress": False}
    for _ in range(2):
        for index in (0, 1):
            extract_modalities(cache, table, ["pose"], shard=Shard(index, 2), **options)
            if index == 0:
                (tmp_path / "s4.npy").unlink(missing_ok=True)
        assert share_of([table], Shard(1, 2)) == share
    of_clip = dict(zip(table["clip_id"], files_of(table), strict=True))
    parts = cache.feature_set("pose").clips().groupby("part")["clip_id"]
    assert [{of_clip[clip_id] in share for clip_id in clips} for _, clips in parts] == [{False}, {True}]
