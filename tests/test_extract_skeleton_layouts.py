"""Joint layouts and what is made of joints: graphs, bones, motion and the published preparations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mgcli.extract.skeleton_graph import adjacency, joints_to_bones, motion
from mgcli.extract.skeleton_layouts import LAYOUTS, LayoutError, convert_joints, joint_layout
from mgcli.extract.skeleton_prepare import fill_missing, kinetics_array, prenormalize_ntu

FACTS = np.load(Path(__file__).parent / "data" / "skeleton_facts.npz")


def fact(name: str) -> np.ndarray:
    """(..., C, T, V, M) of the facts as (..., T, M, V, C)."""
    return np.moveaxis(FACTS[name], (-4, -3, -2, -1), (-1, -4, -2, -3))


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["kinetics18", "ntu25"])
def test_graphs_equal_the_released_ones(name: str) -> None:
    np.testing.assert_array_equal(adjacency(joint_layout(name)), FACTS[f"graph_{name}"])


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_a_tree_with_mirrored_sides(name: str) -> None:
    layout = joint_layout(name)
    assert len(set(layout.joints)) == layout.num_joints
    for joint in range(layout.num_joints):
        reached, parent = joint, dict(layout.edges)
        for _ in range(layout.num_joints):
            reached = parent.get(reached, reached)
        assert reached not in parent  # every joint hangs on the one root
    assert sorted(joint for joint, _ in layout.bones) == list(range(layout.num_joints))
    mirror = dict(layout.pairs) | {right: left for left, right in layout.pairs}
    sided = {i for i, joint in enumerate(layout.joints) if joint.startswith(("left_", "right_"))}
    assert sided <= mirror.keys()
    edges = {frozenset((mirror.get(a, a), mirror.get(b, b))) for a, b in layout.edges if {a, b} <= sided}
    assert edges == {frozenset(edge) for edge in layout.edges if set(edge) <= sided}


def test_imigue22_hangs_each_hand_on_its_own_wrist() -> None:
    layout = joint_layout("imigue22")
    body = [(0, 1), (1, 2), (2, 3), (3, 4), (1, 5), (5, 6), (6, 7), (0, 8), (8, 10), (0, 9), (9, 11)]
    hands = [(7, tip) for tip in range(12, 17)] + [(4, tip) for tip in range(17, 22)]
    assert {frozenset(edge) for edge in layout.edges} == {frozenset(edge) for edge in body + hands}
    assert layout.joints[7] == "left_wrist"
    assert layout.joints[12] == "left_thumb_tip"


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("imigue22", [*range(8), 15, 16, 17, 18, *range(99, 116, 4), *range(120, 137, 4)]),
        ("imigue35", [*range(25), *range(99, 116, 4), *range(120, 137, 4)]),
        (
            "imigue36",
            [
                *(*range(8), *range(15, 19), 27, 29, 33, 37, 39, 44, 49, 52, 73, 76, 79, 82),
                *(95, 99, 103, 107, 111, 115, 116, 120, 124, 128, 132, 136),
            ],
        ),
        ("openpose25", [*range(25)]),
    ],
)
def test_maps_from_a_whole_openpose_row(name: str, places: list[int]) -> None:
    row = np.arange(137 * 3, dtype=np.float32).reshape(1, 137, 3)
    converted = convert_joints(row, joint_layout("openpose137"), joint_layout(name))
    np.testing.assert_array_equal(converted, row[:, places])


def test_a_map_makes_the_neck_from_the_shoulders() -> None:
    joints = np.random.default_rng(0).random((4, 17, 3))
    joints[1, 5] = np.nan
    neck = convert_joints(joints, joint_layout("coco17"), joint_layout("kinetics18"))[:, 1]
    np.testing.assert_allclose(neck[0], joints[0, [5, 6]].mean(axis=0))
    assert np.isnan(neck[1]).all()


def test_a_map_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(LayoutError, match="no left_thumb_tip, left_index_tip"):
        convert_joints(np.zeros((1, 25, 3)), joint_layout("openpose25"), joint_layout("imigue22"))
    with pytest.raises(LayoutError, match="one is 3-D"):
        convert_joints(np.zeros((1, 25, 3)), joint_layout("ntu25"), joint_layout("coco17"))


def test_ntu_preparation_bones_and_motion_equal_the_facts() -> None:
    layout = joint_layout("ntu25")
    for sample in range(3):
        raw = fact("ntu_raw")[sample]
        kept = raw.copy()
        joints = prenormalize_ntu(raw)
        np.testing.assert_array_equal(raw, kept)
        assert_close(joints, fact("ntu_prenormalized")[sample])
        bones = joints_to_bones(joints, layout)
        assert_close(bones, fact("ntu_bone")[sample])
        assert_close(motion(joints), fact("ntu_motion")[sample])
        assert_close(motion(bones), fact("ntu_bone_motion")[sample])


def test_kinetics_preparation_equals_the_facts() -> None:
    count, index = FACTS["kin_person_count"], FACTS["kin_frame_index"]
    joints = kinetics_array(FACTS["kin_pose_xy"], FACTS["kin_score"], count, index)
    assert joints.shape == (300, 2, 18, 3)
    assert not joints[8:].any()
    assert_close(joints[:8], fact("kin_array_first8"))
    bones = joints_to_bones(joints, joint_layout("kinetics18"))
    assert_close(bones[:8], fact("kin_bone_first8"))


def test_a_person_who_comes_late_is_moved_to_the_first_frame() -> None:
    joints = np.zeros((6, 1, 25, 3), np.float32)
    joints[2:5] = np.random.default_rng(0).random((3, 1, 25, 3))
    filled = prenormalize_ntu(joints)
    np.testing.assert_allclose(filled[:3], filled[3:])
    assert not prenormalize_ntu(np.zeros((4, 2, 25, 3))).any()


def test_gaps_are_bridged_and_ends_held() -> None:
    joints = np.array([0.0, 2.0, 0.0, 6.0, 0.0])[:, None, None]
    seen = np.array([False, True, False, True, False])[:, None]
    assert fill_missing(joints, seen).ravel().tolist() == [2, 2, 4, 6, 6]
