"""The numbers of the first sheet of an .xlsx file, without a spreadsheet library.

A sheet of 137 points over 26 minutes is half a gigabyte of XML, so whole rows of plain numbers are taken apart with
numpy, some megabytes at a time; rows with anything else in them (text, formulas, cells without an address) go through
an XML parser, and give the same.
"""

# Shapes: R rows, C columns, n cells with a number.

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from mgcli.extract.skeleton_layouts import SkeletonError

_DEFAULT_SHEET = "xl/worksheets/sheet1.xml"
_RELATION = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
_OPENING = re.compile(rb"<((?:[\w.-]+:)?)sheetData[^>]*?(/?)>")
_ROW_NUMBER = re.compile(rb'<row\b[^>]*?\sr="(\d{1,9})"')
_ADDRESS = re.compile(r"\s*([A-Z]{1,3})([1-9]\d{0,8})\s*")
_MAX_ROWS = 1 << 20  # of a sheet, in any spreadsheet program
_MAX_COLUMNS = 1 << 10  # 411 are wanted
_MAX_NUMBERS = 1 << 28  # 411 columns of seven hours at 25 frames/s; a file that claims more is damaged
_MAX_DOCUMENT_BYTES = 64 << 20  # of a book's other files: a sheet of numbers hardly has texts
_READ_BYTES = 4 << 20
_MAX_ROW_BYTES = 16 << 20
_CELL_START = int.from_bytes(b'<c r="', "little")
_LOW_6_BYTES = (1 << 48) - 1

_Cells = tuple[np.ndarray, np.ndarray, np.ndarray]  # (n,) row from 0, column from 0, number


