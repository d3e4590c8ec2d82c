"""A data set that is a CSV file of the user's: the clip table itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath

import pandas as pd

from mgcli.cache import check_clip_table, read_clip_table
from mgcli.extract.dataset import DatasetError, DatasetProtocol
from mgcli.extract.dataset_labels import add_labels, labels_path
from mgcli.extract.dataset_subjects import SplitDraw, SubjectPattern
from mgcli.extract.dataset_windows import check_windows, cut_windows

DEFAULT_FILE = "clips.csv"


class TableDataset(DatasetProtocol):
    """Clips as a CSV file lists them; media paths start at the file's own folder.

    Options fill what the file leaves out, and replace nothing that it has: labels, subjects, splits.
    """

    name = "table"

    def __init__(
        self,
        root: Path,
        *,
        labels: str | None = None,
        subject_pattern: str | None = None,
        draw_splits: bool = False,
        fractions: Sequence[float] = SplitDraw.fractions,
        seed: int = SplitDraw.seed,
        window_s: float | None = None,
        stride_s: float | None = None,
    ) -> None:
        """Remember the file.

        Args:
            root: the CSV file, or a folder with a `clips.csv`.
            labels: CSV file with the labels of the clips, see `dataset_labels`; relative to the table's folder.
            subject_pattern: regular expression whose first group, found in the name of the video (or in the clip
                id, where there is none), is the subject.
            draw_splits: draw subjects into splits, whole ones at a time.
            fractions: of the subjects in train, val and test.
            seed: of the draw.
            window_s: cut every clip into windows of this length, clips `CLIP_0`, `CLIP_1`, ...
            stride_s: from the start of one window to the next; by default `window_s`.

        Raises:
            DatasetError: an option that does not make sense.
        """
        self.path = root / DEFAULT_FILE if root.is_dir() else root
        self.labels = labels
        self.subject_pattern = SubjectPattern(subject_pattern) if subject_pattern is not None else None
        self.split_draw = SplitDraw(fractions=fractions, seed=seed)
        if not isinstance(draw_splits, bool):
            raise DatasetError(f"draw_splits is {draw_splits!r}; it must be true or false")
        if not draw_splits and self.split_draw != SplitDraw():
            raise DatasetError("fractions and seed are of a draw; give draw_splits=true with them")
        self.draw_splits = draw_splits
        self.windows = check_windows(window_s, stride_s)

    def clip_table(self) -> pd.DataFrame:
        """The file's rows, checked, with what the options add."""
        table = read_clip_table(self.path)
        if self.labels is not None:
            table = self._labelled(table)
        if self.subject_pattern is not None:
            if table.attrs["subjects_given"]:
                raise DatasetError(f"{self.path} has a column subject_id, so subject_pattern has nothing to find")
            names = [PurePath(v).name or clip_id for v, clip_id in zip(table["video"], table["clip_id"], strict=True)]
            table = table.assign(subject_id=[self.subject_pattern.subject(name) for name in names])
            table.attrs["subjects_given"] = True
        if self.draw_splits:
            given = int((table["split"] != "").sum())
            if given:
                raise DatasetError(
                    f"{self.path} has a split for {given} of its {len(table)} clips; empty that column for draw_splits"
                )
            table = self.split_draw.draw(table)
        return table if self.windows is None else cut_windows(table, *self.windows)

    def _labelled(self, table: pd.DataFrame) -> pd.DataFrame:
        """The table with the columns of the labels file, which it must not have itself."""
        has_subjects = table.attrs["subjects_given"]
        bare = table if has_subjects else table.assign(subject_id="")
        labelled = add_labels(bare, labels_path(self.path.parent, str(self.labels)))
        if not has_subjects and (labelled["subject_id"] == "").all():
            labelled = labelled.drop(columns="subject_id")
        notes = labelled.attrs["warnings"]
        checked = check_clip_table(labelled, f"{self.path} with {self.labels}")
        checked.attrs["warnings"] = notes
        return checked
