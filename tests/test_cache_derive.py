"""Derived layouts: the rules on small grids, what is refused, and what a derived set is called."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from samples import make_spec, make_tokens

from mgcli.cache import CacheError, FeatureCache, FeatureSet, TokenGrid, derive_layout, verify_cache
from mgcli.cache.derive import parse_grid
from mgcli.cache.stored_entries import read_entries

GRID = TokenGrid(class_tokens=1, times=2, places=3, middle=0.75)


def full_set(cache: FeatureCache, grid: TokenGrid | None = GRID, dtype: str = "float16", **kept: object) -> FeatureSet:
    """Two clips of 2 and 1 windows, one of them in two views, with companions."""
    provenance = {"torch": "2.14", **({"token_grid": vars(grid)} if grid else {}), **kept}
    features = cache.create_feature_set(make_spec(tokens="full", dtype=dtype), provenance)
    with features.writer() as writer:
        for clip_id, windows, view in (("a/b", 2, 0), ("c", 1, 0), ("c", 1, 1)):
            num = 7 * windows
            writer.add(
                clip_id,
                make_tokens(clip_id, num, seed=view),
                source="ab",
                view=view,
                time_s=np.concatenate([w * 10 + np.array([0.75, 0, 0, 0, 1, 1, 1]) for w in range(windows)]),
                valid=np.tile([True, False, False, True, False, False, False], windows),
                aux={"scores": np.repeat(make_tokens(clip_id, windows, 5), 7, axis=0), "box": np.zeros((num, 4), int)},
            )
    return features


def windows_of(features: FeatureSet) -> np.ndarray:
    """(2, 7, 4) float64 tokens of clip a/b."""
    return features.load(["a/b"])[0].astype(np.float64).reshape(2, 7, 4)


def test_time_keeps_class_tokens_and_averages_places(cache: FeatureCache) -> None:
    features = full_set(cache)
    report = derive_layout(cache, features.name, "time", progress=False)
    assert (str(report.done), report.skipped.entries, report.exact) == ("2 clips and 1 augmented view", 0, False)
    assert report.left_out == ["box"]
    derived = cache.feature_set("video", report.feature_set.rpartition("--")[2])
    windows = windows_of(features)
    wanted = np.stack([windows[:, 0], windows[:, 1:4].mean(axis=1), windows[:, 4:].mean(axis=1)], axis=1)
    np.testing.assert_array_equal(derived.load(["a/b"])[0], wanted.astype(np.float16).reshape(6, 4))
    time_s, valid = derived.load_times(["a/b"])
    assert time_s.tolist() == [0.75, 0, 1, 10.75, 10, 11]
    assert valid.tolist() == [True, True, False] * 2
    entries = {(each.clip_id, each.source, each.view): each for each in read_entries(derived)}
    assert set(entries) == {("a/b", 0xAB, 0), ("c", 0xAB, 0), ("c", 0xAB, 1)}
    np.testing.assert_array_equal(entries["a/b", 0xAB, 0].aux["scores"], np.repeat(make_tokens("a/b", 2, 5), 3, axis=0))
    assert verify_cache(cache).ok


def test_joint_and_pooled_have_the_middle_time(cache: FeatureCache) -> None:
    features = full_set(cache, TokenGrid(times=2, places=3, class_tokens=1, middle=0.75))
    joint = derive_layout(cache, features.name, "joint", progress=False).feature_set
    derived = cache.feature_set("video", joint.rpartition("--")[2])
    windows = windows_of(features)[:, 1:].reshape(2, 2, 3, 4)
    np.testing.assert_array_equal(derived.load(["a/b"])[0], windows.mean(axis=1).astype(np.float16).reshape(6, 4))
    assert derived.load_times(["a/b"])[0].tolist() == [0.75] * 3 + [10.75] * 3
    assert derived.load_times(["a/b"])[1].tolist() == [False, False, True] * 2


def test_selected_tokens_share_the_feature_set_of_extraction(cache: FeatureCache) -> None:
    features = full_set(cache, dtype="bfloat16")
    report = derive_layout(cache, features.name, "pooled", progress=False)
    assert report.exact
    assert report.left_out == []
    assert report.feature_set == replace(features.spec, tokens="pooled").name
    derived = cache.feature_set("video", report.feature_set.rpartition("--")[2])
    np.testing.assert_array_equal(derived.load(["a/b"])[0], features.load(["a/b"])[0][[0, 7]])
    assert derived.provenance == {"torch": "2.14", "derived_from": features.name}
    assert derive_layout(cache, features.name, "pooled", progress=False).skipped.entries == 3


def test_means_get_a_feature_set_of_their_own(cache: FeatureCache) -> None:
    features = full_set(cache)
    name = derive_layout(cache, features.name, "time", progress=False).feature_set
    assert name != replace(features.spec, tokens="time").name
    (derived,) = [each for each in cache.feature_sets() if each.name == name]
    assert derived.spec.transform["derived_from"] == {
        "fingerprint": features.spec.fingerprint,
        "tokens": "full",
        "grid": vars(GRID),
    }
    with pytest.raises(CacheError, match=f"was derived itself; derive 'pooled' from {features.spec.fingerprint}"):
        derive_layout(cache, name, "pooled", progress=False)


def test_new_clips_are_added_and_old_ones_stay(cache: FeatureCache) -> None:
    features = full_set(cache)
    derive_layout(cache, features.name, "time", progress=False)
    with features.writer() as writer:
        writer.add("new", make_tokens("new", 7), aux={"scores": np.zeros(7), "box": np.zeros(7)})
    report = derive_layout(cache, features.name, "time", progress=False)
    assert (report.done.entries, report.skipped.entries) == (1, 3)


def test_a_set_that_does_not_say_how_its_tokens_lie_is_told(cache: FeatureCache) -> None:
    features = full_set(cache, None)
    with pytest.raises(CacheError, match=r"does not say how its tokens lie .* Give --grid CLASS,TIMES,PLACES"):
        derive_layout(cache, features.name, "time", progress=False)
    given = derive_layout(cache, features.name, "time", grid=parse_grid("1,2,3"), progress=False)
    assert given.done.entries == 3
    other = derive_layout(cache, features.name, "time", grid=parse_grid("1,3,2"), progress=False)
    assert other.feature_set != given.feature_set  # another grid, other tokens, another set
    with pytest.raises(CacheError, match=r"clip 'a/b' of .* does not have 9 tokens a window"):
        derive_layout(cache, features.name, "time", grid=parse_grid("1,2,4"), progress=False)


@pytest.mark.parametrize("text", ["", "1,8", "1,8,x", "1,8,49,3,4", "1,0,49", "-1,8,49", "1.5,8,49"])
def test_a_grid_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(CacheError, match=r"it takes CLASS,TIMES,PLACES|there is no grid of"):
        parse_grid(text)


def test_what_cannot_be_derived_is_refused(cache: FeatureCache) -> None:
    features = full_set(cache, token_layouts=["time", "full", "pooled"])
    with pytest.raises(CacheError, match="tiny has no layout 'joint'; it offers: time, full, pooled"):
        derive_layout(cache, features.name, "joint", progress=False)
    with pytest.raises(CacheError, match="no 'full' tokens come from the 'full' tokens"):
        derive_layout(cache, features.name, "full", progress=False)
    with pytest.raises(CacheError, match="no 'spatial' tokens come from"):
        derive_layout(cache, features.name, "spatial", progress=False)
    file = features.path / "spec.json"
    file.write_text(file.read_text().replace('"times"', '"tims"'))
    with pytest.raises(CacheError, match="makes no sense; restore it, or give --grid"):
        derive_layout(cache, features.name, "time", progress=False)


def test_one_time_a_window_does_not_tell_its_middle(cache: FeatureCache) -> None:
    features = full_set(cache, TokenGrid(times=1, places=7, middle=0.375))
    assert derive_layout(cache, features.name, "time", progress=False).done.entries == 3
    with pytest.raises(CacheError, match="one time a window does not tell where its middle lies"):
        derive_layout(cache, features.name, "pooled", progress=False)


def test_a_kept_grid_of_wrong_types_is_refused(cache: FeatureCache) -> None:
    features = full_set(cache)
    file = features.path / "spec.json"
    content = json.loads(file.read_text())
    for value in ("8", None, 2.5, [2]):
        content["provenance"]["token_grid"]["times"] = value
        file.write_text(json.dumps(content))
        with pytest.raises(CacheError):
            derive_layout(cache, features.name, "time", progress=False)
