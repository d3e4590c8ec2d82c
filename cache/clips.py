"""The clip table: which clips there are, of whom, with which labels, in which split.

One row is one clip: an interval of a video with its labels. The columns:

| column                  | meaning                                                                 |
|-------------------------|-------------------------------------------------------------------------|
| clip_id                 | unique name of the clip                                                 |
| video                   | media file; relative paths start at the table's own folder              |
| start_s, end_s          | interval in seconds of presentation time; both empty: the whole video   |
| start_frame, end_frame  | the same in source frames, half-open and zero-based, instead of seconds |
| subject_id              | who is seen; without it each video counts as its own subject            |
| split                   | train, val or test                                                      |
| gesture                 | class id 0..31 or class name; empty: no gesture label                   |
| emotion                 | win/lose, positive/negative or 1/0; empty: no emotion label             |
| skeleton, skeleton_fps  | skeleton file or folder, and its rate where no video gives it           |
| face                    | file of boxes and landmarks; empty: faces are detected                  |
| video_source, ...       | identity of what the tokens are made from; written by stage one         |
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mgcli.cache.errors import ClipTableError

SPLITS = ("train", "val", "test")
TASKS = ("gesture", "emotion")
EMOTION_CLASSES = ("lose", "win")
NUM_GESTURE_IDS = 32  # iMiGUE, ids 0..31 (facts: imigue, section 5)
SOURCE_COLUMNS = ("video_source", "skeleton_source", "face_source")

_MORE_FILES = ("skeleton", "face")
_TEXT_COLUMNS = ("video", "subject_id", "split", "gesture", "emotion", *_MORE_FILES, *SOURCE_COLUMNS)
_SECOND_COLUMNS = ("start_s", "end_s")
_FRAME_COLUMNS = ("start_frame", "end_frame")
_NUMBER_COLUMNS = (*_SECOND_COLUMNS, "skeleton_fps")
_COLUMNS = ("clip_id", *_TEXT_COLUMNS, *_NUMBER_COLUMNS, *_FRAME_COLUMNS)

_SPLIT_SPELLINGS = {"training": "train", "valid": "val", "validation": "val", "dev": "val", "testing": "test"}
_EMOTION_SPELLINGS = {
    **{"lose": "lose", "lost": "lose", "loss": "lose", "negative": "lose", "0": "lose"},
    **{"win": "win", "won": "win", "positive": "win", "1": "win"},
}
_MAX_WHOLE = 1 << 53  # from here on a float64 is not exact to the unit
_NO_PATH = r"[\x00\ud800-\udfff]"  # what no path may hold, and what the table, kept in UTF-8, cannot
_FIRST_ROW = 2  # row numbers count as an editor shows them: the header is row 1


def read_clip_table(path: str | Path, *, require: Iterable[str] = ("clip_id",)) -> pd.DataFrame:
    """Read a clip table from CSV and check every row.

    Args:
        path: the CSV file; relative paths in it are taken from its folder.
        require: columns that must be there; the others are added empty.

    Returns:
        The checked table with the columns of this module, plus any other column as text.

    Raises:
        ClipTableError: the file cannot be read, or a row does not make sense; rows are named.
    """
    path = Path(path)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True)
    except FileNotFoundError:
        raise ClipTableError(f"no clip table {path}; give one with --clips FILE, or begin with: mgcli init") from None
    except IsADirectoryError:
        raise ClipTableError(f"{path} is a folder; --clips takes a CSV file") from None
    except PermissionError:
        raise ClipTableError(f"no permission to read the clip table {path}") from None
    except pd.errors.EmptyDataError:
        raise ClipTableError(f"{path} is empty; its first row must name the columns: {', '.join(_COLUMNS)}") from None
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ClipTableError(f"{path} is not a CSV file in UTF-8: {error}") from None
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes surplus cells on the left for an index
        raise ClipTableError(f"{path} is not a CSV file: its rows have more cells than its header")
    return check_clip_table(table, str(path), require=require, root=path.parent)


def check_clip_table(
    table: pd.DataFrame,
    where: str = "clip table",
    *,
    require: Iterable[str] = ("clip_id",),
    root: Path | None = None,
) -> pd.DataFrame:
    """Return the table with every column of this module, normalised, or say what is wrong with it.

    Args:
        table: any of the columns of this module; other columns are kept.
        where: what to call the table in a message.
        require: columns that must be there.
        root: folder that relative paths of files start at; None leaves them as they are.

    Returns:
        The checked table; its `attrs` say where it comes from and which columns were given.

    Raises:
        ClipTableError: with the rows at fault, counted as an editor shows the CSV file.
    """
    table = table.rename(columns=lambda name: str(name).strip()).reset_index(drop=True)
    _check_columns(table, where, require)
    given = [str(name) for name in table.columns]
    for column in _COLUMNS:
        if column not in table:
            table[column] = ""
    for column in ("clip_id", *_TEXT_COLUMNS):
        table[column] = _text(table[column])
    for column in _NUMBER_COLUMNS:
        table[column] = _numbers(table, column, where)
    for column in _FRAME_COLUMNS:
        table[column] = _numbers(table, column, where, whole=True).astype("Int64")

    _check_ids(table, where)
    _check_paths(table, where)
    _check_rates(table, where)
    _check_intervals(table, where)
    table["split"] = _respell(table, "split", {name: name for name in SPLITS} | _SPLIT_SPELLINGS, where)
    table["emotion"] = _respell(table, "emotion", _EMOTION_SPELLINGS, where)
    table["gesture"] = _gestures(table, where)
    if root is not None:
        for column in ("video", *_MORE_FILES):
            # not Path.resolve, which raises where a link leads to itself: that costs only the clips of such a file
            table[column] = [os.path.realpath(root / name) if name else "" for name in table[column]]
        _check_paths(table, where)  # again: the folder's own name, or what a link leads to, may not be UTF-8
    own_subject = table["video"].where(table["video"] != "", table["clip_id"])
    table["subject_id"] = table["subject_id"].where(table["subject_id"] != "", own_subject)
    table.attrs |= {"where": where, "columns_given": given, "subjects_given": "subject_id" in given}
    return table


def find_clip(table: pd.DataFrame, clip_id: str) -> dict[str, Any]:
    """The row of a clip.

    Raises:
        ClipTableError: there is none; the message names the nearest.
    """
    row = table[table["clip_id"] == clip_id]
    if row.empty:
        near = get_close_matches(clip_id, table["clip_id"].tolist(), n=3)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "; they are listed by: mgcli data table"
        raise ClipTableError(f"no clip {clip_id!r} in the clip table{hint}")
    return {str(name): value for name, value in row.iloc[0].items()}


def label_classes(table: pd.DataFrame, task: str) -> list[str]:
    """Classes of a task, in the order of their indices: lose, win; or the gesture labels that occur.

    Gesture ids come in numeric order, names in alphabetical order.
    """
    if task == "emotion":
        return list(EMOTION_CLASSES)
    labels = {label for label in table[task] if label}
    return sorted(labels, key=lambda label: (0, int(label), "") if label.isdigit() else (1, 0, label))


def describe_clips(table: pd.DataFrame) -> str:
    """Counts of a checked clip table for people: clips, subjects and labels by split, and files not found."""
    lines = [f"{len(table)} clips, {table['video'].replace('', pd.NA).nunique()} videos"]
    for split in (*SPLITS, ""):
        clips = table[table["split"] == split]
        if len(clips):
            labels = ", ".join(
                f"{(clips[task] != '').sum()} with {task} ({clips[task].replace('', pd.NA).nunique()} classes)"
                for task in TASKS
            )
            subjects = clips["subject_id"].nunique()
            lines.append(f"  {split or 'no split':<8} {len(clips)} clips of {subjects} subjects; {labels}")
    for column in ("video", *_MORE_FILES):
        absent = sorted({name for name in table[column] if name and not _is_there(Path(name), column)})
        if absent:
            shown = ", ".join(absent[:3]) + (" ..." if len(absent) > 3 else "")
            lines.append(f"  {len(absent)} {column} file(s) not found: {shown}")
    if not table.attrs.get("subjects_given", True):
        lines.append("  no subject_id column: each video counts as its own subject")
    return "\n".join(lines)


def _is_there(path: Path, column: str) -> bool:
    try:
        return path.is_file() or (column == "skeleton" and path.is_dir())  # some estimators write one file a frame
    except OSError:  # too long a name, or a folder that may not be looked into
        return False


def clip_table_csv(table: pd.DataFrame) -> bytes:
    """The table as CSV bytes, the same for the same content."""
    first = [column for column in _COLUMNS if column in table]
    rest = sorted(str(column) for column in table if column not in _COLUMNS)
    text = io.StringIO()
    table[first + rest].to_csv(text, index=False, lineterminator="\n")
    return text.getvalue().encode("utf-8")


def _check_columns(table: pd.DataFrame, where: str, require: Iterable[str]) -> None:
    doubled = sorted({str(name) for name in table.columns[table.columns.duplicated()]})
    if doubled:
        raise ClipTableError(f"{where} has two columns named {', '.join(map(repr, doubled))}; keep one")
    missing = [column for column in require if column not in table]
    if missing:
        near = {name: get_close_matches(name, [str(c) for c in table.columns], n=1) for name in missing}
        hints = "".join(f"; is {found[0]!r} meant as {name!r}?" for name, found in near.items() if found)
        raise ClipTableError(f"{where} has no column {', '.join(missing)}{hints} (it has: {', '.join(table.columns)})")
    if table.empty:
        raise ClipTableError(f"{where} has no rows")


def _text(cells: pd.Series) -> pd.Series:
    """Cells as words without blanks around them, empty where there is none."""
    words = cells.fillna("") if cells.dtype == "str" else cells.astype(object).where(cells.notna(), "").map(str)
    return _map_each(words, str.strip)


def _map_each(words: pd.Series, change: Callable[[str], object]) -> pd.Series:
    """`words.map(change)`, with a word that occurs thousands of times looked at once."""
    codes, different = pd.factorize(words)
    return pd.Series([change(each) for each in different]).take(codes).set_axis(words.index)


def _numbers(table: pd.DataFrame, column: str, where: str, *, whole: bool = False) -> pd.Series:
    """A column as float64, NaN where the cell is empty; a cell that is no such number is an error."""
    text = _text(table[column])
    text = text.mask(text.isin(["nan", "NaN", "<NA>"]), "")
    values = pd.to_numeric(text, errors="coerce").astype(float)
    wrong = ((text != "") & values.isna()) | np.isinf(values) | (values < 0)
    if whole:
        wrong |= values.notna() & ((values % 1 != 0) | (values >= _MAX_WHOLE))
    if wrong.any():
        kind = f"a whole number from 0, below {_MAX_WHOLE}" if whole else "a number from 0"
        raise ClipTableError(f"{where}: {column} must be {kind}; {_rows(table, wrong, column)}")
    return values


def _check_ids(table: pd.DataFrame, where: str) -> None:
    empty = table["clip_id"] == ""
    if empty.any():
        raise ClipTableError(f"{where}: clip_id is empty in {_rows(table, empty)}")
    odd = table["clip_id"].str.contains(r"[\x00-\x1f\ud800-\udfff]", regex=True).astype(bool)
    if odd.any():
        raise ClipTableError(
            f"{where}: clip_id holds a control character, or what is not UTF-8, in {_rows(table, odd)}"
        )
    doubled = table["clip_id"].duplicated(keep=False)
    if doubled.any():
        raise ClipTableError(f"{where}: clip_id must be unique; {_rows(table, doubled, 'clip_id')}")


def _check_paths(table: pd.DataFrame, where: str) -> None:
    for column in ("video", *_MORE_FILES):
        wrong = table[column].str.contains(_NO_PATH, regex=True).astype(bool)
        if wrong.any():
            rows = _rows(table, wrong, column)
            raise ClipTableError(f"{where}: {column} holds a NUL, or what is not UTF-8; rename the file; {rows}")


def _check_rates(table: pd.DataFrame, where: str) -> None:
    no_rate = table["skeleton_fps"] == 0
    if no_rate.any():
        raise ClipTableError(
            f"{where}: skeleton_fps must be above 0, or empty to take the times of the video; {_rows(table, no_rate)}"
        )


def _check_intervals(table: pd.DataFrame, where: str) -> None:
    both = table["start_s"].notna() | table["end_s"].notna()
    both &= table["start_frame"].notna() | table["end_frame"].notna()
    if both.any():
        raise ClipTableError(f"{where}: give an interval in seconds or in frames, not both; {_rows(table, both)}")
    for start, end in (_SECOND_COLUMNS, _FRAME_COLUMNS):
        half = table[start].isna() != table[end].isna()
        if half.any():
            raise ClipTableError(
                f"{where}: {start} and {end} must both be given or both be empty; {_rows(table, half)}"
            )
        reversed_ = (table[start] >= table[end]).fillna(False).astype(bool)
        if reversed_.any():
            rows = _rows(table, reversed_, start, end)
            raise ClipTableError(f"{where}: {start} must come before {end} (half-open); {rows}")


def _respell(table: pd.DataFrame, column: str, spellings: dict[str, str], where: str) -> pd.Series:
    """Map every spelling of a closed set of words to the one that the project uses."""
    plain = _map_each(table[column], lambda word: re.sub(r"^(\d+)\.0+$", r"\1", word.lower()))
    wrong = (plain != "") & ~plain.isin(list(spellings))
    if wrong.any():
        known = ", ".join(dict.fromkeys(spellings.values()))
        raise ClipTableError(f"{where}: unknown {column}; known: {known}; {_rows(table, wrong, column)}")
    return _map_each(plain, lambda word: spellings.get(word, ""))


def _gestures(table: pd.DataFrame, where: str) -> pd.Series:
    """Gesture labels as written, whole numbers without a decimal point; ids and names never mix."""
    labels = _map_each(table["gesture"], lambda label: re.sub(r"^(-?\d+)\.0+$", r"\1", label))
    given = labels != ""
    is_id = given & _map_each(labels, lambda label: bool(re.fullmatch(r"-?\d+", label)))
    if not is_id.any():
        return labels
    names = given & ~is_id
    if names.any():
        raise ClipTableError(f"{where}: gesture mixes class ids and names; names: {_rows(table, names, 'gesture')}")
    known = _map_each(labels, lambda label: bool(re.fullmatch(r"\d+", label)) and int(label) < NUM_GESTURE_IDS)
    wrong = is_id & ~known
    if wrong.any():
        raise ClipTableError(
            f"{where}: unknown gesture; class ids are 0..{NUM_GESTURE_IDS - 1} "
            f"(or use names); {_rows(table, wrong, 'gesture')}"
        )
    return _map_each(labels, lambda label: str(int(label)) if label else "")


def _rows(table: pd.DataFrame, at_fault: pd.Series, *columns: str, most: int = 5) -> str:
    """Name the rows at fault: `row 4 (split 'trian'), row 9 (...) and 3 more`."""
    rows = np.flatnonzero(at_fault.to_numpy(bool))
    named = []
    for row in rows[:most]:
        cells = ", ".join(f"{column} {_cell(table[column].iloc[row])}" for column in columns)
        named.append(f"row {row + _FIRST_ROW}" + (f" ({cells})" if cells else ""))
    more = f" and {len(rows) - most} more" if len(rows) > most else ""
    return ", ".join(named) + more


def _cell(value: object) -> str:
    return repr(str(value)) if isinstance(value, str) else f"{value}"
