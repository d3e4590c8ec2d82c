"""Labels from a CSV file of the user's: a row a clip, known by its id or by the name of its file."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path, PurePath

import pandas as pd

from mgcli.cache import TASKS
from mgcli.extract.dataset import DatasetError

ID_COLUMNS = ("clip_id", "id", "clip", "name", "file", "file_name", "filename", "video", "video_id")
_COLUMNS = {  # of the clip table -> how a labels file may call them
    "gesture": ("gesture", "label", "class"),
    "emotion": ("emotion",),
    "subject_id": ("subject_id", "subject"),
    "split": ("split",),
}
_MOST_NAMED = 3


def add_labels(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """A clip table, not yet checked, with the columns that a labels file has for its clips.

    A row belongs to the clip with that id, or with a file of that name, with or without folder and ending. Clips
    without a row keep no label, and rows may be of clips that are not here; `attrs["warnings"]` counts both.

    Args:
        table: with `clip_id` and `video`.
        path: first row the column names: one of `ID_COLUMNS`, and gesture (or label, class), emotion, subject_id
            (or subject), split; others are passed over.

    Raises:
        DatasetError: the file cannot be read, a row does not fit, or no row is of any clip; the line is named.
    """
    header, rows = _read_rows(path)
    id_column = next((header.index(name) for name in ID_COLUMNS if name in header), None)
    if id_column is None:
        raise DatasetError(f"{path}, line 1: no column names the clips; call it {', '.join(ID_COLUMNS)}")
    found = {column: [header.index(name) for name in names if name in header] for column, names in _COLUMNS.items()}
    taken = {column: places[0] for column, places in found.items() if places and places[0] != id_column}
    if not set(taken) & set(TASKS):
        raise DatasetError(f"{path}, line 1: no column of labels; call it gesture or emotion")
    for column in {"subject_id", "split"} & set(taken):
        if column in table and (table[column] != "").any():
            raise DatasetError(f"{path} has a column {column}, and so has the data set; keep one of them")

    clips = _clips_by_name(table)
    values: dict[str, list[str]] = {column: [""] * len(table) for column in taken}
    line_of: dict[int, int] = {}
    elsewhere: list[str] = []
    for line, cells in rows:
        name = cells[id_column].strip()
        of_name = clips.get(name, [])
        if len(of_name) > 1:
            raise DatasetError(
                f"{path}, line {line}: {name!r} is the name of {len(of_name)} clips; "
                f"write {table['clip_id'].iloc[of_name[0]]!r}"
            )
        if not of_name:
            elsewhere.append(name)
            continue
        clip = of_name[0]
        if clip in line_of:
            raise DatasetError(f"{path}, line {line}: {name!r} again, first in line {line_of[clip]}")
        line_of[clip] = line
        for column, place in taken.items():
            values[column][clip] = cells[place].strip()
    if not line_of:
        raise DatasetError(
            f"{path}: no row is of a clip of this data set; its first is {elsewhere[0]!r}, "
            f"the first clip {table['clip_id'].iloc[0]!r}"
        )
    notes = []
    if elsewhere:
        notes.append(f"{path.name}: {len(elsewhere)} rows are of clips that are not here: {_some(elsewhere)}")
    without = [name for i, name in enumerate(table["clip_id"]) if i not in line_of]
    if without:
        notes.append(f"{path.name}: no row for {len(without)} clips, which stay without a label: {_some(without)}")
    labelled = table.assign(**values)
    labelled.attrs["warnings"] = [*table.attrs.get("warnings", []), *notes]
    return labelled


def labels_path(folder: Path, given: str) -> Path:
    """The labels file that an option names; relative paths start at the data set's folder.

    Raises:
        DatasetError: there is no such file.
    """
    path = folder / str(given)
    if not path.is_file():
        raise DatasetError(f"labels={given}: no file {path}; a relative path starts at the data set's folder")
    return path


def _read_rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Column names, and the line number and cells of every row that is not blank."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not text in UTF-8: {error}") from error
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror})") from error
    first = text.partition("\n")[0]
    separator = next((each for each in "\t;" if each in first), ",")
    rows = list(_rows(text, separator, path))
    if len(rows) < 2:
        raise DatasetError(f"{path}: no rows behind its column names")
    header = [cell.strip().lower() for cell in rows[0][1]]
    for line, cells in rows[1:]:
        if len(cells) != len(header):
            raise DatasetError(f"{path}, line {line}: {len(cells)} cells where line {rows[0][0]} has {len(header)}")
    return header, rows[1:]


def _rows(text: str, separator: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(text.splitlines(), delimiter=separator)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise DatasetError(f"{path}, line {reader.line_num}: {error}") from error


def _clips_by_name(table: pd.DataFrame) -> dict[str, list[int]]:
    """Every name that a row may use for a clip -> places of such clips; a clip's id comes before other names."""
    names: dict[str, list[int]] = {}
    for place, (clip_id, video) in enumerate(zip(table["clip_id"], table["video"], strict=True)):
        ending = PurePath(video).suffix
        last = PurePath(clip_id).name
        for name in {clip_id + ending, last, last + ending, PurePath(video).name, PurePath(video).stem} - {""}:
            names.setdefault(name, []).append(place)
    return names | {clip_id: [place] for place, clip_id in enumerate(table["clip_id"])}


def _some(names: list[str]) -> str:
    return ", ".join(names[:_MOST_NAMED]) + (" ..." if len(names) > _MOST_NAMED else "")
