"""Data sets: which clips, whose, in which split; and what is said of data that are not there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mgcli.cache import ClipTableError
from mgcli.extract import DATASETS, DatasetError, load_dataset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, ten subjects, a clip each; one has a skeleton."""
    for name in ("wave", "nod"):
        (tmp_path / name).mkdir()
        for subject in range(10):
            (tmp_path / name / f"s{subject:02d}_take.mp4").touch()
    (tmp_path / "nod" / "s03_take.npy").touch()
    (tmp_path / "nod" / "notes.txt").touch()
    (tmp_path / "nod" / ".hidden.mp4").touch()
    return tmp_path


def test_folder_takes_labels_from_subfolders_and_subjects_from_names(folder: Path) -> None:
    table = load_dataset("folder", folder, subject_pattern=r"(s\d+)_")
    assert len(table) == 20
    assert set(table["gesture"]) == {"wave", "nod"}
    assert table["subject_id"].nunique() == 10
    assert table["clip_id"].iloc[0] == "nod/s00_take"
    assert (table["skeleton"] != "").sum() == 1
    assert all(Path(video).is_file() for video in table["video"])


def test_folder_draws_disjoint_subjects_with_a_seed(folder: Path) -> None:
    def draw(seed: int) -> dict[str, set[str]]:
        table = load_dataset("folder", folder, subject_pattern=r"(s\d+)_", seed=seed)
        return {split: set(rows["subject_id"]) for split, rows in table.groupby("split")}

    splits = draw(0)
    assert {name: len(subjects) for name, subjects in splits.items()} == {"train": 6, "val": 2, "test": 2}
    assert set.union(*splits.values()) == {f"s{i:02d}" for i in range(10)}
    assert draw(0) == splits
    assert any(draw(seed) != splits for seed in range(1, 5))


def test_folder_without_a_pattern_gives_each_file_its_own_subject(folder: Path) -> None:
    table = load_dataset("folder", folder, fractions=(0.5, 0.0, 0.5))
    assert table["subject_id"].is_unique
    assert table["split"].value_counts().to_dict() == {"train": 10, "test": 10}


def test_few_subjects_still_leave_some_for_training(tmp_path: Path) -> None:
    (tmp_path / "nod").mkdir()
    for i in range(2):
        (tmp_path / "nod" / f"{i}.mp4").touch()
    assert set(load_dataset("folder", tmp_path)["split"]) == {"train", "test"}


def test_table_is_a_file_or_the_folder_around_it(tmp_path: Path) -> None:
    path = tmp_path / "clips.csv"
    path.write_text("clip_id,video,split,gesture\na,a.mp4,train,3\n")
    for root in (path, tmp_path):
        table = load_dataset("table", root)
        assert table["video"].tolist() == [str(tmp_path / "a.mp4")]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fodler", {}, "did you mean 'folder'"),
        ("nowhere:Class", {}, "package.module:Class"),
        ("tiny_backbones:NotABackbone", {}, "not a subclass"),
        (
            "folder",
            {"pattern": "x"},
            "no option 'pattern' .did you mean 'subject_pattern'..; it takes: fractions, labels, seed, stride_s, ",
        ),
        ("folder", {"subject_pattern": "s[0-9]+"}, "needs a group"),
        ("folder", {"subject_pattern": "(s"}, "no regular expression"),
        ("folder", {"subject_pattern": "(x)_"}, "finds no subject in"),
        ("folder", {"fractions": (0.5, 0.5, 0.5)}, "add up to 1"),
    ],
)
def test_a_wrong_name_or_option_is_said(name: str, options: dict[str, object], message: str, folder: Path) -> None:
    with pytest.raises(DatasetError, match=message):
        load_dataset(name, folder, **options)


def test_a_folder_without_videos_is_said(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no video files"):
        load_dataset("folder", tmp_path)
    with pytest.raises(DatasetError, match="not a folder"):
        load_dataset("folder", tmp_path / "gone")
    with pytest.raises(ClipTableError, match="no clip table"):
        load_dataset("table", tmp_path / "gone.csv")


def test_every_data_set_of_the_table_exists() -> None:
    for name in DATASETS:
        with pytest.raises(DatasetError, match="has no option 'nonsense'"):
            load_dataset(name, ".", nonsense=1)


def test_reading_a_data_set_loads_no_torch(folder: Path) -> None:
    code = f"import sys; from mgcli.extract import load_dataset; load_dataset('folder', {str(folder)!r}); "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
