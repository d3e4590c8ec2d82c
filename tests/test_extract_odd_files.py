"""Files that no one would call usual, end to end: each costs its own clips, with the reason, and no run."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest
from tiny_media import make_skeleton, make_video

from mgcli.cache import FeatureCache, check_clip_table, open_cache
from mgcli.extract import ExtractReport, check_dataset, extract_modalities
from mgcli.extract.view_media import view_clip

BACKBONES = {"video": "tiny_backbones:TinyVideo", "context": "tiny_backbones:TinyWindows", "pose": "joints"}
LONG_NAME = "x" * 300


@pytest.fixture
def store(tmp_path: Path) -> FeatureCache:
    return open_cache(tmp_path / "features", create=True)


def extract(store: FeatureCache, table: pd.DataFrame, modality: str, *, workers: int = 0) -> ExtractReport:
    return extract_modalities(
        store,
        table,
        [modality],
        backbones={modality: BACKBONES[modality]},
        weights="random:0",
        precision="float32",
        workers=workers,
        progress=False,
    )


def reasons(store: FeatureCache, modality: str) -> dict[str, str]:
    failed = store.feature_set(modality).failures()
    return dict(zip(failed["clip_id"], failed["reason"], strict=True))


def table_of(column: str, paths: dict[str, Path], **cells: float) -> pd.DataFrame:
    return check_clip_table(
        pd.DataFrame({"clip_id": list(paths), column: [str(each) for each in paths.values()]} | cells)
    )


def odd_paths(folder: Path, suffix: str) -> dict[str, Path]:
    """What is no regular file, by what should be said of it."""
    (folder / f"loop{suffix}").symlink_to(f"loop{suffix}")
    os.mkfifo(folder / f"pipe{suffix}")
    (folder / f"link{suffix}").symlink_to("/dev/zero")
    return {
        "Too many levels of symbolic links": folder / f"loop{suffix}",
        "File name too long": folder / f"{LONG_NAME}{suffix}",
        "no such file": folder / f"gone{suffix}",
        "not a regular file; copy what it gives": folder / f"pipe{suffix}",
        "not a regular file": folder / f"link{suffix}",
    }


@pytest.mark.parametrize("workers", [0, 1])
def test_a_video_that_is_no_regular_file_costs_its_clip(workers: int, store: FeatureCache, tmp_path: Path) -> None:
    odd = odd_paths(tmp_path, ".mp4")
    table = table_of("video", odd | {"good": make_video(tmp_path / "good.mp4")})
    report = extract(store, table, "video", workers=workers)
    assert (report.modalities["video"].done, report.failed) == (1, len(odd))
    for said, reason in reasons(store, "video").items():
        assert said in reason
        assert str(odd[said]) in reason


@pytest.mark.parametrize("suffix", [".npy", ".csv", ".pkl"])
def test_a_skeleton_that_is_no_regular_file_costs_its_clip(suffix: str, store: FeatureCache, tmp_path: Path) -> None:
    odd = odd_paths(tmp_path, suffix)
    (tmp_path / "json").mkdir()
    os.mkfifo(tmp_path / "json" / "a_000000000000_keypoints.json")
    odd["not a regular file; copy"] = tmp_path / "json"
    table = table_of("skeleton", odd | {"good": make_skeleton(tmp_path / "good.npy")}, skeleton_fps=25)
    assert extract(store, table, "pose").modalities["pose"].done == 1
    for said, reason in reasons(store, "pose").items():
        assert said in reason


@pytest.mark.parametrize("column", ["video", "skeleton", "face"])
def test_data_check_and_view_go_on_past_such_files(column: str, tmp_path: Path) -> None:
    odd = odd_paths(tmp_path, ".npy")
    table = table_of(column, odd)
    report = check_dataset(table, dataset="table", protocol="table", progress=False)
    found = {each.text: each.names for each in report.faults}
    assert found[f"1 {column} files are not there, of 1 clips"] == (str(odd["no such file"]),)
    named = found[f"4 {column} files cannot be opened, of 4 clips"]
    assert any(each.startswith(f"{odd['not a regular file']}: not a regular file") for each in named)
    for clip in table.to_dict("records"):
        notes = view_clip({str(name): cell for name, cell in clip.items()}).notes
        if column != "face":
            assert any(clip["clip_id"] in note for note in notes)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look into every folder")
def test_a_folder_that_may_not_be_looked_into_costs_its_clips(store: FeatureCache, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir()
    make_video(tmp_path / "closed" / "a.mp4")
    (tmp_path / "closed").chmod(0)
    paths = {"closed": tmp_path / "closed" / "a.mp4", "good": make_video(tmp_path / "good.mp4")}
    try:
        assert extract(store, table_of("video", paths), "video").modalities["video"].done == 1
        assert "Permission denied" in reasons(store, "video")["closed"]
    finally:
        (tmp_path / "closed").chmod(0o700)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_changes_its_size_costs_the_clips_that_see_it(
    workers: int, store: FeatureCache, tmp_path: Path
) -> None:
    upright = make_video(tmp_path / "upright.ts", 25, size_px=(48, 96), ticks=range(25, 50))
    both = tmp_path / "both.ts"
    both.write_bytes(make_video(tmp_path / "wide.ts", 25).read_bytes() + upright.read_bytes())
    bounds = {"before": (0.0, 0.8), "across": (0.5, 1.5), "after": (1.2, 1.8)}
    rows = [(clip_id, str(both), *each) for clip_id, each in bounds.items()]
    table = check_clip_table(pd.DataFrame(rows, columns=["clip_id", "video", "start_s", "end_s"]))
    assert extract(store, table, "video", workers=workers).modalities["video"].done == 2
    (reason,) = reasons(store, "video").values()
    assert f"{both}: the picture changes its size before 1.12 s, from 64x48 to 48x96 pixels; end the clip" in reason


def test_a_wrong_timestamp_makes_no_windows_without_end(store: FeatureCache, tmp_path: Path) -> None:
    late = make_video(tmp_path / "late.mp4", 30, ticks=[*range(29), 40_000 * 25])
    report = extract(store, table_of("video", {"late": late}), "context")
    assert report.failed == 1
    assert "one frame is shown from 1.12 s to 40000.00 s; if a timestamp is wrong" in reasons(store, "context")["late"]
    one_window = extract(store, table_of("video", {"late": late}), "video")
    assert one_window.failed == 0
    assert "one frame is shown from 1.12 s to 40000.00 s" in one_window.warnings[0]
    part = table_of("video", {"part": late}, start_s=0.0, end_s=1.0)
    assert extract(store, part, "context").failed == 0


def test_an_end_beyond_all_reason_is_said_in_few_digits(store: FeatureCache, tmp_path: Path) -> None:
    video = make_video(tmp_path / "a.mp4")
    report = extract(store, table_of("video", {"a": video}, start_s=0.0, end_s=1e308), "video")
    assert report.warnings == ["clip 'a': the clip ends at 1e+308 s, its video at 1.20 s; what is there is used"]
    extract(store, table_of("video", {"b": video}, start_s=1e307, end_s=1e308), "video")
    assert reasons(store, "video")["b"] == "the clip starts at 1e+307 s, after the end at 1.20 s"
