"""Skeleton files: rows, times, missing joints, and what is said of files that are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_media import make_skeleton, make_video

from mgcli.extract import SkeletonError, index_video, read_skeleton


def test_rows_take_the_times_of_the_videos_frames(tmp_path: Path) -> None:
    ticks = [0, 1, 2, 10, 11, 30]
    video = index_video(make_video(tmp_path / "v.mp4", 6, ticks=ticks))
    skeleton = read_skeleton(make_skeleton(tmp_path / "s.npy", 6), video=video)
    np.testing.assert_allclose(skeleton.time_s, np.array(ticks) / 25, atol=1e-6)
    assert skeleton.end_s == video.end_s
    assert skeleton.frames_at(np.array([0.0, 0.3, 0.4, 9.0])).tolist() == [0, 2, 3, 5]


def test_a_rate_needs_no_video(tmp_path: Path) -> None:
    skeleton = read_skeleton(make_skeleton(tmp_path / "s.npy", 50), fps=10)
    assert skeleton.end_s == 5.0
    assert skeleton.frames_at(np.array([1.25])).tolist() == [12]


def test_missing_joints_are_all_zero_however_they_are_written(tmp_path: Path) -> None:
    joints = np.full((4, 3, 3), 5.0)
    joints[0, 0, 2] = 0.0
    joints[1, 1, 0] = np.nan
    joints[2, 2, 2] = -1.0
    np.save(tmp_path / "xyc.npy", joints)
    read = read_skeleton(tmp_path / "xyc.npy", fps=25).joints
    assert read.dtype == np.float32
    assert [read[i, i].tolist() for i in range(3)] == [[0, 0, 0]] * 3
    assert read[3].tolist() == [[5, 5, 5]] * 3
    joints[3, 0, :2] = 0
    np.save(tmp_path / "xy.npy", joints[..., :2])
    read = read_skeleton(tmp_path / "xy.npy", fps=25).joints
    assert read[3].tolist() == [[0, 0, 0], [5, 5, 1], [5, 5, 1]]


def test_a_skeleton_that_is_a_little_shorter_than_its_video_is_used(tmp_path: Path) -> None:
    video = index_video(make_video(tmp_path / "v.mp4", 30))
    assert read_skeleton(make_skeleton(tmp_path / "short.npy", 27), video=video).end_s == pytest.approx(27 / 25)
    assert read_skeleton(make_skeleton(tmp_path / "long.npy", 33), video=video).end_s == pytest.approx(30 / 25)
    with pytest.raises(SkeletonError, match="has 60 rows, its video 30 frames"):
        read_skeleton(make_skeleton(tmp_path / "double.npy", 60), video=video)


def write_bad_skeleton(kind: str, folder: Path) -> Path:
    path = folder / f"{kind}.npy"
    arrays = {
        "flat": np.zeros((30, 15)),
        "wide": np.zeros((30, 5, 4)),
        "text": np.full((30, 5, 3), "x"),
        "none": np.zeros((0, 5, 3)),
        "code": np.array([{}], dtype=object),
    }
    if kind in arrays:
        np.save(path, arrays[kind], allow_pickle=kind == "code")
    elif kind == "cut":
        whole = make_skeleton(path).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "empty":
        path.touch()
    elif kind == "sheet":
        path = folder / "sheet.xlsx"
        path.touch()
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no such file"),
        ("empty", "cut short"),
        ("cut", "cut short"),
        ("code", "not a .npy array"),
        ("flat", r"shape \(30, 15\); expected"),
        ("wide", r"shape \(30, 5, 4\); expected"),
        ("text", "expected numbers"),
        ("none", "no frames or no joints"),
        ("sheet", "not an .xlsx sheet"),
    ],
)
def test_a_bad_file_is_named_with_its_fault(kind: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SkeletonError, match=message):
        read_skeleton(write_bad_skeleton(kind, tmp_path), fps=25)


def test_without_a_rate_and_a_video_there_are_no_times(tmp_path: Path) -> None:
    with pytest.raises(SkeletonError, match="skeleton_fps"):
        read_skeleton(make_skeleton(tmp_path / "s.npy"))
