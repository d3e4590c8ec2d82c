"""Skeleton files with one thing wrong or unusual, drawn with a seed, and what reading them must give."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Rows = list[list[str]]
SPACE = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
FRAMES = 9


@dataclass(frozen=True)
class Mutated:
    """A file, and its joints as they must be read, or what the error must say."""

    content: bytes
    joints: np.ndarray | None = None  # (T, V, 3)
    error: str = ""  # regular expression


def true_joints(rng: np.random.Generator, num_joints: int, *, metres: bool = False) -> np.ndarray:
    """(T, V, 3): pixels and confidences, or metres."""
    if metres:
        return rng.integers(-3000, 3000, (FRAMES, num_joints, 3)) / 1000
    joints = rng.integers(3000, 900_000, (FRAMES, num_joints, 3)) / 1000
    joints[..., 2] = rng.integers(1, 1000, joints.shape[:2]) / 1000
    return joints


def table_rows(joints: np.ndarray, rng: np.random.Generator) -> Rows:
    """As the data set writes them: 25 joints in metres become SMG's rows, others iMiGUE's with header and index."""
    if is_smg(joints):
        rest = rng.integers(100, 1900, (*joints.shape[:2], 8))
        numbers = np.concatenate([joints, rest], axis=2)
        return [[f"{value:.3f}" for value in row] for row in numbers.reshape(len(numbers), -1)]
    numbers = joints.reshape(len(joints), -1)
    body = [[str(i), *(f"{value:.3f}" for value in row)] for i, row in enumerate(numbers)]
    return [["", *map(str, range(numbers.shape[1]))], *body]


def is_smg(joints: np.ndarray) -> bool:
    return bool(joints.min() < 0)


def text_of(rows: Rows, separator: str = ",", end: str = "\n") -> bytes:
    return "".join(separator.join(row) + end for row in rows).encode()


def _first(rows: Rows) -> int:
    """The first row with numbers."""
    return int(rows[0][0] == "")


def _some_row(rows: Rows, rng: np.random.Generator) -> int:
    return int(rng.integers(_first(rows), len(rows)))


def _some_cell(rows: Rows, joints: np.ndarray, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Row and column of a number that is used, and its frame and joint."""
    row, joint, channel = _some_row(rows, rng), int(rng.integers(joints.shape[1])), int(rng.integers(3))
    column = joint * (11 if is_smg(joints) else 3) + channel + _first(rows)
    return row, column, row - _first(rows), joint


def _cut(rows: Rows, joints: np.ndarray, rng: np.random.Generator) -> Mutated:
    text = text_of(rows)
    place = int(rng.integers(len(text)))
    lines = text[:place].decode().split("\n")
    whole = [line for line in lines if line.count(",") == len(rows[0]) - 1 and not line.endswith(",")]
    if len(whole) < sum(map(bool, lines)) or len(whole) <= _first(rows):
        return Mutated(
            text[:place], error=rf"line {len(lines)}: \d+ columns where .* cut short|rows of|holds no frames|empty"
        )
    expected = joints[: len(whole) - _first(rows)].copy()
    if lines[-1]:  # the last number may be shorter than it was
        last = float(lines[-1].split(",")[-1])
        if not is_smg(joints):
            expected[-1, -1] = [*expected[-1, -1, :2], last] if last > 0 else 0
    return Mutated(text[:place], expected)


def _separator(rows: Rows, joints: np.ndarray, rng: np.random.Generator) -> Mutated:
    return Mutated(text_of(rows, rng.choice([";", "\t"])), joints)


def _decimal_comma(rows: Rows, joints: np.ndarray, rng: np.random.Generator) -> Mutated:
    return Mutated(text_of(rows, "\0").replace(b".", b",").replace(b"\0", b";"), joints)


def _bytes_around(rows: Rows, joints: np.ndarray, rng: np.random.Generator) -> Mutated:
    """A byte order mark, other line ends, none at the end, quotes."""
    text = text_of(rows, end=rng.choice(["\r\n", "\r", "\n"]))
    if rng.random() < 0.5:
        text = b"\xef\xbb\xbf" + text
    if rng.random() < 0.5:
        text = re.sub(rb"\d+\.\d+", rb'"\g<0>"', text)
    return Mutated(text.rstrip() if rng.random() < 0.5 else text, joints)


