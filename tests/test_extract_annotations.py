"""Annotation files that were spoilt: each row is loaded as it stands, or named with file and line; never lost."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from replica_imigue import write_challenge, write_full_release
from replica_smg import write_smg
from spoilt_annotations import KINDS, Spoil

from mgcli.cache import MgcliError
from mgcli.extract import load_dataset

SEEDS_A_KIND = 20  # 15 kinds: 300 spoilt files
Clips = dict[str, tuple[object, ...]]  # clip -> split, gesture, emotion, subject, start_s, end_s
MANY_ROWS = [(1 + i % 31, 120 + 60 * i, 150 + 60 * i) for i in range(12)]  # raw class, first frame, last frame


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The replicas' annotation files, with a longer one to spoil."""
    made = {name: tmp_path_factory.mktemp(name) for name in ("challenge", "full", "smg")}
    write_challenge(made["challenge"], media=False)
    for video in (3, 72):  # a training and a test video
        text = "".join(f"{raw},{start},{last}\n" for raw, start, last in MANY_ROWS)
        (made["challenge"] / f"{video:04d}_label.csv").write_text(text)
    (made["challenge"] / "subjects.csv").write_text("video_id,subject_id\n1,2\n3,5\n13,5\n54,1\n")
    write_full_release(made["full"], media=False)
    write_smg(made["smg"], videos=False)
    text = "".join(f"{1 + raw % 16},{start},{last}\n" for raw, start, last in MANY_ROWS)
    next(made["smg"].rglob("Sample0002_finelabels.csv")).write_text(text)
    return made


@pytest.fixture(scope="module")
def unspoilt(roots: dict[str, Path]) -> dict[str, Clips]:
    return {name: values(load(name, root)) for name, root in roots.items()}


def load(name: str, root: Path) -> pd.DataFrame:
    if name == "smg":
        return load_dataset("smg", root, protocol="smg-gesture")
    options = {"subjects": "subjects.csv"} if name == "challenge" else {}
    return load_dataset("imigue", root, protocol="miga-2025" if name == "challenge" else "imigue-gesture", **options)


def values(table: pd.DataFrame) -> Clips:
    columns = ["split", "gesture", "emotion", "subject_id", "start_s", "end_s"]
    filled = table[columns].astype(object).where(table[columns].notna(), None)
    return dict(zip(table["clip_id"], map(tuple, filled.to_numpy()), strict=True))


