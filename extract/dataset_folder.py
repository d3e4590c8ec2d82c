"""A data set that is a plain folder of videos: a clip per file, or windows of one length."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mgcli.cache import check_clip_table
from mgcli.extract.dataset import DatasetError, DatasetProtocol
from mgcli.extract.dataset_labels import add_labels, labels_path
from mgcli.extract.dataset_subjects import SplitDraw, SubjectPattern
from mgcli.extract.dataset_windows import check_windows, cut_windows

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".gif")


class FolderDataset(DatasetProtocol):
    """Every video file is a clip, its subfolder its gesture label; `NAME.npy` beside `NAME.mp4` is its skeleton.

    Labels may come from a CSV file instead, and a folder without subfolders may have none. Where there are labels,
    subjects are drawn into splits with a seed, whole subjects at a time.
    """

    name = "folder"

    def __init__(
        self,
        root: Path,
        *,
        labels: str | None = None,
        subject_pattern: str | None = None,
        fractions: Sequence[float] = SplitDraw.fractions,
        seed: int = SplitDraw.seed,
        window_s: float | None = None,
        stride_s: float | None = None,
    ) -> None:
        """Remember the folder.

        Args:
            root: holds one subfolder per class; or, with `labels` or without any label, the videos themselves.
            labels: CSV file with a row a video, see `dataset_labels`; relative to `root`.
            subject_pattern: regular expression whose first group, found in the file name, is the subject,
                such as `(s[0-9]+)_`; without it every file is its own subject.
            fractions: of the subjects in train, val and test.
            seed: of the draw.
            window_s: cut every video into windows of this length, clips `NAME_0`, `NAME_1`, ...
            stride_s: from the start of one window to the next; by default `window_s`.

        Raises:
            DatasetError: an option that does not make sense.
        """
        self.root = root
        self.labels = labels
        self.split_draw = SplitDraw(fractions=fractions, seed=seed)
        self.subject_pattern = SubjectPattern(subject_pattern) if subject_pattern is not None else None
        self.windows = check_windows(window_s, stride_s)

    def clip_table(self) -> pd.DataFrame:
        """One clip per video file, or per window of one, in path order."""
        if not self.root.is_dir():
            raise DatasetError(f"{self.root} is not a folder; --root takes a folder of videos")
        videos, has_classes = self._videos()
        skeletons = [path.with_suffix(".npy") for path in videos]
        names = [path.relative_to(self.root).with_suffix("").as_posix() for path in videos]
        table = pd.DataFrame(
            {
                "clip_id": names,
                "video": [str(path.resolve()) for path in videos],
                "gesture": [path.parent.name if has_classes else "" for path in videos],
                "skeleton": [str(path.resolve()) if path.is_file() else "" for path in skeletons],
            }
        )
        if self.subject_pattern is not None:
            table["subject_id"] = [self.subject_pattern.subject(path.name) for path in videos]
        if self.labels is not None:
            table = add_labels(table, labels_path(self.root, self.labels))
        if "subject_id" not in table:
            table["subject_id"] = names
        table["subject_id"] = table["subject_id"].where(table["subject_id"] != "", names)
        notes = table.attrs.get("warnings", [])
        table = check_clip_table(table, str(self.root))
        table.attrs["warnings"] = notes
        has_labels = (table["gesture"] + table["emotion"] != "").any()
        if has_labels and (table["split"] == "").all():
            table = self.split_draw.draw(table)
        return table if self.windows is None else cut_windows(table, *self.windows)

    def _videos(self) -> tuple[list[Path], bool]:
        """The video files, and whether their folders are classes."""
        beside, within = (
            sorted(
                path
                for path in self.root.glob(pattern)
                if path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".") and path.is_file()
            )
            for pattern in ("*", "*/*")
        )
        if self.labels is not None:
            return self._some(sorted(beside + within)), False
        if beside and within:
            raise DatasetError(
                f"{self.root} has {len(beside)} video files beside its class folders, such as {beside[0].name}; "
                "move them into one of these, or give labels=FILE"
            )
        return self._some(beside or within), bool(within)

    def _some(self, videos: list[Path]) -> list[Path]:
        if not videos:
            raise DatasetError(
                f"{self.root} has no video files, neither in it nor in its subfolders; expected FILE or CLASS/FILE "
                f"with one of {', '.join(VIDEO_SUFFIXES)}"
            )
        return videos
