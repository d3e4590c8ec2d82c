"""SMG (IJCV 2023): spontaneous micro-gestures of 40 subjects, one long sequence each.

Files are known by their names, SampleNNNN_skeleton.csv and so on, so the folders around them may be called and nested
as they come; a video is called SampleNNNN_color.mp4 where others have loaded it. The kit counts frames from 0; it cuts
clips as if `end_frame` belonged to them, as in iMiGUE, and so do we, although another place of it leaves that frame
out. Facts: smg.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mgcli.cache import CLASS_NAMES, OWN_VALIDATION, check_clip_table
from mgcli.extract.annotations import (
    Dropped,
    FileError,
    Row,
    RowError,
    decimal_number,
    frame_interval,
    parse_rows,
    read_annotations,
    whole_number,
)
from mgcli.extract.dataset import DatasetError, DatasetProtocol
from mgcli.extract.dataset_files import MAX_DEPTH, VIDEO_SUFFIXES, files_below, listed, one_of
from mgcli.extract.dataset_validation import hold_back_subjects, validation_warnings

SMG_TRAIN_SUBJECTS = tuple(range(1, 36))
SMG_TEST_SUBJECTS = tuple(range(36, 41))
SMG_VALIDATION_SUBJECTS = (11, 16, 17, 21, 23, 29, 30)  # `draw_subjects` of the 35 gives them again
MAX_FRAMES_PER_S = 240.0
SMG_PROTOCOLS = (f"smg-gesture{OWN_VALIDATION}", "smg-gesture")

_PACKAGES = re.compile(r"smg_(rgb|data|skeleton)_|sample\d{4}$")
_FILE = re.compile(r"sample(\d{4})_(skeleton|finelabels|data)\.csv")
_SAMPLE = re.compile(r"sample(\d{4})(?!\d)")
_CUT_CLIP = re.compile(r".*_\d+_\d+")
_COLOUR_ENDINGS = ("_color", "_colour", "_rgb", "")  # of a video's name, the best first
_NO_COLOUR = ("_depth", "_user", "_skeleton")
_LABEL_COLUMNS = {
    "class": ("class", "label"),
    "start_frame": ("start_frame", "start"),
    "end_frame": ("end_frame", "end"),
}
_DATA_COLUMNS = {name: (name.lower(),) for name in ("numFrames", "fps", "maxDepth")}


@dataclass(frozen=True)
class SmgClips:
    """All of SMG that is there."""

    rows: list[dict[str, Any]]  # of the clip table, with SMG's own class ids, and published splits
    dropped: Dropped
    warnings: list[str]


class SmgDataset(DatasetProtocol):
    """SMG: gestures of subjects 1-35 for training and of 36-40 for test.

    The table's `attrs` hold `warnings` and `dropped`, as those of `imigue` do.
    """

    name = "smg"
    protocols = SMG_PROTOCOLS

    def __init__(self, root: Path, *, protocol: str = SMG_PROTOCOLS[0]) -> None:
        """`root` holds the packages or the sample folders."""
        self.root = root
        self.protocol = protocol

    def clip_table(self) -> pd.DataFrame:
        """The clips, named SampleNNNN_k after the row of the sample's labels, from 0."""
        smg = read_smg(self.root)
        table, warnings = pd.DataFrame(smg.rows), smg.warnings
        if self.protocol.endswith(OWN_VALIDATION):
            table = hold_back_subjects(table, [str(subject) for subject in SMG_VALIDATION_SUBJECTS])
            warnings = [*warnings, *validation_warnings(table)]
        table = check_clip_table(table, str(self.root))
        table.attrs |= {"warnings": warnings, "dropped": smg.dropped}
        return table


def read_smg(root: Path) -> SmgClips:
    """Every clip of the samples below a folder.

    Raises:
        DatasetError: there is none.
    """
    if not root.is_dir():
        raise DatasetError(f"{root} is not a folder; it should hold SMG's sample folders")
    warnings: list[str] = []
    files, videos = _find_files(root, warnings)
    rows: list[dict[str, Any]] = []
    dropped: Dropped = []
    for subject in sorted(files["finelabels"]):
        try:
            rows += _sample_rows(subject, {kind: of_it.get(subject) for kind, of_it in files.items()}, videos, dropped)
        except FileError as error:
            dropped.append((f"Sample{subject:04d}", str(error)))
    if not rows:
        reasons = "".join(f"; {place}: {reason}" for place, reason in dropped[:3])
        raise DatasetError(
            f"{root}: no clips of SMG within {MAX_DEPTH} folders; expected SampleNNNN/SampleNNNN_finelabels.csv and "
            f"SampleNNNN_data.csv{reasons}"
        )
    annotated = set(files["finelabels"])
    for what, wanted, there in (
        ("gesture labels", {*SMG_TRAIN_SUBJECTS, *SMG_TEST_SUBJECTS}, annotated),
        ("skeleton", annotated, set(files["skeleton"])),
        ("video file", annotated, set(videos)),
    ):
        if missing := sorted(wanted - there):
            named = listed(f"Sample{subject:04d}" for subject in missing)
            warnings.append(f"no {what} for {len(missing)} of {len(wanted)} samples: {named}")
    return SmgClips(rows, dropped, warnings)


