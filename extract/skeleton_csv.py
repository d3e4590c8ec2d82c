"""Tables of joints as text: iMiGUE's `*_light_hand.csv` and `*_light.csv`, SMG's `*_skeleton.csv`.

| data set | columns                                  | header | rows                                              |
|----------|------------------------------------------|--------|---------------------------------------------------|
| iMiGUE   | frame index, then 25 or 35 points x 3    | yes    | the index says which frame; any order, gaps are   |
|          |                                          |        | frames without a person                           |
| SMG      | 25 joints x 11                           | no     | row i is frame i                                  |

Read as well: separators `;` and tab, decimal commas, quotes, a byte order mark, any line ends, blank lines where an
index says which row is which, a missing iMiGUE header, and columns in another order whose header numbers say so. An
empty cell, `nan` and `inf` are a missing point. All else that is not as above is an error with its line. A last line
without a line end is taken as whole when it has all its columns, as RFC 4180 has it.
"""

# Shapes: R rows, C columns, T frames, V joints.

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mgcli.extract.skeleton_layouts import LAYOUTS, JointLayout, SkeletonError

POINT_NUMBERS = 3  # of an iMiGUE point: x, y, confidence
SMG_NUMBERS = 11  # of a joint: x, y, z in metres, 4 of orientation, 4 of pixel places
MAX_FRAMES = 1 << 20  # eleven hours at 25 frames/s; a frame index beyond is a mistake
MAX_SMG_M = 100.0  # no Kinect sees farther; pixel places and metres have changed columns
_MAX_BYTES = 1 << 31
_BLOCK_ROWS = 4096  # parsed at once, which bounds the memory beside the file's own
_SEPARATORS = "\t;,"  # the first that a file has: next to `;` a comma may be a decimal one
_NUMBER = re.compile(r"\s*(?:[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?inf(?:inity)?|[+-]?nan|)\s*", re.I)
_NOT_A_NUMBER = ["", "nan", "NaN", "NAN", "Nan", "-nan", "+nan"]
_INDEX_NAMES = {"", "unnamed: 0", "index", "frame", "frame_id", "frame_index"}


@dataclass(frozen=True, eq=False)
class _Table:
    """The lines of a file, and how its columns lie."""

    path: Path
    text: bytes  # UTF-8 without byte order mark and quotes, every line ended by \n
    start: np.ndarray  # (R,) int64, where each row starts
    end: np.ndarray  # (R,) int64, its \n
    line: np.ndarray  # (R,) int64, its number in the file, from 1
    separator: str
    decimal: str
    columns: list[int]  # columns of the points' numbers, in the layout's order
    index_column: int | None
    layout: JointLayout

    def fault(self, row: int, what: str) -> SkeletonError:
        return SkeletonError(f"{self.path}, line {self.line[row]}: {what}")


def read_csv_points(path: Path) -> tuple[np.ndarray, JointLayout]:
    """The points of every frame.

    Returns:
        (T, V, 3) float32, NaN where a number is missing, zeros for frames without a row; and the layout.

    Raises:
        SkeletonError: not such a table; the message names the line.
    """
    table = _open_table(path)
    if not len(table.start):
        raise SkeletonError(f"{path}: holds no frames, only a header")
    numbers = [_read_rows(table, first) for first in range(0, len(table.start), _BLOCK_ROWS)]
    index = np.concatenate([block[0] for block in numbers])  # (R,) NaN for rows without an index
    points = np.concatenate([block[1] for block in numbers])  # (R, V, 3)
    rows = np.arange(len(points))
    if table.index_column is not None:
        rows = np.flatnonzero(~(np.isnan(index) & np.isnan(points).all(axis=(1, 2))))  # without rows of empty cells
        _check_index(table, index, rows)
    _check_points(table, points)
    if table.index_column is None:
        return points, table.layout
    frames = index[rows].astype(np.int64)
    joints = np.zeros((int(frames.max()) + 1 if len(frames) else 0, *points.shape[1:]), dtype=np.float32)
    joints[frames] = points[rows]
    return joints, table.layout


def mixed_confidence(points: np.ndarray) -> tuple[int, int] | None:
    """Row and point of a confidence that is none, because others of the same (R, V, 3) points are within 0..1.

    Where columns have changed places, x and y in pixels lie where confidences should; where all confidences are
    larger, they are of another scale. OpenPose's own may go a little beyond 1.
    """
    confidence = np.where(np.isfinite(points[..., 2]), points[..., 2], 0)  # (R, V)
    largest = confidence.max(axis=0, initial=0)  # (V,)
    is_small = largest <= 2.0
    if not (is_small & (largest > 0)).any() or is_small.all():
        return None
    row, point = np.argwhere(confidence > 2.0)[0]
    return int(row), int(point)


