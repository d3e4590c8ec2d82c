"""Pose end to end: skeleton files of every kind through 2s-AGCN into the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from golden_weights import scaled_error
from tiny_media import make_video
from tiny_skeletons import KINDS, points, write_ntu, write_openpose, write_openpose_frame

from mgcli.cache import describe_clips, open_cache, read_clip_table
from mgcli.extract import ExtractReport, WeightsError, create_backbone, extract_modalities, joint_layout

TARGETS = {"openpose137": "imigue22", "imigue35": "imigue22", "coco17": "kinetics18"}  # layout -> what it becomes
NUM_FRAMES = 20


def clip_table(folder: Path, *skeletons: str, **columns: Any) -> pd.DataFrame:
    """One clip of each skeleton file, 0.8 s at 25 rows a second."""
    rows = {"clip_id": list(skeletons), "skeleton": list(skeletons), "skeleton_fps": 25}
    pd.DataFrame(rows | columns).to_csv(folder / "clips.csv", index=False)
    return read_clip_table(folder / "clips.csv")


def extract_pose(folder: Path, table: pd.DataFrame, backbone: str = "agcn_joint", **arguments: Any) -> ExtractReport:
    options = {"num_frames": 8} | arguments.pop("options", {})
    return extract_modalities(
        open_cache(folder / "features", create=True),
        table,
        ["pose"],
        backbones={"pose": backbone},
        options={"pose": options},
        **{"weights": "random:0", "precision": "float32", "workers": 0, "progress": False, **arguments},
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backbone", ["agcn_joint", "agcn_bone"])
def test_skeleton_files_of_every_kind_give_tokens(backbone: str, kind: str, tmp_path: Path) -> None:
    layout, write = KINDS[kind]
    joints = points(NUM_FRAMES, joint_layout(layout).num_joints) / 100
    hidden = "head" if layout == "ntu25" else "left_ear"  # on which no other joint hangs
    joints[:, joint_layout(layout).index(hidden)] = 0
    write(tmp_path / kind, joints)
    table = clip_table(tmp_path, kind)
    wanted = TARGETS.get(layout, layout)
    report = extract_pose(tmp_path, table, backbone, options={"joints": wanted}, tokens="joint")
    assert (report.modalities["pose"].done, report.failed) == (1, 0)
    feature_set = open_cache(tmp_path / "features").feature_set("pose")
    tokens, _ = feature_set.load([kind])
    assert tokens.shape == (joint_layout(wanted).num_joints, 256)
    assert feature_set.spec.transform["joints"] == wanted
    assert feature_set.spec.reads == "skeleton"
    valid = feature_set.load_times([kind])[1]
    assert np.flatnonzero(~valid).tolist() == [joint_layout(wanted).index(hidden)]
    again = extract_pose(tmp_path, table, backbone, options={"joints": wanted}, tokens="joint")
    assert (again.modalities["pose"].done, again.modalities["pose"].skipped) == (0, 1)


def test_tokens_are_those_of_the_backbone_itself(tmp_path: Path) -> None:
    joints = points(NUM_FRAMES, 22) / [1, 1, 400]
    np.save(tmp_path / "a.npy", joints)
    np.save(tmp_path / "b.npy", joints[::-1])
    assert extract_pose(tmp_path, clip_table(tmp_path, "a.npy", "b.npy")).failed == 0
    stored, _ = open_cache(tmp_path / "features").feature_set("pose").load(["a.npy"])
    backbone = create_backbone("agcn_joint", weights="random:0", num_frames=8)
    (times_s,) = backbone.windows(0.0, 0.8)
    rows = np.floor(times_s * 25 + 1e-6).astype(int)
    expected = backbone.embed(backbone.prepare(joints[rows], times_s).inputs[None])[0]
    assert scaled_error(stored, expected.numpy()) < 1e-5


def test_a_changed_folder_of_openpose_files_is_done_again(tmp_path: Path) -> None:
    joints = points(NUM_FRAMES, 137)
    write_openpose(tmp_path / "person", joints)
    table = clip_table(tmp_path, "person")
    assert "not found" not in describe_clips(table)
    assert extract_pose(tmp_path, table).modalities["pose"].done == 1
    assert extract_pose(tmp_path, table).modalities["pose"].skipped == 1
    last = max((tmp_path / "person").iterdir())
    last.write_text(last.read_text().replace("1.3", "1.7"))
    assert extract_pose(tmp_path, table).modalities["pose"].done == 1


def test_of_two_people_in_view_the_main_one_gives_the_tokens(tmp_path: Path) -> None:
    main = points(137) / [1, 1, 400]
    other = main * np.float32([0.5, 0.5, 0.5]) + np.float32([2000, 50, 0])
    for folder, people in (("alone", [main]), ("both", [main, other])):
        (tmp_path / folder).mkdir()
        for frame in range(NUM_FRAMES):
            seen = people[1:] if frame in (3, 9) else people  # the main one is lost for a moment
            write_openpose_frame(tmp_path / folder, frame, seen[:: -1 if frame % 2 else 1])  # in any order
    assert extract_pose(tmp_path, clip_table(tmp_path, "alone", "both")).failed == 0
    feature_set = open_cache(tmp_path / "features").feature_set("pose")
    tokens, _ = feature_set.load(["alone", "both"])
    alone, both = np.split(tokens, 2)
    np.testing.assert_array_equal(alone, both)


def test_two_people_reach_a_network_for_two(tmp_path: Path) -> None:
    first, second = points(2, 25) / 100
    write_ntu(tmp_path / "alone.skeleton", [[("1", first)]] * NUM_FRAMES)
    write_ntu(tmp_path / "both.skeleton", [[("1", first), ("2", second)]] * NUM_FRAMES)
    table = clip_table(tmp_path, "alone.skeleton", "both.skeleton")
    alike = {}
    for num_people in (1, 2):
        options = {"joints": "ntu25", "normalize": "ntu", "num_people": num_people}
        assert extract_pose(tmp_path, table, options=options, tokens="pooled").failed == 0
        feature_sets = open_cache(tmp_path / "features").feature_sets()
        (feature_set,) = (each for each in feature_sets if each.spec.transform["num_people"] == num_people)
        tokens, _ = feature_set.load(["alone.skeleton", "both.skeleton"])
        alike[num_people] = np.allclose(tokens[0], tokens[1])
    assert alike == {1: True, 2: False}


def test_rows_that_follow_a_video_need_no_rate(tmp_path: Path) -> None:
    make_video(tmp_path / "v.mp4", NUM_FRAMES)
    np.save(tmp_path / "s.npy", points(NUM_FRAMES, 22))
    table = clip_table(tmp_path, "s.npy", skeleton_fps="", video="v.mp4")
    assert extract_pose(tmp_path, table).modalities["pose"].done == 1


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("ntu.skeleton", "no map from 'ntu25' to 'imigue22': one is 3-D, the other is not; name its layout"),
        ("pyskl.pkl", "no left_thumb_tip"),
        ("plain.npy", "has 5 joints, layout 'imigue22' has 22; name its layout with joints=NAME"),
        ("sheet.xlsx", "not an .xlsx sheet of numbers, or cut short"),
    ],
)
def test_a_skeleton_that_does_not_fit_fails_with_the_reason(kind: str, reason: str, tmp_path: Path) -> None:
    layout, write = KINDS[kind]
    write(tmp_path / kind, points(NUM_FRAMES, 5 if kind == "plain.npy" else joint_layout(layout).num_joints))
    if kind == "sheet.xlsx":
        (tmp_path / kind).write_bytes((tmp_path / kind).read_bytes()[:99])
    np.save(tmp_path / "good.npy", points(NUM_FRAMES, 22))
    report = extract_pose(tmp_path, clip_table(tmp_path, kind, "good.npy"))
    assert (report.modalities["pose"].done, report.failed) == (1, 1)
    (failure,) = open_cache(tmp_path / "features").feature_set("pose").failures().itertuples()
    assert (failure.clip_id, failure.stage) == (kind, "skeleton")
    assert reason in failure.reason


def test_a_checkpoint_brings_its_own_network(tmp_path: Path) -> None:
    trained = create_backbone("agcn_joint", weights="random:3", network="aagcn", num_people=2)
    torch.save(trained.network.state_dict(), tmp_path / "trained.pt")
    np.save(tmp_path / "a.npy", points(NUM_FRAMES, 22))
    table = clip_table(tmp_path, "a.npy")
    assert extract_pose(tmp_path, table, weights=str(tmp_path / "trained.pt")).failed == 0
    spec = open_cache(tmp_path / "features").feature_set("pose").spec
    assert (spec.transform["network"], spec.transform["num_people"]) == ("aagcn", 2)
    assert (spec.weights, len(spec.weights_sha256)) == ("trained.pt", 64)
    with pytest.raises(WeightsError, match="give --weights FILE"):
        extract_pose(tmp_path, table, weights=None)