def _blank_row(rows: Rows, joints: np.ndarray, rng: np.random.Generator) -> Mutated:
    place = int(rng.integers(0, len(rows)))
    mutated = [*rows[:place], [" " * int(rng.integers(3))], *rows[place:], [""], [""]]
    if is_smg(joints):
        return Mutated(text_of(mutated), error=f"line {place + 1}: blank")
    return Mutated(text_of(mutated), joints)


def _empty_cells_row(rows: Rows, joints: np.ndarray, rng: np.random.Generator) -> Mutated:
    """Of SMG a frame without a person; of iMiGUE a row that says nothing."""
    place = _some_row(rows, rng)
    mutated = [*rows[:place], [""] * len(rows[0]), *rows[place:]]
    return Mutated(text_of(mutated), np.insert(joints, place, 0, axis=0) if is_smg(joints) else joints)


def _text_cell(rows: Rows, joints: np.ndarray, rng: np.random.Generator) -> Mutated:
    row, column, _, _ = _some_cell(rows, joints, rng)
    rows[row][column] = str(rng.choice(["abc", "1.5.2", "--", "12 px", "1_0", "0x1f", "True", " ", "#REF!", "−1"]))
    if row == 0:  # the first of SMG's rows may be a header
        return Mutated(text_of(rows), error="line 1: n")
    return Mutated(text_of(rows), error=f"line {row + 1}: no number in column {column + 1}")


def _missing_number(rows: Rows, joints: np.ndarray, rng: np.random.Generator) -> Mutated:
    row, column, frame, joint = _some_cell(rows, joints, rng)
    rows[row][column] = str(rng.choice(["", "nan", "NaN", "inf", "-inf", "1e999"]))
    joints[frame, joint] = 0
    return Mutated(text_of(rows), joints)


def _cell_too_many(rows: Rows, joints: np.ndarray, rng: np.random.Generator) -> Mutated:
    row = int(rng.integers(1, len(rows)))
    place = int(rng.integers(len(rows[row])))
    if rng.random() < 0.5:
        rows[row].insert(place, "1.000")
    else:
        del rows[row][place]
    return Mutated(text_of(rows), error=rf"line {row + 1}: {len(rows[row])} columns")


def _column_too_many(rows: Rows, joints: np.ndarray, rng: np.random.Generator) -> Mutated:
    place, more = int(rng.integers(len(rows[0]))), rng.random() < 0.5
    for number, row in enumerate(rows):
        if more:
            row.insert(place, "9999" if number == 0 and _first(rows) else "1.000")
        else:
            del row[place]
    return Mutated(text_of(rows), error=r"rows of \d+ numbers; imigue35 has rows of 35 x 3")


def _shuffled_columns(rows: Rows, joints: np.ndarray, rng: np.random.Generator) -> Mutated:
    """A header with numbers says where each belongs; without one the values must tell that something is wrong."""
    order = rng.permutation(len(rows[0]))
    mutated = [[row[place] for place in order] for row in rows]
    if not is_smg(joints) and rng.random() < 0.5:
        return Mutated(text_of(mutated), joints)
    if not is_smg(joints):
        order = np.concatenate([[0], 1 + rng.permutation(len(rows[0]) - 1)])
        mutated = [[row[place] for place in order] for row in rows]
        mutated[0] = ["frame", *(f"p{i}" for i in range(len(rows[0]) - 1))]
    return Mutated(text_of(mutated), error=r"line \d+: .*are columns out of order")


def _index_wrong(rows: Rows, joints: np.ndarray, rng: np.random.Generator) -> Mutated:
    row = _some_row(rows, rng)
    rows[row][0] = str(rng.choice(["-1", "1000000000", "1e18", "2.5", "", "inf"]))
    return Mutated(text_of(rows), error=f"line {row + 1}: the frame index")


def _index_twice(rows: Rows, joints: np.ndarray, rng: np.random.Generator) -> Mutated:
    before, row = sorted(rng.choice(np.arange(1, len(rows)), 2, replace=False).tolist())
    rows[row][0] = rows[before][0]
    return Mutated(text_of(rows), error=f"line {row + 1}: frame {before - 1} again, first in line {before + 1}")


def _rows_moved(rows: Rows, joints: np.ndarray, rng: np.random.Generator) -> Mutated:
    """In another order, some left out: the index says which frames they are."""
    kept = rng.permutation(np.arange(1, len(rows)))[: rng.integers(1, len(rows))]
    expected = np.zeros_like(joints)
    expected[kept - 1] = joints[kept - 1]
    return Mutated(text_of([rows[0], *(rows[i] for i in kept)]), expected[: kept.max()])


