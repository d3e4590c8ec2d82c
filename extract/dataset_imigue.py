"""iMiGUE (CVPR 2021) and the MiGA challenge: gesture clips and whole interviews, split as published."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from mgcli.cache import OWN_VALIDATION, check_clip_table
from mgcli.extract.annotations import Dropped
from mgcli.extract.dataset import DatasetError, DatasetProtocol
from mgcli.extract.dataset_files import MAX_DEPTH, listed, one_of
from mgcli.extract.dataset_imigue_annotations import (
    FRAMES_PER_S,
    GestureClip,
    ImigueAnnotations,
    read_full_table,
    read_label_files,
    read_subjects,
    read_track3_labels,
)
from mgcli.extract.dataset_imigue_files import ImigueFiles, find_imigue_files
from mgcli.extract.dataset_imigue_smg import smg_training_clips
from mgcli.extract.dataset_imigue_splits import (
    IMIGUE_PROTOCOLS,
    MIGA_CLIPS_OF_453,
    OWN_VALIDATION_SUBJECTS,
    TEST_VIDEOS,
    VIDEOS_WITHOUT_SKELETON,
    split_of_videos,
)
from mgcli.extract.dataset_validation import hold_back_subjects, hold_back_videos, validation_warnings


class ImigueDataset(DatasetProtocol):
    """iMiGUE and the MiGA challenge, from the challenge's packages or the full release.

    Gesture clips are named VVVV_k and timed in seconds at 25 frames/s, the clock of the annotations and skeletons
    whatever rate a video file has; interviews are named VVVV and are whole videos. Videos that are not on disk leave
    their clips in the table, without a file.

    The table's `attrs` hold `warnings`, a list of sentences, and `dropped`, a list of (clip, or file and line of a
    row, and the reason) for all that is left out.
    """

    name = "imigue"
    protocols = IMIGUE_PROTOCOLS

    def __init__(
        self, root: Path, *, protocol: str = IMIGUE_PROTOCOLS[0], subjects: str | None = None, smg: str | None = None
    ) -> None:
        """Remember where the data are.

        Args:
            root: holds the packages, in any letter case.
            protocol: one of `protocols`.
            subjects: CSV file with the columns video_id and subject_id, for the challenge's packages, which do not
                say who is seen. A relative path starts at `root`, or else at the current folder.
            smg: folder of SMG, whose clips become training clips where its classes agree with iMiGUE's.

        Raises:
            DatasetError: an option names nothing that is there, or does not go with the protocol.
        """
        if smg is not None and not split_of_videos(protocol, "gesture"):
            raise DatasetError(f"option smg adds gesture clips; protocol {protocol} has no gestures")
        self.root = root
        self.protocol = protocol
        self.subjects_file = _given_path(root, subjects, "subjects")
        self.smg = _given_path(root, smg, "smg")

    def clip_table(self) -> pd.DataFrame:
        """The clips of the protocol: gestures by video and row, then interviews, then those of SMG."""
        if not self.root.is_dir():
            raise DatasetError(f"{self.root} is not a folder; --root takes the one that holds iMiGUE's folders")
        files = find_imigue_files(self.root)
        found = self._annotations(files)
        rows = self._gesture_rows(files, found) + self._interview_rows(files, found)
        if not rows:
            raise DatasetError(self._nothing_there(found.dropped))
        warnings = [*found.warnings, *self._missing(files, found)]
        table = pd.DataFrame(rows)
        if self.protocol.endswith(OWN_VALIDATION):
            if found.subjects:
                table = hold_back_subjects(table, [str(subject) for subject in OWN_VALIDATION_SUBJECTS])
            else:
                table, of_draw = hold_back_videos(table)
                warnings += of_draw
            warnings += validation_warnings(table)
        if self.smg is not None:
            extra, dropped, of_smg = smg_training_clips(self.smg)
            table = pd.concat([table, pd.DataFrame(extra)], ignore_index=True)
            found.dropped.extend(dropped)
            warnings += of_smg
        table = check_clip_table(table, str(self.root))
        table.attrs |= {"subjects_given": bool(found.subjects), "warnings": warnings, "dropped": found.dropped}
        return table

    def _annotations(self, files: ImigueFiles) -> ImigueAnnotations:
        """All that the files say; of both layouts, the full release's table before the challenge's files."""
        warnings = [*files.warnings]
        if files.tables:
            table = one_of(files.tables, "table of annotations", warnings)
            found = read_full_table(table)
            if files.labels:
                warnings.append(f"gestures are read from {table}; {len(files.labels)} VVVV_label.csv are passed over")
        else:
            found = read_label_files(files.labels, TEST_VIDEOS)
        track3, dropped = read_track3_labels(files.track3)
        subjects = found.subjects
        if self.subjects_file is not None:
            subjects, of_subjects = read_subjects(self.subjects_file)
            dropped += of_subjects
        return ImigueAnnotations(
            clips=sorted(found.clips, key=lambda clip: (clip.video, clip.number)),
            subjects=subjects,
            emotions=track3 | found.emotions,
            dropped=found.dropped + dropped,
            warnings=warnings + found.warnings,
        )

    def _gesture_rows(self, files: ImigueFiles, found: ImigueAnnotations) -> list[dict[str, Any]]:
        split_of = split_of_videos(self.protocol, "gesture")
        rows = []
        for clip in found.clips:
            if clip.video not in split_of:
                continue
            reason = self._reason_to_leave_out(clip, files)
            if reason:
                found.dropped.append((clip.clip_id, reason))
                continue
            rows.append(
                {
                    "clip_id": clip.clip_id,
                    "split": split_of[clip.video],
                    "gesture": clip.gesture,
                    "emotion": "",
                    "start_s": clip.start_frame / FRAMES_PER_S,
                    "end_s": clip.end_frame / FRAMES_PER_S,
                    **_of_video(clip.video, files, found),
                }
            )
        return rows

    def _interview_rows(self, files: ImigueFiles, found: ImigueAnnotations) -> list[dict[str, Any]]:
        split_of = split_of_videos(self.protocol, "emotion")
        there = files.known_videos | set(found.emotions)
        return [
            {
                "clip_id": f"{video:04d}",
                "split": split_of[video],
                "gesture": "",
                "emotion": found.emotions.get(video, ""),
                **_of_video(video, files, found),
            }
            for video in sorted(split_of)
            if video in there
        ]

    def _reason_to_leave_out(self, clip: GestureClip, files: ImigueFiles) -> str:
        """Why a protocol has no such clip, though its video is in it; empty where it has."""
        if not self.protocol.startswith("miga"):
            return ""
        if clip.video in VIDEOS_WITHOUT_SKELETON:
            return f"MiGA leaves out the videos without usable skeleton ({_ids(VIDEOS_WITHOUT_SKELETON)})"
        if files.tables and clip.video == 453 and clip.number >= MIGA_CLIPS_OF_453:
            return f"MiGA scores {MIGA_CLIPS_OF_453} clips of video 0453; the full release has more"
        return ""

    def _missing(self, files: ImigueFiles, found: ImigueAnnotations) -> list[str]:
        """What the protocol wants and the folder does not have, with the videos named."""
        gestures, emotions = (split_of_videos(self.protocol, task) for task in ("gesture", "emotion"))
        usable = set(gestures) - set(VIDEOS_WITHOUT_SKELETON)
        annotated = {clip.video for clip in found.clips}
        of_training = {video for video, split in emotions.items() if split != "test"}
        used = (annotated & set(gestures)) | (files.known_videos & set(emotions))
        lacking = {
            "gesture annotations": (usable if self.protocol.startswith("miga") else set(gestures), annotated),
            "skeleton file": (usable & annotated, files.skeletons),
            "video file": (set(gestures) | set(emotions), files.videos),
            "win or lose label": (of_training, found.emotions),
            "subject": (used if found.subjects else set(), found.subjects),
        }
        return [
            f"no {what} for {len(missing)} of {len(wanted)} videos: {_ids(missing)}"
            for what, (wanted, there) in lacking.items()
            if (missing := sorted(wanted - set(there)))
        ]

    def _nothing_there(self, dropped: Dropped) -> str:
        reasons = "".join(f"; {place}: {reason}" for place, reason in dropped[:3])
        return (
            f"{self.root}: nothing of {self.protocol} within {MAX_DEPTH} folders; expected the challenge's "
            "VVVV/VVVV_label.csv and VVVV/VVVV.mp4, or the full release's Label/labels_20200831.csv, where VVVV is a "
            f"video's id{reasons}"
        )


def _of_video(video: int, files: ImigueFiles, found: ImigueAnnotations) -> dict[str, Any]:
    """The columns that all clips of a video share."""
    skeleton = None if video in VIDEOS_WITHOUT_SKELETON else files.skeletons.get(video)
    return {
        "video": str(files.videos[video].resolve()) if video in files.videos else "",
        "subject_id": found.subjects.get(video, f"video-{video:04d}"),
        "skeleton": str(skeleton.resolve()) if skeleton else "",
        "skeleton_fps": FRAMES_PER_S if skeleton else None,
    }


def _ids(videos: Iterable[int]) -> str:
    return listed(f"{video:04d}" for video in videos)


def _given_path(root: Path, given: str | int | None, option: str) -> Path | None:
    """The path of an option.

    Raises:
        DatasetError: there is none.
    """
    if given is None:
        return None
    for path in (root / str(given), Path(str(given))):  # a name of digits comes as a number from the command line
        if path.exists():
            return path
    raise DatasetError(f"option {option}={given}: no such file or folder, neither in {root} nor here")
