"""The clip table: what is read, what is refused, and in which words."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import make_table

from mgcli.cache import (
    ClipTableError,
    check_clip_table,
    describe_clips,
    draw_validation,
    label_classes,
    read_clip_table,
)

WriteCsv = Callable[[str], Path]


def test_spellings_are_normalised_and_paths_start_at_the_table(clips_csv: WriteCsv) -> None:
    path = clips_csv(
        "\ufeffclip_id,video,start_s,end_s,subject_id,split,gesture,emotion,note\n"
        "a,v/1.mp4,0,1.5,7,Training,3.0,Win,kept\n"
        "b,v/2.mp4,,,8,validation,,0,\n"
    )
    table = read_clip_table(path)
    assert table["split"].tolist() == ["train", "val"]
    assert table["gesture"].tolist() == ["3", ""]
    assert table["emotion"].tolist() == ["win", "lose"]
    assert table["video"].tolist() == [str(path.parent / "v/1.mp4"), str(path.parent / "v/2.mp4")]
    assert table["end_s"].isna().tolist() == [False, True]
    assert table["note"].tolist() == ["kept", ""]


def test_without_subjects_each_video_is_its_own() -> None:
    table = check_clip_table(pd.DataFrame({"clip_id": ["a", "b", "c"], "video": ["1.mp4", "1.mp4", ""]}))
    assert table["subject_id"].tolist() == ["1.mp4", "1.mp4", "c"]
    assert table.attrs["subjects_given"] is False


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("clip_id,video\n", "no rows"),
        ("clip,video\na,1.mp4\n", "has no column clip_id; is 'clip' meant as 'clip_id'?"),
        ("clip_id,video\na,1\nb,2\na,3\n", r"clip_id must be unique; row 2 \(clip_id 'a'\), row 4 \(clip_id 'a'\)"),
        ("clip_id,video\n,1\n", "clip_id is empty in row 2"),
        ("clip_id,split\na,train\nb,trian\n", r"unknown split; known: train, val, test; row 3 \(split 'trian'\)"),
        ("clip_id,emotion\na,maybe\n", r"unknown emotion; known: lose, win; row 2 \(emotion 'maybe'\)"),
        ("clip_id,gesture\na,3\nb,99\n", r"unknown gesture; class ids are 0..31 .*row 3 \(gesture '99'\)"),
        ("clip_id,gesture\na,-1\n", r"unknown gesture.*row 2"),
        ("clip_id,gesture\na,3\nb,nodding\n", "mixes class ids and names"),
        (
            "clip_id,start_s,end_s\na,2,1\n",
            r"start_s must come before end_s \(half-open\); row 2 \(start_s 2.0",
        ),
        ("clip_id,start_frame,end_frame\na,5,5\n", "start_frame must come before end_frame"),
        ("clip_id,start_s,end_s\na,0,\n", "must both be given or both be empty; row 2"),
        ("clip_id,start_s,end_s\na,zero,1\n", r"start_s must be a number from 0; row 2 \(start_s 'zero'\)"),
        ("clip_id,start_s,end_s\na,-1,1\n", "start_s must be a number from 0"),
        ("clip_id,start_s,end_s\na,0,inf\n", "end_s must be a number from 0"),
        ("clip_id,start_frame,end_frame\na,0.5,2\n", "start_frame must be a whole number"),
        ("clip_id,start_s,end_s,start_frame,end_frame\na,0,1,0,25\n", "in seconds or in frames, not both; row 2"),
        ("clip_id,start_frame,end_frame\na,0,9\nb,0,1e30\n", r"below 9007199254740992; row 3 \(end_frame '1e30'\)"),
        ("clip_id,start_frame,end_frame\na,0,9223372036854775807\n", "end_frame must be a whole number .*; row 2"),
        ("clip_id,skeleton_fps\na,25\nb,0\n", "skeleton_fps must be above 0, or empty .*; row 3"),
        ("clip_id,video\na,1\nb,2\x003\n", "video holds a NUL, .*; row 3"),
        ("clip_id,video,skeleton\na,1,2\x003\n", "skeleton holds a NUL, .*; row 2"),
        ("clip_id,video\na,1,2,3\n", "not a CSV file"),
    ],
)
def test_a_bad_table_is_refused_with_its_rows(clips_csv: WriteCsv, text: str, message: str) -> None:
    with pytest.raises(ClipTableError, match=message):
        read_clip_table(clips_csv(text))


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(ClipTableError, match=r"no clip table .*absent.csv; give one with --clips"):
        read_clip_table(tmp_path / "absent.csv")
    with pytest.raises(ClipTableError, match="is a folder"):
        read_clip_table(tmp_path)


def test_paths_that_lead_nowhere_cost_the_table_nothing(clips_csv: WriteCsv, tmp_path: Path) -> None:
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    (tmp_path / "real.mp4").touch()
    (tmp_path / "link.mp4").symlink_to("real.mp4")
    long_name = f"{'x' * 300}.mp4"
    table = read_clip_table(clips_csv(f"clip_id,video\na,loop.mp4\nb,link.mp4\nc,{long_name}\n"))
    assert table["video"].tolist() == [str(tmp_path / name) for name in ("loop.mp4", "real.mp4", long_name)]
    assert f"2 video file(s) not found: {tmp_path / 'loop.mp4'}" in describe_clips(table)


@pytest.mark.parametrize("column", ["clip_id", "video", "face"])
def test_what_the_table_cannot_keep_in_utf_8_is_refused(column: str) -> None:
    table = pd.DataFrame({"clip_id": ["a", "b"], "video": "1.mp4", "face": "1.npy"}).astype(object)
    table.loc[1, column] = "caf\udce9"
    with pytest.raises(ClipTableError, match=f"{column} holds .* not UTF-8.*row 3"):
        check_clip_table(table)


def test_a_link_to_a_name_that_is_not_utf_8_is_refused_with_its_row(clips_csv: WriteCsv, tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.mp4")).touch()
    (tmp_path / "link.mp4").symlink_to(os.fsdecode(b"caf\xe9.mp4"))
    with pytest.raises(ClipTableError, match=r"video holds .* not UTF-8; rename the file; row 3"):
        read_clip_table(clips_csv("clip_id,video\na,1.mp4\nb,link.mp4\n"))


def test_missing_columns_are_named(clips_csv: WriteCsv) -> None:
    with pytest.raises(ClipTableError, match=r"has no column video, split \(it has: clip_id, gesture\)"):
        read_clip_table(clips_csv("clip_id,gesture\na,1\n"), require=("clip_id", "video", "split"))


def test_classes_come_in_order() -> None:
    ids = check_clip_table(pd.DataFrame({"clip_id": list("abc"), "gesture": ["10", "2", ""]}))
    names = check_clip_table(pd.DataFrame({"clip_id": list("abc"), "gesture": ["nod", "blink", "nod"]}))
    assert label_classes(ids, "gesture") == ["2", "10"]
    assert label_classes(names, "gesture") == ["blink", "nod"]
    assert label_classes(names, "emotion") == ["lose", "win"]


def test_drawn_validation_moves_whole_training_subjects_only() -> None:
    table = make_table(60, 12)
    drawn = draw_validation(table, seed=3)
    moved = set(drawn.loc[drawn["split"] == "val", "subject_id"])
    assert len(moved) == 2  # 20 % of 8 training subjects
    assert moved.isdisjoint(drawn.loc[drawn["split"] != "val", "subject_id"])
    assert (drawn["split"] == "test").equals(table["split"] == "test")
    pd.testing.assert_frame_equal(drawn, draw_validation(table, seed=3))


def test_a_drawn_validation_leaves_every_class_a_training_clip() -> None:
    """Also where each subject has a gesture and an emotion that come together nowhere else."""
    gestures = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    table = check_clip_table(
        pd.DataFrame(
            {
                "clip_id": [f"c{i}" for i in range(10)],
                "subject_id": [f"s{i}" for i in range(10)],
                "gesture": [str(each) for each in gestures],
                "emotion": ["win", "lose"] * 5,
                "split": "train",
            }
        )
    )
    for seed in range(20):
        left = draw_validation(table, seed=seed, fraction=0.3).query("split == 'train'")
        assert left["gesture"].nunique() == 5


def test_a_given_validation_split_stays() -> None:
    table = make_table()
    table.loc[0, "split"] = "val"
    assert draw_validation(table) is table


def test_one_training_subject_cannot_be_divided() -> None:
    table = check_clip_table(pd.DataFrame({"clip_id": ["a"], "subject_id": ["s"], "split": ["train"]}))
    with pytest.raises(ClipTableError, match="cannot draw a validation split from 1 training subject"):
        draw_validation(table)


@given(text=st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("any") / "clips.csv"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        table = read_clip_table(path)
    except ClipTableError:
        return
    assert table["clip_id"].is_unique
