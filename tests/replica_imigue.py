"""Small but faithful replicas of iMiGUE as it is given out, and annotation files alone with all its ids.

Ids, file names and file forms are those of the data set; people, outcomes, labels and intervals are made up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tiny_media import make_video
from tiny_skeletons import points, write_imigue_csv, write_sheet

NUM_FRAMES = 60
Rows = Sequence[tuple[int, int, int]]  # raw class, first frame, last frame


@dataclass(frozen=True)
class Interview:
    """One video of a replica."""

    subject: int
    outcome: str  # Win or Lose
    rows: Rows
    part: str = "train"  # folder of the challenge: train, validate or test
    skeletons: tuple[str, ...] = ("light_hand.csv",)  # of the challenge
    video: str = "{}.mp4"  # of the full release


# All pitfalls: overlapping clips (1), two clips on one interval (2), class 99, each kind of skeleton file, an empty
# one (218: one of the four without), one without fingertips beside a better one (14), odd names and types of videos.
INTERVIEWS: dict[int, Interview] = {
    1: Interview(2, "Win", [(1, 0, 9), (99, 5, 30), (31, 20, 44)], "validate"),
    2: Interview(4, "Win", [(20, 3, 40), (31, 3, 40)], "validate", ("openpose.xlsx",), "{}.avi"),
    12: Interview(17, "Lose", [(1, 2, 20), (31, 21, 59)], "train", ("light.csv",), "interview.mov"),
    13: Interview(5, "Win", [(99, 0, 24), (20, 30, 55)], "train", ("light_hand.csv", "light.csv")),
    14: Interview(6, "Lose", [(1, 1, 12), (31, 10, 50)], "train", ("body.csv", "openpose.xlsx")),
    47: Interview(48, "Win", [(99, 0, 18), (1, 25, 45)]),
    218: Interview(9, "Win", [(99, 0, 20), (2, 30, 50)], "train", ("empty.csv",)),
    54: Interview(1, "Lose", [(1, 4, 30), (31, 31, 58)], "test"),
    67: Interview(32, "Win", [(99, 0, 30), (20, 20, 49)], "test"),
}
_SPELLING = Callable[[str], str]


def write_challenge(
    root: Path, *, spell: _SPELLING = str, test_class: str | None = None, track3: bool = True, media: bool = True
) -> Path:
    """The packages of 2024 and 2025.

    Args:
        root: folder to fill.
        spell: writes the packages' folders otherwise, such as str.upper.
        test_class: what the class column of the test videos holds; None: the classes.
        track3: the emotion labels too.
        media: False leaves out videos and skeletons.
    """
    data = {"train": "train_data", "validate": "validation_data"}
    for video, each in INTERVIEWS.items():
        name = f"{video:04d}"
        if each.part == "test":
            rgb, skeletons = Path("imigue_rgb_phase2"), Path("imigue_data_phase2/imigue_skeleton_test")
        else:
            rgb = Path("imigue_rgb_phase1") / data[each.part]
            skeletons = Path("imigue_data_phase1/datasets") / f"imigue_skeleton_{each.part}"
        folder = root / spell(str(skeletons)) / name
        folder.mkdir(parents=True)
        placeholder = test_class if each.part == "test" else None
        lines = [f"{raw if placeholder is None else placeholder},{start},{end}\n" for raw, start, end in each.rows]
        (folder / f"{name}_label.csv").write_text("".join(lines))
        if media:
            (root / spell(str(rgb)) / name).mkdir(parents=True)
            make_video(root / spell(str(rgb)) / name / f"{name}.mp4", NUM_FRAMES, first_number=video % 64)
            for kind in each.skeletons:
                _write_skeleton(folder / f"{name}_{kind}", video)
    if track3:
        for part, file in (("train", "train_label.csv"), ("validate", "validation_label.csv")):
            rows = [(video, each) for video, each in INTERVIEWS.items() if each.part == part]
            lines = ["video_id,label\n", *(f"{video},{int(each.outcome == 'Win')}\n" for video, each in rows)]
            (root / file).write_text("".join(lines))
    return root


def write_full_release(root: Path, *, media: bool = True) -> Path:
    """The licensed release."""
    parts = {
        "train": "iMiGUE_RGB_Phase1/imigue_rgb_train",
        "validate": "iMiGUE_RGB_Phase1/imigue_rgb_validate",
        "test": "iMiGUE_RGB_Phase2/imigue_rgb_test",
    }
    for video, each in INTERVIEWS.items():
        name = f"{video:04d}"
        if media:
            folder = root / parts[each.part] / name
            folder.mkdir(parents=True)
            path = folder / each.video.format(name)
            codec = "mpeg4" if path.suffix == ".avi" else "libx264"
            make_video(path, NUM_FRAMES, codec=codec, first_number=video % 64)
            skeleton = root / "mg_skeleton_only" / name / f"{name}_2.xlsx"
            skeleton.parent.mkdir(parents=True)
            if "empty.csv" in each.skeletons:
                skeleton.touch()
            else:
                write_sheet(skeleton, _joints(video, 137))
    write_table(root / "Label" / "labels_20200831.csv", INTERVIEWS)
    return root


def write_table(path: Path, interviews: dict[int, Interview]) -> None:
    """The full release's table of annotations."""
    header = "video_id,label_id,start_time,start_frame,end_time,end_frame,class,subject_id,subject_gender"
    lines = [f"{header},subject_nationality,win_or_lose\n"]
    for video, each in sorted(interviews.items()):
        for number, (raw, start, end) in enumerate(each.rows, start=1):
            times = f"{start / 25:.4f},{start},{end / 25:.4f},{end}"
            lines.append(f'{video},{number},{times},{raw},{each.subject},F,"Korea, South",{each.outcome}\n')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines))


def _joints(video: int, num_joints: int) -> np.ndarray:
    return points(NUM_FRAMES, num_joints, seed=video)


def _write_skeleton(path: Path, video: int) -> None:
    if path.name.endswith("empty.csv"):
        path.with_name(path.name.replace("empty", "light_hand")).touch()
    elif path.name.endswith("body.csv"):
        write_imigue_csv(path.with_name(path.name.replace("body", "light")), _joints(video, 25))
    elif path.suffix == ".xlsx":
        write_sheet(path, _joints(video, 137))
    else:
        write_imigue_csv(path, _joints(video, 35))
