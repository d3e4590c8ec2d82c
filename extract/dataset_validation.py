"""Our own validation subjects for protocols that have none, or whose own are seen in training.

Who they are is fixed: a fifth of the training subjects, drawn once and written down beside each data set's splits.
The labels are licensed and were not seen when they were drawn, so the classes are not balanced between training and
validation; what is plainly wrong with a table's classes is said when it is read.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from mgcli.cache import TASKS, ClipTableError, draw_validation

HELD_BACK = 1 / 5  # share of the training subjects


def draw_subjects(subjects: Collection[int]) -> tuple[int, ...]:
    """The draw that gave the published lists: a fifth of the subjects, by NumPy's frozen generator, seed 0."""
    drawn = np.random.RandomState(0).permutation(sorted(subjects))[: round(HELD_BACK * len(subjects))]
    return tuple(sorted(drawn.tolist()))


def hold_back_subjects(table: pd.DataFrame, subjects: Collection[str]) -> pd.DataFrame:
    """The table with these subjects' training clips as its validation clips; published ones go back to training."""
    split = table["split"].mask(table["split"] == "val", "train")
    return table.assign(split=split.mask((split == "train") & table["subject_id"].isin(subjects), "val"))


def hold_back_videos(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The same by a draw of videos, where nobody knows the subjects; and what must be said of it."""
    returned = table.assign(split=table["split"].mask(table["split"] == "val", "train"))
    try:
        drawn = draw_validation(returned, seed=0, fraction=HELD_BACK)
    except ClipTableError as error:
        return returned, [f"no validation clips: {error}"]
    return drawn, [
        "the subjects are not known, so the validation clips are of other videos, but the same people may be seen in "
        "training and validation: validation scores may be too high. Name the subjects with --option "
        "subjects=FILE, a CSV with the columns video_id and subject_id (labels_20200831.csv has them)"
    ]


def validation_warnings(table: pd.DataFrame) -> list[str]:
    """What is wrong with the classes of a split with validation subjects of ours."""
    warnings = []
    for task in TASKS:
        labels = {split: table.loc[table["split"] == split, task] for split in ("train", "val")}
        seen = {split: sorted(set(of_split) - {""}, key=_class_order) for split, of_split in labels.items()}
        if not seen["train"]:
            continue
        if not seen["val"]:
            warnings.append(f"no validation clip has a {task} label")
            continue
        unseen = [label for label in seen["val"] if label not in seen["train"]]
        if unseen:
            warnings.append(f"no training clip is left of {task} class {_listed(unseen)}: all are validation clips")
        if len(seen["val"]) == 1 < len(seen["train"]):
            warnings.append(f"all validation clips have the {task} label {seen['val'][0]!r}")
    return warnings


def _class_order(label: str) -> tuple[int, str]:
    return (int(label), "") if label.isdigit() else (0, label)


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(map(repr, labels))
