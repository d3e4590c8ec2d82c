"""A data set that is a plain folder of videos: a clip per file, or windows of one length."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mgcli.cache import check_clip_table
from mgcli.extract.dataset import DatasetError, DatasetProtocol
from mgcli.extract.dataset_files import MAX_DEPTH, listed
from mgcli.extract.dataset_labels import add_labels, labels_path
from mgcli.extract.dataset_subjects import SplitDraw, SubjectPattern
from mgcli.extract.dataset_windows import check_windows, cut_windows, refuse_doubled
from mgcli.extract.media_file import why_unreadable

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".gif"),
    *(".mts", ".m2ts", ".3gp", ".ogv", ".vob", ".mxf"),  # of camcorders, phones, discs and studios
)


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
        notes: list[str] = []
        videos, has_classes = self._videos(notes)
        skeletons = [path.with_suffix(".npy") for path in videos]
        names = [path.relative_to(self.root).with_suffix("").as_posix() for path in videos]
        refuse_doubled(names, videos)
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
        notes += table.attrs.get("warnings", [])
        table = check_clip_table(table, str(self.root))
        table.attrs["warnings"] = notes
        has_labels = (table["gesture"] + table["emotion"] != "").any()
        if has_labels and (table["split"] == "").all():
            table = self.split_draw.draw(table)
        return table if self.windows is None else cut_windows(table, *self.windows)

    def _videos(self, notes: list[str]) -> tuple[list[Path], bool]:
        """The video files, and whether their folders are classes; notes are told of those that are left out."""
        by_depth: dict[int, list[Path]] = {}
        unspellable, unreadable = [], []
        for path in _videos_below(self.root, notes):
            if not _is_utf_8(path):
                unspellable.append(repr(os.fsencode(path.relative_to(self.root))))
            elif why_unreadable(path):
                unreadable.append(f"{path.relative_to(self.root)} ({why_unreadable(path)})")
            else:
                by_depth.setdefault(len(path.relative_to(self.root).parts), []).append(path)
        beside, within = by_depth.pop(1, []), by_depth.pop(2, [])
        deeper = [str(path.relative_to(self.root)) for paths in by_depth.values() for path in paths]
        for names, why in (
            (deeper, "lie deeper than CLASS/FILE; move them up"),
            (unreadable, "cannot be read"),
            (unspellable, "have paths that are not UTF-8; rename them"),
        ):
            if names:
                notes.append(f"{self.root}: {len(names)} videos are left out, which {why}: {listed(sorted(names))}")
        if not (beside or within):
            raise DatasetError(
                f"{self.root} has no video files, neither in it nor in its subfolders; expected FILE or CLASS/FILE "
                f"with one of {', '.join(VIDEO_SUFFIXES)}" + "".join(f". {note}" for note in notes)
            )
        if self.labels is not None:
            return sorted(beside + within), False
        if beside and within:
            raise DatasetError(
                f"{self.root} has {len(beside)} video files beside its class folders, such as {beside[0].name}; "
                "move them into one of these, or give labels=FILE"
            )
        return beside or within, bool(within)


def _videos_below(root: Path, notes: list[str]) -> list[Path]:
    """What is called a video, in path order; links are followed as far as to classes, hidden names are passed over."""

    def unreadable(error: OSError) -> None:
        notes.append(f"{error.filename}: cannot be read ({error.strerror}); what is in it is left out")

    found: list[Path] = []
    for folder, inner, names in os.walk(root, followlinks=True, onerror=unreadable):
        depth = len(Path(folder).relative_to(root).parts)
        inner[:] = [
            name
            for name in inner
            if not name.startswith(".") and depth < MAX_DEPTH and (depth == 0 or not Path(folder, name).is_symlink())
        ]
        paths = (Path(folder, name) for name in names if not name.startswith("."))
        found += [path for path in paths if path.suffix.lower() in VIDEO_SUFFIXES]
    return sorted(found)


def _is_utf_8(path: Path) -> bool:
    """Whether a clip table can keep a file's name, and the one that links lead to."""
    try:
        (str(path) + os.path.realpath(path)).encode()
    except UnicodeEncodeError:
        return False
    return True
