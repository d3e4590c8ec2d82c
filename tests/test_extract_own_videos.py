"""Data sets `folder` and `table` as a user brings them: labels in a CSV, subjects in names, drawn splits, windows."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pandas as pd
import pytest
from tiny_media import make_video

from mgcli.cache import ClipTableError, clip_table_csv, open_cache
from mgcli.extract import DatasetError, load_dataset


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Ten video files of five subjects side by side, no folders of classes."""
    for subject in range(5):
        for take in range(2):
            (tmp_path / f"s{subject}_take{take}.mp4").touch()
    return tmp_path


def rows_of(folder: Path, name: str) -> list[str]:
    return [path.stem for path in sorted(folder.glob("*.mp4")) if name in path.stem]


def test_a_flat_folder_needs_no_labels_and_gets_no_split(flat: Path) -> None:
    table = load_dataset("folder", flat)
    assert table["clip_id"].tolist()[:3] == ["s0_take0", "s0_take1", "s1_take0"]
    assert set(table["gesture"]) == set(table["split"]) == {""}


def test_videos_beside_class_folders_are_not_passed_over(flat: Path) -> None:
    (flat / "wave").mkdir()
    (flat / "wave" / "a.mp4").touch()
    with pytest.raises(DatasetError, match=r"10 video files beside its class folders, such as s0_take0\.mp4"):
        load_dataset("folder", flat)


def test_videos_that_are_left_out_are_named(flat: Path) -> None:
    (flat / "day" / "one").mkdir(parents=True)
    (flat / "day" / "one" / "a.mp4").touch()
    (flat / "day" / ".hidden.mp4").touch()
    (flat / "gone.mp4").symlink_to("nowhere.mp4")
    (flat / "loop.mp4").symlink_to("loop.mp4")
    os.mkfifo(flat / "pipe.mp4")
    (flat / os.fsdecode(b"caf\xe9.mp4")).touch()
    (flat / "notes.txt").touch()
    table = load_dataset("folder", flat)
    assert len(table) == 10
    assert clip_table_csv(table)
    deep, unreadable, unspellable = table.attrs["warnings"]
    assert deep == f"{flat}: 1 videos are left out, which lie deeper than CLASS/FILE; move them up: day/one/a.mp4"
    assert f"{flat}: 3 videos are left out, which cannot be read: gone.mp4 (no such file), loop.mp4 (" in unreadable
    assert "pipe.mp4 (not a regular file" in unreadable
    assert unspellable.endswith(r"which have paths that are not UTF-8; rename them: b'caf\xe9.mp4'")


