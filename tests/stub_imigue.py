"""Annotation files with all of iMiGUE's video and subject ids, and as many clips in each part as are published.

Which video has how many clips, of whom, and who won, is made up so that the published totals come out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from replica_imigue import Interview, write_table

from mgcli.extract.dataset_imigue_splits import (
    EMOTION_2021_TEST_VIDEOS,
    EMOTION_2021_TRAIN_VIDEOS,
    MIGA_VALIDATION_VIDEOS,
    TEST_SUBJECTS,
    TEST_VIDEOS,
    TRAIN_SUBJECTS,
    TRAIN_VIDEOS,
)

CLIPS_WITHOUT_SKELETON = {218: 37, 319: 149, 347: 36, 348: 43}


def stub_interviews(*, train: int, test: int) -> dict[int, Interview]:
    """All 359 videos with so many clips of the training and of the test subjects, 777 in the official validation."""
    rest = [video for video in TRAIN_VIDEOS if video not in {*MIGA_VALIDATION_VIDEOS, *CLIPS_WITHOUT_SKELETON}]
    counts = CLIPS_WITHOUT_SKELETON | _spread(MIGA_VALIDATION_VIDEOS, 777)
    counts |= _spread(rest, train - sum(counts.values()))
    last = 33 if test == 4563 else 32  # video 453, in the old table and in the challenge's release
    counts |= _spread(TEST_VIDEOS[:-1], test - last) | {453: last}
    subjects = _in_turn(TRAIN_VIDEOS, TRAIN_SUBJECTS) | _in_turn(TEST_VIDEOS, TEST_SUBJECTS)
    lost = _lost_videos()
    return {
        video: Interview(
            subjects[video],
            "Lose" if video in lost else "Win",
            [(99 if i % 32 == 31 else i % 32 + 1, 50 * i, 50 * i + 39) for i in range(counts[video])],
        )
        for video in sorted(counts)
    }


def write_stub_challenge(root: Path) -> Path:
    """Label files of the challenge, and its Track 3 labels."""
    videos = stub_interviews(train=13935, test=4562)
    for video, each in videos.items():
        folder = root / f"{video:04d}"
        folder.mkdir(parents=True)
        (folder / f"{video:04d}_label.csv").write_text("".join(f"{raw},{a},{b}\n" for raw, a, b in each.rows))
    for name, ids in (
        ("train", [video for video in TRAIN_VIDEOS if video not in MIGA_VALIDATION_VIDEOS]),
        ("validation", MIGA_VALIDATION_VIDEOS),
    ):
        lines = [f"{video:04d},{int(videos[video].outcome == 'Win')}\n" for video in ids]
        (root / f"{name}_label.csv").write_text("video_id,label\n" + "".join(lines))
    return root


def write_stub_full(root: Path, *, train: int = 13936, test: int = 4563) -> Path:
    """The table of the full release."""
    write_table(root / "Label" / "labels_20200831.csv", stub_interviews(train=train, test=test))
    return root


def _lost_videos() -> set[int]:
    """101 videos: 51 and 50 of the emotion split of 2021, 53 and 48 of the gesture split, none of the validation."""
    lost = set()
    for videos, of_test_subjects, of_training_subjects in (
        (EMOTION_2021_TRAIN_VIDEOS, 25, 26),
        (EMOTION_2021_TEST_VIDEOS, 23, 27),
    ):
        lost |= set([video for video in videos if video in TEST_VIDEOS][:of_test_subjects])
        usable = [video for video in videos if video not in {*TEST_VIDEOS, *MIGA_VALIDATION_VIDEOS}]
        lost |= set(usable[:of_training_subjects])
    return lost


def _spread(videos: Sequence[int], total: int) -> dict[int, int]:
    each, more = divmod(total, len(videos))
    return {video: each + (place < more) for place, video in enumerate(videos)}


def _in_turn(videos: Sequence[int], subjects: Sequence[int]) -> dict[int, int]:
    return {video: subjects[place % len(subjects)] for place, video in enumerate(videos)}
