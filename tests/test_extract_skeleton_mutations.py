"""Skeleton files that are cut, shuffled, spoilt or written otherwise: read right, or refused with their place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mutated_skeletons import ANY_TABLE, SHEETS, WITH_INDEX, Mutated, Mutation, SheetMutation, table_rows, true_joints

from mgcli.extract import SkeletonError
from mgcli.extract.skeleton_readers import read_skeleton_file

IMIGUE, LIGHT, SMG = "0001_light_hand.csv", "0001_light.csv", "Sample0001_skeleton.csv"
TABLES = [
    (mutation, name, seed)
    for seed in range(3)
    for name in (IMIGUE, LIGHT, SMG)
    for mutation in (*ANY_TABLE, *(() if name == SMG else WITH_INDEX))
]
BOOKS = [(mutation, seed) for seed in range(3) for mutation in SHEETS]


def check(path: Path, mutated: Mutated) -> None:
    path.write_bytes(mutated.content)
    if mutated.error:
        with pytest.raises(SkeletonError, match=mutated.error) as raised:
            read_skeleton_file(path)
        assert str(raised.value).startswith(str(path))
        return
    assert mutated.joints is not None
    read = read_skeleton_file(path)
    np.testing.assert_array_equal(read.joints[:, 0], mutated.joints.astype(np.float32))


def test_there_are_enough_of_them() -> None:
    assert len(TABLES) + len(BOOKS) >= 150


@pytest.mark.parametrize(("mutation", "name", "seed"), TABLES)
def test_a_mutated_table_is_read_right_or_refused_with_its_line(
    mutation: Mutation, name: str, seed: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng([seed, len(name)])
    joints = true_joints(rng, 35 if name == IMIGUE else 25, metres=name == SMG)
    check(tmp_path / name, mutation(table_rows(joints, rng), joints, rng))


@pytest.mark.parametrize(("mutation", "seed"), BOOKS)
def test_a_mutated_sheet_is_read_right_or_refused_with_its_row(
    mutation: SheetMutation, seed: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(seed)
    check(tmp_path / "0001_openpose.xlsx", mutation(true_joints(rng, 137), rng))
