"""The leakage guard: what two splits share, what a backbone saw, and what is done about it."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imigue_ids import EMOTION_2021_TEST, EMOTION_2021_TRAIN, GESTURE_TEST, GESTURE_TRAIN, MIGA_VALIDATION

from mgcli.cache import (
    LeakageError,
    LeakageReport,
    check_clip_table,
    draw_validation,
    find_leakage,
    media_names,
    subjects_are_known,
)


def table_of(*rows: tuple[str, str, str, str], **columns: Any) -> pd.DataFrame:
    """Clips of (clip_id, video, subject_id, split)."""
    table = pd.DataFrame(rows, columns=["clip_id", "video", "subject_id", "split"])
    return check_clip_table(table.assign(**columns))


def found(report: LeakageReport) -> list[tuple[str, str, str, int, bool]]:
    return [(each.kind, each.first, each.second, len(each.names), each.refused) for each in report.overlaps]


def interviews(videos_of: dict[str, list[int]], subject_of: dict[int, str] | None = None) -> pd.DataFrame:
    """Whole videos, as a protocol splits them; without subjects each stands for itself."""
    rows = [(f"{video:04d}", video, split) for split, videos in videos_of.items() for video in videos]
    named = subject_of or {video: f"video-{video:04d}" for _, video, _ in rows}
    return table_of(*((name, f"/d/{split}/{name}/{name}.mp4", named[video], split) for name, video, split in rows))


EMOTION_2021 = {"train": EMOTION_2021_TRAIN, "test": EMOTION_2021_TEST}
MIGA = {
    "train": [video for video in GESTURE_TRAIN if video not in MIGA_VALIDATION],
    "val": MIGA_VALIDATION,
    "test": GESTURE_TEST,
}


def emotion_subjects() -> dict[int, str]:
    """Subjects of our own invention that keep the gesture split and, as published, put 39 people on both sides."""
    subject_of = {}
    for group, name, first_of_test in ((GESTURE_TRAIN, "a", (28, 8, 29)), (GESTURE_TEST, "b", (27, 8, 27))):
        num_train, start, num_test = first_of_test
        train, test = (sorted(set(videos) & set(group)) for videos in EMOTION_2021.values())
        subject_of |= {video: f"{name}{i % num_train}" for i, video in enumerate(train)}
        subject_of |= {video: f"{name}{start + i % num_test}" for i, video in enumerate(test)}
    return subject_of


# What was published


def test_the_2021_emotion_protocol_shares_39_subjects_and_says_so() -> None:
    table = interviews(EMOTION_2021, emotion_subjects())
    report = find_leakage(table, "imigue-emotion-2021")
    assert found(report) == [("subjects", "train", "test", 39, False)]
    (text,) = report.warnings()
    assert text.startswith(
        "39 of 56 test subjects are in train too (a8, a9, a10, a11, a12, ...), as imigue-emotion-2021 "
    )
    assert set(report.overlaps[0].names) == {f"a{i}" for i in range(8, 28)} | {f"b{i}" for i in range(8, 27)}


def test_the_same_table_under_another_name_is_refused() -> None:
    report = find_leakage(interviews(EMOTION_2021, emotion_subjects()), "my-emotions")
    assert found(report) == [("subjects", "train", "test", 39, True)]
    with pytest.raises(LeakageError, match=r"39 of 56 test subjects are in train too \(a8, a9, .*--allow-leakage"):
        report.enforce(allow=False, warn=lambda text: None)


def test_validation_subjects_drawn_from_shared_training_subjects_are_shared_too() -> None:
    table = draw_validation(interviews(EMOTION_2021, emotion_subjects()))
    report = find_leakage(table, "imigue-emotion-2021", drawn_validation=True)
    assert [(each.first, each.second, each.refused) for each in report.overlaps] == [
        ("train", "test", False),
        ("val", "test", False),
    ]
    assert sum(len(each.names) for each in report.overlaps) == 39
    assert found(find_leakage(table, "imigue-emotion-2021-subject-val")) == found(report)


@pytest.mark.parametrize("protocol", ["miga-track1", "miga-track3", "miga-2025"])
def test_the_official_validation_shares_its_five_subjects_and_says_so(protocol: str) -> None:
    subject_of = {video: f"s{i % 37}" for i, video in enumerate(MIGA["train"])}
    subject_of |= {video: f"s{i % 5}" for i, video in enumerate(MIGA["val"])}
    subject_of |= {video: f"t{i % 35}" for i, video in enumerate(MIGA["test"])}
    table = interviews(MIGA, subject_of)
    report = find_leakage(table, protocol)
    assert found(report) == [("subjects", "train", "val", 5, False)]
    assert report.overlaps[0].names == ("s0", "s1", "s2", "s3", "s4")
    assert report.warnings() == [
        f"5 of 5 val subjects are in train too (s0, s1, s2, s3, s4), as {protocol} was published: val scores may be "
        "higher than for people never seen"
    ]
    assert found(find_leakage(table, f"{protocol}-subject-val")) == [("subjects", "train", "val", 5, True)]


def test_a_published_protocol_excuses_only_the_overlap_that_it_has() -> None:
    table = table_of(("a", "a.mp4", "1", "train"), ("b", "b.mp4", "1", "test"))
    assert found(find_leakage(table, "imigue-gesture")) == [("subjects", "train", "test", 1, True)]
    assert found(find_leakage(table, "miga-track1")) == [("subjects", "train", "test", 1, True)]
    both = table_of(("a", "a.mp4", "1", "train"), ("b", "a.mp4", "1", "test"))
    assert ("videos", "train", "test", 1, True) in found(find_leakage(both, "imigue-emotion-2021"))


# What a backbone saw

GESTURE_BACKBONE = {
    "protocol": "imigue-gesture",
    "clips": [f"{video:04d}_{k}" for video in GESTURE_TRAIN for k in range(3)],
    "subjects": [f"video-{video:04d}" for video in GESTURE_TRAIN],
    "videos": [f"{video:04d}/{video:04d}" for video in GESTURE_TRAIN],
    "epoch_chosen_by_subjects": [],
}


def test_a_backbone_of_the_gesture_split_has_seen_67_of_100_emotion_test_videos() -> None:
    report = find_leakage(
        interviews(EMOTION_2021), "imigue-emotion-2021", trained_on={"pose backbone": GESTURE_BACKBONE}
    )
    assert found(report) == [
        ("training", "pose backbone", "test", 67, True),  # videos
        ("training", "pose backbone", "test", 67, True),  # subjects, each of which is a video
        ("training", "pose backbone", "train", 38, False),
    ]
    seen, _, unseen = report.overlaps
    assert seen.text == "the pose backbone, trained on imigue-gesture, has seen 67 of 100 test videos"
    assert set(seen.names) == {f"{v:04d}/{v:04d}" for v in set(EMOTION_2021_TEST) & set(GESTURE_TRAIN)}
    assert "but for 38 of 102" in unseen.text
    assert set(unseen.names) == {f"{v:04d}/{v:04d}" for v in set(EMOTION_2021_TRAIN) & set(GESTURE_TEST)}
    with pytest.raises(LeakageError, match=r"has seen 67 of 100 test videos .*mgcli backbone-train"):
        report.enforce(allow=False, warn=lambda text: None)


def test_a_backbone_of_the_gesture_split_has_seen_nothing_of_its_test_videos() -> None:
    for protocol in ("imigue-gesture", "miga-track3"):
        splits = {"train": GESTURE_TRAIN, "test": GESTURE_TEST}
        report = find_leakage(interviews(splits), protocol, trained_on={"pose backbone": GESTURE_BACKBONE})
        assert report.overlaps == ()


def test_a_video_is_known_by_its_skeleton_file_where_the_training_had_no_video() -> None:
    skeletons = {"video": "", "skeleton": "/d/0009/0009_2.xlsx"}
    trained_on = {"protocol": "imigue-gesture", "videos": media_names(table_of(("x", "", "1", "train"), **skeletons))}
    table = table_of(("0009", "/rgb/0009/0009.mp4", "p", "test"), skeleton="/else/0009/0009_2.xlsx")
    (overlap,) = find_leakage(table, trained_on={"pose backbone": trained_on}).overlaps
    assert overlap.text.endswith("has seen 1 of 1 test videos")


def test_a_backbone_that_saw_what_its_protocol_lets_a_head_see_is_warned_of() -> None:
    table = draw_validation(interviews(EMOTION_2021, emotion_subjects()))
    train, val = (table[table["split"] == split] for split in ("train", "val"))
    trained_on = {
        "protocol": "imigue-emotion-2021",
        "clips": list(train["clip_id"]),
        "subjects": list(train["subject_id"]),
        "videos": media_names(train),
        "epoch_chosen_by_subjects": list(val["subject_id"]),
    }
    arguments: dict[str, Any] = {"drawn_validation": True, "trained_on": {"pose backbone": trained_on}}
    report = find_leakage(table, "imigue-emotion-2021", **arguments)
    assert not report.refused
    assert {each.kind for each in report.overlaps} == {"subjects", "training"}
    trained_on["clips"] = [*trained_on["clips"], "0009"]
    assert "test clips" in find_leakage(table, "imigue-emotion-2021", **arguments).refused[0].text


def test_validation_clips_that_a_backbone_saw_are_a_warning_and_test_subjects_that_chose_its_epoch_are_refused() -> (
    None
):
    table = table_of(("a", "a", "1", "train"), ("b", "b", "2", "val"), ("c", "c", "3", "test"))
    of_val = {"protocol": "own", "clips": ["a", "b"], "subjects": ["1", "2"]}
    report = find_leakage(table, "own", trained_on={"pose backbone": of_val})
    assert found(report) == [("training", "pose backbone", "val", 1, False)] * 2
    report = find_leakage(table, "own", trained_on={"pose backbone": {"epoch_chosen_by_subjects": ["3"]}})
    assert [each.text for each in report.refused] == [
        "the epoch of the pose backbone was chosen by 1 of 1 test subjects"
    ]


def test_ids_of_another_data_set_mean_other_people() -> None:
    table = table_of(("a", "a.mp4", "1", "train"), ("b", "b.mp4", "2", "test"))
    smg = {"protocol": "smg-gesture", "clips": ["b"], "subjects": ["2"]}
    assert find_leakage(table, "imigue-gesture", trained_on={"pose backbone": smg}).overlaps == ()
    assert len(find_leakage(table, "own", trained_on={"pose backbone": smg}).refused) == 2


# Own tables


def test_a_clean_table_has_no_overlap() -> None:
    report = find_leakage(table_of(("a", "a", "1", "train"), ("b", "b", "2", "val"), ("c", "c", "3", "test")))
    assert (report.overlaps, report.notes) == ((), ())
    report.enforce(allow=False, warn=pytest.fail)


def test_a_video_of_two_people_may_be_in_two_splits_and_is_told() -> None:
    table = table_of(("a", "v", "1", "train"), ("b", "v", "2", "test"), start_s=[0.0, 5.0], end_s=[4.0, 9.0])
    assert found(find_leakage(table)) == [("videos", "train", "test", 1, False)]


def test_a_video_of_unknown_people_may_not() -> None:
    table = pd.DataFrame({"clip_id": ["a", "b"], "video": "v.mp4", "split": ["train", "test"]})
    table = check_clip_table(table.assign(start_s=[0.0, 5.0], end_s=[4.0, 9.0]))
    report = find_leakage(table)
    assert found(report) == [("videos", "train", "test", 1, True)]
    assert "does not say who is seen" in report.notes[0]


def test_a_video_in_two_splits_is_refused_where_there_is_no_file_of_it() -> None:
    table = table_of(("0054_0", "", "video-0054", "train"), ("0054_1", "", "video-0054", "test"))
    assert found(find_leakage(table, "imigue-emotion-2021")) == [("subjects", "train", "test", 1, True)]


def test_unknown_people_are_told_also_after_the_table_was_kept() -> None:
    rows = pd.DataFrame({"clip_id": ["a", "b"], "video": ["v.mp4", "w.mp4"], "split": ["train", "test"]})
    table = check_clip_table(rows)
    assert not subjects_are_known(table)
    table.attrs.clear()
    assert not subjects_are_known(check_clip_table(table))
    assert not subjects_are_known(interviews(EMOTION_2021))
    assert subjects_are_known(table.assign(subject_id=["v.mp4", "anna"]))
    note = find_leakage(interviews(EMOTION_2021), "imigue-emotion-2021").notes[0]
    assert "as imigue-emotion-2021 was published, some subjects of train/test are the same" in note


def test_the_same_media_under_two_names_are_found_by_their_source() -> None:
    table = table_of(("a", "a.mp4", "1", "train"), ("b", "b.mp4", "2", "test"), ("c", "c.mp4", "3", "test"))
    table["video_source"] = ["0a", "0a", "0c"]
    report = find_leakage(table)
    assert found(report) == [("media", "train", "test", 1, True)]
    assert report.overlaps[0].names == ("a.mp4 = b.mp4",)
    assert found(find_leakage(table, "imigue-gesture")) == [("media", "train", "test", 1, False)]


@pytest.mark.parametrize(
    ("columns", "pairs"),
    [
        ({"start_s": [0.0, 0.0], "end_s": [2.0, 4.0]}, 1),  # half of the longer one
        ({"start_s": [0.0, 0.0], "end_s": [1.9, 4.0]}, 0),
        ({"start_s": [0.0, 2.0], "end_s": [2.0, 4.0]}, 0),
        ({"start_frame": [0, 10], "end_frame": [100, 110]}, 1),
        ({"start_s": [0.0, None], "end_s": [4.0, None], "start_frame": [None, 0], "end_frame": [None, 100]}, 0),
        ({"start_s": [0.0, None], "end_s": [4.0, None]}, 0),  # a piece and the whole video
        ({}, 1),  # the whole video twice
    ],
)
def test_nearly_the_same_interval_of_one_video(columns: dict[str, Any], pairs: int) -> None:
    table = table_of(("a", "v", "1", "train"), ("b", "v", "2", "test"), **columns)
    intervals = [each for each in find_leakage(table).overlaps if each.kind == "intervals"]
    assert sum(len(each.names) for each in intervals) == pairs
    assert all(each.refused and each.names == ("a = b",) for each in intervals)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.integers(1, 12), st.sampled_from(["train", "val", "test"]), st.booleans()),
        min_size=2,
        max_size=12,
    )
)
def test_intervals_are_compared_as_the_definition_says(clips: list[tuple[int, int, str, bool]]) -> None:
    rows = [(f"c{i}", "vw"[other], f"s{i}", split) for i, (_, _, split, other) in enumerate(clips)]
    spans = [(start, start + length) for start, length, _, _ in clips]
    table = table_of(*rows, start_frame=[start for start, _ in spans], end_frame=[end for _, end in spans])
    order = ["train", "val", "test"]
    expected = set()
    for i, (_, _, split, video) in enumerate(clips):
        for j, (_, _, other_split, other_video) in enumerate(clips):
            both = set(range(*spans[i])) & set(range(*spans[j]))
            either = set(range(*spans[i])) | set(range(*spans[j]))
            if order.index(split) < order.index(other_split) and video == other_video and 2 * len(both) >= len(either):
                expected.add(f"c{i} = c{j}")
    overlaps = find_leakage(table).overlaps
    assert {name for each in overlaps if each.kind == "intervals" for name in each.names} == expected


def test_force_marks_what_was_refused_and_json_names_everything() -> None:
    rows = [(f"{split}{i}", f"{split}{i}.mp4", f"p{i}", split) for split in ("train", "test") for i in range(9)]
    report = find_leakage(table_of(*rows))
    said: list[str] = []
    report.enforce(allow=True, warn=said.append)
    assert said == [
        "leakage, forced with --allow-leakage: 9 of 9 test subjects are in train too (p0, p1, p2, p3, p4, ...)"
    ]
    (overlap,) = report.to_json()["overlaps"]
    assert overlap["names"] == [f"p{i}" for i in range(9)]
    assert (overlap["count"], overlap["refused"]) == (9, True)
