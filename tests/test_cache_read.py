"""Reading many clips: the index of entries, the shared address space, selections and buffers."""

from __future__ import annotations

import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import FORMATS, make_spec, make_tokens

import mgcli.cache.address_space as address_space
from mgcli.cache import CacheError, FeatureCache, FeatureSet, compact, open_cache, verify_cache
from mgcli.cache.entries import EntryIndex, read_index
from mgcli.cache.feature_set import INDEX_FILE


def fill(features: FeatureSet, lengths: list[int], clips_a_part: int = 3) -> list[str]:
    """Clips c0, c1, ... of these lengths, some to a part."""
    ids = [f"c{i}" for i in range(len(lengths))]
    dim = features.spec.dim
    with features.writer() as writer:
        for i, (clip_id, length) in enumerate(zip(ids, lengths, strict=True)):
            writer.add(clip_id, make_tokens(clip_id, length, dim))
            if i % clips_a_part == clips_a_part - 1:
                writer.commit()
    return ids


def expected(ids: list[str], lengths: list[int], dim: int, dtype: str = "float32") -> np.ndarray:
    tokens = np.concatenate([make_tokens(clip_id, lengths[int(clip_id[1:])], dim) for clip_id in ids])
    return tokens.astype(dtype)


@given(data=st.data(), format=st.sampled_from(FORMATS))
@settings(max_examples=25, deadline=None)
def test_any_clips_in_any_order_come_back(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, format: str
) -> None:
    dim = data.draw(st.sampled_from([1, 3, 16, 768]))
    dtype = data.draw(st.sampled_from(["float16", "float32"]))
    uniform = data.draw(st.booleans())
    lengths = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=14))
    lengths = [lengths[0]] * len(lengths) if uniform else lengths
    cache = open_cache(tmp_path_factory.mktemp("any"), create=True, format=format)
    features = cache.create_feature_set(make_spec(dim=dim, dtype=dtype))
    ids = fill(features, lengths, data.draw(st.integers(1, 6)))
    rows = np.array(data.draw(st.lists(st.integers(0, len(ids) - 1), min_size=1, max_size=30)))
    wanted = expected([ids[row] for row in rows], lengths, dim, dtype)

    selection = features.select(ids)
    tokens, offsets = selection.load(rows)
    np.testing.assert_array_equal(tokens, wanted)
    assert np.diff(offsets).tolist() == [lengths[row] for row in rows]
    out = np.full_like(wanted, np.nan)
    filled, _ = selection.load(rows, out=out)
    assert filled is out
    np.testing.assert_array_equal(out, wanted)
    np.testing.assert_array_equal(features.load([ids[row] for row in rows])[0], wanted)
    np.testing.assert_array_equal(selection.load()[0], expected(ids, lengths, dim, dtype))


