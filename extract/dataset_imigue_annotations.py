"""Annotations of iMiGUE: gesture clips, subjects, and who won, from the files of either layout.

Classes are written 1..31 and 99, frames are counted from 0, and `end_frame` is the last frame of a clip: here classes
are 0..31, in the order of the published list, and intervals half-open. Facts: imigue, section 3.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from mgcli.extract.annotations import (
    AnnotationFile,
    Dropped,
    FileError,
    Row,
    RowError,
    frame_interval,
    parse_rows,
    read_annotations,
    whole_number,
)
from mgcli.extract.dataset_files import listed
from mgcli.extract.dataset_imigue_splits import VIDEOS

FRAMES_PER_S = 25.0  # of the frame ids, whatever rate a video file on disk has
MOST_CLIPS = 10_000  # of a video; the busiest has 282
ILLUSTRATIVE = 99  # raw class of everything that is no micro-gesture
ILLUSTRATIVE_ID = 31

_LABEL_COLUMNS = {
    "class": ("class", "label"),
    "start_frame": ("start_frame", "start"),
    "end_frame": ("end_frame", "end"),
}
_TABLE_COLUMNS = {name: (name,) for name in ("video_id", "label_id", "start_frame", "end_frame", "class")}
_EMOTIONS = {"win": "win", "1": "win", "lose": "lose", "0": "lose"}
_TIME_SLACK_FRAMES = 2  # a time with 4 decimals and a frame may differ by rounding


@dataclass(frozen=True)
class GestureClip:
    """One row of gestures."""

    video: int
    number: int  # k of its name VVVV_k
    start_frame: int
    end_frame: int  # half-open
    gesture: str  # class id, or empty where the class is not given away

    @property
    def clip_id(self) -> str:
        return f"{self.video:04d}_{self.number}"


@dataclass(frozen=True)
class ImigueAnnotations:
    """What the annotation files say; videos that they say nothing of are in none of these."""

    clips: list[GestureClip] = field(default_factory=list)
    subjects: dict[int, str] = field(default_factory=dict)
    emotions: dict[int, str] = field(default_factory=dict)  # win or lose
    dropped: Dropped = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def class_id(raw: int) -> int:
    """1..31 and 99 -> 0..31.

    Raises:
        RowError: another number.
    """
    if raw == ILLUSTRATIVE:
        return ILLUSTRATIVE_ID
    if not 1 <= raw <= ILLUSTRATIVE_ID:
        raise RowError(f"class {raw} is none of 1..31 and 99")
    return raw - 1


def read_label_files(paths: Mapping[int, Path], test_videos: Collection[int]) -> ImigueAnnotations:
    """The gesture clips of the challenge's files; a clip is named after its row.

    What the class column of a test video holds is not known: unless all of it reads as classes, and not as one class
    only, the test clips have no label.
    """
    found = ImigueAnnotations()
    rows: list[tuple[GestureClip, Row, str]] = []  # clip, its row, and the place of that
    unfinished = []
    for video, path in sorted(paths.items()):
        if video not in _KNOWN:
            found.dropped.append((str(path), f"video {video} is none of iMiGUE's {len(VIDEOS)}"))
            continue
        try:
            file = read_annotations(path, _LABEL_COLUMNS)
            clips, dropped = parse_rows(file, partial(_label_row, video=video, is_test=video in test_videos))
        except FileError as error:
            found.dropped.append((str(path), f"the file is left out: {error}"))
            continue
        found.dropped.extend(dropped)
        found.warnings.extend(_odd_rows(file, clips))
        unfinished += [] if file.is_finished else [str(path)]
        rows += [(clip, row, file.at(row)) for clip, row in clips]
    if unfinished and (len(unfinished) < len(paths) or len(paths) == 1):
        found.warnings.append(f"no line break at the end, so the last row may be cut short: {listed(unfinished)}")
    return replace(found, clips=_without_placeholders(rows, test_videos, found.warnings))


def read_full_table(path: Path) -> ImigueAnnotations:
    """The gesture clips, subjects and outcomes of `labels_20200831.csv`; label_id 1 is the clip VVVV_0.

    Raises:
        FileError: it cannot be read, most rows do not make sense, or two rows contradict each other.
    """
    file = read_annotations(
        path, _TABLE_COLUMNS, also=("start_time", "end_time", "subject_id", "win_or_lose"), needs_header=True
    )
    lines: dict[tuple[int, int], int] = {}  # video and label_id -> line
    subjects, emotions = _OnePerVideo(file, "subject_id"), _OnePerVideo(file, "win_or_lose")
    off_rate: list[str] = []

    def parse(row: Row) -> GestureClip:
        video, label_id = _video(row), whole_number(row, "label_id")
        start, end = frame_interval(row, FRAMES_PER_S)
        gesture = str(class_id(whole_number(row, "class")))
        emotion = _emotion(row.cells.get("win_or_lose", ""))
        if not 1 <= label_id <= MOST_CLIPS:
            raise RowError(f"label_id {label_id} does not number the clips of a video from 1")
        if (video, label_id) in lines:
            raise RowError(f"label_id {label_id} of video {video} is in line {lines[video, label_id]} already")
        lines[video, label_id] = row.line
        subjects.add(video, _plain_id(row.cells.get("subject_id", "")), row)
        emotions.add(video, emotion, row)
        if not all(_fits(row.cells.get(time), frame) for time, frame in (("start_time", start), ("end_time", end - 1))):
            off_rate.append(str(row.line))
        return GestureClip(video, label_id - 1, start, end, gesture)

    clips, dropped = parse_rows(file, parse)
    warnings = _gaps(file)
    if off_rate:
        warnings.append(
            f"{path}: times and frames do not agree at 25 frames/s in line {listed(off_rate)}; frames count"
        )
    return ImigueAnnotations(clips, subjects.values, emotions.values, dropped, warnings)


def read_track3_labels(paths: Iterable[Path]) -> tuple[dict[int, str], Dropped]:
    """Video -> win or lose, from `train_label.csv` and `validation_label.csv`.

    Raises:
        FileError: a file cannot be read, or two rows contradict each other.
    """
    emotions: dict[int, str] = {}
    dropped: Dropped = []
    for path in paths:
        file = read_annotations(path, {"video_id": ("video_id",), "label": ("label",)}, needs_header=True)
        values = _OnePerVideo(file, "label", emotions)

        def parse(row: Row, values: _OnePerVideo = values) -> None:
            video, emotion = _video(row), _emotion(row.cells["label"])
            if not emotion:
                raise RowError("label is empty")
            values.add(video, emotion, row)

        dropped += parse_rows(file, parse)[1]
        emotions |= values.values
    return emotions, dropped


def read_subjects(path: Path) -> tuple[dict[int, str], Dropped]:
    """Video -> subject, from a CSV file with the columns video_id and subject_id.

    Raises:
        FileError: it cannot be read, or gives a video two subjects.
    """
    file = read_annotations(path, {"video_id": ("video_id",), "subject_id": ("subject_id",)}, needs_header=True)
    values = _OnePerVideo(file, "subject_id")

    def parse(row: Row) -> None:
        subject = _plain_id(row.cells["subject_id"])
        if not subject:
            raise RowError("subject_id is empty")
        values.add(_video(row), subject, row)

    _, dropped = parse_rows(file, parse)
    return values.values, dropped


class _OnePerVideo:
    """A value that is the same in every row of a video."""

    def __init__(self, file: AnnotationFile, column: str, known: Mapping[int, str] | None = None) -> None:
        self.values: dict[int, str] = dict(known or {})
        self._file, self._column = file, column
        self._places: dict[int, str] = {}

    def add(self, video: int, value: str, row: Row) -> None:
        if not value:
            return
        stated = self.values.setdefault(video, value)
        place = self._places.setdefault(video, f"line {row.line}")
        if stated != value:
            where = "another file" if place == f"line {row.line}" else place
            raise FileError(
                f"{self._file.at(row)}: {self._column} of video {video} is {value!r}, but {stated!r} in {where}"
            )


def _label_row(row: Row, video: int, is_test: bool) -> tuple[GestureClip, Row]:
    start, end = frame_interval(row, FRAMES_PER_S)
    gesture = "" if is_test else str(class_id(whole_number(row, "class")))
    return GestureClip(video, row.number, start, end, gesture), row


def _without_placeholders(
    rows: list[tuple[GestureClip, Row, str]], test_videos: Collection[int], warnings: list[str]
) -> list[GestureClip]:
    """The clips, with the test clips' classes where they are to be believed."""
    test = [(clip, row, place) for clip, row, place in rows if clip.video in test_videos]
    ids = {}
    for clip, row, place in test:
        try:
            ids[clip.clip_id] = str(class_id(whole_number(row, "class")))
        except RowError as error:
            warnings.append(f"{place}: {error}; this is a test video, and so no test clip has a label")
            ids = {}
            break
    if len(ids) > 1 and len(set(ids.values())) == 1:
        raw, place = test[0][1].cells["class"], test[0][2]
        warnings.append(f"{place}: class {raw}, as in all test clips, is a placeholder; no test clip has a label")
        ids = {}
    return [replace(clip, gesture=ids.get(clip.clip_id, clip.gesture)) for clip, _, _ in rows]


