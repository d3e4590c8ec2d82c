"""Augmented views in the cache: which ones a feature set means, and what becomes of them when entries are moved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from samples import make_spec, make_tokens

from mgcli.cache import (
    VIEWS_KEY,
    FeatureCache,
    FeatureSet,
    TokenGrid,
    check_clip_table,
    compact,
    derive_layout,
    export_features,
    import_share,
    merge_cache,
    open_cache,
    verify_cache,
)
from mgcli.cache.views import view_source

SOURCES = {"a": "00000000000000aa", "b": "00000000000000bb"}
RECIPE: dict[str, Any] = {"version": 1, "seed": 0, "flip": True}
OTHER = RECIPE | {"seed": 1}


def table(**columns: Any) -> pd.DataFrame:
    rows = {"clip_id": list(SOURCES), "video": ["v.mp4"] * 2}
    return check_clip_table(pd.DataFrame(rows | columns)).assign(video_source=list(SOURCES.values()))


def add_views(features: FeatureSet, recipe: dict[str, Any], count: int, salt: str = "") -> None:
    """The plain view and some others of both clips, as an extraction leaves them."""
    features.write_provenance(**{VIEWS_KEY: recipe})
    with features.writer() as writer:
        for clip_id, source in SOURCES.items():
            for view in range(count + 1):
                of_view = view_source(source, recipe) if view else source
                if not features.has(clip_id, of_view, view):
                    tokens = make_tokens(f"{clip_id}{view}{recipe['seed'] if view else ''}{salt}", 9)
                    writer.add(clip_id, tokens, source=of_view, view=view)


@pytest.fixture
def features(cache: FeatureCache) -> FeatureSet:
    """Two views by one recipe, then one by another."""
    features = cache.create_feature_set(make_spec(tokens="full"), {"token_layouts": ["full", "time", "pooled"]})
    add_views(features, RECIPE, 2)
    add_views(features, OTHER, 1)
    cache.write_clips(table(), "p")
    return features


def tokens_of(features: FeatureSet, view: int) -> dict[str, np.ndarray]:
    clips = table()
    sources = features.sources_of(clips, view)
    held = features.holds(list(SOURCES), sources, view).tolist()
    there = [(clip, source) for clip, source, is_held in zip(SOURCES, sources, held, strict=True) if is_held]
    return {clip: features.load([clip], sources=[source], view=view)[0] for clip, source in there}


def check_is_newest_recipe(features: FeatureSet) -> None:
    """Views are those of OTHER, of which there is one."""
    assert tokens_of(features, 2) == {}
    for clip_id, tokens in tokens_of(features, 1).items():
        np.testing.assert_array_equal(tokens, make_tokens(f"{clip_id}11", 9))
    assert set(tokens_of(features, 1)) == set(tokens_of(features, 0)) == {"a", "b"}


def test_a_feature_set_means_the_views_of_its_newest_recipe(features: FeatureSet, cache: FeatureCache) -> None:
    check_is_newest_recipe(features)
    check_is_newest_recipe(cache.named_set(features.name))
    features.write_provenance(**{VIEWS_KEY: RECIPE})
    assert set(tokens_of(features, 2)) == {"a", "b"}
    np.testing.assert_array_equal(tokens_of(features, 1)["a"], make_tokens("a10", 9))
    (info,) = cache.info()["feature_sets"]
    assert (info["clips"], info["views"], info["view_entries"]) == (2, 2, 6)
    assert verify_cache(cache).ok


def test_views_are_found_where_a_clip_table_names_no_sources(features: FeatureSet) -> None:
    named = features.sources_of(table(), 1)
    assert features.sources_of(table().drop(columns="video_source"), 1) == named
    assert features.sources_of(table().assign(video_source=""), 1) == named
    unknown = table(clip_id=["x", "b"]).assign(video_source="")
    assert features.sources_of(unknown, 1) == ["", named[1]]


def test_views_that_other_programs_numbered_need_no_recipe(cache: FeatureCache) -> None:
    features = cache.create_feature_set(make_spec())
    with features.writer() as writer:
        writer.add("a", make_tokens("a"), source=SOURCES["a"], view=1)
    assert features.sources_of(table(), 1) == list(SOURCES.values())
    assert features.view_recipe is None


def test_compaction_keeps_all_views(features: FeatureSet) -> None:
    assert compact(features).count.entries == 8
    check_is_newest_recipe(features)
    features.write_provenance(**{VIEWS_KEY: RECIPE})
    assert len(tokens_of(features, 2)) == 2


def test_a_merge_brings_the_recipe_with_the_views(features: FeatureSet, cache: FeatureCache, tmp_path: Path) -> None:
    fresh = open_cache(tmp_path / "fresh", create=True)
    assert merge_cache(fresh, cache).other_views == []
    check_is_newest_recipe(fresh.named_set(features.name))
    plain = open_cache(tmp_path / "plain", create=True)
    ours = plain.create_feature_set(features.spec)
    with ours.writer() as writer:
        writer.add("a", make_tokens("a0", 9), source=SOURCES["a"])
    assert merge_cache(plain, cache).other_views == []
    check_is_newest_recipe(plain.named_set(features.name))


def test_a_merge_never_mixes_views_of_two_recipes(features: FeatureSet, cache: FeatureCache, tmp_path: Path) -> None:
    mine = open_cache(tmp_path / "mine", create=True)
    ours = mine.create_feature_set(features.spec)
    third = RECIPE | {"seed": 9}
    add_views(ours, third, 1)
    report = merge_cache(mine, cache)
    assert report.other_views == [features.name]
    assert f"{features.name}: the views that came were made with another seed or other settings" in report.summary()
    assert report.to_json()["other_views"] == [features.name]
    merged = mine.named_set(features.name)
    assert merged.view_recipe == third
    np.testing.assert_array_equal(tokens_of(merged, 1)["a"], make_tokens("a19", 9))
    assert tokens_of(merged, 2) == {}
    assert verify_cache(mine).ok


def test_derived_layouts_have_the_views_too(features: FeatureSet, cache: FeatureCache) -> None:
    grid = TokenGrid(class_tokens=1, times=2, places=4, middle=0.5)
    derive_layout(cache, features.name, "time", grid=grid, progress=False)
    exact = cache.create_feature_set(make_spec(tokens="pooled"))
    derive_layout(cache, features.name, "pooled", grid=grid, progress=False)
    for layout in (cache.named_set(exact.name), cache.feature_set("video", derived_name(cache))):
        assert layout.view_recipe == OTHER
        assert len(tokens_of(layout, 1)) == 2
        assert tokens_of(layout, 2) == {}


def derived_name(cache: FeatureCache) -> str:
    (found,) = [each for each in cache.feature_sets() if each.spec.tokens == "time"]
    return found.spec.fingerprint


def test_a_shared_file_carries_the_recipe(features: FeatureSet, cache: FeatureCache, tmp_path: Path) -> None:
    out = tmp_path / "set.mgcache.h5"
    export_features(cache, features.name, out, "share", progress=False)
    fresh = open_cache(tmp_path / "fresh", create=True)
    import_share(fresh, out, progress=False)
    check_is_newest_recipe(fresh.named_set(features.name))
    there = open_cache(tmp_path / "there", create=True)
    there.create_feature_set(features.spec)
    import_share(there, out, progress=False)
    check_is_newest_recipe(there.named_set(features.name))


def test_an_export_of_a_view_takes_the_one_that_is_meant(
    features: FeatureSet, cache: FeatureCache, tmp_path: Path
) -> None:
    export_features(cache, features.name, tmp_path / "v1.npz", "npz", view=1, progress=False)
    found = np.load(tmp_path / "v1.npz")
    np.testing.assert_array_equal(found["b"], make_tokens("b11", 9))


@pytest.mark.parametrize("spoilt", [5, "x", [1], None])
def test_a_recipe_that_is_none_is_as_none_at_all(cache: FeatureCache, spoilt: object) -> None:
    features = cache.create_feature_set(make_spec(), {VIEWS_KEY: spoilt})
    assert features.view_recipe is None
    assert features.sources_of(table(), 1) == list(SOURCES.values())