@dataclass(frozen=True)
class Loaded:
    """A table that was loaded from a spoilt file."""

    path: Path
    content: bytes
    before: Clips  # of the file as it was
    after: Clips
    dropped: list[tuple[str, str]]
    warnings: list[str]

    def lines(self) -> list[tuple[int, list[str]]]:
        """Line and cells of each row, by a second and plain reading; rows that are named are None."""
        marks = self.content[:2] in (b"\xff\xfe", b"\xfe\xff")
        text = self.content.decode("utf-16" if marks else "utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        rows = [(line, row.strip()) for line, row in enumerate(text.split("\n"), start=1) if row.strip()]
        mark = max(",;\t|", key=rows[0][1].count)
        mark = mark if mark in rows[0][1] else " "
        return [(line, [cell.strip().strip('"') for cell in row.split(mark)]) for line, row in rows]

    def is_named(self, line: int) -> bool:
        return any(place == f"{self.path}, line {line}" for place, _ in self.dropped)

    def file_is_named(self) -> bool:
        return any(str(self.path) in reason for _, reason in self.dropped)

    def rest_is_as_before(self, prefix: str, columns: slice = slice(None)) -> bool:
        kept = {clip: was for clip, was in self.before.items() if not clip.startswith(prefix)}
        return all(self.after[clip][columns] == was[columns] for clip, was in kept.items())


def check_labels(loaded: Loaded) -> None:
    """Of one video or sample: every row is a clip with its row's number, class and frames, or is named."""
    is_smg = loaded.path.name.startswith("Sample")
    prefix = loaded.path.name.split("_")[0] + "_"
    no_labels = any("no test clip has a label" in warning for warning in loaded.warnings)
    assert loaded.rest_is_as_before(prefix, slice(4, None) if no_labels else slice(None))
    found = {clip: now for clip, now in loaded.after.items() if clip.startswith(prefix)}
    if loaded.file_is_named():
        assert not found
        return
    expected = {}
    for number, (line, cells) in enumerate(loaded.lines()):
        if loaded.is_named(line):
            continue
        raw, first, last = (int(cell.removesuffix(".0")) if cell else -1 for cell in cells[:3])
        assert 0 <= first <= last < 10**6, (line, cells)
        rate = 30 if is_smg else 25
        gesture = "" if no_labels and prefix == "0072_" else str(31 if raw == 99 else raw - 1)
        assert gesture == "" or 0 <= int(gesture) < 32
        expected[f"{prefix}{number}"] = (gesture, first / rate, (last + 1) / rate)
    assert {clip: (now[1], *now[4:]) for clip, now in found.items()} == expected


def check_table(loaded: Loaded) -> None:
    """Every row of the full release's table is the clip of its label_id, or is named."""
    (_, header), *rows = loaded.lines()
    place = {name.lower(): i - len(header) * ("subject_nationality" in header[:i]) for i, name in enumerate(header)}
    expected = {}
    for line, cells in rows:
        if loaded.is_named(line):
            continue
        video, number, raw, first, last = (
            int(cells[place[name]].removesuffix(".0"))
            for name in ("video_id", "label_id", "class", "start_frame", "end_frame")
        )
        assert 0 <= first <= last < 10**6, (line, cells)
        assert f"{video:04d}_{number - 1}" not in expected
        expected[f"{video:04d}_{number - 1}"] = (str(31 if raw == 99 else raw - 1), first / 25, (last + 1) / 25)
    assert {clip: (now[1], *now[4:]) for clip, now in loaded.after.items()} == expected


def check_outcomes(loaded: Loaded) -> None:
    """Track 3's labels: every row is the outcome of its video, or is named."""
    check_values(loaded, "label", 2, {"1": "win", "0": "lose"}, lambda video: loaded.before[video][2], {"0001", "0002"})


def check_subjects(loaded: Loaded) -> None:
    check_values(loaded, "subject_id", 3, None, lambda video: f"video-{video}", set())


def check_values(
    loaded: Loaded,
    column: str,
    place: int,
    spellings: dict[str, str] | None,
    before: Callable[[str], object],
    elsewhere: set[str],
) -> None:
    (_, header), *rows = loaded.lines()
    stated = {}
    for line, cells in rows:
        if not loaded.is_named(line):
            row = dict(zip([name.lower() for name in header], cells, strict=False))
            value = row[column].removesuffix(".0")
            stated[f"{int(row['video_id'].removesuffix('.0')):04d}"] = spellings[value.lower()] if spellings else value
    for clip, now in loaded.after.items():
        video = clip[:4]
        if place == 2 and clip != video:
            continue
        missing = before(video) if video in elsewhere or place == 3 else ""
        assert now[place] == stated.get(video, missing), clip


def check_rate(loaded: Loaded) -> None:
    """SMG's rate: the sample's clips have it, or the sample is named with the file."""
    assert loaded.rest_is_as_before("Sample0002_")
    found = {clip: now for clip, now in loaded.after.items() if clip.startswith("Sample0002_")}
    if loaded.file_is_named():
        assert not found
        return
    rates = {round(MANY_ROWS[int(clip.split("_")[1])][1] / now[4], 6) for clip, now in found.items()}
    numbers = {cell.strip('"') for _, cells in loaded.lines() for cell in cells}
    assert len(found) == len(MANY_ROWS)
    assert {f"{rate:g}" for rate in rates} <= numbers


FILES: dict[str, tuple[tuple[str, Callable[[Loaded], None]], ...]] = {  # data set -> files that are spoilt in turn
    "challenge": (
        *[("0003_label.csv", check_labels), ("0072_label.csv", check_labels)],
        *[("train_label.csv", check_outcomes), ("subjects.csv", check_subjects)],
    ),
    "full": (("labels_20200831.csv", check_table),),
    "smg": (("Sample0002_finelabels.csv", check_labels), ("Sample0002_data.csv", check_rate)),
}
CASES = [(kind, seed) for kind in KINDS for seed in range(SEEDS_A_KIND)]


@pytest.mark.parametrize(("kind", "seed"), CASES, ids=[f"{kind.__name__}-{seed}" for kind, seed in CASES])
def test_a_spoilt_file_loads_as_it_stands_or_is_named(
    kind: Spoil, seed: int, roots: dict[str, Path], unspoilt: dict[str, Clips]
) -> None:
    rng = np.random.default_rng([seed, *kind.__name__.encode()])
    name = list(FILES)[seed % len(FILES)]
    file_name, check = FILES[name][seed // len(FILES) % len(FILES[name])]
    path = next(roots[name].rglob(file_name))
    before, whole = unspoilt[name], path.read_bytes()
    spoilt = kind(whole.decode().splitlines(), rng)
    content = spoilt if isinstance(spoilt, bytes) else spoilt.encode()
    path.write_bytes(content)
    try:
        table = load(name, roots[name])
    except MgcliError as error:
        table, said = None, str(error)
    finally:
        path.write_bytes(whole)
    if table is None:
        assert re.search(re.escape(str(path)) + r"(, line \d+|: holds no rows)", said), said
    else:
        check(Loaded(path, content, before, values(table), table.attrs["dropped"], table.attrs["warnings"]))
