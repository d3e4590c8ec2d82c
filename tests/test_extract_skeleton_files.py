"""Readers of skeleton files: what each kind gives, and what is said of files that are not as they should be."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from tiny_skeletons import (
    points,
    pyskl_annotation,
    write_imigue_csv,
    write_ntu,
    write_openpose_frame,
    write_sheet,
    write_smg_csv,
)

from mgcli.cache import read_plain_pickle
from mgcli.extract.skeleton import MAX_GAP_ROWS, main_person, read_skeleton
from mgcli.extract.skeleton_layouts import SkeletonError, joint_layout
from mgcli.extract.skeleton_readers import read_annotations, read_skeleton_file


def test_openpose_folder_with_gaps_and_two_people(tmp_path: Path) -> None:
    people = points(2, 137)
    write_openpose_frame(tmp_path, 0, [people[0]])
    write_openpose_frame(tmp_path, 3, [people[1], people[0]])
    read = read_skeleton_file(tmp_path)
    assert read.layout is joint_layout("openpose137")
    assert read.joints.shape == (4, 2, 137, 3)
    np.testing.assert_allclose(read.joints[0, 0], people[0])
    np.testing.assert_allclose(read.joints[3, 1], people[0])
    assert not read.joints[1:3].any()
    assert read_skeleton(tmp_path, fps=25).joints.shape == (4, 137, 3)
    np.testing.assert_allclose(read_skeleton(tmp_path, fps=25).joints[3], people[0])  # the person of frame 0


def test_openpose_body_only(tmp_path: Path) -> None:
    write_openpose_frame(tmp_path, 0, [points(25)])
    assert read_skeleton_file(tmp_path).layout is joint_layout("openpose25")
    write_openpose_frame(tmp_path, 1, [points(24)])
    with pytest.raises(SkeletonError, match=r"people of \[24, 25\] joints"):
        read_skeleton_file(tmp_path)
    (tmp_path / "clip_000000000001_keypoints.json").write_text('{"people": [')
    with pytest.raises(SkeletonError, match="not an OpenPose file"):
        read_skeleton_file(tmp_path)


def test_imigue_sheet(tmp_path: Path) -> None:
    joints = points(5, 137)
    joints[2, 7] = 0
    write_sheet(tmp_path / "0001_openpose.xlsx", joints)
    read = read_skeleton_file(tmp_path / "0001_openpose.xlsx")
    assert read.layout is joint_layout("openpose137")
    np.testing.assert_allclose(read.joints[:, 0], joints)
    inside = read_skeleton(tmp_path / "0001_openpose.xlsx", fps=25).joints_in(joint_layout("imigue22"))
    assert inside.shape == (5, 22, 3)
    assert not inside[2, 7].any()
    np.testing.assert_allclose(inside[:, 12], joints[:, 99])
    write_sheet(tmp_path / "narrow.xlsx", joints.reshape(5, 411)[:, :400])
    with pytest.raises(SkeletonError, match="5 rows of 400 numbers; openpose137 has rows of 137 x 3"):
        read_skeleton_file(tmp_path / "narrow.xlsx")


def test_imigue_csv_has_a_header_and_an_index(tmp_path: Path) -> None:
    joints = points(4, 35)
    write_imigue_csv(tmp_path / "0001_light_hand.csv", joints)
    read = read_skeleton_file(tmp_path / "0001_light_hand.csv")
    assert read.layout is joint_layout("imigue35")
    np.testing.assert_allclose(read.joints[:, 0], joints)


def test_smg_csv_has_neither(tmp_path: Path) -> None:
    joints = np.random.default_rng(0).integers(-999, 999, (3, 25, 3)) / 100
    write_smg_csv(tmp_path / "Sample0001_skeleton.csv", joints)
    read = read_skeleton_file(tmp_path / "Sample0001_skeleton.csv")
    assert read.layout is joint_layout("ntu25")
    np.testing.assert_allclose(read.joints[:, 0], joints, rtol=1e-6)


def test_ntu_skeleton_keeps_bodies_apart_by_id(tmp_path: Path) -> None:
    joints = points(2, 25) / 100
    path = tmp_path / "S001.skeleton"
    write_ntu(path, [[("72", joints[0])], [("99", joints[1]), ("72", joints[0])]])
    read = read_skeleton_file(path)
    assert read.layout is joint_layout("ntu25")
    np.testing.assert_allclose(read.joints[:, 0], joints[[0, 0]])
    np.testing.assert_allclose(read.joints[1, 1], joints[1])
    assert not read.joints[0, 1].any()
    assert read_skeleton(path, fps=30, num_people=3).joints.shape == (2, 3, 25, 3)
    lines = path.read_text().split("\n")
    path.write_text("\n".join(lines[:20]))
    with pytest.raises(SkeletonError, match="cut short"):
        read_skeleton_file(path)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pyskl_pickles_of_every_protocol(protocol: int, tmp_path: Path) -> None:
    joints = points(2, 6, 17)  # (M, T, V, C)
    annotation = pyskl_annotation(joints)
    content = {"split": {"train": ["S001"]}, "annotations": [annotation, annotation]}
    path = tmp_path / "poses.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    first, second = read_annotations(path)
    assert first.name == second.name == "S001"
    assert first.layout is joint_layout("coco17")
    np.testing.assert_allclose(first.joints[..., :2], joints[..., :2].transpose(1, 0, 2, 3).astype(np.float16))
    np.testing.assert_allclose(first.joints[..., 2], joints[..., 2].transpose(1, 0, 2))
    assert read_plain_pickle(path, error=SkeletonError)["annotations"][0]["label"] == 3
    with pytest.raises(SkeletonError, match="holds 2 clips"):
        read_skeleton_file(path)


class Bomb:
    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize(
    ("bomb", "message"),
    [
        (Bomb(os.system, "touch boom"), "system, which could run code"),
        (Bomb(eval, "open('boom', 'w')"), "eval, which could run code"),
        (Bomb(getattr, {}, "clear"), "getattr, which could run code"),
        (Bomb(np.load, "boom.npy", None, True), "which could run code"),
        (np.array([Bomb(os.system, "touch boom")], dtype=object), "an array of object"),
        (np.array([{}], dtype=object), "an array of object"),
    ],
)
def test_a_pickle_that_would_run_code_does_not(
    bomb: object, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bomb.pkl"
    path.write_bytes(pickle.dumps({"annotations": [bomb]}))
    with pytest.raises(SkeletonError, match=message):
        read_skeleton_file(path)
    assert not (tmp_path / "boom").exists()


def test_a_pickle_cannot_ask_for_more_memory_than_it_brings(tmp_path: Path) -> None:
    path = tmp_path / "huge.pkl"
    path.write_bytes(pickle.dumps({"annotations": [Bomb(np.ndarray, (1 << 40,), np.dtype("f8"))]}))
    with pytest.raises(SkeletonError, match="not a pickle of arrays"):
        read_skeleton_file(path)
    whole = pickle.dumps({"annotations": [{"keypoint": points(1, 3, 17)}]})
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SkeletonError, match="cut short"):
        read_skeleton_file(path)


def test_the_main_person_is_followed_whatever_the_slot() -> None:
    joints = np.zeros((4, 2, 3, 3), np.float32)
    left, right = np.array([10.0, 10.0, 0.9]), np.array([300.0, 10.0, 0.5])
    joints[0] = np.stack([left, right])[:, None]
    joints[1] = np.stack([right, left])[:, None]
    joints[3, 1] = left + np.array([5.0, 0, 0])
    followed = main_person(joints)
    assert followed[:, 0, 0].tolist() == [10, 10, 0, 15]
    joints[0, 0, 0] = 0
    assert main_person(joints)[0, 1, 0] == 10  # two joints at 0.9, against three at 0.5
    assert main_person(joints, is_3d=True)[0, 1, 0] == 300


def test_another_person_does_not_stand_in_for_the_main_one() -> None:
    body = np.array([[0, 0, 0.9], [40, 0, 0.9], [20, 80, 0.9]], np.float32)
    main, other = body + np.array([10, 10, 0]), body * np.array([1, 1, 0.5]) + np.array([200, 10, 0])
    joints = np.zeros((40, 2, 3, 3), np.float32)
    joints[:, 1] = other
    joints[:4, 0] = main
    joints[6, 0] = main + np.array([15, 0, 0])
    followed = main_person(joints)
    assert followed[:8].any(axis=(1, 2)).tolist() == [True] * 4 + [False] * 2 + [True, False]
    assert followed[6, 0, 0] == 25
    assert not followed[7 : 6 + MAX_GAP_ROWS].any()
    np.testing.assert_array_equal(followed[6 + MAX_GAP_ROWS :], joints[6 + MAX_GAP_ROWS :, 1])  # alone for long enough


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"1 2 3", "not a known skeleton file"),
        ("a.csv", b"", "not a table of numbers"),
        ("a.csv", b"1,2,3\n4,5,6\n", "1 rows of 2 numbers; imigue35"),
        ("a.xlsx", b"PK\x03\x04", "not an .xlsx sheet"),
        ("a.skeleton", b"one", "not an NTU RGB"),
        ("a.pkl", b"", "cut short"),
        ("a.npy", b"\x93NUMPY", "not a .npy array"),
    ],
)
def test_a_file_that_is_not_what_it_seems_says_so(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SkeletonError, match=message):
        read_skeleton_file(tmp_path / name)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SkeletonError, match="no such file"):
        read_skeleton_file(tmp_path / "none.npy")
    with pytest.raises(SkeletonError, match="no OpenPose files"):
        read_skeleton_file(tmp_path)