def _odd_rows(file: AnnotationFile, clips: list[tuple[GestureClip, Row]]) -> list[str]:
    """Rows that can be read, but should not stand where they do."""
    warnings = []
    starts = [clip.start_frame for clip, _ in clips]
    late = next(
        (row for (_, row), this, next_ in zip(clips[1:], starts, starts[1:], strict=False) if next_ < this), None
    )
    if late is not None:
        warnings.append(f"{file.at(late)}: not in time order; clips are named after the order of the rows as it is")
    counts = Counter((clip.start_frame, clip.end_frame, row.cells["class"]) for clip, row in clips)
    for clip, row in clips:
        if counts.pop((clip.start_frame, clip.end_frame, row.cells["class"]), 1) > 1:
            warnings.append(f"{file.at(row)}: the same row stands here more than once; each is a clip")
    return warnings


def _gaps(file: AnnotationFile) -> list[str]:
    """label_ids of the full table that no row has, broken rows included."""
    numbers: dict[int, set[int]] = {}
    for row in file.rows:
        try:
            if not row.fault:
                numbers.setdefault(whole_number(row, "video_id"), set()).add(whole_number(row, "label_id"))
        except RowError:
            continue  # the row is named among those left out
    gaps = [
        f"{number} of video {video}"
        for video, there in sorted(numbers.items())
        for number in sorted(set(range(1, min(max(there), MOST_CLIPS))) - there)
    ]
    return [f"{file.path}: no row has label_id {listed(gaps)}"] if gaps else []


def _video(row: Row) -> int:
    video = whole_number(row, "video_id")
    if video not in _KNOWN:
        raise RowError(f"video_id {video} is none of iMiGUE's {len(VIDEOS)} videos")
    return video


def _emotion(text: str) -> str:
    if text and text.lower() not in _EMOTIONS:
        raise RowError(f"outcome {text!r} is neither win (1) nor lose (0)")
    return _EMOTIONS[text.lower()] if text else ""


def _plain_id(text: str) -> str:
    """`07` and `7.0` are the subject 7."""
    plain = text.removesuffix(".0")
    return str(int(plain)) if plain.isascii() and plain.isdigit() else text


def _fits(time: str | None, frame: int) -> bool:
    """Whether a time in seconds, where there is one, belongs to a frame."""
    if time is None:
        return True
    try:
        return abs(float(time) * FRAMES_PER_S - frame) <= _TIME_SLACK_FRAMES
    except ValueError:
        return False


_KNOWN = frozenset(VIDEOS)