def _open_table(path: Path) -> _Table:
    text = _plain_text(path)
    whole = np.frombuffer(text, dtype=np.uint8)
    end = np.flatnonzero(whole == ord("\n"))
    start = np.concatenate([[0], end[:-1] + 1])
    line = np.arange(1, len(end) + 1)
    filled = np.array([end[i] - start[i] > 8 or bool(text[start[i] : end[i]].strip(b" ")) for i in range(len(end))])
    if not filled.any():
        raise SkeletonError(f"{path}: not a table of numbers: it is empty")
    blank_before_last = np.flatnonzero(~filled[: np.flatnonzero(filled)[-1]])
    start, end, line = start[filled], end[filled], line[filled]
    first = text[start[0] : end[0]].decode("utf-8", errors="replace")
    separator = next((each for each in _SEPARATORS if each in first), ",")
    marks = np.flatnonzero(whole == ord(separator))
    counts = np.searchsorted(marks, end) - np.searchsorted(marks, start) + 1  # (R,) cells of each row
    cells = [cell.strip() for cell in first.split(separator)]
    has_header = _is_header(path, cells, int(line[0]))
    names = cells if has_header else []
    numbers, has_index = _known_width(path, len(cells), len(start) - has_header)
    layout = LAYOUTS[{75: "openpose25", 105: "imigue35"}.get(numbers, "ntu25")]
    index_column = _index_column(names) if has_index else None
    table = _Table(
        path=path,
        text=text,
        start=start[has_header:],
        end=end[has_header:],
        line=line[has_header:],
        separator=separator,
        decimal="," if separator != "," and b"," in text else ".",
        columns=_point_columns(names, len(cells), index_column),
        index_column=index_column,
        layout=layout,
    )
    odd = np.flatnonzero(counts[has_header:] != len(cells))
    if len(odd):
        guess = "; is the file cut short?" if odd[0] == len(table.start) - 1 else ""
        found = counts[has_header:][odd[0]]
        raise table.fault(odd[0], f"{found} columns where line {line[0]} has {len(cells)}{guess}")
    if index_column is None and len(blank_before_last):
        raise SkeletonError(
            f"{path}, line {blank_before_last[0] + 1}: blank; its rows are frames, so say what it stands for: "
            "separators alone for a frame without a person, or no line at all"
        )
    return table


def _plain_text(path: Path) -> bytes:
    """A file's bytes without byte order mark and quotes, every line ended by \\n."""
    if path.stat().st_size > _MAX_BYTES:
        raise SkeletonError(f"{path}: {path.stat().st_size:,} bytes are more than any skeleton table has")
    text = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    if b"\0" in text:
        line = text[: text.index(b"\0")].count(b"\n") + 1
        raise SkeletonError(f"{path}, line {line}: a zero byte: damaged, or UTF-16 text; save it as CSV in UTF-8")
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    text = text.replace(b'"', b"")
    return text if text.endswith(b"\n") else text + b"\n"


def _is_header(path: Path, cells: Sequence[str], line: int) -> bool:
    """Whether the first row names columns: in words, or by different whole numbers, as pandas writes them."""
    words = [cell for cell in cells[1:] if cell]
    numeric = [word for word in words if _NUMBER.fullmatch(word.replace(",", "."))]
    if numeric and len(numeric) < len(words):
        word = next(word for word in words if word not in numeric)
        raise SkeletonError(f"{path}, line {line}: neither a header nor all numbers: {word[:40]!r}")
    if not numeric:
        return bool(words)
    whole = {int(cell) for cell in cells if cell.isdecimal()}
    return len(whole) >= len(cells) - 1


def _known_width(path: Path, num_columns: int, num_rows: int) -> tuple[int, bool]:
    """How many numbers a row's points have, and whether a frame index comes with them."""
    smg = SMG_NUMBERS * LAYOUTS["ntu25"].num_joints
    widths = {1 + POINT_NUMBERS * LAYOUTS[name].num_joints: True for name in ("openpose25", "imigue35")} | {smg: False}
    if num_columns not in widths:
        raise SkeletonError(
            f"{path}: {num_rows} rows of {max(0, num_columns - 1)} numbers; imigue35 has rows of 35 x 3, openpose25 of "
            f"25 x 3, both behind a frame index; SMG has {smg} numbers and none ({num_columns} columns in line 1)"
        )
    has_index = widths[num_columns]
    return num_columns - has_index, has_index


