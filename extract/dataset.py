"""The contract of a data set, and the table of those there are."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from mgcli.cache import MgcliError, Project, named_class

DATASETS: dict[str, str] = {  # name -> where it is; imported when asked for
    "table": "mgcli.extract.dataset_table:TableDataset",
    "folder": "mgcli.extract.dataset_folder:FolderDataset",
    "imigue": "mgcli.extract.dataset_imigue:ImigueDataset",
    "smg": "mgcli.extract.dataset_smg:SmgDataset",
    "demo": "mgcli.extract.dataset_demo:DemoDataset",
}

_MOST_NAMED, _MOST_REASONS = 10, 50  # that are printed; `attrs` has all


class DatasetError(MgcliError):
    """A data set that does not exist, or whose files are not as they should be."""


class DatasetProtocol(ABC):
    """A data set read by one protocol: it decides once which clips there are, whose, and in which split.

    A subclass takes the data set's root and its own options as keywords; one that offers several protocols takes
    `protocol` among them. What a user should know of the table goes where `table_notes` finds it.
    """

    name: ClassVar[str]
    protocols: ClassVar[tuple[str, ...]] = ()  # names it offers, the usual one first; empty: any name, it is a label

    @abstractmethod
    def __init__(self, root: Path) -> None:
        """Remember where the data are; nothing is read yet."""

    @abstractmethod
    def clip_table(self) -> pd.DataFrame:
        """The checked clip table.

        Raises:
            MgcliError: the annotations or media are not there, or do not make sense.
        """


def load_dataset(name: str, root: str | Path, *, protocol: str | None = None, **options: Any) -> pd.DataFrame:
    """The clip table of a data set.

    Args:
        name: of the table of data sets, or `package.module:Class` for a user's own.
        root: its folder (for `table`, the CSV file itself or its folder).
        protocol: which of the data set's protocols; by default its usual one.
        options: of this data set, such as seed=1.

    Raises:
        DatasetError: unknown name, protocol or option.
        MgcliError: its data are not as they should be.
    """
    kind = dataset_class(name)
    if kind.protocols:
        options["protocol"] = choose_protocol(name, protocol)
    known = set(inspect.signature(kind.__init__).parameters) - {"self", "root"}
    for option in options:
        if option not in known:
            takes = ", ".join(sorted(known - {"protocol"})) or "none"
            raise DatasetError(
                f"data set {kind.name!r} has no option {option!r}{_near(option, known)}; it takes: {takes}"
            )
    return kind(Path(root), **options).clip_table()


def dataset_class(name: str) -> type[DatasetProtocol]:
    """The class of a data set.

    Raises:
        DatasetError: unknown name.
    """
    return named_class(
        name, DATASETS, DatasetProtocol, what="data set", listing=", ".join(DATASETS), error=DatasetError
    )


def choose_protocol(name: str, protocol: str | None) -> str:
    """The protocol of a data set: the one asked for, else its usual one.

    Raises:
        DatasetError: the data set does not offer it.
    """
    offered = dataset_class(name).protocols
    if not offered:
        return protocol or name
    if protocol is not None and protocol not in offered:
        raise DatasetError(
            f"data set {name!r} has no protocol {protocol!r}{_near(protocol, offered)}; it offers: {', '.join(offered)}"
        )
    return protocol or offered[0]


def load_project_clips(project: Project) -> tuple[pd.DataFrame, str]:
    """The clip table of a project's data set, and the protocol it follows; the errors are those of `load_dataset`."""
    protocol = choose_protocol(project.dataset, project.protocol or None)
    root = project.clips or project.root if project.dataset == "table" else project.root
    return load_dataset(project.dataset, root, protocol=protocol, **project.options), protocol


def table_notes(table: pd.DataFrame) -> list[str]:
    """What a data set says of its clip table, a line each: its warnings, and what it left out, by reason.

    A data set leaves them in `table.attrs`: `warnings`, a list of sentences, and `dropped`, a list of (clip, or file
    and line of a row, and the reason) of everything that is not in the table.
    """
    by_reason: dict[str, list[str]] = {}
    for name, reason in table.attrs.get("dropped", []):
        by_reason.setdefault(reason, []).append(name)
    lines = []
    for reason, names in by_reason.items():
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        lines.append(f"{len(names)} left out: {reason}: {', '.join(names[:_MOST_NAMED])}{more}")
    if len(lines) > _MOST_REASONS:
        rest = len(lines) - _MOST_REASONS
        lines[_MOST_REASONS:] = [f"and more left out, for {rest} other reasons"]
    return [*table.attrs.get("warnings", []), *lines]


def _near(word: str, known: Iterable[str]) -> str:
    near = get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
