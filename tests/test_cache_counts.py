"""What reports about a cache count: clips, and entries where a clip has several."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import make_spec, make_tokens
from typer.testing import CliRunner

from mgcli.cache import EntryCount, FeatureCache, export_features, import_share, open_cache
from mgcli.cli import app

KEYS = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3)), max_size=12)


def fill(cache: FeatureCache, clips: Iterable[str], views: Iterable[int] = (0,), *, seed: int = 0, **spec: str) -> str:
    """A part a view; the name of the feature set."""
    features = cache.create_feature_set(make_spec(**spec))
    for view in views:
        with features.writer() as writer:
            for clip_id in clips:
                writer.add(clip_id, make_tokens(clip_id, seed=seed + view), source="5" * 16, view=view)
    return features.name


def said(*arguments: object, code: int = 0) -> str:
    """What a command of `mgcli cache` prints."""
    done = CliRunner().invoke(app, ["cache", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done.stdout


@pytest.fixture
def viewed(cache: FeatureCache) -> tuple[FeatureCache, str]:
    """12 clips with 4 augmented views each, and the name of their feature set."""
    return cache, fill(cache, [f"c{i}" for i in range(12)], range(5))


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (EntryCount(), "0 clips"),
        (EntryCount(1, 1), "1 clip"),
        (EntryCount(2, 3, 1), "2 clips and 1 augmented view"),
        (EntryCount(12, 48, 48), "48 augmented views of 12 clips"),
        (EntryCount(12, 13), "13 entries of 12 clips"),
        (EntryCount(12, 61, 48), "61 entries of 12 clips, 48 of them augmented views"),
    ],
)
def test_a_count_says_clips_and_what_there_is_beside_them(count: EntryCount, text: str) -> None:
    assert str(count) == text


@given(KEYS)
def test_no_entry_is_called_a_clip(keys: list[tuple[str, int]]) -> None:
    count = EntryCount.of(keys)
    assert count.clips == len({clip_id for clip_id, _ in keys})
    assert (count.entries, count.views) == (len(keys), len([view for _, view in keys if view]))
    assert (count.unit == "clip") == (count.clips == count.entries)
    numbers = [int(word) for word in str(count).split() if word.isdigit()]
    assert count.clips in numbers
    assert count.entries in numbers or count.clips + count.views == count.entries


def test_commands_tell_clips_from_their_views(viewed: tuple[FeatureCache, str]) -> None:
    cache, name = viewed
    where = ("--cache", cache.path)
    assert "weights random:0, 12 clips and 48 augmented views\n" in said("ls", *where)
    assert f"{make_spec().fingerprint}: 12 clips and 48 augmented views (1 to 4), 180 tokens" in said("info", *where)
    assert "ok: 5 part(s), 12 clips and 48 augmented views checked\n" in said("verify", *where)
    assert f"{name}: 12 clips and 48 augmented views; 5 -> 1 part(s)\n" in said("compact", *where)
    assert f"{name}: 12 clips and 48 augmented views in 1 part(s), nothing to do\n" in said("compact", *where)
    (compacted,) = json.loads(said("compact", "--json", *where))
    assert {key: compacted[key] for key in ("clips", "entries", "views")} == {"clips": 12, "entries": 60, "views": 48}


def test_a_clip_of_two_feature_sets_is_one_clip(cache: FeatureCache) -> None:
    for backbone in ("one", "two"):
        fill(cache, ["a", "b"], backbone=backbone)
    assert "ok: 2 part(s), 4 entries of 2 clips checked\n" in said("verify", "--cache", cache.path)


def test_duplicates_of_a_view_are_named_as_such(cache: FeatureCache) -> None:
    name = fill(cache, ["a", "b"], (0, 1))
    fill(cache, ["b"], (1,), seed=9)
    found = said("verify", "--cache", cache.path)
    assert "ok: 3 part(s), 2 clips and 3 augmented views checked\n" in found
    assert " b (view 1) is also in " in found
    gone = f"{name}: 2 clips and 2 augmented views; 3 -> 1 part(s), 1 duplicate(s) removed\n"
    assert gone in said("compact", "--cache", cache.path)


def test_merge_tells_what_came_what_was_here_and_what_differs(cache: FeatureCache, tmp_path: Path) -> None:
    other = open_cache(tmp_path / "other", create=True)
    name = fill(cache, ["a", "b"])
    fill(other, ["a", "b"], (0, 1, 2))
    merged = said("merge", other.path, "--cache", cache.path)
    assert merged == f"{name}: 4 augmented views of 2 clips copied\nhere already: 2 clips; 0 new clip table(s)\n"
    fill(third := open_cache(tmp_path / "third", create=True), ["b"], (1,), seed=9)
    kept = said("merge", third.path, "--cache", cache.path, code=3)
    assert f"here with other tokens, which were kept: 1 augmented view of 1 clip: b (view 1) in {name}\n" in kept
    report = json.loads(said("merge", third.path, "--json", "--cache", cache.path, code=3))[0]
    assert report["conflicts"] == [{"feature_set": name, "clip_id": "b", "view": 1}]
    assert report["copied"] == {name: {"clips": 0, "entries": 0, "views": 0}}


def test_a_shared_file_counts_its_views(viewed: tuple[FeatureCache, str], tmp_path: Path) -> None:
    cache, name = viewed
    exported = export_features(cache, name, tmp_path / "all.h5", "share", progress=False)
    assert ": 12 clips and 48 augmented views, 180 tokens of" in exported.summary()
    assert (exported.to_json()["clips"], exported.to_json()["entries"]) == (12, 60)
    other = open_cache(tmp_path / "other", create=True)
    assert (
        "12 clips and 48 augmented views imported, 0 clips already"
        in import_share(other, tmp_path / "all.h5", progress=False).summary()
    )
    fill(clash := open_cache(tmp_path / "clash", create=True), ["c3"], (2,), seed=9)
    with pytest.raises(Exception, match=r"1 augmented view of 1 clip of .*other content: 'c3' \(view 2\); nothing was"):
        import_share(clash, tmp_path / "all.h5", progress=False)
