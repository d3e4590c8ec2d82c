"""A data set that is a plain folder: one subfolder per gesture class, with a video file per clip."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mgcli.cache import SPLITS, check_clip_table
from mgcli.extract.dataset import DatasetError, DatasetProtocol

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".gif")


class FolderDataset(DatasetProtocol):
    """Every video file is a clip, its folder its gesture label; `NAME.npy` beside `NAME.mp4` is its skeleton.

    Subjects are drawn into splits with a seed, whole subjects at a time.
    """

    name = "folder"

    def __init__(
        self,
        root: Path,
        *,
        subject_pattern: str | None = None,
        fractions: Sequence[float] = (0.6, 0.2, 0.2),
        seed: int = 0,
    ) -> None:
        """Remember the folder.

        Args:
            root: holds one subfolder per class.
            subject_pattern: regular expression whose first group, found in the file name, is the subject,
                such as `(s[0-9]+)_`; without it every file is its own subject.
            fractions: of the subjects in train, val and test.
            seed: of the draw.

        Raises:
            DatasetError: a pattern without a group, or fractions that are none.
        """
        self.root = root
        self.seed = seed
        self.fractions = np.asarray(fractions, dtype=float)
        if self.fractions.shape != (3,) or (self.fractions < 0).any() or not np.isclose(self.fractions.sum(), 1):
            raise DatasetError(
                f"fractions {tuple(fractions)} must be three numbers (train, val, test) that add up to 1"
            )
        try:
            self.subject_pattern = re.compile(subject_pattern) if subject_pattern is not None else None
        except re.error as error:
            raise DatasetError(f"subject_pattern {subject_pattern!r} is no regular expression: {error}") from error
        if self.subject_pattern is not None and self.subject_pattern.groups < 1:
            raise DatasetError(f"subject_pattern {subject_pattern!r} needs a group, such as (s[0-9]+)_")

    def clip_table(self) -> pd.DataFrame:
        """One clip per video file, in path order."""
        if not self.root.is_dir():
            raise DatasetError(f"{self.root} is not a folder; --root takes one with a subfolder per class")
        videos = sorted(
            path
            for path in self.root.glob("*/*")
            if path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".") and path.is_file()
        )
        if not videos:
            raise DatasetError(
                f"{self.root} has no video files in its subfolders; expected CLASS/FILE with one of "
                f"{', '.join(VIDEO_SUFFIXES)}"
            )
        skeletons = [path.with_suffix(".npy") for path in videos]
        subjects = [self._subject(path) for path in videos]
        split_of = self._draw_splits(subjects)
        table = pd.DataFrame(
            {
                "clip_id": [path.relative_to(self.root).with_suffix("").as_posix() for path in videos],
                "video": [str(path.resolve()) for path in videos],
                "subject_id": subjects,
                "split": [split_of[subject] for subject in subjects],
                "gesture": [path.parent.name for path in videos],
                "skeleton": [str(path.resolve()) if path.is_file() else "" for path in skeletons],
            }
        )
        return check_clip_table(table, str(self.root))

    def _subject(self, path: Path) -> str:
        if self.subject_pattern is None:
            return path.relative_to(self.root).with_suffix("").as_posix()
        found = self.subject_pattern.search(path.name)
        if found is None or not found[1]:
            raise DatasetError(f"subject_pattern {self.subject_pattern.pattern!r} finds no subject in {path}")
        return found[1]

    def _draw_splits(self, subjects: list[str]) -> dict[str, str]:
        """Subject -> split; with few subjects, training comes first, then test, then validation."""
        drawn = np.random.default_rng(self.seed).permutation(sorted(set(subjects)))
        wanted = np.round(self.fractions * len(drawn))
        counts = np.where(self.fractions > 0, np.maximum(1, wanted), 0).astype(int)  # train, val, test
        counts[0] = len(drawn) - counts[1:].sum()
        least = int(self.fractions[0] > 0)
        for split in (1, 2):
            given_up = min(counts[split], max(0, least - counts[0]))
            counts[split] -= given_up
            counts[0] += given_up
        return dict(zip(drawn.tolist(), np.repeat(SPLITS, counts).tolist(), strict=True))