def _header_other(rows: Rows, joints: np.ndarray, rng: np.random.Generator) -> Mutated:
    """SMG with a header; iMiGUE without one, or with names."""
    names = [f"c{i}" for i in range(len(rows[0]))]
    if is_smg(joints):
        return Mutated(text_of([names, *rows]), joints)
    return Mutated(text_of([names, *rows[1:]] if rng.random() < 0.5 else rows[1:]), joints)


def _zero_bytes(rows: Rows, joints: np.ndarray, rng: np.random.Generator) -> Mutated:
    text = bytearray(text_of(rows))
    place = int(rng.integers(len(text)))
    line = text[:place].count(b"\n") + 1
    text[place : place + 8] = bytes(len(text[place : place + 8]))
    return Mutated(bytes(text), error=f"line {line}: a zero byte")


def _index_as_decimals(rows: Rows, joints: np.ndarray, rng: np.random.Generator) -> Mutated:
    for row in rows[1:]:
        row[0] = f"{row[0]}.0"
    return Mutated(text_of(rows), joints)


Mutation = Callable[[Rows, np.ndarray, np.random.Generator], Mutated]
ANY_TABLE: tuple[Mutation, ...] = (
    *(_cut, _separator, _decimal_comma, _bytes_around, _blank_row, _empty_cells_row, _text_cell, _missing_number),
    *(_cell_too_many, _column_too_many, _shuffled_columns, _header_other, _zero_bytes),
)
WITH_INDEX: tuple[Mutation, ...] = (_index_wrong, _index_twice, _rows_moved, _index_as_decimals)


