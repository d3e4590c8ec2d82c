"""The contract of a data set, and the table of those there are."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from mgcli.cache import MgcliError, Project, named_class

DATASETS: dict[str, str] = {  # name -> where it is; imported when asked for
    "table": "mgcli.extract.dataset_table:TableDataset",
    "folder": "mgcli.extract.dataset_folder:FolderDataset",
    "demo": "mgcli.extract.dataset_demo:DemoDataset",
}


class DatasetError(MgcliError):
    """A data set that does not exist, or whose files are not as they should be."""


class DatasetProtocol(ABC):
    """A data set read by one protocol: it decides once which clips there are, whose, and in which split.

    A subclass takes the data set's root and its own options as keywords.
    """

    name: ClassVar[str]

    @abstractmethod
    def __init__(self, root: Path) -> None:
        """Remember where the data are; nothing is read yet."""

    @abstractmethod
    def clip_table(self) -> pd.DataFrame:
        """The checked clip table.

        Raises:
            MgcliError: the annotations or media are not there, or do not make sense.
        """


def load_dataset(name: str, root: str | Path, **options: Any) -> pd.DataFrame:
    """The clip table of a data set.

    Args:
        name: of the table of data sets, or `package.module:Class` for a user's own.
        root: its folder (for `table`, the CSV file itself or its folder).
        options: of this data set, such as seed=1.

    Raises:
        DatasetError: unknown name or option.
        MgcliError: its data are not as they should be.
    """
    kind = named_class(
        name, DATASETS, DatasetProtocol, what="data set", listing=", ".join(DATASETS), error=DatasetError
    )
    known = set(inspect.signature(kind.__init__).parameters) - {"self", "root"}
    for option in options:
        if option not in known:
            raise DatasetError(
                f"data set {kind.name!r} has no option {option!r}; it takes: {', '.join(sorted(known)) or 'none'}"
            )
    return kind(Path(root), **options).clip_table()


def load_project_clips(project: Project) -> pd.DataFrame:
    """The clip table of a project's data set; the errors are those of `load_dataset`."""
    if project.dataset == "table":
        return load_dataset("table", project.clips or project.root)
    return load_dataset(project.dataset, project.root)
