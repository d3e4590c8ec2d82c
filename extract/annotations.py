"""Rows of annotation files, read strictly: what cannot be read is named with file and line, never guessed or lost.

The files have come through many programs: with and without a header, a byte order mark, blank rows, quotes, and with
commas, semicolons, tabs, bars or blanks between the cells.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mgcli.extract.dataset import DatasetError

LONGEST_VIDEO_S = 3600.0  # iMiGUE's longest has 26 minutes, SMG's 15 (facts: imigue 1, smg): a frame later is a mistake
BROKEN_SHARE = 0.5  # a file with more broken rows than this is of another kind: its good rows are chance

Dropped = list[tuple[str, str]]  # clip, or file and line of a row, that is left out; and why

_SEPARATORS = ",;\t|"
_LINE_BREAK = re.compile(r"\r\n|\r|\n")
_WHOLE = re.compile(r"-?[0-9]+(\.0+)?")
_DECIMAL = re.compile(r"[0-9]+(\.[0-9]*)?")
_T = TypeVar("_T")


class RowError(DatasetError):
    """A row, or a cell of it, that does not make sense; the message says only why."""


class FileError(DatasetError):
    """An annotation file that cannot be used at all; the message names it and, where there is one, the line."""


@dataclass(frozen=True)
class Row:
    """One row of an annotation file that is not blank."""

    number: int  # among them, from 0, without a header
    line: int  # of the file, as an editor counts
    cells: dict[str, str]  # column -> text without blanks around it; empty where `fault` is not
    fault: str = ""  # why the row cannot be read


@dataclass(frozen=True)
class AnnotationFile:
    """What an annotation file holds."""

    path: Path
    rows: list[Row]
    is_finished: bool  # it ends with a line break, as programs write it; one that was cut short rarely does

    def at(self, row: Row) -> str:
        """The place of a row, for messages."""
        return f"{self.path}, line {row.line}"


def read_annotations(
    path: Path, columns: Mapping[str, tuple[str, ...]], *, also: tuple[str, ...] = (), needs_header: bool = False
) -> AnnotationFile:
    """The rows of a file.

    Args:
        path: of the file.
        columns: those that it must have -> the names by which a header may call them, in any letter case; in the
            order of the cells where there is no header.
        also: columns that are taken where a header has them.
        needs_header: a file without a header is a fault.

    Raises:
        FileError: it cannot be opened, is no text, or lacks columns.
    """
    text = _read_text(path)
    lines = [(number, line) for number, line in enumerate(_LINE_BREAK.split(text), start=1) if line.strip()]
    if not lines:
        raise FileError(f"{path}: holds no rows")
    first_line, first = lines[0]
    separator = max(_SEPARATORS, key=first.count)
    separator = separator if separator in first else " "
    order, width = dict(enumerate(columns)), len(columns)
    if needs_header or not any(char in "0123456789" for char in first):
        place = f"{path}, line {first_line}"
        try:
            names = [cell.lower() for cell in _cells(first, separator)]
        except csv.Error as error:
            raise FileError(f"{place}: not a row of cells ({error})") from None
        order, width = _named_columns(names, columns, also, place), len(names)
        lines = lines[1:]
    rows = [_row(number, line, text, separator, order, width) for number, (line, text) in enumerate(lines)]
    if not rows:
        raise FileError(f"{path}, line {first_line}: holds a header and no rows")
    return AnnotationFile(path, rows, is_finished=text.endswith(("\n", "\r")))


def parse_rows(file: AnnotationFile, parse: Callable[[Row], _T]) -> tuple[list[_T], Dropped]:
    """What `parse` makes of each row, and the rows of which it makes nothing.

    Args:
        file: whose rows.
        parse: raises RowError for a row that does not make sense.

    Raises:
        FileError: most rows do not: the file is not what it seems to be.
    """
    parsed: list[_T] = []
    dropped: Dropped = []
    for row in file.rows:
        try:
            if row.fault:
                raise RowError(row.fault)
            parsed.append(parse(row))
        except RowError as error:
            dropped.append((file.at(row), str(error)))
    if len(dropped) > BROKEN_SHARE * len(file.rows):
        place, reason = dropped[0]
        raise FileError(f"{place}: {reason} ({len(dropped)} of {len(file.rows)} rows cannot be read)")
    return parsed, dropped


def whole_number(row: Row, column: str) -> int:
    """A cell as a whole number.

    Raises:
        RowError: it is none.
    """
    text = row.cells[column]
    if not _WHOLE.fullmatch(text):
        raise RowError(f"{column} {text!r} is not a whole number")
    return int(text.partition(".")[0])


def decimal_number(row: Row, column: str) -> float:
    """A cell as a number from 0, written plainly.

    Raises:
        RowError: it is none.
    """
    text = row.cells[column]
    if not _DECIMAL.fullmatch(text):
        raise RowError(f"{column} {text!r} is not a number from 0")
    return float(text)


def frame_interval(row: Row, frames_per_s: float) -> tuple[int, int]:
    """The half-open interval [start, end) of a row whose `end_frame` is the last frame of the clip.

    Raises:
        RowError: negative, reversed, or later than any video lasts.
    """
    start, last = whole_number(row, "start_frame"), whole_number(row, "end_frame")
    if start < 0:
        raise RowError(f"start_frame {start} lies before the video")
    if last < start:
        raise RowError(f"end_frame {last} comes before start_frame {start}")
    if last >= LONGEST_VIDEO_S * frames_per_s:
        raise RowError(f"end_frame {last} lies {last / frames_per_s / 3600:.3g} hours into the video")
    return start, last + 1


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from error
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise FileError(f"{path}, line {line}: no text in {error.encoding.upper()} ({error.reason})") from None


def _named_columns(
    names: list[str], columns: Mapping[str, tuple[str, ...]], also: tuple[str, ...], place: str
) -> dict[int, str]:
    """Position -> column, by the names of a header."""
    order: dict[int, str] = {}
    for column, spellings in [*columns.items(), *((name, (name,)) for name in also)]:
        found = [position for position, name in enumerate(names) if name in spellings]
        if len(found) > 1:
            raise FileError(f"{place}: two columns are called {column!r}")
        if not found and column in columns:
            raise FileError(f"{place}: no column {column!r}; expected {', '.join(columns)}; found {', '.join(names)}")
        order |= dict.fromkeys(found, column)
    return order


def _row(number: int, line: int, text: str, separator: str, order: dict[int, str], width: int) -> Row:
    try:
        cells = _cells(text, separator)
    except csv.Error as error:
        return Row(number, line, {}, f"not a row of cells ({error})")
    if len(cells) > width and not any(cells[width:]):
        cells = cells[:width]
    if len(cells) != width:
        return Row(number, line, {}, f"{len(cells)} cells where {width} are expected")
    return Row(number, line, {column: cells[position] for position, column in order.items()})


def _cells(text: str, separator: str) -> list[str]:
    """One line taken apart by itself, so that an open quote swallows no other line."""
    if separator == " ":
        return text.split()
    return [cell.strip() for cell in next(csv.reader([text], delimiter=separator, strict=True))]
