"""How many clips, videos and subjects the published protocols have, and whether a clip table has as many.

Two counts are accepted where the sources disagree by a clip: the papers state 13,936 and 4,563 gesture clips, the
annotations that are given out hold 13,935 and 4,562 or 4,563 (facts: imigue, section 6).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from mgcli.cache import OWN_VALIDATION, PROTOCOLS, subjects_are_known

_SMG_SUBJECT = "smg-"  # how the subjects of clips begin that SMG adds to iMiGUE; no published count has them


@dataclass(frozen=True)
class Expected:
    """A published count."""

    split: str
    task: str
    what: str  # clips, videos, subjects, or a label
    counts: tuple[int, ...]
    confidence: str  # high: an official file, or two independent ones; medium: one file, or derived


_TRACK1 = (
    Expected("train", "gesture", "clips", (12893,), "high"),
    Expected("train", "gesture", "videos", (241,), "high"),
    Expected("val", "gesture", "clips", (777,), "high"),
    Expected("val", "gesture", "videos", (10,), "high"),
    Expected("test", "gesture", "clips", (4562,), "medium"),
    Expected("test", "gesture", "videos", (104,), "high"),
)
_TRACK3 = (
    Expected("train", "emotion", "videos", (245,), "medium"),
    Expected("train", "emotion", "win", (192,), "medium"),
    Expected("train", "emotion", "lose", (53,), "medium"),
    Expected("val", "emotion", "videos", (10,), "medium"),
    Expected("val", "emotion", "win", (10,), "medium"),
    Expected("val", "emotion", "lose", (0,), "medium"),
    Expected("test", "emotion", "videos", (104,), "medium"),
)
EXPECTED: dict[str, tuple[Expected, ...]] = {
    "imigue-gesture": (
        Expected("train", "gesture", "clips", (13936, 13935), "high"),
        Expected("train", "gesture", "videos", (255,), "high"),
        Expected("train", "gesture", "subjects", (37,), "high"),
        Expected("test", "gesture", "clips", (4563, 4562), "high"),
        Expected("test", "gesture", "videos", (104,), "high"),
        Expected("test", "gesture", "subjects", (35,), "high"),
    ),
    "miga-track1": _TRACK1,
    "miga-track3": _TRACK3,
    "miga-2025": _TRACK1 + _TRACK3,
    "imigue-emotion-2021": (
        Expected("train", "emotion", "videos", (102,), "high"),
        Expected("train", "emotion", "win", (51,), "high"),
        Expected("train", "emotion", "lose", (51,), "high"),
        Expected("test", "emotion", "videos", (100,), "high"),
        Expected("test", "emotion", "win", (50,), "high"),
        Expected("test", "emotion", "lose", (50,), "high"),
    ),
    "smg-gesture": (
        Expected("train", "gesture", "clips", (3082,), "medium"),
        Expected("train", "gesture", "subjects", (35,), "high"),
        Expected("test", "gesture", "clips", (610,), "high"),
        Expected("test", "gesture", "subjects", (5,), "high"),
    ),
}


def compare_counts(table: pd.DataFrame, protocol: str) -> list[dict[str, Any]]:
    """One row a published count: split, task, what, expected, found, fits, confidence.

    Of a protocol with our own validation, training and validation together are compared with what was published.
    Counts that the table cannot know are left out: subjects where it does not say who is seen, and labels of test
    clips that have none.
    """
    own = table[~table["subject_id"].str.startswith(_SMG_SUBJECT)]
    known = subjects_are_known(own)
    rows = []
    for split, each in _of_protocol(protocol):
        clips = task_clips(own[own["split"].isin(split.split("+"))], each.task, protocol)
        is_label = each.what not in ("clips", "videos", "subjects")
        if (each.what == "subjects" and not known) or (is_label and len(clips) and (clips[each.task] == "").all()):
            continue
        found = _count(clips, each, protocol)
        rows.append(
            {
                "split": split,
                "task": each.task,
                "what": each.what,
                "expected": " or ".join(map(str, each.counts)),
                "found": found,
                "fits": found in each.counts,
                "confidence": each.confidence,
            }
        )
    return rows


def task_clips(table: pd.DataFrame, task: str, protocol: str | None = None) -> pd.DataFrame:
    """The clips of a task: those with a label of it, and of those without any label the ones that are of its kind.

    In a protocol of one task all are; in others an interval is a gesture and a whole video an interview.
    """
    labelled = table[task] != ""
    unlabelled = (table["gesture"] == "") & (table["emotion"] == "")
    tasks = PROTOCOLS[protocol].tasks if protocol in PROTOCOLS else ()
    if len(tasks) != 1:
        is_interval = table["start_s"].notna() | table["start_frame"].notna()
        unlabelled &= is_interval if task == "gesture" else ~is_interval
    elif tasks[0] != task:
        unlabelled &= False
    return table[labelled | unlabelled]


def _of_protocol(protocol: str) -> list[tuple[str, Expected]]:
    """Split, as a table has it, and what was published of it; `train+val` where we divided one."""
    if not protocol.endswith(OWN_VALIDATION):
        return [(each.split, each) for each in EXPECTED.get(protocol, ())]
    together: dict[tuple[str, str, str], Expected] = {}
    for each in EXPECTED.get(protocol.removesuffix(OWN_VALIDATION), ()):
        split = "test" if each.split == "test" else "train+val"
        before = together.get((split, each.task, each.what))
        # official validation clips come on top; their subjects are in training already
        counts = each.counts if before is None else tuple(a + b for a in before.counts for b in each.counts)
        together[split, each.task, each.what] = Expected(split, each.task, each.what, counts, each.confidence)
    return [(each.split, each) for each in together.values()]


def _count(clips: pd.DataFrame, expected: Expected, protocol: str) -> int:
    if expected.what == "clips":
        return len(clips)
    if expected.what == "subjects":
        return clips["subject_id"].nunique()
    if expected.what == "videos":
        return video_ids(clips, protocol).nunique()
    return int((clips[expected.task] == expected.what).sum())


def video_ids(table: pd.DataFrame, protocol: str | None) -> pd.Series:
    """(n,) which video each clip is of; iMiGUE's clips are named after theirs, which need not be there."""
    if protocol in PROTOCOLS and PROTOCOLS[protocol].dataset == "imigue":
        return table["clip_id"].map(lambda clip_id: clip_id.partition("_")[0])
    return table["video"].where(table["video"] != "", table["skeleton"])
