"""iMiGUE: both layouts give the clips that stand here by hand, and every protocol its published counts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from replica_imigue import INTERVIEWS, write_challenge, write_full_release
from stub_imigue import write_stub_challenge, write_stub_full

from mgcli.cache import PROTOCOLS
from mgcli.extract import DatasetError, load_dataset, table_notes
from mgcli.extract.dataset_imigue_splits import (
    EMOTION_2021_TEST_VIDEOS,
    EMOTION_2021_TRAIN_VIDEOS,
    IMIGUE_PROTOCOLS,
    OWN_VALIDATION_SUBJECTS,
    TEST_SUBJECTS,
    TEST_VIDEOS,
    TRAIN_SUBJECTS,
    TRAIN_VIDEOS,
)
from mgcli.extract.dataset_validation import draw_subjects

# clip, split of miga-2025, gesture, emotion, start and end in seconds, as the challenge's packages have them
CHALLENGE_CLIPS = [
    ("0001_0", "val", "0", "", 0.0, 0.4),
    ("0001_1", "val", "31", "", 0.2, 1.24),
    ("0001_2", "val", "30", "", 0.8, 1.8),
    ("0002_0", "val", "19", "", 0.12, 1.64),
    ("0002_1", "val", "30", "", 0.12, 1.64),
    ("0012_0", "train", "0", "", 0.08, 0.84),
    ("0012_1", "train", "30", "", 0.84, 2.4),
    ("0013_0", "train", "31", "", 0.0, 1.0),
    ("0013_1", "train", "19", "", 1.2, 2.24),
    ("0014_0", "train", "0", "", 0.04, 0.52),
    ("0014_1", "train", "30", "", 0.4, 2.04),
    ("0047_0", "train", "31", "", 0.0, 0.76),
    ("0047_1", "train", "0", "", 1.0, 1.84),
    ("0054_0", "test", "0", "", 0.16, 1.24),
    ("0054_1", "test", "30", "", 1.24, 2.36),
    ("0067_0", "test", "31", "", 0.0, 1.24),
    ("0067_1", "test", "19", "", 0.8, 2.0),
    ("0001", "val", "", "win", None, None),
    ("0002", "val", "", "win", None, None),
    ("0012", "train", "", "lose", None, None),
    ("0013", "train", "", "win", None, None),
    ("0014", "train", "", "lose", None, None),
    ("0047", "train", "", "win", None, None),
    ("0054", "test", "", "", None, None),
    ("0067", "test", "", "", None, None),
    ("0218", "train", "", "win", None, None),
]
TEST_OUTCOMES = {"0054": "lose", "0067": "win"}  # which only the full release tells
SKELETONS = {  # of the challenge
    "0001": "0001_light_hand.csv",
    "0002": "0002_openpose.xlsx",
    "0012": "0012_light.csv",
    "0013": "0013_light_hand.csv",
    "0014": "0014_openpose.xlsx",
    "0218": "",
}
FULL_VIDEOS = {"0001": "0001.mp4", "0002": "0002.avi", "0012": "interview.mov", "0218": "0218.mp4"}


def clips(table: pd.DataFrame) -> list[tuple[object, ...]]:
    columns = ["clip_id", "split", "gesture", "emotion", "start_s", "end_s"]
    rows = table[columns].astype(object).where(table[columns].notna(), None)
    return [tuple(round(cell, 9) if isinstance(cell, float) else cell for cell in row) for row in rows.to_numpy()]


def row(table: pd.DataFrame, clip_id: str) -> pd.Series:
    return table.set_index("clip_id").loc[clip_id]


@pytest.fixture(scope="module")
def challenge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_challenge(tmp_path_factory.mktemp("challenge"))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_full_release(tmp_path_factory.mktemp("full"))


@pytest.fixture(scope="module")
def stub_challenge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stub_challenge(tmp_path_factory.mktemp("stub_challenge"))


@pytest.fixture(scope="module")
def stub_full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stub_full(tmp_path_factory.mktemp("stub_full"))


def test_the_challenge_packages_give_the_clips_written_here(challenge: Path) -> None:
    table = load_dataset("imigue", challenge, protocol="miga-2025")
    assert clips(table) == CHALLENGE_CLIPS
    assert table["skeleton_fps"].dropna().unique().tolist() == [25.0]
    for video, skeleton in SKELETONS.items():
        assert Path(row(table, video)["skeleton"]).name == skeleton
        assert Path(row(table, video)["video"]).is_file()
    assert set(table.loc[table["clip_id"].str.startswith("0012"), "subject_id"]) == {"video-0012"}
    reason = "MiGA leaves out the videos without usable skeleton (0218, 0319, 0347, 0348)"
    assert table.attrs["dropped"] == [("0218_0", reason), ("0218_1", reason)]


def test_the_full_release_gives_the_same_clips_with_outcomes_and_subjects(full: Path) -> None:
    table = load_dataset("imigue", full, protocol="miga-2025")
    expected = [(*clip[:3], TEST_OUTCOMES.get(str(clip[0]), clip[3]), *clip[4:]) for clip in CHALLENGE_CLIPS]
    assert clips(table) == expected
    for video, each in INTERVIEWS.items():
        of_video = table[table["clip_id"].str[:4] == f"{video:04d}"]
        assert set(of_video["subject_id"]) == {str(each.subject)}
    for video, file in FULL_VIDEOS.items():
        assert Path(row(table, video)["video"]).name == file
    assert Path(row(table, "0001")["skeleton"]).name == "0001_2.xlsx"
    assert row(table, "0218")["skeleton"] == ""


def test_the_gesture_protocol_keeps_videos_without_skeleton(full: Path) -> None:
    table = load_dataset("imigue", full, protocol="imigue-gesture")
    assert len(table) == 19
    assert row(table, "0218_1")[["split", "gesture", "skeleton"]].tolist() == ["train", "1", ""]
    assert set(table["split"]) == {"train", "test"}
    assert table.attrs["dropped"] == []


@pytest.mark.parametrize("spell", [str.upper, str.title, lambda name: name.replace("imigue", "iMiGUE")])
def test_folders_may_be_spelt_in_any_case(tmp_path: Path, spell: Callable[[str], str]) -> None:
    write_challenge(tmp_path, spell=spell)
    assert clips(load_dataset("imigue", tmp_path, protocol="miga-2025")) == CHALLENGE_CLIPS


def test_the_root_may_be_one_folder_higher_or_one_of_the_packages(challenge: Path, full: Path, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(challenge)
    assert len(load_dataset("imigue", tmp_path, protocol="miga-2025")) == len(CHALLENGE_CLIPS)
    lower = load_dataset("imigue", challenge / "imigue_data_phase1", protocol="miga-track1")
    assert clips(lower) == CHALLENGE_CLIPS[:17]
    assert all(Path(video).is_file() for video in lower["video"])
    of_labels = load_dataset("imigue", full / "Label", protocol="miga-track1")
    assert all(Path(video).is_file() for video in of_labels["video"])


def test_usual_protocol_holds_back_known_subjects(full: Path) -> None:
    table = load_dataset("imigue", full)
    split = {f"{video:04d}": row(table, f"{video:04d}")["split"] for video in INTERVIEWS}
    # subjects 17 and 48 are on our list, 32 too but its only video is a test video; 1 and 2 go back to training
    assert split == {
        **{"0001": "train", "0002": "train", "0012": "val", "0013": "train", "0014": "train", "0047": "val"},
        **{"0054": "test", "0067": "test", "0218": "train"},
    }
    for video, of_it in split.items():
        assert set(table.loc[table["clip_id"].str[:4] == video, "split"]) == {of_it}
    subjects = {name: set(part["subject_id"]) for name, part in table.groupby("split")}
    assert not subjects["train"] & subjects["val"]


def test_without_subjects_videos_are_drawn_and_it_is_said(challenge: Path) -> None:
    table = load_dataset("imigue", challenge)
    assert any("the same people may be seen in training and validation" in note for note in table.attrs["warnings"])
    videos = {split: set(part["clip_id"].str[:4]) for split, part in table.groupby("split")}
    assert videos["val"]
    assert not videos["train"] & videos["val"]
    assert videos["test"] == {"0054", "0067"}
    assert not table.attrs["subjects_given"]
    again = load_dataset("imigue", challenge)
    assert clips(again) == clips(table)


def test_a_file_of_subjects_makes_the_challenge_split_like_the_full_release(challenge: Path, full: Path) -> None:
    with_subjects = load_dataset("imigue", challenge, subjects=str(full / "Label" / "labels_20200831.csv"))
    of_full = load_dataset("imigue", full)
    assert with_subjects[["clip_id", "split", "subject_id"]].equals(of_full[["clip_id", "split", "subject_id"]])
    for name in ("nowhere.csv", 7):  # as `--option subjects=7` gives it
        with pytest.raises(DatasetError, match=rf"option subjects={name}: no such file"):
            load_dataset("imigue", challenge, subjects=name)


@pytest.mark.parametrize("test_class", ["0", "-1", "?", "", "100", "7"])
def test_test_classes_that_are_none_leave_the_clips_without_label(tmp_path: Path, test_class: str) -> None:
    write_challenge(tmp_path, test_class=test_class, media=False)
    table = load_dataset("imigue", tmp_path, protocol="miga-track1")
    expected = [(*clip[:2], "" if clip[1] == "test" else clip[2], *clip[3:]) for clip in CHALLENGE_CLIPS[:17]]
    assert clips(table) == expected
    (said,) = [note for note in table.attrs["warnings"] if "no test clip has a label" in note]
    assert "0054_label.csv, line 1" in said


def test_missing_files_are_said_and_the_rest_is_used(tmp_path: Path) -> None:
    write_challenge(tmp_path, track3=False)
    shutil.rmtree(tmp_path / "imigue_rgb_phase2" / "0054")
    (tmp_path / "imigue_data_phase1/datasets/imigue_skeleton_train/0013/0013_label.csv").unlink()
    (tmp_path / "imigue_data_phase1/datasets/imigue_skeleton_train/0012/0012_light.csv").unlink()
    table = load_dataset("imigue", tmp_path, protocol="miga-2025")
    assert [clip[0] for clip in clips(table)] == [clip[0] for clip in CHALLENGE_CLIPS if "0013_" not in str(clip[0])]
    assert row(table, "0054_0")["video"] == ""
    notes = "\n".join(table.attrs["warnings"])
    assert "no gesture annotations for 348 of 355 videos: 0003, 0004" in notes
    assert "no skeleton file for 1 of 7 videos: 0012" in notes
    assert "no video file for 351 of 359 videos: 0003" in notes
    assert "no win or lose label for 255 of 255 videos" in notes


def test_files_of_unknown_videos_are_named_and_dead_links_passed_over(tmp_path: Path) -> None:
    write_challenge(tmp_path, media=False)
    (tmp_path / "0005_label.csv").write_text("1,0,9\n")
    (tmp_path / "0003_label.csv").symlink_to(tmp_path / "gone.csv")
    (tmp_path / "0003_light.csv").symlink_to(tmp_path / "gone.csv")
    table = load_dataset("imigue", tmp_path, protocol="miga-track1")
    assert clips(table) == CHALLENGE_CLIPS[:17]
    assert (str(tmp_path / "0005_label.csv"), "video 5 is none of iMiGUE's 359") in table.attrs["dropped"]


@pytest.mark.parametrize(
    ("rows", "at_fault"),
    [
        (
            "12,1,0,2,0,20,1,17,F,x,Win\n12,2,0,21,0,59,31,18,F,x,Win\n",
            "line 3: subject_id of video 12 is '18', but '17' in line 2",
        ),
        (
            "12,1,0,2,0,20,1,17,F,x,Win\n12,2,0,21,0,59,31,17,F,x,Lose\n",
            "line 3: win_or_lose of video 12 is 'lose', but 'win' in line 2",
        ),
    ],
)
def test_rows_that_contradict_each_other_are_an_error(tmp_path: Path, rows: str, at_fault: str) -> None:
    header = "video_id,label_id,start_time,start_frame,end_time,end_frame,class,subject_id,subject_gender"
    (tmp_path / "labels_20200831.csv").write_text(f"{header},subject_nationality,win_or_lose\n{rows}")
    with pytest.raises(DatasetError, match=at_fault):
        load_dataset("imigue", tmp_path)


def test_odd_rows_of_the_full_table_are_told(full: Path, tmp_path: Path) -> None:
    lines = (full / "Label" / "labels_20200831.csv").read_text().splitlines()
    lines[1] = lines[1].replace("1,1,0.0000,0,0.3600,9", "1,1,4.0000,0,0.3600,9")  # another time
    lines[8] = lines[8].replace("13,1,", "13,1000000000,")
    del lines[4]  # 0002_0
    (tmp_path / "labels_20200831.csv").write_text("\n".join(lines) + "\n")
    table = load_dataset("imigue", tmp_path, protocol="imigue-gesture")
    notes, file = "\n".join(table_notes(table)), tmp_path / "labels_20200831.csv"
    assert f"{file}: times and frames do not agree at 25 frames/s in line 2; frames count" in notes
    assert "no row has label_id 1 of video 2" in notes
    assert len(table) == 19 - len(table.attrs["dropped"]) - 1
    assert all(place.startswith(f"{file}, line ") for place, _ in table.attrs["dropped"])


def test_nothing_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"expected the challenge's VVVV/VVVV_label\.csv .* or the full release's"):
        load_dataset("imigue", tmp_path)
    with pytest.raises(DatasetError, match="is not a folder"):
        load_dataset("imigue", tmp_path / "gone")
    with pytest.raises(DatasetError, match="did you mean 'miga-2025'"):
        load_dataset("imigue", tmp_path, protocol="miga2025")


def test_a_validation_of_one_class_or_a_class_without_training_is_said(full: Path, tmp_path: Path) -> None:
    text = (full / "Label" / "labels_20200831.csv").read_text()
    (tmp_path / "labels_20200831.csv").write_text(
        text.replace("12,1,0.0800,2,0.8000,20,1,", "12,1,0.0800,2,0.8000,20,9,")
    )
    table = load_dataset("imigue", tmp_path)
    assert "no training clip is left of gesture class '8': all are validation clips" in table.attrs["warnings"]
    only_won = text.replace('17,F,"Korea, South",Lose', '17,F,"Korea, South",Win')
    (tmp_path / "labels_20200831.csv").write_text(only_won)
    assert "all validation clips have the emotion label 'win'" in load_dataset("imigue", tmp_path).attrs["warnings"]


def test_both_layouts_in_one_folder_use_the_full_table(full: Path, challenge: Path, tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(full)
    (tmp_path / "b").symlink_to(challenge)
    table = load_dataset("imigue", tmp_path, protocol="miga-track1")
    assert clips(table) == CHALLENGE_CLIPS[:17]
    assert any("9 VVVV_label.csv are passed over" in note for note in table.attrs["warnings"])


# The published counts: facts of the data set, section 6 and 7. Of the emotion protocols (win, lose).
STUB_COUNTS = {
    ("full", "imigue-gesture"): {"train": 13936, "test": 4563},
    ("challenge", "miga-track1"): {"train": 12893, "val": 777, "test": 4562},
    ("full", "imigue-emotion-2021"): {"train": (51, 51), "test": (50, 50)},
    ("full", "miga-track3"): {"train": (192, 53), "val": (10, 0), "test": (56, 48)},
    ("challenge", "miga-track3"): {"train": (192, 53), "val": (10, 0)},  # and 104 test interviews without label
}


@pytest.mark.parametrize(("layout", "protocol"), STUB_COUNTS)
def test_every_published_protocol_gives_its_counts(
    layout: str, protocol: str, stub_full: Path, stub_challenge: Path
) -> None:
    table = load_dataset("imigue", stub_full if layout == "full" else stub_challenge, protocol=protocol)
    expected = STUB_COUNTS[layout, protocol]
    if PROTOCOLS[protocol].tasks == ("gesture",):
        assert table["split"].value_counts().to_dict() == expected
        assert not (table["gesture"] == "").any()
    else:
        counts = pd.crosstab(table["split"], table["emotion"])
        assert {split: (counts["win"][split], counts["lose"][split]) for split in expected} == expected
        assert (table["split"] == "test").sum() == (100 if "2021" in protocol else 104)
        assert len(table) == (202 if "2021" in protocol else 359)


def test_the_joint_protocol_is_track_1_and_track_3(stub_challenge: Path) -> None:
    tracks = [load_dataset("imigue", stub_challenge, protocol=f"miga-track{number}") for number in (1, 3)]
    both = load_dataset("imigue", stub_challenge, protocol="miga-2025")
    assert both["clip_id"].tolist() == [clip for track in tracks for clip in track["clip_id"]]
    assert both["split"].tolist() == [split for track in tracks for split in track["split"]]
    assert both["subject_id"].str[-4:].eq(both["clip_id"].str[:4]).all()
    assert len(both.attrs["dropped"]) == 265
    (dropped,) = [note for note in table_notes(both) if "left out" in note]
    assert dropped.startswith("265 left out: MiGA leaves out the videos without usable skeleton")


def test_the_full_release_gives_the_challenge_its_4562_test_clips(stub_full: Path) -> None:
    table = load_dataset("imigue", stub_full, protocol="miga-track1")
    assert (table["split"] == "test").sum() == 4562
    assert "0453_32" in dict(table.attrs["dropped"])
    assert len(table.attrs["dropped"]) == 266


@pytest.mark.parametrize("protocol", [name for name in IMIGUE_PROTOCOLS if PROTOCOLS[name].own_validation])
def test_our_validation_subjects_are_never_in_training(protocol: str, stub_full: Path) -> None:
    published = load_dataset("imigue", stub_full, protocol=protocol.removesuffix("-subject-val"))
    ours = load_dataset("imigue", stub_full, protocol=protocol)
    assert ours["clip_id"].equals(published["clip_id"])
    is_ours = ours["subject_id"].isin([str(subject) for subject in OWN_VALIDATION_SUBJECTS])
    expected = published["split"].replace("val", "train").mask((published["split"] != "test") & is_ours, "val")
    assert ours["split"].equals(expected)
    subjects = {split: set(part["subject_id"]) for split, part in ours.groupby("split")}
    assert subjects["val"]
    assert not subjects["train"] & subjects["val"]


def test_every_protocol_is_known_to_the_other_rooms() -> None:
    assert set(IMIGUE_PROTOCOLS) == {name for name, each in PROTOCOLS.items() if each.dataset == "imigue"}
    assert IMIGUE_PROTOCOLS[:2] == ("miga-2025-subject-val", "miga-2025")


def test_the_list_of_validation_subjects_is_the_draw() -> None:
    assert draw_subjects(TRAIN_SUBJECTS) + draw_subjects(TEST_SUBJECTS) == OWN_VALIDATION_SUBJECTS
    assert len(draw_subjects(TRAIN_SUBJECTS)) == 7


def test_the_lists_have_the_published_sizes() -> None:
    assert (len(TRAIN_SUBJECTS), len(TEST_SUBJECTS)) == (37, 35)
    assert sorted(TRAIN_SUBJECTS + TEST_SUBJECTS) == list(range(1, 73))
    assert (len(set(TRAIN_VIDEOS)), len(set(TEST_VIDEOS))) == (255, 104)
    assert not set(TRAIN_VIDEOS) & set(TEST_VIDEOS)
    assert (len(set(EMOTION_2021_TRAIN_VIDEOS)), len(set(EMOTION_2021_TEST_VIDEOS))) == (102, 100)
    assert not set(EMOTION_2021_TRAIN_VIDEOS) & set(EMOTION_2021_TEST_VIDEOS)
    # 38 of the 102 are of gesture-test subjects, 67 of the 100 of gesture-training subjects
    assert len(set(EMOTION_2021_TRAIN_VIDEOS) & set(TEST_VIDEOS)) == 38
    assert len(set(EMOTION_2021_TEST_VIDEOS) & set(TRAIN_VIDEOS)) == 67
    assert (
        json.dumps(sorted({*EMOTION_2021_TRAIN_VIDEOS, *EMOTION_2021_TEST_VIDEOS} - {*TRAIN_VIDEOS, *TEST_VIDEOS}))
        == "[]"
    )


def test_of_several_files_for_one_video_the_first_is_used_and_it_is_said(tmp_path: Path) -> None:
    write_challenge(tmp_path, media=False)
    folder = tmp_path / "imigue_rgb_phase1" / "train_data" / "0012"
    folder.mkdir(parents=True)
    for name in ("0012.mp4", "0012.avi", "preview.mp4"):
        (folder / name).write_text(name)
    (folder.parent / "0013").mkdir()
    for name in ("a.mp4", "b.mp4"):
        (folder.parent / "0013" / name).touch()
    table = load_dataset("imigue", tmp_path, protocol="miga-track3")
    assert Path(row(table, "0012")["video"]).name == "0012.avi"
    assert row(table, "0013")["video"] == ""
    notes = "\n".join(table.attrs["warnings"])
    assert "video 0012: 2 different files" in notes
    assert "none of its videos is called 0013, so none is used: a.mp4, b.mp4" in notes
