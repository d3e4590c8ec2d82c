"""A data set that is a CSV file of the user's: the clip table itself."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mgcli.cache import read_clip_table
from mgcli.extract.dataset import DatasetProtocol

DEFAULT_FILE = "clips.csv"


class TableDataset(DatasetProtocol):
    """Clips as a CSV file lists them; media paths start at the file's own folder."""

    name = "table"

    def __init__(self, root: Path) -> None:
        """`root` is the CSV file, or a folder with a `clips.csv`."""
        self.root = root

    def clip_table(self) -> pd.DataFrame:
        """The file's rows, checked."""
        return read_clip_table(self.root / DEFAULT_FILE if self.root.is_dir() else self.root)
