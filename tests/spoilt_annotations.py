"""Seeded damage to the text of annotation files, as programs, people and networks do it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Spoil = Callable[[list[str], np.random.Generator], str | bytes]  # lines of cells with commas -> content

_NO_NUMBERS = ("", "abc", "12a", "1e3", "٣", "NaN", "1_0", "0x1f", "1.5", "--2", "1 2")


def _cells(lines: list[str], rng: np.random.Generator) -> tuple[int, list[str], int]:
    """A line that is no header, unless there is only one, its cells, and which of them."""
    place = int(rng.integers(min(1, len(lines) - 1), len(lines)))
    cells = lines[place].split(",")
    return place, cells, int(rng.integers(len(cells)))


def _with_cell(lines: list[str], rng: np.random.Generator, change: Callable[[str], str]) -> str:
    place, cells, which = _cells(lines, rng)
    cells[which] = change(cells[which])
    return _joined([*lines[:place], ",".join(cells), *lines[place + 1 :]])


def _joined(lines: list[str], line_break: str = "\n") -> str:
    return "".join(line + line_break for line in lines)


def cut(lines: list[str], rng: np.random.Generator) -> str:
    text = _joined(lines)
    return text[: int(rng.integers(len(text)))]


def shuffle_columns(lines: list[str], rng: np.random.Generator) -> str:
    """Header, where there is one, and rows alike."""
    order = rng.permutation(len(lines[0].split(",")))
    return _joined([",".join(line.split(",")[i] for i in order) for line in lines])


def shuffle_one_row(lines: list[str], rng: np.random.Generator) -> str:
    place, cells, _ = _cells(lines, rng)
    return _joined([*lines[:place], ",".join(rng.permutation(cells).tolist()), *lines[place + 1 :]])


def other_separators(lines: list[str], rng: np.random.Generator) -> str:
    return _joined(lines).replace(",", str(rng.choice([";", "\t", "|", " ", ", "])))


def one_other_separator(lines: list[str], rng: np.random.Generator) -> str:
    place, cells, _ = _cells(lines, rng)
    return _joined([*lines[:place], str(rng.choice([";", "\t", "|", "."])).join(cells), *lines[place + 1 :]])


def byte_order_mark(lines: list[str], rng: np.random.Generator) -> bytes:
    return _joined(lines).encode(str(rng.choice(["utf-8-sig", "utf-16"])))


def other_line_breaks(lines: list[str], rng: np.random.Generator) -> str:
    return _joined(lines, str(rng.choice(["\r\n", "\r"])))


def blank_rows(lines: list[str], rng: np.random.Generator) -> str:
    places = rng.integers(len(lines) + 1, size=3).tolist()
    for place in sorted(places, reverse=True):
        lines = [*lines[:place], str(rng.choice(["", "  ", "\t"])), *lines[place:]]
    return _joined(lines)


def text_in_numbers(lines: list[str], rng: np.random.Generator) -> str:
    return _with_cell(lines, rng, lambda _: str(rng.choice(_NO_NUMBERS)))


def negative(lines: list[str], rng: np.random.Generator) -> str:
    return _with_cell(lines, rng, lambda cell: f"-{cell}")


def far_out(lines: list[str], rng: np.random.Generator) -> str:
    return _with_cell(lines, rng, lambda _: str(10 ** int(rng.choice([9, 18, 30]))))


def duplicate(lines: list[str], rng: np.random.Generator) -> str:
    place = int(rng.integers(min(1, len(lines) - 1), len(lines)))
    return _joined([*lines[:place], lines[place], *lines[place:]])


def cells_too_many_or_few(lines: list[str], rng: np.random.Generator) -> str:
    place, cells, which = _cells(lines, rng)
    changed = cells[:which] + cells[which + 1 :] if rng.integers(2) else [*cells, "7"]
    return _joined([*lines[:place], ",".join(changed), *lines[place + 1 :]])


def open_quote(lines: list[str], rng: np.random.Generator) -> str:
    return _with_cell(lines, rng, lambda cell: f'"{cell}')


def noise(lines: list[str], rng: np.random.Generator) -> bytes:
    content = bytearray(_joined(lines).encode())
    for place in rng.integers(len(content), size=4):
        content[place] = int(rng.integers(256))
    return bytes(content)


KINDS: tuple[Spoil, ...] = (
    *(cut, shuffle_columns, shuffle_one_row, other_separators, one_other_separator, byte_order_mark),
    *(other_line_breaks, blank_rows, text_in_numbers, negative, far_out, duplicate, cells_too_many_or_few),
    *(open_quote, noise),
)