def _index_column(names: Sequence[str]) -> int:
    """The column of the frame index: the one whose header names it, else the first."""
    called = [place for place, name in enumerate(names) if name.lower() in _INDEX_NAMES]
    return called[0] if len(called) == 1 else 0


def _point_columns(names: Sequence[str], num_columns: int, index_column: int | None) -> list[int]:
    """The columns of the points' numbers, in order; where the header numbers them without a gap, in its order."""
    columns = [place for place in range(num_columns) if place != index_column]
    named = [names[place] for place in columns] if names else []
    if named and all(name.isdecimal() for name in named):
        order = sorted(columns, key=lambda place: int(names[place]))
        first = int(names[order[0]])
        if [int(names[place]) for place in order] == list(range(first, first + len(order))):
            columns = order
    if index_column is None:  # SMG: only the first three of a joint's numbers are used
        return [place for i, place in enumerate(columns) if i % SMG_NUMBERS < POINT_NUMBERS]
    return columns


def _read_rows(table: _Table, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Frame index and points of up to `_BLOCK_ROWS` rows, (R,) float64 and (R, V, 3) float32."""
    last = min(first + _BLOCK_ROWS, len(table.start)) - 1
    used = table.columns if table.index_column is None else [table.index_column, *table.columns]
    try:
        values = pd.read_csv(
            io.BytesIO(table.text[table.start[first] : table.end[last] + 1]),
            header=None,
            index_col=False,
            usecols=used,
            sep=table.separator,
            decimal=table.decimal,
            dtype=np.float64,
            na_values=_NOT_A_NUMBER,
            keep_default_na=False,
            low_memory=False,
            quoting=csv.QUOTE_NONE,
            skip_blank_lines=True,
        )[used].to_numpy()  # (R, C), columns in the order that is used
    except (ValueError, pd.errors.ParserError) as error:
        raise _text_in(table, first, last, used) or SkeletonError(
            f"{table.path}, lines {table.line[first]} to {table.line[last]}: not a table of numbers ({error})"
        ) from error
    if len(values) != last + 1 - first:
        raise SkeletonError(f"{table.path}, lines {table.line[first]} to {table.line[last]}: not a table of numbers")
    index, values = (np.zeros(len(values)), values) if table.index_column is None else (values[:, 0], values[:, 1:])
    with np.errstate(over="ignore"):
        points = values.reshape(len(values), table.layout.num_joints, POINT_NUMBERS).astype(np.float32)
    return index, points


def _text_in(table: _Table, first: int, last: int, used: Sequence[int]) -> SkeletonError | None:
    """The first cell of these rows that holds no number, as an error."""
    for row in range(first, last + 1):
        cells = table.text[table.start[row] : table.end[row]].decode("utf-8", errors="replace").split(table.separator)
        for column in used:
            cell = cells[column].replace(table.decimal, ".")
            if not _NUMBER.fullmatch(cell) or (cell and not cell.strip()):
                return table.fault(row, f"no number in column {column + 1}: {cells[column][:40]!r}")
    return None


def _check_index(table: _Table, index: np.ndarray, rows: np.ndarray) -> None:
    """Frame indices are whole numbers from 0, each used once."""
    given = index[rows]
    wrong = ~((given >= 0) & (given < MAX_FRAMES) & (given == np.floor(given)))
    if wrong.any():
        row = rows[wrong.argmax()]
        said = "is empty" if np.isnan(index[row]) else f"is {index[row]:.15g}"
        raise table.fault(row, f"the frame index {said}; it must be a whole number from 0 to {MAX_FRAMES - 1}")
    order = np.argsort(given, kind="stable")
    again = np.flatnonzero(np.diff(given[order]) == 0)
    if len(again):
        row, before = rows[order[again[0] + 1]], rows[order[again[0]]]
        raise table.fault(row, f"frame {index[row]:.0f} again, first in line {table.line[before]}")


def _check_points(table: _Table, points: np.ndarray) -> None:
    """Numbers that cannot be where they stand: columns changed places, or a row is shifted."""
    if table.layout.is_3d:
        far = np.argwhere(np.isfinite(points) & (np.abs(points) > MAX_SMG_M))
        if len(far):
            row, joint, axis = far[0]
            found = f"{'xyz'[axis]} of joint {joint} is {points[row, joint, axis]:.6g} m"
            raise table.fault(row, f"{found}; are columns out of order?")
        return
    mixed = mixed_confidence(points)
    if mixed is not None:
        row, point = mixed
        confidence = points[row, point, 2]
        raise table.fault(
            row,
            f"the confidence of point {point} is {confidence:.6g}, others are within 0..1; are columns out of order?",
        )
