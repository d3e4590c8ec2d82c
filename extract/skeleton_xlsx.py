"""The numbers of the first sheet of an .xlsx file, without a spreadsheet library."""

# Shapes: R rows, C columns.

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from mgcli.extract.skeleton_layouts import SkeletonError

_SHEET = "xl/worksheets/sheet1.xml"
_CELL = re.compile(r"([A-Z]{1,3})([1-9]\d*)")
_MAX_NUMBERS = 1 << 28  # 411 columns of seven hours at 25 frames/s; a file that claims more is damaged


def read_sheet(path: Path) -> np.ndarray:
    """(R, C) float64; NaN where a cell is empty or holds text.

    Raises:
        SkeletonError: no .xlsx file, damaged, or without a sheet.
    """
    rows: list[int] = []
    columns: list[int] = []
    numbers: list[float] = []
    try:
        with zipfile.ZipFile(path) as archive, archive.open(_SHEET) as sheet:
            for _, cell in ElementTree.iterparse(sheet):
                tag = cell.tag.rpartition("}")[2]
                if tag == "row":
                    cell.clear()
                if tag != "c" or cell.get("t", "n") != "n":
                    continue
                number = cell.findtext("{*}v")
                place = _CELL.fullmatch(cell.get("r", ""))
                if number is None or place is None:
                    continue
                columns.append(_column(place[1]))
                rows.append(int(place[2]) - 1)
                numbers.append(float(number))
    except FileNotFoundError:
        raise SkeletonError(f"{path}: no such file") from None
    except (OSError, zipfile.BadZipFile, KeyError, ElementTree.ParseError, ValueError) as error:
        raise SkeletonError(f"{path}: not an .xlsx sheet of numbers, or cut short ({error})") from error
    if not numbers:
        raise SkeletonError(f"{path}: its first sheet holds no numbers")
    shape = (max(rows) + 1, max(columns) + 1)
    if shape[0] * shape[1] > _MAX_NUMBERS:
        raise SkeletonError(f"{path}: a cell far out makes a sheet of {shape[0]} x {shape[1]}")
    values = np.full(shape, np.nan)
    values[rows, columns] = numbers
    return values


def _column(letters: str) -> int:
    """A -> 0, Z -> 25, AA -> 26."""
    place = 0
    for letter in letters:
        place = 26 * place + ord(letter) - ord("A") + 1
    return place - 1