def read_sheet(path: Path) -> np.ndarray:
    """(R, C) float32, row i of the sheet in row i; NaN where a cell is empty or holds an error value.

    Raises:
        SkeletonError: no .xlsx file, damaged, without a sheet, or with text that is no number in some cell.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            strings = _shared_strings(archive)
            with archive.open(_first_sheet(archive)) as sheet:
                parts = [_narrow(cells) for cells in _read_cells(sheet, strings, path) if len(cells[0])]
    except (
        *(OSError, EOFError, ValueError, KeyError, RuntimeError, NotImplementedError),
        *(zipfile.BadZipFile, zlib.error, ElementTree.ParseError),
    ) as error:
        raise SkeletonError(f"{path}: not an .xlsx sheet of numbers, or cut short ({error})") from error
    if not parts:
        raise SkeletonError(f"{path}: its first sheet holds no numbers")
    shape = (max(int(rows.max()) for rows, _, _ in parts) + 1, max(int(columns.max()) for _, columns, _ in parts) + 1)
    if shape[0] * shape[1] > _MAX_NUMBERS:
        raise SkeletonError(f"{path}: a cell far out makes a sheet of {shape[0]} x {shape[1]}")
    values = np.full(shape, np.nan, dtype=np.float32)
    for rows, columns, numbers in parts:
        values[rows, columns] = numbers
    return values


def _narrow(cells: _Cells) -> _Cells:
    """The same in less memory: a long sheet has ten million cells."""
    rows, columns, numbers = cells
    with np.errstate(over="ignore"):
        return rows.astype(np.int32), columns.astype(np.int16), numbers.astype(np.float32)


def _first_sheet(archive: zipfile.ZipFile) -> str:
    """The file of the sheet that a spreadsheet program shows first."""
    book, relations = _document(archive, "xl/workbook.xml"), _document(archive, "xl/_rels/workbook.xml.rels")
    if book is None or relations is None:
        return _DEFAULT_SHEET
    wanted = next((sheet.get(_RELATION) for sheet in book.iterfind(".//{*}sheet")), None)
    target = {each.get("Id"): each.get("Target") for each in relations}.get(wanted)
    if not target:
        return _DEFAULT_SHEET
    return target.removeprefix("/") if target.startswith("/") else f"xl/{target}"


def _shared_strings(archive: zipfile.ZipFile) -> list[str]:
    """The texts that cells refer to by number."""
    content = _document(archive, "xl/sharedStrings.xml")
    if content is None:
        return []
    return ["".join(text.text or "" for text in item.iterfind(".//{*}t")) for item in content.iterfind("{*}si")]


def _document(archive: zipfile.ZipFile, name: str) -> ElementTree.Element | None:
    """A file of the archive beside its sheets; None where it has none of that name."""
    try:
        size = archive.getinfo(name).file_size
    except KeyError:
        return None
    if size > _MAX_DOCUMENT_BYTES:
        raise ValueError(f"{size:,} bytes of {name}")
    return ElementTree.fromstring(archive.read(name))


def _read_cells(sheet: IO[bytes], strings: list[str], path: Path) -> Iterator[_Cells]:
    """The cells of a sheet, some rows at a time; a row given twice is an error."""
    opening, blocks = _row_blocks(sheet)
    seen = np.zeros(0, dtype=bool)  # rows that came
    before = -1  # the last row of the block before
    for block in blocks:
        taken = _plain_cells(block) if not opening.prefix else None
        row_numbers, cells = taken or _any_cells(block, opening, strings, before, path)
        if len(row_numbers):
            seen = np.pad(seen, (0, max(0, int(row_numbers.max()) + 1 - len(seen))))
            times = np.bincount(row_numbers, minlength=1)
            again = row_numbers[seen[row_numbers] | (times[row_numbers] > 1)]
            if len(again):
                raise SkeletonError(f"{path}, row {again[0] + 1}: the sheet has this row twice")
            seen[row_numbers] = True
            before = int(row_numbers[-1])
        if len(cells[1]) and cells[1].max() >= _MAX_COLUMNS:
            place = int(cells[1].argmax())
            raise SkeletonError(f"{path}, row {cells[0][place] + 1}: a cell far out, in column {cells[1][place] + 1}")
        yield cells


class _Opening:
    """What stands before the rows: enough to make an XML document of some of them."""

    def __init__(self, head: bytes, prefix: bytes) -> None:
        self.prefix = prefix  # of every tag, such as b"x:"; mostly empty
        root = re.search(rb"<(?:[\w.-]+:)?worksheet\b[^>]*>", head)
        if root is None:
            raise ValueError("no worksheet in it")
        self._before = root[0] + b"<%ssheetData>" % prefix
        self._after = b"</%ssheetData></%sworksheet>" % (prefix, prefix)

    def document(self, rows: bytes) -> bytes:
        return self._before + rows + self._after


def _row_blocks(sheet: IO[bytes]) -> tuple[_Opening, Iterator[bytes]]:
    """The opening of a sheet, and its rows, whole ones, some megabytes at a time."""
    head = b""
    while (found := _OPENING.search(head)) is None:
        more = sheet.read(_READ_BYTES)
        if not more or len(head) > _MAX_ROW_BYTES:
            raise ValueError("no sheet data in it")
        head += more
    prefix, is_empty = found[1], bool(found[2])
    row_end, data_end = b"</%srow>" % prefix, b"</%ssheetData>" % prefix

    def blocks() -> Iterator[bytes]:
        rest = head[found.end() :]
        if is_empty:
            return
        while True:
            end = rest.find(data_end)
            if end >= 0:
                yield rest[:end]
                break
            cut = rest.rfind(row_end) + len(row_end)
            if cut >= len(row_end):
                yield rest[:cut]
                rest = rest[cut:]
            if len(rest) > _MAX_ROW_BYTES:
                raise ValueError(f"a row of more than {_MAX_ROW_BYTES >> 20} MB")
            more = sheet.read(_READ_BYTES)
            if not more:
                raise ValueError("its sheet ends within the rows")
            rest += more
        while sheet.read(_READ_BYTES):  # to the end, where the archive checks its checksum
            pass

    return _Opening(head, prefix), blocks()


def _plain_cells(block: bytes) -> tuple[np.ndarray, _Cells] | None:
    """Row numbers and cells of rows that hold nothing but addressed numbers; None where there is anything else."""
    if b"'" in block or (b" t" in block and block.count(b" t=") != block.count(b' t="n"')):
        return None
    text = np.frombuffer(block + bytes(16), dtype=np.uint8)
    opens, closes = np.flatnonzero(text == ord("<")), np.flatnonzero(text == ord(">"))
    if len(opens) != len(closes) or not len(opens):
        return None
    if not ((opens < closes).all() and (closes[:-1] < opens[1:]).all()):
        return None
    first, second = text[opens + 1], text[opens + 2]
    is_row = (first == ord("r")) & (second == ord("o"))
    is_value = (first == ord("v")) & (second == ord(">"))
    is_cell = (first == ord("c")) & ((second == ord(" ")) | (second == ord(">")))
    value = np.flatnonzero(is_value)
    if not (is_row | is_value | is_cell | (first == ord("/"))).all():
        return None
    named = [_ROW_NUMBER.match(block, place) for place in opens[is_row].tolist()]
    row_numbers = np.array([int(name[1]) - 1 if name else -1 for name in named], dtype=np.int64)
    if ((row_numbers < 0) | (row_numbers >= _MAX_ROWS)).any():
        return None
    if not len(value):
        return row_numbers, (value, value, np.zeros(0))
    if value[0] == 0 or not is_cell[value - 1].all() or not is_row[0]:
        return None
    place = opens[value - 1]  # (n,) of each `<c r="AB12"`
    eight = np.ndarray(len(text) - 7, dtype="<u8", buffer=text, strides=(1,))  # the 8 bytes from each place on
    word = eight[place]
    if ((word & _LOW_6_BYTES) != _CELL_START).any():
        return None
    letters = [(word >> np.uint64(48)) & np.uint64(255), word >> np.uint64(56), text[place + 8], text[place + 9]]
    a, b, c, d = (letter.astype(np.int64) - (ord("A") - 1) for letter in letters)  # A is 1, a digit below
    if ((a < 1) | (a > 26) | ((b > 0) & (c > 0) & (d > 0))).any():
        return None
    columns = np.where(b > 0, np.where(c > 0, (a * 26 + b) * 26 + c, a * 26 + b), a) - 1
    row = np.cumsum(is_row)[value] - 1  # (n,) which of the block's rows
    if not _addresses_agree(eight, place + 7 + (b > 0) + ((b > 0) & (c > 0)), row, row_numbers):
        return None
    if (np.diff(row * (26**3 + 26**2 + 26) + columns) <= 0).any():  # cells out of order, or one twice
        return None
    numbers = _numbers_between(text, closes[value] + 1, opens[value + 1])
    return None if numbers is None else (row_numbers, (row_numbers[row], columns, numbers))


def _addresses_agree(eight: np.ndarray, digits: np.ndarray, row: np.ndarray, row_numbers: np.ndarray) -> bool:
    """Whether every cell's address names the row that it is in, compared as text up to its closing quote."""
    ends = [b'%d"' % (number + 1) for number in row_numbers.tolist()]  # up to 8 bytes
    wanted = np.array([int.from_bytes(end, "little") for end in ends], dtype=np.uint64)
    mask = np.array([(1 << 8 * len(end)) - 1 for end in ends], dtype=np.uint64)
    return bool(((eight[digits] & mask[row]) == wanted[row]).all())


