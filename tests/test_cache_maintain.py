"""Looking after a cache: compact, garbage collection, merge, verify."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from samples import FORMATS, make_spec, make_table, make_tokens

from mgcli.cache import (
    CacheError,
    EntryCount,
    FeatureCache,
    FeatureSet,
    collect_garbage,
    compact,
    merge_cache,
    open_cache,
    verify_cache,
)
from mgcli.cache.entries import read_index

OLD = time.time() - 3 * 24 * 3600


def fill(features: FeatureSet, ids: list[str], *, seed: int = 0, clips_a_part: int = 2) -> None:
    with features.writer() as writer:
        for i, clip_id in enumerate(ids):
            writer.add(clip_id, make_tokens(clip_id, 2 + i % 3, seed=seed), source="5" * 16)
            if i % clips_a_part == clips_a_part - 1:
                writer.commit()


def content(features: FeatureSet) -> dict[str, bytes]:
    """What a reader gets of each clip: tokens, times, validity."""
    features.refresh()
    return {
        clip_id: b"".join(
            np.asarray(each).tobytes() for each in (*features.load([clip_id]), *features.load_times([clip_id]))
        )
        for clip_id in features.clips()["clip_id"]
    }


def test_compact_makes_few_parts_in_clip_order_and_changes_no_byte(cache: FeatureCache) -> None:
    features = cache.create_feature_set(make_spec())
    ids = [f"c{i:02d}" for i in range(12)]
    fill(features, ids[::-1])
    before = content(features)
    report = compact(features)
    assert (report.parts_before, report.parts_after, report.count.clips, report.duplicates) == (6, 1, 12, 0)
    assert content(open_cache(cache.path).feature_set("video")) == before
    assert features.clips()["clip_id"].tolist() == ids
    assert verify_cache(cache).ok
    again = compact(features)
    assert (again.parts_before, again.parts_after) == (1, 1)


def test_the_index_file_forgets_what_was_compacted(cache: FeatureCache) -> None:
    features = cache.create_feature_set(make_spec())
    fill(features, [f"c{i:02d}" for i in range(20)], clips_a_part=1)
    file = features.path / "index.h5"
    assert len(open_cache(cache.path).feature_set("video")) == 20
    before = read_index(file, features.spec.fingerprint)
    assert before is not None
    assert len(before.names) == 20
    compact(features)
    assert len(open_cache(cache.path).feature_set("video")) == 20
    after = read_index(file, features.spec.fingerprint)
    assert after is not None
    assert len(after.names) == 1


def test_a_compacted_set_is_left_as_it_is(cache: FeatureCache) -> None:
    features = cache.create_feature_set(make_spec())
    fill(features, ["b", "a"], clips_a_part=1)
    compact(features)
    again = compact(features)
    assert (again.parts_before, again.parts_after) == (1, 1)
    assert "nothing to do" in again.summary()


def test_compact_makes_parts_of_the_chosen_size(cache: FeatureCache) -> None:
    features = cache.create_feature_set(make_spec())
    fill(features, [f"c{i}" for i in range(9)], clips_a_part=1)
    compact(features, part_bytes=10 * 4 * 4)  # ten tokens
    sizes = [part.attributes["rows"] for part in features.parts()]
    assert len(sizes) > 1
    assert max(sizes) <= 10
    assert [part.name for part in features.parts()] == features.clips()["part"].unique().tolist()
    names = {part.name for part in features.parts()}
    assert compact(features, part_bytes=10 * 4 * 4).parts_after == len(names)
    assert {part.name for part in features.parts()} == names


def test_compact_bounds_the_clips_of_a_part(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mgcli.cache.stored_entries._LOT_CLIPS", 4)
    features = cache.create_feature_set(make_spec())
    fill(features, [f"c{i}" for i in range(9)], clips_a_part=1)
    before = content(features)
    compact(features)
    assert [part.attributes["clips"] for part in features.parts()] == [4, 4, 1]
    assert content(features) == before


def test_compact_keeps_the_clip_that_counts_and_drops_the_others(cache: FeatureCache) -> None:
    features = cache.create_feature_set(make_spec())
    fill(features, ["a", "b"], seed=0)
    fill(features, ["b", "a", "c"], seed=1)
    before = content(features)
    assert compact(features).duplicates == 2
    assert content(features) == before
    assert verify_cache(cache).duplicates == []


def test_compact_keeps_sources_views_and_companions_apart(cache: FeatureCache) -> None:
    features = cache.create_feature_set(make_spec(views=1))
    with features.writer() as writer:
        writer.add("a", make_tokens("a"), source="1" * 16)
        writer.commit()
        writer.add("a", make_tokens("a", seed=1), source="2" * 16)
        writer.add("a", make_tokens("a", seed=2), source="1" * 16, view=1)
        writer.commit()
        writer.add("b", make_tokens("b"), aux={"boxes": np.ones((3, 4), np.float32)})
    report = compact(features)
    assert report.parts_after == 2  # one with boxes, one without
    np.testing.assert_array_equal(features.load(["a"], sources=["2" * 16])[0], make_tokens("a", seed=1))
    np.testing.assert_array_equal(features.load(["a"], view=1)[0], make_tokens("a", seed=2))
    np.testing.assert_array_equal(features.select(["b"]).load_companions("aux/boxes"), np.ones((3, 4), np.float32))
    assert verify_cache(cache).ok


def test_compact_keeps_what_a_writer_adds_meanwhile(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    features = cache.create_feature_set(make_spec())
    fill(features, ["a", "b", "c"])
    before = content(features)
    read_lot = __import__("mgcli.cache.maintain", fromlist=["read_lot"]).read_lot

    def read_while_another_writes(*arguments: object) -> object:
        other = open_cache(cache.path).feature_set("video")
        fill(other, ["b", "d"], seed=9)
        return read_lot(*arguments)

    monkeypatch.setattr("mgcli.cache.maintain.read_lot", read_while_another_writes)
    compact(features)
    after = content(features)
    assert {clip_id: after[clip_id] for clip_id in before} == before
    assert "d" in after


def test_compact_refuses_damaged_tokens_and_removes_nothing(cache: FeatureCache) -> None:
    features = cache.create_feature_set(make_spec())
    fill(features, ["a", "b", "c"], clips_a_part=1)
    part = features.parts()[1]
    file, raw = part.token_file(part.path), part.raw_tokens()
    assert raw is not None
    damaged = bytearray(file.read_bytes())
    damaged[raw.offset_bytes] ^= 1
    file.write_bytes(damaged)
    names = [part.name for part in features.parts()]
    with pytest.raises(CacheError, match=r"clip 'b' in 00001-.*do not match their checksum; run mgcli cache verify"):
        compact(features)
    assert set(names) <= {part.name for part in features.parts()}


def test_compact_says_when_space_is_short(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    features = cache.create_feature_set(make_spec())
    fill(features, ["a", "b"], clips_a_part=1)
    usage = type("Usage", (), {"free": 10})()
    monkeypatch.setattr("mgcli.cache.durable.shutil.disk_usage", lambda _: usage)
    with pytest.raises(CacheError, match="make space first"):
        compact(features)


def make_old(path: Path) -> None:
    for each in [path, *path.rglob("*")] if path.is_dir() else [path]:
        os.utime(each, (OLD, OLD))


def test_gc_removes_old_leftovers_and_nothing_else(cache: FeatureCache) -> None:
    features = cache.create_feature_set(make_spec())
    fill(features, ["a", "b", "c"])
    cache.write_clips(make_table(), "p")
    before = content(features)
    left = features.path / "parts" / ".tmp-1234-00009-ab.h5"
    left.write_bytes(b"x" * 1000)
    half = features.path / "parts" / "00009-abcd.zarr"
    (half / "tokens").mkdir(parents=True)
    (half / "tokens" / "zarr.json").write_text("{}")
    never = cache.path / "video--gone--12345678"
    (never / "parts").mkdir(parents=True)
    doomed = cache.path / ".tmp-1234-video--x--12345678"
    doomed.mkdir()
    everything = [left, half, never, doomed]
    report = collect_garbage(cache)
    assert (report.removed, report.kept) == ([], 4)
    for path in everything:
        make_old(path)
    assert len(collect_garbage(cache, dry_run=True).removed) == 4
    assert all(path.exists() for path in everything)
    report = collect_garbage(cache)
    assert sorted(report.removed) == sorted(path.relative_to(cache.path).as_posix() for path in everything)
    assert report.num_bytes >= 1000
    assert not any(path.exists() for path in everything)
    assert content(features) == before
    assert verify_cache(cache).ok


@pytest.mark.parametrize("other_format", FORMATS)
def test_merge_joins_sets_of_the_same_spec(cache: FeatureCache, tmp_path: Path, other_format: str) -> None:
    other = open_cache(tmp_path / "other", create=True, format=other_format)
    fill(cache.create_feature_set(make_spec()), ["a", "b", "c"])
    theirs = other.create_feature_set(make_spec(), {"host": "elsewhere"})
    fill(theirs, ["a", "b"])
    fill(theirs, ["d", "c"], seed=7)
    fill(other.create_feature_set(make_spec(backbone="more")), ["x"])
    other.write_clips(make_table(), "p")
    mine, new = content(cache.feature_set("video")), content(theirs)
    report = merge_cache(cache, other)
    joined = cache.feature_set("video", "tiny")
    one = EntryCount(clips=1, entries=1)
    assert report.copied == {theirs.name: one, make_spec(backbone="more").name: one}
    assert report.skipped == EntryCount(clips=2, entries=2)
    assert report.conflicts == [(theirs.name, "c", 0)]
    assert content(joined) == mine | {"d": new["d"]}
    assert content(cache.feature_set("video", "more")).keys() == {"x"}
    assert cache.read_clips("p")["clip_id"].tolist() == make_table()["clip_id"].tolist()
    assert {part.format for part in joined.parts()} == {cache.format}
    assert verify_cache(cache).ok
    again = merge_cache(cache, other)
    assert again.copied == {theirs.name: EntryCount(), make_spec(backbone="more").name: EntryCount()}
    assert again.clip_tables == 0


def test_a_cache_cannot_be_merged_into_itself(cache: FeatureCache) -> None:
    with pytest.raises(CacheError, match="is the cache itself"):
        merge_cache(cache, open_cache(cache.path))


def test_fast_verify_skips_only_the_tokens(cache: FeatureCache) -> None:
    features = cache.create_feature_set(make_spec())
    fill(features, ["a", "b"])
    [part] = features.parts()
    file, raw = part.token_file(part.path), part.raw_tokens()
    assert raw is not None
    damaged = bytearray(file.read_bytes())
    damaged[raw.offset_bytes] ^= 1
    file.write_bytes(damaged)
    assert verify_cache(cache, fast=True).ok
    [problem] = verify_cache(cache).problems
    assert (problem.clip_id, problem.problem) == ("a", "tokens do not match their checksum")


def test_verify_gives_the_same_with_several_processes(cache: FeatureCache) -> None:
    features = cache.create_feature_set(make_spec())
    fill(features, ["a", "b", "c", "d"])
    fill(features, ["b"], seed=1)
    one, two = verify_cache(cache, jobs=1), verify_cache(cache, jobs=2)
    assert one == two
    assert [problem.clip_id for problem in one.duplicates] == ["b"]


def test_verify_finds_what_was_edited_by_hand(cache: FeatureCache) -> None:
    features = cache.create_feature_set(make_spec(), {"host": "here"})
    fill(features, ["a"])
    table = cache.write_clips(make_table(), "p")
    for file, change in (
        (features.path / "spec.json", ('"here"', '"there"')),
        (cache.path / "mgcache.json", ("mgcli", "mgxli")),
        (table, ("c0", "c9")),
    ):
        whole = file.read_text()
        file.write_text(whole.replace(*change, 1))
        [problem] = verify_cache(cache).problems
        assert file.name in f"{problem.part} {problem.problem}"
        file.write_text(whole)
    assert verify_cache(cache).ok
    assert json.loads((features.path / "spec.json").read_text())["provenance"] == {"host": "here"}