@pytest.mark.parametrize("threads", [1, 2])
def test_much_at_once_is_copied_in_order_of_place(
    cache: FeatureCache, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    monkeypatch.setattr("mgcli.cache.selection._BULK_BYTES", 1)
    monkeypatch.setattr("mgcli.cache.reader._BULK_BYTES", 1)
    features = cache.create_feature_set(make_spec())
    lengths = [3, 1, 4, 1, 5, 9, 2, 6]
    ids = fill(features, lengths)
    order = np.array([7, 0, 1, 2, 5, 4, 3, 3])
    tokens, _ = features.select(ids).load(order, threads=threads)
    np.testing.assert_array_equal(tokens, expected([ids[i] for i in order], lengths, 4))


def test_a_system_without_a_shared_address_space_reads_the_same(
    cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(address_space, "_libc", lambda: None)
    features = cache.create_feature_set(make_spec())
    lengths = [3, 1, 4, 1, 5]
    ids = fill(features, lengths)
    tokens, _ = features.load(ids[::-1])
    np.testing.assert_array_equal(tokens, expected(ids[::-1], lengths, 4))
    assert not features.reader.space.mapped.any()


def test_bfloat16_fills_a_buffer_of_floats(cache: FeatureCache) -> None:
    features = cache.create_feature_set(make_spec(dtype="bfloat16"))
    ids = fill(features, [2, 3])
    out = np.empty((5, 4), np.float32)
    assert features.load(ids, out=out)[0] is out
    np.testing.assert_array_equal(out, features.load(ids)[0])


@pytest.mark.parametrize(
    "out",
    [np.empty((4, 4), np.float32), np.empty((5, 4), np.float64), np.empty((4, 5), np.float32).T],
    ids=["rows", "type", "order"],
)
def test_a_buffer_that_does_not_fit_is_refused(cache: FeatureCache, out: np.ndarray) -> None:
    features = cache.create_feature_set(make_spec())
    ids = fill(features, [2, 3])
    with pytest.raises(ValueError, match=r"it must be float32 \(5, 4\) and C-contiguous"):
        features.load(ids, out=out)


def test_the_index_file_says_what_the_parts_say_and_is_safe_to_delete(cache: FeatureCache) -> None:
    features = cache.create_feature_set(make_spec())
    ids = fill(features, [2] * 20, clips_a_part=1)
    file = features.path / INDEX_FILE
    assert not file.exists()  # the writer's own set learned of one part at a time
    table = open_cache(cache.path).feature_set("video").clips()
    assert table["clip_id"].tolist() == ids
    stored = read_index(file, features.spec.fingerprint)
    assert stored is not None
    assert len(stored) == 20
    for damage in (None, b"", b"\0" * 100):
        file.unlink() if damage is None else file.write_bytes(damage)
        again = open_cache(cache.path).feature_set("video")
        assert again.clips().equals(table)
        np.testing.assert_array_equal(again.load(ids)[0], expected(ids, [2] * 20, 4))


def test_a_flipped_bit_in_the_index_file_is_not_believed(cache: FeatureCache) -> None:
    features = cache.create_feature_set(make_spec())
    fill(features, [2] * 20, clips_a_part=1)
    table = open_cache(cache.path).feature_set("video").clips()
    file = features.path / INDEX_FILE
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    for position in rng.integers(0, 8 * len(whole), 60).tolist():
        flipped = bytearray(whole)
        flipped[position // 8] ^= 1 << position % 8
        file.write_bytes(flipped)
        assert open_cache(cache.path).feature_set("video").clips().equals(table), position


def test_the_index_file_follows_the_parts(cache: FeatureCache) -> None:
    features = cache.create_feature_set(make_spec())
    fill(features, [2] * 20, clips_a_part=1)
    before = open_cache(cache.path).feature_set("video")
    before.clips()
    before.parts()[3].remove()
    with features.writer() as writer:
        writer.add("new", make_tokens("new"))
    after = open_cache(cache.path).feature_set("video").clips()
    assert after["clip_id"].tolist() == [f"c{i}" for i in range(20) if i != 3] + ["new"]


def test_a_read_only_cache_is_read_without_an_index_file(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    features = cache.create_feature_set(make_spec())
    fill(features, [2] * 20, clips_a_part=1)

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("mgcli.cache.feature_set.write_index", refuse)
    assert len(open_cache(cache.path).feature_set("video")) == 20


def test_the_first_part_in_name_order_wins_whatever_is_seen_first(cache: FeatureCache) -> None:
    features = cache.create_feature_set(make_spec())
    for seed in (0, 1):
        with features.writer() as writer:
            writer.add("a", make_tokens("a", seed=seed))
    first, second = features.parts()
    renamed = second.path.with_name(second.path.name.replace("00001-", "00000-0", 1))
    second.path.rename(renamed)
    first.path.rename(first.path.with_name(first.path.name.replace("00000-", "00002-", 1)))
    features.refresh()
    np.testing.assert_array_equal(features.load(["a"])[0], make_tokens("a", seed=1))
    assert features.clips()["part"].tolist() == [renamed.name]
    assert len(features) == 1


def test_ids_with_the_same_hash_are_told_apart(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mgcli.cache.entries._hashes", lambda ids: np.full(len(list(ids)), 7, np.uint64))
    features = cache.create_feature_set(make_spec())
    lengths = [1, 2, 3, 4]
    ids = fill(features, lengths)
    np.testing.assert_array_equal(features.load(ids[::-1])[0], expected(ids[::-1], lengths, 4))
    assert len(features) == 4
    with pytest.raises(CacheError, match="no tokens of 1 clip"):
        features.load(["c9"])


def test_a_reader_follows_parts_that_move(cache: FeatureCache) -> None:
    """Another process compacts the set between two batches."""
    features = cache.create_feature_set(make_spec())
    lengths = [3, 1, 4, 1, 5, 9]
    ids = fill(features, lengths, clips_a_part=1)
    selection = features.select(ids)
    selection.load(np.array([0]))  # one part is mapped, the others are not
    for part in open_cache(cache.path).feature_set("video").parts():
        moved = part.path.with_name(part.path.name.replace("-", "-f", 1))
        part.path.rename(moved)
    tokens, _ = selection.load(np.array([5, 2]))
    np.testing.assert_array_equal(tokens, expected(["c5", "c2"], lengths, 4))
    shutil.rmtree(features.path / "parts")
    with pytest.raises(CacheError, match="no tokens of 6 clip"):
        selection.load_companions("time_s")


def test_a_listing_that_another_process_compacts_away_is_made_again(
    cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = cache.create_feature_set(make_spec())
    ids = fill(features, [1, 2, 3], clips_a_part=1)
    listed: list[list[Path]] = []

    def list_then_compact(folder: Path) -> list[Path]:
        found = sorted(folder.iterdir())
        listed.append(found)
        if len(listed) == 1:
            compact(open_cache(cache.path).feature_set("video"))  # whose own listings count too
        return found

    reopened = open_cache(cache.path).feature_set("video")
    monkeypatch.setattr("mgcli.cache.feature_set.children", list_then_compact)
    assert reopened.clips()["clip_id"].tolist() == ids


def test_a_part_that_was_cut_short_is_an_error_that_says_what_to_do(cache: FeatureCache) -> None:
    features = cache.create_feature_set(make_spec(dim=768))
    ids = fill(features, [40, 40])
    [part] = features.parts()
    file = part.token_file(part.path)
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size // 2)
    with pytest.raises(CacheError, match="run mgcli cache verify"):
        open_cache(cache.path).feature_set("video").load(ids)
    assert not verify_cache(cache).ok


def test_a_part_that_lacks_a_file_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    cache = open_cache(tmp_path / "c", create=True, format="zarr")
    features = cache.create_feature_set(make_spec())
    ids = fill(features, [4])
    [part] = features.parts()
    shutil.rmtree(part.path / "tokens")
    for look in (lambda: open_cache(cache.path).feature_set("video").clips(), lambda: features.load(ids)):
        with pytest.raises(CacheError, match="run mgcli cache verify"):
            look()


def test_tokens_at_odd_places_are_read_too(tmp_path: Path) -> None:
    """Another program may write the tokens off every boundary: such a part stays outside the address space."""
    cache = open_cache(tmp_path / "c", create=True)
    features = cache.create_feature_set(make_spec(dim=5))
    fill(features, [3])
    [path] = features.path.glob("parts/*.h5")
    with h5py.File(path, "r") as old, h5py.File(tmp_path / "new.h5", "w", userblock_size=512) as new:
        for name in old:
            new.create_dataset(name, data=old[name][()], dtype=old[name].dtype)
        for key, value in old.attrs.items():
            new.attrs[key] = value
    shutil.move(tmp_path / "new.h5", path)
    reopened = open_cache(cache.path).feature_set("video")
    np.testing.assert_array_equal(reopened.load(["c0"])[0], make_tokens("c0", 3, 5))


@given(
    offsets=st.lists(st.sampled_from([0, 4096, 8192, 1 << 22]) | st.integers(0, 20_000), min_size=1, max_size=12),
    dim=st.integers(1, 40),
    clip_rows=st.integers(1, 400),
)
@settings(max_examples=200, deadline=None)
def test_parts_never_share_an_address(offsets: list[int], dim: int, clip_rows: int) -> None:
    num_rows = np.arange(1, len(offsets) + 1) * 17
    files = [Path("none")] * len(offsets)
    space = address_space.AddressSpace(files, np.array(offsets), num_rows, dim, np.dtype(np.float16), clip_rows)
    first_rows = space.first_row.tolist()
    placed = [(first, first + num) for first, num in zip(first_rows, num_rows.tolist(), strict=True) if first >= 0]
    assert all(a[1] <= b[0] for a, b in pairwise(placed))
    assert all(stop <= len(space.rows) for _, stop in placed)
    usual, count = Counter(offsets).most_common(1)[0]
    if count > len(offsets) / 2:
        of_usual = [first for first, offset in zip(first_rows, offsets, strict=True) if offset == usual]
        assert all(first >= 0 and first % clip_rows == 0 for first in of_usual)
        origin = space.rows.ctypes.data
        assert all((origin + first * dim * 2 - usual) % (2 << 20) == 0 for first in of_usual)
    if all(offset % 4096 == 0 for offset in offsets):
        assert all(first >= 0 and first % clip_rows == 0 for first in first_rows)


def test_a_cache_larger_than_memory_finds_its_addresses() -> None:
    offsets, num_rows = np.full(4000, 4096), np.full(4000, 170_000)  # 1 TB
    space = address_space.AddressSpace([Path("none")] * 4000, offsets, num_rows, 768, np.dtype(np.float16), 393)
    assert (space.first_row >= 0).all()
    assert (space.first_row % 393 == 0).all()


def test_an_index_keeps_its_entries_through_joins_and_cuts() -> None:
    assert len(EntryIndex.empty().joined([])) == 0
    assert EntryIndex.empty().winners.tolist() == []
    assert EntryIndex.empty().usual_count == 1
