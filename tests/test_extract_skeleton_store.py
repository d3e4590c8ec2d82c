"""The store of parsed skeletons: trusted while the file is what it was, made again when it is not."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_skeletons import points, write_imigue_csv, write_openpose, write_sheet

from mgcli.cache import check_clip_table
from mgcli.extract import add_sources, hand_order, read_skeleton, skeleton_store
from mgcli.extract.skeleton_readers import read_skeleton_file
from mgcli.extract.skeleton_store import content_identity, load_skeleton, skeleton_identity


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store that keeps small and young files too."""
    monkeypatch.setattr(skeleton_store, "MIN_BYTES", 0)
    monkeypatch.setattr(skeleton_store, "SETTLED_S", 0.0)
    monkeypatch.setenv("MGCLI_SKELETON_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were parsed, in order."""
    seen: list[Path] = []
    monkeypatch.setattr(
        skeleton_store, "read_skeleton_file", lambda path: seen.append(path) or read_skeleton_file(path)
    )
    return seen


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read to know their content."""
    seen: list[Path] = []
    monkeypatch.setattr(skeleton_store, "content_identity", lambda path: seen.append(path) or content_identity(path))
    return seen


def entries(store: Path) -> list[Path]:
    return sorted(store.glob("*.mgcli-joints")) if store.is_dir() else []


@pytest.mark.parametrize(
    ("name", "write", "num_joints"),
    [
        ("a_light_hand.csv", write_imigue_csv, 35),
        ("a_openpose.xlsx", write_sheet, 137),
        ("frames", write_openpose, 137),
    ],
)
def test_a_second_reading_is_the_first_bit_for_bit_without_the_file(
    name: str, write: object, num_joints: int, tmp_path: Path, store: Path, parsed: list[Path], hashed: list[Path]
) -> None:
    path = tmp_path / name
    write(path, points(6, num_joints))  # type: ignore[operator]
    identity = skeleton_identity(path)
    first = load_skeleton(path)
    assert (len(parsed), len(entries(store))) == (1, 1)
    hashed.clear()
    second = load_skeleton(path)
    np.testing.assert_array_equal(second.joints, first.joints)
    assert second.layout is first.layout
    assert second.joints.dtype == np.float32
    assert skeleton_identity(path) == identity
    assert (len(parsed), hashed) == (1, [])
    assert content_identity(path) == identity


def test_a_changed_file_is_parsed_again_also_where_size_and_time_are_kept(
    tmp_path: Path, store: Path, parsed: list[Path]
) -> None:
    path = tmp_path / "a_light_hand.csv"
    write_imigue_csv(path, points(6, 35))
    before, old = path.stat(), load_skeleton(path).joints
    identity = skeleton_identity(path)
    text = path.read_text()
    head, _, last = text.rpartition(",")
    path.write_text(f"{head},{'8' if last[0] == '9' else '9'}{last[1:]}")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert skeleton_identity(path) != identity
    assert load_skeleton(path).joints[-1, 0, -1, 2] != old[-1, 0, -1, 2]
    assert len(parsed) == 2
    assert len(entries(store)) == 1  # the old one is replaced
    write_openpose(tmp_path / "frames", points(2, 25))
    assert len(load_skeleton(tmp_path / "frames").joints) == 2
    (tmp_path / "frames" / "clip_000000000001_keypoints.json").unlink()
    assert len(load_skeleton(tmp_path / "frames").joints) == 1


@pytest.mark.parametrize("place", [0, 20, 4000, 4096, 5000, -1])
def test_a_damaged_entry_is_made_again(place: int, tmp_path: Path, store: Path, parsed: list[Path]) -> None:
    path = tmp_path / "a_light_hand.csv"
    write_imigue_csv(path, points(6, 35))
    first = load_skeleton(path)
    (entry,) = entries(store)
    whole = entry.read_bytes()
    damaged = bytearray(whole)
    damaged[place] ^= 1
    for content in (bytes(damaged), whole[:place], whole + b"more", b""):
        entry.write_bytes(content)
        parsed.clear()
        np.testing.assert_array_equal(load_skeleton(path).joints, first.joints)
        assert skeleton_identity(path) == content_identity(path)
        assert len(parsed) == 1
        assert entry.read_bytes() == whole


def test_small_young_and_fast_files_are_not_kept(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a_light_hand.csv"
    write_imigue_csv(path, points(6, 35))
    np.save(tmp_path / "a.npy", points(6, 22))
    load_skeleton(tmp_path / "a.npy")
    monkeypatch.setattr(skeleton_store, "SETTLED_S", 60.0)
    load_skeleton(path)
    monkeypatch.setattr(skeleton_store, "SETTLED_S", 0.0)
    monkeypatch.setattr(skeleton_store, "MIN_BYTES", path.stat().st_size + 1)
    load_skeleton(path)
    assert entries(store) == []


def test_what_was_not_used_for_longest_goes_when_the_store_is_full(
    tmp_path: Path, store: Path, parsed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / f"{name}_light_hand.csv" for name in "abc"]
    for path in paths:
        write_imigue_csv(path, points(600, 35))  # 252,000 bytes of joints
    monkeypatch.setenv("MGCLI_SKELETON_STORE_GB", str(600_000 / (1 << 30)))
    store.mkdir()
    left, foreign = store / f".tmp-0badcafe-{'0' * 32}.mgcli-joints", store / "S001.skeleton"
    for path in (left, foreign):
        path.write_bytes(b"left by a kill, or somebody else's")
        os.utime(path, (0, 0))
    for path in paths[:2]:
        load_skeleton(path)
    for age, entry in zip((200, 100), sorted(entries(store), key=lambda entry: entry.stat().st_mtime), strict=True):
        os.utime(entry, (entry.stat().st_atime, entry.stat().st_mtime - age))
    load_skeleton(paths[0])  # used again: now `b` is the oldest
    load_skeleton(paths[2])
    parsed.clear()
    for path in (paths[0], paths[2], paths[1]):
        load_skeleton(path)
    assert parsed == [paths[1]]
    assert len(entries(store)) == 2
    assert foreign.exists()
    assert not left.exists()
    monkeypatch.setenv("MGCLI_SKELETON_STORE_GB", "0")
    write_imigue_csv(tmp_path / "d_light_hand.csv", points(6, 35))
    load_skeleton(tmp_path / "d_light_hand.csv")
    assert entries(store) == []


def test_a_store_that_cannot_be_written_is_said_and_costs_nothing_else(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a_light_hand.csv"
    write_imigue_csv(path, points(6, 35))
    store.write_text("a file where the folder should be")
    for _ in range(2):
        assert len(load_skeleton(path).joints) == 6
    said = capsys.readouterr().err
    assert said.count("parsed skeletons are not kept") == 1
    assert "MGCLI_SKELETON_STORE names another folder, or off" in said
    monkeypatch.setenv("MGCLI_SKELETON_STORE", str(tmp_path / "other"))
    monkeypatch.setenv("MGCLI_SKELETON_STORE_GB", "many")
    load_skeleton(path)
    assert "MGCLI_SKELETON_STORE_GB is 'many'; it must be a number of gigabytes" in capsys.readouterr().err
    monkeypatch.setenv("MGCLI_SKELETON_STORE", "off")
    load_skeleton(path)
    assert capsys.readouterr().err == ""
    assert entries(tmp_path / "other") == []


def test_processes_side_by_side_share_a_store(tmp_path: Path, store: Path) -> None:
    for i in range(4):
        write_imigue_csv(tmp_path / f"{i}_light_hand.csv", points(40, 35, seed=i))
    code = (
        "import sys\nfrom pathlib import Path\nfrom mgcli.extract import skeleton_store\n"
        "skeleton_store.MIN_BYTES, skeleton_store.SETTLED_S = 0, 0.0\n"
        "for path in sorted(Path(sys.argv[1]).glob('*.csv')) * 3: "
        "print(skeleton_store.load_skeleton(path).joints.sum())"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    answers = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(answers) == 1
    assert len(entries(store)) == 4
    assert all(stat.S_ISREG(entry.stat().st_mode) for entry in entries(store))


def test_sources_of_clips_are_the_same_with_the_store_as_without(
    tmp_path: Path, store: Path, hashed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a_light_hand.csv"
    write_imigue_csv(path, points(60, 35))
    rows = [
        {"clip_id": f"a_{i}", "skeleton": str(path), "skeleton_fps": 25, "start_s": i, "end_s": i + 1} for i in (0, 1)
    ]
    table = check_clip_table(pd.DataFrame(rows))
    first = add_sources(table)
    assert len(hashed) == 1
    read_skeleton(path, fps=25)
    hashed.clear()
    pd.testing.assert_frame_equal(add_sources(table), first)
    assert hashed == []
    monkeypatch.setenv("MGCLI_SKELETON_STORE", "off")
    pd.testing.assert_frame_equal(add_sources(table), first)


def people(first_hand_at: int | None, *, frames: int = 40) -> np.ndarray:
    """(T, 35, 3) with wrists 200 px apart and the first hand's tips about 20 px from one of them."""
    rng = np.random.default_rng(0)
    joints = np.zeros((frames, 35, 3))
    joints[:, 7], joints[:, 4] = (500, 300, 0.9), (300, 300, 0.9)
    if first_hand_at is not None:
        joints[:, 25:30, :2] = joints[:, first_hand_at, None, :2] + rng.normal(0, 15, (frames, 5, 2))
        joints[:, 25:30, 2] = rng.random((frames, 5)) > 0.4
    return joints


def test_the_hand_that_comes_first_is_told_from_the_nearer_wrist() -> None:
    assert hand_order(people(7)) == "left first"
    assert hand_order(people(4)) == "right first"
    assert hand_order(people(None)) == "unclear"
    assert hand_order(people(7, frames=5)) == "unclear"
    folded = people(7)
    folded[:, 4, :2] = folded[:, 7, :2] + 8  # arms folded: both wrists in one place
    assert hand_order(folded) == "unclear"
    with pytest.raises(ValueError, match="expected"):
        hand_order(np.zeros((4, 25, 3)))