def test_a_folder_of_nothing_but_deep_videos_says_so(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c.mp4").touch()
    with pytest.raises(DatasetError, match=r"has no video files.*1 videos are left out, .* deeper .*: a/b/c\.mp4"):
        load_dataset("folder", tmp_path)


@pytest.mark.parametrize("suffix", [".mts", ".M2TS", ".3gp", ".ogv", ".vob", ".mxf"])
def test_videos_of_camcorders_and_phones_are_taken(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"a{suffix}").touch()
    assert load_dataset("folder", tmp_path)["clip_id"].tolist() == ["a"]


def test_two_files_of_one_clip_name_are_named(flat: Path) -> None:
    (flat / "s0_take0.avi").touch()
    with pytest.raises(DatasetError, match=r"s0_take0\.avi and .*s0_take0\.mp4 both give a clip 's0_take0'; rename"):
        load_dataset("folder", flat)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("form", ["id", "file", "path"])
def test_labels_come_from_a_csv_by_id_or_file_name(form: str, separator: str, flat: Path) -> None:
    names = [path.stem for path in sorted(flat.glob("*.mp4"))]
    written = {"id": "{}", "file": "{}.mp4", "path": "somewhere/{}.mp4"}[form]
    lines = ["file name or id", *(written.format(name) for name in names)]
    lines[0] = "\ufeffFile"
    text = "\r\n".join(
        f"{name}{separator}{'Label' if i == 0 else 'wave' if i % 2 else 'nod'}" for i, name in enumerate(lines)
    )
    (flat / "labels.csv").write_text(text, encoding="utf-8")
    if form == "path":
        with pytest.raises(
            DatasetError, match="no row is of a clip of this data set; its first is 'somewhere/s0_take0"
        ):
            load_dataset("folder", flat, labels="labels.csv")
        return
    table = load_dataset("folder", flat, labels="labels.csv", subject_pattern=r"(s\d)_")
    assert table["gesture"].tolist() == ["wave", "nod"] * 5
    assert table.groupby("subject_id")["split"].nunique().eq(1).all()
    assert table.groupby("split")["subject_id"].nunique().to_dict() == {"train": 3, "val": 1, "test": 1}
    (note,) = table.attrs["warnings"]
    assert note == (
        "splits drawn with seed 0, whole subjects at a time: "
        "train 6 clips of 3, val 2 clips of 1, test 2 clips of 1 subjects"
    )


def test_rows_and_clips_that_do_not_meet_are_counted(flat: Path) -> None:
    (flat / "labels.csv").write_text("clip_id,emotion,subject\ns0_take0,win,anna\ngone,lose,ben\ns1_take1,lose,ben\n\n")
    table = load_dataset("folder", flat, labels="labels.csv", fractions=[1, 0, 0])
    assert (table["emotion"] != "").sum() == 2
    assert table["subject_id"].tolist()[:2] == ["anna", "s0_take1"]  # without a name each file is its own subject
    assert (table["split"] != "").sum() == 2  # nobody is drawn of whom nothing is known
    notes = table.attrs["warnings"]
    assert notes[0] == "labels.csv: 1 rows are of clips that are not here: gone"
    assert notes[1].startswith(
        "labels.csv: no row for 8 clips, which stay without a label: s0_take1, s1_take0, s2_take0"
    )


def test_a_labels_file_with_splits_is_not_drawn_over(flat: Path) -> None:
    lines = [f"{path.stem},wave,{'test' if 's4' in path.stem else 'train'}" for path in sorted(flat.glob("*.mp4"))]
    (flat / "labels.csv").write_text("\n".join(["id,class,split", *lines]))
    table = load_dataset("folder", flat, labels="labels.csv")
    assert set(table.loc[table["split"] == "test", "clip_id"]) == {"s4_take0", "s4_take1"}
    assert table.attrs["warnings"] == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no rows behind its column names"),
        ("id,gesture\n", "no rows behind its column names"),
        ("who,gesture\ns0_take0,1\n", "line 1: no column names the clips"),
        ("id,score\ns0_take0,1\n", "line 1: no column of labels"),
        ("id,gesture\ns0_take0,1\ns0_take1\n", "line 3: 1 cells where line 1 has 2"),
        ("id,gesture\ns0_take0,1\n\ns0_take0.mp4,2\n", "line 4: 's0_take0.mp4' again, first in line 2"),
        (
            "id,gesture\nnobody,1\n",
            "no row is of a clip of this data set; its first is 'nobody', the first clip 's0_take0'",
        ),
        (b"id,gesture\n\xff\xfe,1\n", "is not text in UTF-8"),
    ],
)
def test_a_labels_file_that_makes_no_sense_is_refused_with_its_line(
    content: str | bytes, message: str, flat: Path
) -> None:
    (flat / "labels.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DatasetError, match=message):
        load_dataset("folder", flat, labels="labels.csv")


def test_wrong_labels_are_refused_as_those_of_a_table_are(flat: Path) -> None:
    (flat / "labels.csv").write_text("id,emotion,gesture\ns0_take0,happy,1\n")
    with pytest.raises(ClipTableError, match=r"unknown emotion; known: lose, win; row 2 \(emotion 'happy'\)"):
        load_dataset("folder", flat, labels="labels.csv")
    with pytest.raises(DatasetError, match=r"no file .*none\.csv; a relative path starts at the data set's folder"):
        load_dataset("folder", flat, labels="none.csv")


def test_a_name_that_two_folders_have_must_be_said_in_full(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "one.mp4").touch()
    labels = tmp_path / "labels.csv"
    labels.write_text("file,gesture\none.mp4,1\n")
    with pytest.raises(DatasetError, match=r"line 2: 'one\.mp4' is the name of 2 clips; write 'a/one'"):
        load_dataset("folder", tmp_path, labels="labels.csv")
    labels.write_text("file,gesture\na/one.mp4,1\nb/one,2\n")
    assert load_dataset("folder", tmp_path, labels="labels.csv")["gesture"].tolist() == ["1", "2"]


def write_table(folder: Path, columns: str = "", cells: str = "") -> Path:
    lines = [f"s{i}_{take},s{i}_{take}.mp4{cells}" for i in range(5) for take in "ab"]
    path = folder / "clips.csv"
    path.write_text("\n".join([f"clip_id,video{columns}", *lines]))
    return path


def test_a_table_takes_labels_subjects_and_drawn_splits(tmp_path: Path) -> None:
    path = write_table(tmp_path)
    lines = [f"s{i}_{take}.mp4,{take}" for i in range(5) for take in "ab"]
    (tmp_path / "labels.csv").write_text("\n".join(["video,gesture", *lines]))
    options = {"labels": "labels.csv", "subject_pattern": r"(s\d)_", "draw_splits": True}
    table = load_dataset("table", path, **options, seed=3)
    assert table["gesture"].tolist() == list("ab") * 5
    assert table["subject_id"].nunique() == 5
    assert table.groupby("subject_id")["split"].nunique().eq(1).all()
    assert "splits drawn with seed 3" in table.attrs["warnings"][-1]
    pd.testing.assert_frame_equal(load_dataset("table", path, **options, seed=3), table)
    assert not load_dataset("table", path, **options, seed=4)["split"].equals(table["split"])
    assert table.attrs["subjects_given"]
    bare = load_dataset("table", path, labels="labels.csv")
    assert not bare.attrs["subjects_given"]
    assert set(bare["split"]) == {""}


@pytest.mark.parametrize(
    ("columns", "cells", "options", "message"),
    [
        (",split", ",train", {"draw_splits": True}, "has a split for 10 of its 10 clips; empty that column"),
        (",subject_id", ",anna", {"subject_pattern": "(s.)"}, "has a column subject_id, so subject_pattern"),
        ("", "", {"seed": 1}, "give draw_splits=true with them"),
        ("", "", {"draw_splits": "yes"}, "draw_splits is 'yes'; it must be true or false"),
        ("", "", {"draw_splits": True, "seed": 1.5}, "seed is 1.5; it must be a whole number"),
        ("", "", {"draw_splits": True, "fractions": "half"}, "fractions 'half' must be three numbers"),
        ("", "", {"window_s": "4s"}, "window_s is '4s'; it must be a number of seconds above 0"),
        ("", "", {"window_s": 0}, "window_s is 0; it must"),
        ("", "", {"stride_s": 2.0}, "stride_s is 2.0, but there is no window_s"),
        (",start_frame,end_frame", ",1,9", {"window_s": 1.0}, "clip 's0_a' has an interval in frames"),
    ],
)
def test_an_option_of_a_table_that_does_not_fit_is_said(
    columns: str, cells: str, options: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match=message):
        load_dataset("table", write_table(tmp_path, columns, cells), **options)


def test_an_empty_split_column_may_be_drawn(tmp_path: Path) -> None:
    table = load_dataset("table", write_table(tmp_path, ",split,subject_id", ",,anna"), draw_splits=True)
    assert set(table["split"]) == {"train"}  # one subject cannot be divided


def test_a_draw_that_leaves_a_class_without_training_says_so(tmp_path: Path) -> None:
    path = tmp_path / "clips.csv"
    path.write_text("\n".join(["clip_id,video,gesture", *(f"c{i},{i}.mp4,{i}" for i in range(5))]))
    table = load_dataset("table", path, draw_splits=True)
    absent = sorted(table.loc[table["split"] != "train", "gesture"])
    assert table.attrs["warnings"][-1] == (
        f"no training clip has the gesture {', '.join(absent)}; another seed may do better"
    )


def test_whole_videos_become_windows_that_cover_them(tmp_path: Path) -> None:
    make_video(tmp_path / "long.mp4", 25 * 5 + 20)  # 5.8 s
    make_video(tmp_path / "short.mp4", 20)
    (tmp_path / "torn.mp4").write_bytes(b"no video")
    table = load_dataset("folder", tmp_path, window_s=2.0, stride_s=1.5)
    assert table["clip_id"].tolist() == ["long_0", "long_1", "long_2", "long_3", "short_0", "torn"]
    assert table["start_s"].tolist()[:5] == pytest.approx([0.0, 1.5, 3.0, 3.8, 0.0])
    assert table["end_s"].tolist()[:5] == pytest.approx([2.0, 3.5, 5.0, 5.8, 0.8])
    assert table["start_s"].isna().tolist() == [False] * 5 + [True]
    (note,) = table.attrs["warnings"]
    assert "not cut into windows" in note
    assert "torn.mp4" in note
    whole = load_dataset("folder", tmp_path, window_s=2)
    assert whole["clip_id"].tolist()[:4] == ["long_0", "long_1", "long_2", "short_0"]


def test_a_window_that_is_called_as_another_video_is_refused(tmp_path: Path) -> None:
    make_video(tmp_path / "a.mp4", 30)
    (tmp_path / "a_0.mp4").touch()  # no video, so it stays one clip
    with pytest.raises(DatasetError, match=r"a\.mp4 and .*a_0\.mp4 both give a clip 'a_0'; rename"):
        load_dataset("folder", tmp_path, window_s=0.5)


def test_windows_of_an_interval_stay_in_it_and_keep_its_labels(tmp_path: Path) -> None:
    make_video(tmp_path / "v.mp4", 100)
    (tmp_path / "clips.csv").write_text("clip_id,video,start_s,end_s,emotion,split\na,v.mp4,1,3.5,win,test\n")
    table = load_dataset("table", tmp_path, window_s=1, stride_s=1)
    assert list(zip(table["start_s"], table["end_s"], strict=True)) == [(1, 2), (2, 3)]
    assert set(table["emotion"]) == {"win"}
    assert set(table["split"]) == {"test"}


def test_init_extract_and_predict_on_windows_as_a_user_runs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from mgcli.cli import app

    def mgcli(*words: str) -> str:
        result = CliRunner().invoke(app, list(words), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    videos, unseen = tmp_path / "videos", tmp_path / "unseen"
    for folder, names in ((videos, [f"s{i}_{c}" for i in range(5) for c in "ab"]), (unseen, ["match"])):
        folder.mkdir()
        for number, name in enumerate(names):
            make_video(folder / f"{name}.mp4", 50, first_number=number)  # no two alike
    lines = [f"{path.name},{path.stem[-1]}" for path in sorted(videos.glob("*.mp4"))]
    (videos / "labels.csv").write_text("\n".join(["file,label", *lines]))
    backbone = (
        "--modality",
        "video",
        "--backbone",
        "tiny_backbones:TinyVideo",
        "--weights",
        "random:0",
        "--workers",
        "0",
    )

    (tmp_path / "train").mkdir()
    monkeypatch.chdir(tmp_path / "train")
    mgcli(
        "init", "folder", "--root", str(videos), "--option", "labels=labels.csv", "--option", r"subject_pattern=(s\d)_"
    )
    mgcli("extract", *backbone)
    mgcli("fuse-train", "--task", "gesture", "--head", "concat", "--modalities", "video", "--seeds", "1")

    (tmp_path / "new").mkdir()
    monkeypatch.chdir(tmp_path / "new")
    mgcli("init", "folder", "--root", str(unseen), "--option", "window_s=0.8", "--option", "stride_s=0.4")
    said = json.loads(mgcli("extract", *backbone, "--json"))
    assert said["video"]["done"] == 4
    ids = set(open_cache(tmp_path / "new" / "features").feature_set("video").clips()["clip_id"])
    assert ids == {f"match_{k}" for k in range(4)}
    (run,) = (tmp_path / "train" / "runs").iterdir()
    predictions = pd.read_csv(io.StringIO(mgcli("predict", str(run))))
    assert set(predictions["clip_id"]) == ids
    assert predictions[["p_a", "p_b"]].sum(axis=1).tolist() == pytest.approx([1] * 4, abs=1e-5)
