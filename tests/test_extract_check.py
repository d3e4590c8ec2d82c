"""`data check`: counts as published, classes, files, rows left out, leakage; and `data table`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from imigue_ids import EMOTION_2021_TEST, EMOTION_2021_TRAIN, GESTURE_TEST, GESTURE_TRAIN, MIGA_VALIDATION
from tiny_media import make_skeleton, make_video
from tiny_skeletons import points, write_imigue_csv

from mgcli.cache import check_clip_table, read_clip_table
from mgcli.extract import CheckReport, check_dataset


def check(table: pd.DataFrame, protocol: str = "table", **arguments: Any) -> CheckReport:
    return check_dataset(table, dataset="table", protocol=protocol, progress=False, **arguments)


def texts(report: CheckReport, *, faults: bool) -> list[str]:
    return [each.text for each in report.findings if each.is_fault == faults]


def gesture_table(num_train: int, num_test: int, train: list[int], test: list[int]) -> pd.DataFrame:
    """So many clips, spread over the videos of each split."""
    rows = []
    for split, videos, count in (("train", train, num_train), ("test", test, num_test)):
        for i in range(count):
            k, video = divmod(i, len(videos))
            rows.append((f"{videos[video]:04d}_{k}", split, str(i % 32), f"s{split}{video % 35}", k, k + 1))
    return check_clip_table(
        pd.DataFrame(rows, columns=["clip_id", "split", "gesture", "subject_id", "start_s", "end_s"])
    )


# Counts as published


def test_the_counts_of_the_2021_emotion_protocol_fit_and_a_missing_video_is_told() -> None:
    rows = [(f"{v:04d}", "train", "win" if i < 51 else "lose") for i, v in enumerate(EMOTION_2021_TRAIN)]
    rows += [(f"{v:04d}", "test", "win" if i < 50 else "lose") for i, v in enumerate(EMOTION_2021_TEST)]
    table = pd.DataFrame(rows, columns=["clip_id", "split", "emotion"])
    expected = check(check_clip_table(table), "imigue-emotion-2021").expected
    assert [(row["split"], row["what"], row["found"]) for row in expected] == [
        ("train", "videos", 102),
        ("train", "win", 51),
        ("train", "lose", 51),
        ("test", "videos", 100),
        ("test", "win", 50),
        ("test", "lose", 50),
    ]
    assert all(row["fits"] for row in expected)
    fewer = check(check_clip_table(table[1:]), "imigue-emotion-2021")
    (warning,) = (each for each in fewer.findings if "published" in each.text)
    assert warning.text == "2 of 6 counts are not as published"
    assert warning.names == ("train emotion videos 101, not 102", "train emotion win 50, not 51")
    assert "differs  train  emotion  videos  102       101    high" in fewer.summary()


def test_gesture_counts_accept_both_numbers_that_sources_state_and_no_other() -> None:
    for num_train, num_test, fits in ((13936, 4563, True), (13935, 4562, True), (13934, 4561, False)):
        report = check(gesture_table(num_train, num_test, GESTURE_TRAIN, GESTURE_TEST), "imigue-gesture")
        clips = [row["fits"] for row in report.expected if row["what"] == "clips"]
        assert clips == [fits, fits]
        assert all(row["fits"] for row in report.expected if row["what"] == "videos")


def test_our_validation_is_counted_with_training_and_unlabelled_test_clips_count() -> None:
    train = [video for video in GESTURE_TRAIN if video not in (218, 319, 347, 348)]
    table = gesture_table(12893 + 777, 4562, train, GESTURE_TEST)
    table.loc[table["subject_id"] == "strain3", "split"] = "val"
    table.loc[table["split"] == "test", "gesture"] = ""
    report = check(table, "miga-track1-subject-val")
    assert [(row["split"], row["what"], row["expected"], row["fits"]) for row in report.expected] == [
        ("train+val", "clips", "13670", True),
        ("train+val", "videos", "251", True),
        ("test", "clips", "4562", True),
        ("test", "videos", "104", True),
    ]
    assert report.counts[-1] | {"subjects": 0} == {
        "split": "test",
        "task": "gesture",
        "clips": 4562,
        "videos": 104,
        "subjects": 0,
        "classes": 0,
        "unlabelled": 4562,
    }


def test_both_tracks_in_one_table_are_counted_apart() -> None:
    train = [video for video in GESTURE_TRAIN if video not in MIGA_VALIDATION]
    videos = {"train": train, "val": MIGA_VALIDATION, "test": GESTURE_TEST}
    rows = [(f"{v:04d}", split, "" if split == "test" else "win") for split, of in videos.items() for v in of]
    interviews = check_clip_table(pd.DataFrame(rows, columns=["clip_id", "split", "emotion"]))
    gestures = gesture_table(400, 104, train, GESTURE_TEST)
    gestures.loc[gestures["split"] == "test", "gesture"] = ""
    report = check(check_clip_table(pd.concat([gestures, interviews], ignore_index=True)), "miga-2025")
    found = {(row["split"], row["task"], row["what"]): row["found"] for row in report.expected}
    assert found["test", "emotion", "videos"] == found["test", "gesture", "videos"] == 104
    assert found["test", "gesture", "clips"] == 104
    assert (found["val", "emotion", "win"], found["train", "emotion", "win"]) == (10, 245)
    assert ("test", "emotion", "win") not in found


# Classes


def test_classes_have_names_body_parts_and_groups_by_training_clips() -> None:
    labels = ["31"] * 101 + ["9"] * 20 + ["18"] * 19
    table = pd.DataFrame({"clip_id": [f"0001_{i}" for i in range(140)], "split": "train", "gesture": labels})
    table = pd.concat([table, pd.DataFrame({"clip_id": ["0054_0"], "split": "test", "gesture": "18"})])
    rows = check(check_clip_table(table), "imigue-gesture").classes
    assert [tuple(row.values()) for row in rows] == [
        ("gesture", "9", "Biting nails", "head-hand", "middle", 20, 0, 0),
        ("gesture", "18", "Putting arms behind body", "body-hand", "tail", 19, 0, 1),
        ("gesture", "31", "Illustrative body language", "illustrative", "head", 101, 0, 0),
    ]


# Files


@pytest.fixture
def media(tmp_path: Path) -> pd.DataFrame:
    """Six clips of three subjects, each with a video and a skeleton that are fine."""
    rows = []
    for i in range(6):
        make_video(tmp_path / f"v{i}.mp4", num_frames=20, first_number=i)  # no two alike
        make_skeleton(tmp_path / f"v{i}.npy", num_frames=20)
        split = ("train", "val", "test")[i % 3]
        rows.append((f"c{i}", f"v{i}.mp4", f"v{i}.npy", f"s{i % 3}", split, str(i // 3), 0.0, 0.8))
    columns = ["clip_id", "video", "skeleton", "subject_id", "split", "gesture", "start_s", "end_s"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "clips.csv", index=False)
    return read_clip_table(tmp_path / "clips.csv")


def test_good_files_are_fine(media: pd.DataFrame) -> None:
    report = check(media)
    assert report.findings == []
    assert report.files == {"video": {"looked_into": 6, "of": 6}, "skeleton": {"looked_into": 6, "of": 6, "hands": {}}}
    assert report.to_json()["ok"]
    assert report.summary().endswith("no faults")


def test_hands_in_the_wrong_order_are_told_from_the_data(media: pd.DataFrame, tmp_path: Path) -> None:
    joints = points(20, 35)
    joints[:, 25:30, :2] = joints[:, 7, None, :2] + 5  # the first five fingertips are near the left wrist
    joints[:, 30:35, :2] = joints[:, 4, None, :2] + 5
    for i in range(3):
        write_imigue_csv(
            tmp_path / f"v{i}.csv", joints if i else joints[:, [*range(25), *range(30, 35), *range(25, 30)]]
        )
        media.loc[i, "skeleton"] = str(tmp_path / f"v{i}.csv")
    report = check(media)
    assert report.files["skeleton"]["hands"] == {"right first": 1, "left first": 2}
    (found,) = report.findings
    assert "1 skeleton files have the fingertips of the right hand first; imigue35 says left first" in found.text
    assert found.names == (str(tmp_path / "v0.csv"),)
    assert not found.is_fault
    assert "right first in 1, left first in 2" in report.summary()


def _remove(name: str) -> Callable[[Path, pd.DataFrame], None]:
    return lambda folder, table: (folder / name).unlink()


def _overwrite(name: str, content: bytes) -> Callable[[Path, pd.DataFrame], None]:
    return lambda folder, table: (folder / name).write_bytes(content) and None  # type: ignore[func-returns-value]


def _cell(column: str, value: Any) -> Callable[[Path, pd.DataFrame], None]:
    def change(folder: Path, table: pd.DataFrame) -> None:
        table.loc[2, column] = value

    return change


def _nothing_to_extract(folder: Path, table: pd.DataFrame) -> None:
    table.loc[2, ["video", "skeleton"]] = ""


@pytest.mark.parametrize(
    ("spoil", "text", "named"),
    [
        (_remove("v2.mp4"), "1 video files are not there, of 1 clips", "v2.mp4"),
        (_remove("v2.npy"), "1 skeleton files are not there, of 1 clips", "v2.npy"),
        (_cell("face", "/nowhere/f.npy"), "1 face files are not there, of 1 clips", "/nowhere/f.npy"),
        (_overwrite("v2.mp4", b""), "1 videos cannot be read, of 1 clips", "the file is empty"),
        (_overwrite("v2.npy", b"no numbers"), "1 skeleton files cannot be read, of 1 clips", "v2.npy"),
        (_cell("end_s", 9.0), "", ""),
        (_nothing_to_extract, "1 clips name neither a video nor a skeleton", "c2"),
    ],
)
def test_a_fault_costs_clips_and_is_named(
    media: pd.DataFrame, tmp_path: Path, spoil: Callable[[Path, pd.DataFrame], None], text: str, named: str
) -> None:
    spoil(tmp_path, media)
    report = check(media)
    assert [each.text for each in report.faults] == ([text] if text else [])
    assert all(named in each.names[0] for each in report.faults)
    assert report.to_json()["ok"] is not bool(text)


def test_clips_after_the_end_of_their_video_are_a_fault(media: pd.DataFrame) -> None:
    media.loc[2, ["start_s", "end_s"]] = (0.8, 1.0)
    (fault,) = check(media).faults
    assert (fault.text, fault.names) == ("1 clips begin after the end of their video", ("c2",))
    media["start_s"] = media["end_s"] = np.nan
    media.loc[3, "start_frame"], media.loc[3, "end_frame"] = 20, 25
    assert check(media).faults[0].names == ("c3",)


def test_odd_rates_and_sizes_are_warnings(media: pd.DataFrame, tmp_path: Path) -> None:
    make_video(tmp_path / "v1.mp4", num_frames=20, fps=30)
    make_video(tmp_path / "v2.mp4", num_frames=20, size_px=(80, 60))
    make_video(tmp_path / "v3.mp4", num_frames=20, ticks=[*range(10), *range(15, 25)])
    report = check(media.assign(skeleton=""))
    assert not report.faults
    assert [(each.text, each.names) for each in report.findings] == [
        ("1 videos have an uneven frame rate; times are those of the frames", (str(tmp_path / "v3.mp4"),)),
        ("1 videos have not 25 frames/s, as most have", (f"{tmp_path / 'v1.mp4'}: 30",)),
        ("1 videos have not 64x48 pixels, as most have", (f"{tmp_path / 'v2.mp4'}: 80x60",)),
    ]
    published = check(media.assign(skeleton=""), "imigue-gesture")
    assert "6 videos have not 1280x720 pixels, as published" in texts(published, faults=False)


def test_a_sample_is_looked_into_unless_all_is_asked_for(media: pd.DataFrame, tmp_path: Path) -> None:
    many = pd.concat([media] * 5, ignore_index=True)
    many["clip_id"] = [f"c{i}" for i in range(30)]
    for i in range(30):
        (tmp_path / f"w{i}.mp4").hardlink_to(tmp_path / "v0.mp4")
    many["video"] = [str(tmp_path / f"w{i}.mp4") for i in range(30)]
    report = check(many)
    assert report.files["video"] == {"looked_into": 20, "of": 30}
    assert "looked into 20 of 30 video files, 6 of 6 skeleton files; all of them: --all" in report.summary()
    assert check(many, all_files=True).files["video"]["looked_into"] == 30


# What the data set says, and leakage


def test_rows_left_out_are_faults_and_clips_that_a_protocol_leaves_out_are_not() -> None:
    table = gesture_table(8, 4, [1, 2], [54])
    table.attrs |= {
        "warnings": ["no video file for 3 of 3 videos: 0001, 0002, 0054"],
        "dropped": [
            ("/d/0001_label.csv, line 7", "end before start"),
            ("/d/0002_label.csv, line 9", "end before start"),
            ("0218_0", "MiGA leaves it out"),
        ],
    }
    report = check(table, "imigue-gesture")
    (fault,) = (each for each in report.faults if "left out" in each.text)
    assert (fault.text, fault.names[1]) == ("2 left out: end before start", "/d/0002_label.csv, line 9")
    said = texts(report, faults=False)
    assert "1 left out: MiGA leaves it out" in said
    assert "no video file for 3 of 3 videos: 0001, 0002, 0054" in said
    assert "1 left out: MiGA leaves it out" in texts(check(table, "my-own"), faults=True)


def test_leakage_is_reported_with_media_under_two_names(media: pd.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "v1.mp4").write_bytes((tmp_path / "v0.mp4").read_bytes())
    report = check(media.assign(subject_id=["a", "b", "c", "a", "b", "a"]))
    kinds = {each.kind: (each.first, each.second, len(each.names)) for each in report.leakage.refused}
    assert kinds == {"subjects": ("train", "test", 1), "media": ("train", "val", 1)}
    assert "fault: leakage: 1 of 2 test subjects are in train too (a)" in report.summary()
    assert not report.to_json()["ok"]


# The command line


def mgcli(folder: Path, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "mgcli.cli", *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def test_data_check_exits_by_what_it_finds(media: pd.DataFrame, tmp_path: Path) -> None:
    mgcli(tmp_path, "init", "table", "--clips", "clips.csv")
    text = mgcli(tmp_path, "data", "check").stdout
    assert text.startswith("table, protocol table\n")
    assert text.endswith("no faults\n")
    (tmp_path / "v2.mp4").unlink()
    result = json.loads(mgcli(tmp_path, "data", "check", "--json", "--all", code=3).stdout)
    assert [each["text"] for each in result["findings"] if each["fault"]] == ["1 video files are not there, of 1 clips"]
    make_video(tmp_path / "v2.mp4", num_frames=20, first_number=2)
    rows = (tmp_path / "clips.csv").read_text().replace(",s1,", ",s0,")
    (tmp_path / "leaky.csv").write_text(rows)
    done = mgcli(tmp_path, "data", "check", "--clips", "leaky.csv", code=1)
    assert "fault: leakage: 1 of 1 val subjects are in train too (s0)" in done.stdout
    assert "Traceback" not in done.stderr


def test_data_table_writes_what_clips_takes_again(media: pd.DataFrame, tmp_path: Path) -> None:
    mgcli(tmp_path, "init", "table", "--clips", "clips.csv")
    text = mgcli(tmp_path, "data", "table").stdout
    done = mgcli(tmp_path, "data", "table", "--out", "out.csv")
    assert (tmp_path / "out.csv").read_text() == text
    assert "wrote 6 clips to out.csv" in done.stderr
    again = read_clip_table(tmp_path / "out.csv")
    pd.testing.assert_frame_equal(again, media, check_like=True)
    (tmp_path / "clips.csv").unlink()
    assert "no clip table" in mgcli(tmp_path, "data", "table", code=1).stderr