def _find_files(root: Path, warnings: list[str]) -> tuple[dict[str, dict[int, Path]], dict[int, Path]]:
    """Kind of file -> subject -> the file; and subject -> video."""
    found: dict[str, dict[int, list[Path]]] = {kind: defaultdict(list) for kind in ("skeleton", "finelabels", "data")}
    found_videos: dict[int, list[Path]] = defaultdict(list)
    for path in files_below(root, _PACKAGES, warnings):
        name = path.name.lower()
        if of_kind := _FILE.fullmatch(name):
            found[of_kind[2]][int(of_kind[1])].append(path)
        elif (sample := _sample_of_video(path)) is not None:
            found_videos[sample].append(path)
    files = {
        kind: {subject: one_of(paths, f"{kind} of sample {subject:04d}", warnings) for subject, paths in of_it.items()}
        for kind, of_it in found.items()
    }
    videos = {sample: file for sample, paths in found_videos.items() if (file := _video_file(sample, paths, warnings))}
    return files, videos


def _sample_of_video(path: Path) -> int | None:
    """The sample whose whole sequence a media file may show, by its own name or its folder's."""
    stem = path.stem.lower()
    if path.suffix.lower() not in VIDEO_SUFFIXES or _CUT_CLIP.fullmatch(stem) or stem.endswith(_NO_COLOUR):
        return None
    found = _SAMPLE.match(stem) or _SAMPLE.fullmatch(path.parent.name.lower())
    return int(found[1]) if found else None


def _video_file(sample: int, paths: list[Path], warnings: list[str]) -> Path | None:
    """The colour video by its name, or else the only one of the sample."""
    name = f"sample{sample:04d}"
    for ending in _COLOUR_ENDINGS:
        named = [path for path in paths if path.stem.lower() == name + ending]
        if named:
            return one_of(named, f"video of {name}", warnings)
    if len(paths) == 1:
        return paths[0]
    names = listed(path.name for path in paths)
    warnings.append(f"{name}: none of its videos is called {name}_color, so none is used: {names}")
    return None


def _sample_rows(
    subject: int, files: dict[str, Path | None], videos: dict[int, Path], dropped: Dropped
) -> list[dict[str, Any]]:
    """The clips of one sample; rows that cannot be read are added to `dropped`.

    Raises:
        FileError: its labels or its rate cannot be read, or nobody has assigned it to a split.
    """
    labels, skeleton = files["finelabels"], files["skeleton"]
    assert labels is not None
    if subject not in SMG_TRAIN_SUBJECTS + SMG_TEST_SUBJECTS:
        raise FileError(f"{labels}: subject {subject} is in no split; SMG has subjects 1..40")
    if files["data"] is None:
        raise FileError(f"{labels}: no Sample{subject:04d}_data.csv beside it, so its frame rate is not known")
    fps = _frames_per_s(files["data"])

    def parse(row: Row) -> dict[str, Any]:
        start, end = frame_interval(row, fps)
        raw = whole_number(row, "class")
        if not 1 <= raw <= len(CLASS_NAMES["smg"]):
            raise RowError(f"class {raw} is none of 1..{len(CLASS_NAMES['smg'])}")
        return {
            "clip_id": f"Sample{subject:04d}_{row.number}",
            "video": str(videos[subject].resolve()) if subject in videos else "",
            "start_s": start / fps,
            "end_s": end / fps,
            "subject_id": str(subject),
            "split": "train" if subject in SMG_TRAIN_SUBJECTS else "test",
            "gesture": str(raw - 1),
            "emotion": "",
            "skeleton": str(skeleton.resolve()) if skeleton else "",
            "skeleton_fps": fps if skeleton else None,
        }

    rows, of_file = parse_rows(read_annotations(labels, _LABEL_COLUMNS), parse)
    dropped += of_file
    return rows


def _frames_per_s(path: Path) -> float:
    """The rate that a sample's SampleNNNN_data.csv states.

    Raises:
        FileError: it states none.
    """
    rates, _ = parse_rows(read_annotations(path, _DATA_COLUMNS), _rate)
    return rates[0]


def _rate(row: Row) -> float:
    rate = decimal_number(row, "fps")
    if not 1 <= rate <= MAX_FRAMES_PER_S:
        raise RowError(f"fps {row.cells['fps']} is no frame rate")
    return rate
