"""One contract for both part formats: what goes in comes out, from the library's own reader too."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import FORMATS, make_spec, make_tokens

from mgcli.cache import CacheError, FeatureCache, NonFiniteTokensError, open_cache, verify_cache
from mgcli.cache.part import from_stored, to_stored

ODD_IDS = ["with space", "ünïcode 微", "a/b\\c", "x" * 300, "'quote\"", "-", "c,omma"]


def test_clips_come_back_by_id_in_the_order_asked_for(cache: FeatureCache) -> None:
    features = cache.create_feature_set(make_spec())
    with features.writer() as writer:
        for i, clip_id in enumerate(ODD_IDS):
            writer.add(clip_id, make_tokens(clip_id, i + 1), source=f"{i:016x}")
    reopened = open_cache(cache.path).feature_set("video")
    wanted = ODD_IDS[::-2]
    tokens, offsets = reopened.load(wanted)
    for i, clip_id in enumerate(wanted):
        np.testing.assert_array_equal(
            tokens[offsets[i] : offsets[i + 1]], make_tokens(clip_id, ODD_IDS.index(clip_id) + 1)
        )
    assert reopened.clips()["clip_id"].tolist() == ODD_IDS
    assert reopened.clips()["source"].tolist() == [f"{i:016x}" for i in range(len(ODD_IDS))]


def test_neighbours_in_one_part_are_a_view_of_the_map(cache: FeatureCache) -> None:
    features = cache.create_feature_set(make_spec())
    with features.writer() as writer:
        for clip_id in "abcd":
            writer.add(clip_id, make_tokens(clip_id))
    tokens, offsets = features.load(["b", "c"])
    assert not tokens.flags.owndata
    assert not tokens.flags.writeable
    assert offsets.tolist() == [0, 3, 6]
    np.testing.assert_array_equal(tokens, np.concatenate([make_tokens("b"), make_tokens("c")]))


def test_tokens_of_zeros_are_mapped_too(cache: FeatureCache) -> None:
    features = cache.create_feature_set(make_spec(dim=70_000))  # a row is a chunk of its own
    with features.writer() as writer:
        writer.add("zeros", np.zeros((9, 70_000), np.float32))
    tokens, _ = features.load(["zeros"])
    assert not tokens.flags.writeable  # a view of the map; a copy could be written to
    assert not tokens.any()


@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16"])
def test_every_stored_type_gives_floats_back(cache: FeatureCache, dtype: str) -> None:
    features = cache.create_feature_set(make_spec(dtype=dtype))
    with features.writer() as writer:
        writer.add("a", make_tokens("a"))
    tokens, _ = features.load(["a"])
    tolerance = {"float16": 1e-3, "float32": 0.0, "bfloat16": 1e-2}[dtype]
    np.testing.assert_allclose(np.asarray(tokens, np.float32), make_tokens("a"), rtol=tolerance)
    assert verify_cache(cache).ok


def test_times_validity_and_companions_are_kept(cache: FeatureCache) -> None:
    features = cache.create_feature_set(make_spec())
    with features.writer() as writer:
        writer.add(
            "a",
            make_tokens("a"),
            time_s=np.array([0.5, 1.5, 2.5]),
            valid=np.array([True, False, True]),
            aux={"expression": np.eye(3, 7, dtype=np.float32)},
        )
        writer.add("b", make_tokens("b", 2), aux={"expression": np.zeros((2, 7), np.float32)})
    time_s, valid = features.load_times(["b", "a"])
    np.testing.assert_allclose(time_s, [0.25, 0.75, 0.5, 1.5, 2.5])
    assert valid.tolist() == [True, True, True, False, True]
    np.testing.assert_array_equal(
        features.select(["a"]).load_companions("aux/expression"), np.eye(3, 7, dtype=np.float32)
    )
    assert verify_cache(cache).ok


def test_plain_h5py_and_zarr_read_the_same(tmp_path: Path) -> None:
    for format in FORMATS:
        cache = open_cache(tmp_path / format, create=True, format=format)
        features = cache.create_feature_set(make_spec(dtype="float16"))
        with features.writer() as writer:
            for clip_id in ODD_IDS:
                writer.add(clip_id, make_tokens(clip_id))
    [h5_path] = (tmp_path / "hdf5").glob("*/parts/*.h5")
    [zarr_path] = (tmp_path / "zarr").glob("*/parts/*.zarr")
    group = zarr.open_group(zarr_path, mode="r")
    with h5py.File(h5_path, "r") as file:
        assert [name.decode() for name in file["clip_id"][:]] == ODD_IDS == list(group["clip_id"][:])
        expected = np.concatenate([make_tokens(clip_id) for clip_id in ODD_IDS]).astype(np.float16)
        np.testing.assert_array_equal(file["tokens"][:], expected)
        np.testing.assert_array_equal(group["tokens"][:], expected)
        for name in ("offset", "source", "view", "time_s", "valid", "crc32c"):
            np.testing.assert_array_equal(file[name][:], group[name][:])
            assert file[name].dtype == group[name].dtype


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_tokens_that_do_not_fit_are_never_stored(cache: FeatureCache, bad: float) -> None:
    features = cache.create_feature_set(make_spec(dtype="float16"))
    tokens = make_tokens("a")
    tokens[1, 2] = bad
    with features.writer() as writer, pytest.raises(NonFiniteTokensError, match="clip 'a'"):
        writer.add("a", tokens)
    assert features.clips().empty


@given(values=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=20))
def test_bfloat16_rounds_to_nearest(values: list[float]) -> None:
    tokens = np.array([values], np.float32)
    back = from_stored(to_stored(tokens, "bfloat16", "a"), "bfloat16")
    normal = np.abs(tokens) > 1e-30
    np.testing.assert_allclose(back[normal], tokens[normal], rtol=2**-8)


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    dim=st.sampled_from([1, 5, 8, 768]),
    format=st.sampled_from(FORMATS),
)
@settings(max_examples=25, deadline=None)
def test_any_shape_is_mapped_and_equal(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], dim: int, format: str
) -> None:
    cache = open_cache(tmp_path_factory.mktemp("any"), create=True, format=format)
    features = cache.create_feature_set(make_spec(dim=dim))
    with features.writer() as writer:
        for i, num_tokens in enumerate(lengths):
            writer.add(f"c{i}", make_tokens(f"c{i}", num_tokens, dim))
    tokens, _ = features.load([f"c{i}" for i in range(len(lengths))])
    expected = np.concatenate([make_tokens(f"c{i}", num_tokens, dim) for i, num_tokens in enumerate(lengths)])
    assert not tokens.flags.writeable  # a view of the map; a copy could be written to
    np.testing.assert_array_equal(tokens, expected)


def test_a_compressed_part_of_another_program_is_read_without_a_map(tmp_path: Path) -> None:
    cache = open_cache(tmp_path / "c", create=True)
    features = cache.create_feature_set(make_spec())
    with features.writer() as writer:
        writer.add("a", make_tokens("a"))
    [path] = features.path.glob("parts/*.h5")
    with h5py.File(path, "r+") as file:
        tokens = file["tokens"][:]
        del file["tokens"]
        file.create_dataset("tokens", data=tokens, chunks=True, compression="gzip")
    loaded, _ = open_cache(cache.path).feature_set("video").load(["a"])
    np.testing.assert_array_equal(loaded, make_tokens("a"))
    assert verify_cache(cache).ok


def test_wrong_shapes_are_refused(cache: FeatureCache) -> None:
    writer = cache.create_feature_set(make_spec()).writer()
    with pytest.raises(ValueError, match=r"expected \(N, 4\)"):
        writer.add("a", np.zeros((3, 5), np.float32))
    with pytest.raises(ValueError, match="expected"):
        writer.add("a", np.zeros((0, 4), np.float32))
    with pytest.raises(ValueError, match="time_s has 2 entries for 3 tokens"):
        writer.add("a", make_tokens("a"), time_s=np.zeros(2))


def test_unknown_clips_are_named_with_a_near_one(cache: FeatureCache) -> None:
    features = cache.create_feature_set(make_spec())
    with features.writer() as writer:
        writer.add("clip_0001", make_tokens("a"))
    with pytest.raises(CacheError, match=r"no tokens of 1 clip\(s\): 'clip_001' \(did you mean 'clip_0001'\?\)"):
        features.load(["clip_001"])