def _numbers_between(text: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray | None:
    """(n,) the numbers in [start, end) of each cell; None where one is empty or no number."""
    if (start >= end).any():
        return None
    edges = np.zeros(2 * len(start) + 2, dtype=np.int64)  # of what is left out and what is kept, by turns
    edges[1:-1:2], edges[2:-1:2], edges[-1] = start, end + 1, len(text)  # with the `<` behind each as its line end
    is_kept = np.arange(2 * len(start) + 1) % 2 == 1
    kept = text[np.repeat(is_kept, np.diff(edges))]
    kept[kept == ord("<")] = ord("\n")
    try:
        table = pd.read_csv(io.BytesIO(kept), header=None, dtype=np.float64, low_memory=False, keep_default_na=False)
    except ValueError:
        return None
    numbers = table.to_numpy()  # (n, 1)
    return numbers[:, 0] if numbers.shape == (len(start), 1) else None


def _any_cells(
    block: bytes, opening: _Opening, strings: list[str], before: int, path: Path
) -> tuple[np.ndarray, _Cells]:
    """Row numbers and cells of any rows: what has no address follows the one before it."""
    row_numbers: list[int] = []
    rows: list[int] = []
    columns: list[int] = []
    numbers: list[float] = []
    for row in ElementTree.fromstring(opening.document(block)).iterfind("{*}sheetData/{*}row"):
        before = int(row.get("r", before + 2)) - 1
        if not 0 <= before < _MAX_ROWS:
            raise SkeletonError(f"{path}, row {before + 1}: a sheet has rows 1 to {_MAX_ROWS}")
        row_numbers.append(before)
        column = -1
        taken = set()
        for cell in row.iterfind("{*}c"):
            address = cell.get("r")
            place = _ADDRESS.fullmatch(address) if address is not None else None
            if address is not None and (place is None or int(place[2]) - 1 != before):
                raise SkeletonError(f"{path}, row {before + 1}: a cell with the address {address[:20]!r}")
            column = column + 1 if place is None else _column(place[1])
            if column in taken:
                raise SkeletonError(f"{path}, row {before + 1}: column {column + 1} twice")
            taken.add(column)
            number = _number(cell, strings, f"{path}, row {before + 1}, column {column + 1}")
            if number is not None:
                rows.append(before)
                columns.append(column)
                numbers.append(number)
    as_int = np.int64
    return np.array(row_numbers, as_int), (np.array(rows, as_int), np.array(columns, as_int), np.array(numbers))


def _number(cell: ElementTree.Element, strings: list[str], where: str) -> float | None:
    """What a cell holds, also where it is a number written as text; None for an empty one."""
    kind = cell.get("t", "n")
    text = cell.findtext("{*}v")
    if kind == "inlineStr":
        text = "".join(each.text or "" for each in cell.iterfind(".//{*}t"))
    if text is None or not text.strip():
        return None
    if kind == "s":
        if not text.strip().isdecimal() or int(text) >= len(strings):
            raise SkeletonError(f"{where}: text number {text[:20]!r} of {len(strings)}")
        text = strings[int(text)]
        if not text.strip():
            return None
    if kind == "e":  # what spreadsheet writers make of NaN and infinity
        return np.nan
    if kind == "b":
        raise SkeletonError(f"{where}: no number but true or false")
    try:
        return float(text)
    except ValueError:
        raise SkeletonError(f"{where}: no number: {text[:40]!r}") from None


def _column(letters: str) -> int:
    """A -> 0, Z -> 25, AA -> 26."""
    place = 0
    for letter in letters:
        place = 26 * place + ord(letter) - ord("A") + 1
    return place - 1
