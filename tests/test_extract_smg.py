"""SMG: the clips that stand here by hand, its split, and its part in the training of iMiGUE."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from replica_imigue import write_challenge
from replica_smg import SAMPLES, write_smg

from mgcli.cache import CLASS_NAMES, PROTOCOLS
from mgcli.extract import DatasetError, load_dataset
from mgcli.extract.dataset_imigue_smg import SMG_TO_IMIGUE
from mgcli.extract.dataset_smg import SMG_PROTOCOLS, SMG_TRAIN_SUBJECTS, SMG_VALIDATION_SUBJECTS
from mgcli.extract.dataset_validation import draw_subjects

# clip, subject, split of smg-gesture, gesture, start and end in thirtieths of a second
CLIPS = [
    ("Sample0001_0", "1", "train", "0", 0, 15),
    ("Sample0001_1", "1", "train", "16", 10, 45),
    ("Sample0001_2", "1", "train", "9", 45, 60),
    ("Sample0002_0", "2", "train", "16", 3, 33),
    ("Sample0002_1", "2", "train", "2", 33, 51),
    ("Sample0011_0", "11", "train", "16", 0, 30),
    ("Sample0011_1", "11", "train", "0", 30, 45),
    ("Sample0036_0", "36", "test", "0", 6, 21),
    ("Sample0036_1", "36", "test", "16", 30, 57),
]


def clips(table: pd.DataFrame) -> list[tuple[object, ...]]:
    return [
        (
            *each[["clip_id", "subject_id", "split", "gesture"]],
            round(each["start_s"] * 30, 6),
            round(each["end_s"] * 30, 6),
        )
        for _, each in table.iterrows()
    ]


@pytest.fixture(scope="module")
def smg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_smg(tmp_path_factory.mktemp("smg"))


def test_smg_gives_the_clips_written_here(smg: Path) -> None:
    table = load_dataset("smg", smg, protocol="smg-gesture")
    assert clips(table) == CLIPS
    assert {Path(video).name for video in table["video"]} == {f"Sample{subject:04d}_color.mp4" for subject in SAMPLES}
    assert Path(table["skeleton"].iloc[0]).name == "Sample0001_skeleton.csv"
    assert set(table["skeleton_fps"]) == {30.0}
    assert table.attrs["dropped"] == []
    assert "no gesture labels for 36 of 40 samples: Sample0003" in table.attrs["warnings"][0]


def test_our_validation_subjects_of_smg_are_the_draw_and_leave_training(smg: Path) -> None:
    assert draw_subjects(SMG_TRAIN_SUBJECTS) == SMG_VALIDATION_SUBJECTS
    table = load_dataset("smg", smg)
    assert clips(table) == [(*clip[:2], "val" if clip[1] == "11" else clip[2], *clip[3:]) for clip in CLIPS]
    assert set(SMG_PROTOCOLS) == {name for name, each in PROTOCOLS.items() if each.dataset == "smg"}


def test_smg_without_videos_has_its_skeletons(tmp_path: Path) -> None:
    write_smg(tmp_path, videos=False)
    table = load_dataset("smg", tmp_path)
    assert set(table["video"]) == {""}
    assert all(Path(skeleton).is_file() for skeleton in table["skeleton"])
    assert any(note.startswith("no video file for 4 of 4 samples") for note in table.attrs["warnings"])


def test_a_sample_without_rate_or_beyond_the_split_is_named(tmp_path: Path) -> None:
    write_smg(tmp_path, videos=False)
    (data,) = tmp_path.rglob("Sample0002_data.csv")
    data.write_text("60,none,4500\n")
    (other,) = tmp_path.rglob("Sample0011_data.csv")
    other.unlink()
    (tmp_path / "Sample0041_finelabels.csv").write_text("1,0,9\n")
    table = load_dataset("smg", tmp_path)
    assert set(table["subject_id"]) == {"1", "36"}
    reasons = dict(table.attrs["dropped"])
    assert "Sample0002_data.csv, line 1: fps 'none' is not a number from 0" in reasons["Sample0002"]
    assert "its frame rate is not known" in reasons["Sample0011"]
    assert "SMG has subjects 1..40" in reasons["Sample0041"]


def test_a_folder_without_smg_is_said(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"expected SampleNNNN/SampleNNNN_finelabels\.csv"):
        load_dataset("smg", tmp_path)
    with pytest.raises(DatasetError, match="is not a folder"):
        load_dataset("smg", tmp_path / "gone")


def test_smg_adds_training_clips_of_shared_classes_to_imigue(smg: Path, tmp_path: Path) -> None:
    write_challenge(tmp_path)
    without = load_dataset("imigue", tmp_path)
    table = load_dataset("imigue", tmp_path, smg=str(smg))
    assert table.iloc[: len(without)][["clip_id", "split"]].equals(without[["clip_id", "split"]])
    added = table.iloc[len(without) :]
    assert clips(added) == [
        ("smg-Sample0001_0", "smg-1", "train", "0", 0, 15),
        ("smg-Sample0001_1", "smg-1", "train", "31", 10, 45),
        ("smg-Sample0002_0", "smg-2", "train", "31", 3, 33),
        ("smg-Sample0002_1", "smg-2", "train", "16", 33, 51),
        ("smg-Sample0011_0", "smg-11", "train", "31", 0, 30),
        ("smg-Sample0011_1", "smg-11", "train", "0", 30, 45),
        ("smg-Sample0036_0", "smg-36", "train", "0", 6, 21),
        ("smg-Sample0036_1", "smg-36", "train", "31", 30, 57),
    ]
    assert set(added["skeleton"]) == {""}
    assert ("smg-Sample0001_2", "SMG class 9 (Crossing legs) has no partner in iMiGUE") in table.attrs["dropped"]
    assert (
        "SMG adds 8 training clips, with video only: 3 of class 0, 1 of class 16, 4 of class 31"
        in (table.attrs["warnings"])
    )


def test_smg_without_videos_adds_nothing_and_says_so(tmp_path: Path) -> None:
    write_challenge(tmp_path / "imigue", media=False)
    write_smg(tmp_path / "smg", videos=False)
    table = load_dataset("imigue", tmp_path / "imigue", smg="../smg")
    assert not table["clip_id"].str.startswith("smg-").any()
    assert len([name for name, _ in table.attrs["dropped"] if name.startswith("smg-")]) == 9
    with pytest.raises(DatasetError, match="protocol miga-track3 has no gestures"):
        load_dataset("imigue", tmp_path / "imigue", protocol="miga-track3", smg="../smg")


def test_the_class_map_names_classes_of_both() -> None:
    assert set(SMG_TO_IMIGUE) <= set(range(len(CLASS_NAMES["smg"])))
    assert len(set(SMG_TO_IMIGUE.values())) == len(SMG_TO_IMIGUE)
    for smg_class, imigue_class in SMG_TO_IMIGUE.items():
        ours, theirs = (
            set(CLASS_NAMES[name][number].lower().replace(",", " ").split())
            for name, number in (("smg", smg_class), ("imigue", imigue_class))
        )
        assert {word for word in ours & theirs if len(word) > 3}, (smg_class, imigue_class)