def column_letters(column: int) -> str:
    return (column_letters(column // 26 - 1) if column >= 26 else "") + chr(ord("A") + column % 26)


def sheet_rows(joints: np.ndarray) -> list[list[str]]:
    """The cells of each row of an `_openpose.xlsx`, as XML."""
    return [
        [f'<c r="{column_letters(c)}{r + 1}"><v>{value:.3f}</v></c>' for c, value in enumerate(row)]
        for r, row in enumerate(joints.reshape(len(joints), -1))
    ]


def sheet_file(rows: list[str], *, files: dict[str, str] | None = None, head: str = "", name: str = "sheet1") -> bytes:
    """An .xlsx file with these rows of XML and any other files."""
    content = f'<worksheet xmlns="{SPACE}">{head}<sheetData>{"".join(rows)}</sheetData></worksheet>'
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"xl/worksheets/{name}.xml", content)
        for path, text in (files or {}).items():
            archive.writestr(path, text)
    return written.getvalue()


def whole_rows(rows: list[list[str]]) -> list[str]:
    return [f'<row r="{i + 1}">{"".join(cells)}</row>' for i, cells in enumerate(rows)]


def _sheet_cell(joints: np.ndarray, rng: np.random.Generator) -> tuple[int, int, str]:
    row, column = int(rng.integers(len(joints))), int(rng.integers(411))
    return row, column, f"{column_letters(column)}{row + 1}"


def _sheet_number_as_text(joints: np.ndarray, rng: np.random.Generator) -> Mutated:
    rows, (row, column, address) = sheet_rows(joints), _sheet_cell(joints, rng)
    value = f"{joints.reshape(len(joints), -1)[row, column]:.3f}"
    kind = int(rng.integers(3))
    rows[row][column] = (
        f'<c r="{address}" t="inlineStr"><is><t>{value}</t></is></c>',
        f'<c r="{address}" t="str"><f>A1</f><v>{value}</v></c>',
        f'<c r="{address}" t="s"><v>1</v></c>',
    )[kind]
    shared = f'<sst xmlns="{SPACE}"><si><t>x</t></si><si><r><t>{value}</t></r></si></sst>'
    return Mutated(sheet_file(whole_rows(rows), files={"xl/sharedStrings.xml": shared}), joints)


def _sheet_no_number(joints: np.ndarray, rng: np.random.Generator) -> Mutated:
    rows, (row, column, address) = sheet_rows(joints), _sheet_cell(joints, rng)
    rows[row][column] = str(
        rng.choice(
            [
                f'<c r="{address}" t="inlineStr"><is><t>abc</t></is></c>',
                f'<c r="{address}" t="b"><v>1</v></c>',
                f'<c r="{address}" t="s"><v>7</v></c>',
                f'<c r="{address}"><v>12,5</v></c>',
            ]
        )
    )
    return Mutated(sheet_file(whole_rows(rows)), error=f"row {row + 1}, column {column + 1}: ")


def _sheet_gap(joints: np.ndarray, rng: np.random.Generator) -> Mutated:
    rows, (row, column, address) = sheet_rows(joints), _sheet_cell(joints, rng)
    rows[row][column] = str(
        rng.choice(["", f'<c r="{address}"/>', f'<c r="{address}"></c>', f'<c r="{address}" t="e"><v>#NUM!</v></c>'])
    )
    joints[row, column // 3] = 0
    return Mutated(sheet_file(whole_rows(rows)), joints)


def _sheet_other_writer(joints: np.ndarray, rng: np.random.Generator) -> Mutated:
    """Attributes left out or added, quotes, white space, prefixes, claims about the size."""
    text = "".join(whole_rows(sheet_rows(joints)))
    style = int(rng.integers(6))
    head = ""
    if style == 0:
        text = re.sub(r'<c r="[A-Z]+\d+"', "<c", text)
    elif style == 1:
        text = re.sub(r' r="[A-Z]*\d+"', "", text)
    elif style == 2:
        text = text.replace("<c ", '<c s="1" ').replace("<row ", '<row spans="1:411" ')
    elif style == 3:
        text = re.sub(r'(<c r="[^"]+")', r'\1 t="n"', text).replace("<row ", "\n <row ")
    elif style == 4:
        text = text.replace('"', "'")
    else:
        head = '<dimension ref="A1:XFD1048576"/>'
    return Mutated(sheet_file([text], head=head), joints)


def _sheet_prefix(joints: np.ndarray, rng: np.random.Generator) -> Mutated:
    inside = "".join(whole_rows(sheet_rows(joints)))
    content = f'<worksheet xmlns="{SPACE}"><sheetData>{inside}</sheetData></worksheet>'
    content = re.sub(r"<(/?)(\w)", r"<\1x:\2", content).replace("xmlns=", "xmlns:x=")
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr("xl/worksheets/sheet1.xml", content)
    return Mutated(written.getvalue(), joints)


def _sheet_rows_moved(joints: np.ndarray, rng: np.random.Generator) -> Mutated:
    rows = whole_rows(sheet_rows(joints))
    kept = rng.permutation(len(rows))[: rng.integers(1, len(rows) + 1)]
    expected = np.zeros_like(joints)
    expected[kept] = joints[kept]
    return Mutated(sheet_file([rows[i] for i in kept]), expected[: kept.max() + 1])


def _sheet_row_twice(joints: np.ndarray, rng: np.random.Generator) -> Mutated:
    rows = whole_rows(sheet_rows(joints))
    row = int(rng.integers(len(rows)))
    return Mutated(sheet_file([*rows, rows[row]]), error=f"row {row + 1}: the sheet has this row twice")


def _sheet_cell_twice(joints: np.ndarray, rng: np.random.Generator) -> Mutated:
    rows, (row, column, _) = sheet_rows(joints), _sheet_cell(joints, rng)
    rows[row].insert(int(rng.integers(column + 1, 412)), rows[row][column])
    return Mutated(sheet_file(whole_rows(rows)), error=f"row {row + 1}: column {column + 1} twice")


def _sheet_other_row_named(joints: np.ndarray, rng: np.random.Generator) -> Mutated:
    rows, (row, column, address) = sheet_rows(joints), _sheet_cell(joints, rng)
    rows[row][column] = rows[row][column].replace(f'"{address}"', f'"{address}7"')
    return Mutated(sheet_file(whole_rows(rows)), error=f"row {row + 1}: a cell with the address '{address}7'")


def _sheet_huge(joints: np.ndarray, rng: np.random.Generator) -> Mutated:
    rows = whole_rows(sheet_rows(joints))
    far, error = (
        ('<row r="1000000000"><c r="A1000000000"><v>1</v></c></row>', "row 1000000000: a sheet has rows 1 to"),
        ('<row r="1048576"><c r="A1048576"><v>1</v></c></row>', "a cell far out makes a sheet of 1048576 x 411"),
        ('<row r="77"><c r="XFD77"><v>1</v></c></row>', "row 77: a cell far out, in column 16384"),
        ('<row r="0"><c r="A0"><v>1</v></c></row>', "row 0: a sheet has rows 1 to"),
        ('<row r="-3"><c><v>1</v></c></row>', "row -3: a sheet has rows 1 to"),
    )[int(rng.integers(5))]
    return Mutated(sheet_file([*rows, far]), error=error)


def _sheet_column_too_many(joints: np.ndarray, rng: np.random.Generator) -> Mutated:
    rows = sheet_rows(joints)
    more = int(rng.integers(0, 2))
    changed = [[*cells, f"<c><v>{0.5}</v></c>"] if more else cells[:-1] for cells in rows]
    return Mutated(sheet_file(whole_rows(changed)), error=rf"{FRAMES} rows of {410 + 2 * more} numbers; openpose137")


def _sheet_header(joints: np.ndarray, rng: np.random.Generator) -> Mutated:
    """pandas' header would make every frame one later."""
    header = [f'<c r="{column_letters(c)}1"><v>{c}</v></c>' for c in range(411)]
    rows = [
        re.sub(r'(<c r="[A-Z]+)\d+', rf"\g<1>{i + 2}", "".join(cells)) for i, cells in enumerate(sheet_rows(joints))
    ]
    numbered = [f'<row r="{i + 1}">{cells}</row>' for i, cells in enumerate(["".join(header), *rows])]
    return Mutated(sheet_file(numbered), error=r"row 1: the confidence of point \d+ is \d+.* is it a header")


def _sheet_shuffled_columns(joints: np.ndarray, rng: np.random.Generator) -> Mutated:
    numbers = joints.reshape(len(joints), -1)[:, rng.permutation(411)]
    return Mutated(sheet_file(whole_rows(sheet_rows(numbers))), error=r"row \d+: .*are columns out of order")


def _sheet_cut(joints: np.ndarray, rng: np.random.Generator) -> Mutated:
    content = sheet_file(whole_rows(sheet_rows(joints)))
    return Mutated(content[: int(rng.integers(len(content)))], error="not an .xlsx sheet of numbers, or cut short")


def _sheet_xml_cut(joints: np.ndarray, rng: np.random.Generator) -> Mutated:
    text = "".join(whole_rows(sheet_rows(joints)))
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        content = f'<worksheet xmlns="{SPACE}"><sheetData>{text}'
        archive.writestr("xl/worksheets/sheet1.xml", content[: int(rng.integers(len(content)))])
    return Mutated(written.getvalue(), error="not an .xlsx sheet of numbers, or cut short")


def _sheet_bytes_changed(joints: np.ndarray, rng: np.random.Generator) -> Mutated:
    content = bytearray(sheet_file(whole_rows(sheet_rows(joints))))
    place = int(rng.integers(80, len(content) // 2))  # within the compressed rows
    content[place] ^= 1 << int(rng.integers(8))
    return Mutated(bytes(content), error="not an .xlsx sheet of numbers, or cut short")


def _sheet_elsewhere(joints: np.ndarray, rng: np.random.Generator) -> Mutated:
    """The first sheet of the book is not always in sheet1.xml."""
    relation = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    book = f'<workbook xmlns="{SPACE}" xmlns:r="{relation}"><sheets><sheet name="a" sheetId="9" r:id="rId3"/></sheets>'
    target = str(rng.choice(["worksheets/data.xml", "/xl/worksheets/data.xml"]))
    files = {
        "xl/workbook.xml": book + "</workbook>",
        "xl/_rels/workbook.xml.rels": f'<Relationships><Relationship Id="rId3" Target="{target}"/></Relationships>',
        "xl/worksheets/sheet1.xml": "<worksheet/>",
    }
    return Mutated(sheet_file(whole_rows(sheet_rows(joints)), files=files, name="data"), joints)


SheetMutation = Callable[[np.ndarray, np.random.Generator], Mutated]
SHEETS: tuple[SheetMutation, ...] = (
    *(_sheet_number_as_text, _sheet_no_number, _sheet_gap, _sheet_other_writer, _sheet_prefix, _sheet_rows_moved),
    *(_sheet_row_twice, _sheet_cell_twice, _sheet_other_row_named, _sheet_huge, _sheet_column_too_many, _sheet_header),
    *(_sheet_shuffled_columns, _sheet_cut, _sheet_xml_cut, _sheet_bytes_changed, _sheet_elsewhere),
)
