"""Augmented views: what is drawn for one, what it does to times, pictures, faces and joints, and `extract --views`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_media import make_skeleton, make_video

from mgcli.cache import FeatureCache, check_clip_table, open_cache, verify_cache
from mgcli.extract import (
    LAYOUTS,
    ClipView,
    ExtractReport,
    Shard,
    SkeletonError,
    ViewConfig,
    ViewError,
    explain_extraction,
    extract_modalities,
    mirror_joints,
)
from mgcli.extract.face import REFERENCE_POINTS, Face, FaceJitter, align_face
from mgcli.extract.shrink import FramedShrink, Framing, Shrink

NUM_FRAMES = 40
LIGHT = ("video", "context", "pose")
MODALITIES = (*LIGHT, "face")  # whose network is large
BACKBONES = {"video": "tiny_backbones:TinyVideo", "context": "tiny_backbones:TinyWindows", "pose": "agcn_joint"}
QUICK: dict[str, Any] = {"weights": "random:0", "precision": "float32", "workers": 0, "progress": False}


# What is drawn


def test_a_view_follows_from_clip_number_and_seed_alone() -> None:
    drawn = ClipView.draw("a", 1, ViewConfig(count=1, seed=3))
    assert drawn == ClipView.draw("a", 1, ViewConfig(count=9, seed=3))
    others = [ClipView.draw("b", 1, ViewConfig(seed=3)), ClipView.draw("a", 2, ViewConfig(seed=3))]
    others.append(ClipView.draw("a", 1, ViewConfig(seed=4)))
    assert len({drawn.place, *(each.place for each in others)}) == 4
    assert drawn.place == pytest.approx(
        0.40143310764680784
    )  # on every machine, in every version: views are stored for years


def test_half_of_the_views_are_mirrored_and_none_where_that_is_not_wanted() -> None:
    views = [ClipView.draw(f"c{i}", 1, ViewConfig()) for i in range(400)]
    assert 160 < sum(view.mirrored for view in views) < 240
    assert all(view.framing.mirrored == view.face.mirrored == view.mirrored for view in views)
    plain = [ClipView.draw(f"c{i}", 1, ViewConfig(flip=False)) for i in range(400)]
    assert not any(view.mirrored for view in plain)
    assert [view.place for view in plain] == [view.place for view in views]


@given(
    clip_id=st.text(max_size=5),
    start_s=st.floats(0, 100),
    length_s=st.floats(0.02, 50),
    shape=st.sampled_from([(1, 16), (3, 16), (5, 1), (1, 1), (2, 4)]),
)
def test_a_view_looks_at_ascending_times_within_the_clip(
    clip_id: str, start_s: float, length_s: float, shape: tuple[int, int]
) -> None:
    num_windows, num_times = shape
    end_s = start_s + length_s
    centres = start_s + (np.arange(num_windows * num_times) + 0.5) * (length_s / (num_windows * num_times))
    windows = list(centres.reshape(num_windows, num_times))
    moved = ClipView.draw(clip_id, 1, ViewConfig()).times(windows, start_s, end_s)
    assert [len(each) for each in moved] == [num_times] * num_windows
    for before, times_s in zip(windows, moved, strict=True):
        assert times_s[0] >= start_s
        assert times_s[-1] < end_s
        assert (np.diff(times_s) > 0).all()
        if num_times > 1:
            share = np.ptp(times_s) / np.ptp(before)
            assert 0.75 - 1e-3 < share < 1 + 1e-3
    assert (np.diff([times_s[0] for times_s in moved]) > 0).all()  # windows keep their order


@pytest.mark.parametrize("settings", [{"count": -1}, {"count": 1.5}, {"count": 40000}, {"seed": "x"}, {"flip": 1}])
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ViewError, match="it must be"):
        ViewConfig(**settings)


# What a view does


def test_a_picture_is_cut_in_its_own_shape_and_mirrored() -> None:
    picture = np.arange(100 * 160 * 3, dtype=np.uint8).reshape(100, 160, 3)
    part = Framing(side=0.5, down=1.0, along=0.25, mirrored=False)
    np.testing.assert_array_equal(part(picture), picture[50:100, 20:100])
    np.testing.assert_array_equal(replace(part, mirrored=True)(picture), picture[50:100, 99:19:-1])
    mirror = Framing(side=1.0, down=0.3, along=0.7, mirrored=True)
    np.testing.assert_array_equal(mirror(mirror(picture)), picture)
    shrink = Shrink(resize_px=40, crop_px=(32, 32))
    np.testing.assert_array_equal(FramedShrink(part, shrink)(picture), shrink(np.ascontiguousarray(part(picture))))
    assert not np.array_equal(FramedShrink(mirror, shrink)(picture), shrink(picture))


def test_a_face_is_mirrored_moved_and_zoomed_about_its_place() -> None:
    rng = np.random.default_rng(0)
    frame = np.repeat(np.repeat(rng.integers(0, 256, (30, 30, 3), dtype=np.uint8), 8, axis=0), 8, axis=1)
    face = Face(np.zeros(4), REFERENCE_POINTS + np.array([60, 60]))
    plain = align_face(frame, face)
    mirrored = align_face(frame, face, FaceJitter(zoom=1.0, shift=0j, mirrored=True))
    assert np.abs(mirrored[:, ::-1].astype(int) - plain).max() <= 1
    moved = align_face(frame, face, FaceJitter(zoom=1.0, shift=(14 + 7j) / 112, mirrored=False))
    assert np.abs(moved[7:, 14:].astype(int) - plain[:-7, :-14]).max() <= 1
    zoomed = align_face(frame, face, FaceJitter(zoom=3.0, shift=0j, mirrored=False))
    assert np.abs(zoomed[::3, ::3].astype(int) - plain[37:75, 37:75]).max() <= 1
    assert not align_face(frame, None, FaceJitter(zoom=1.1, shift=0j, mirrored=True)).any()


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("num_people", [None, 2])
def test_mirrored_twice_a_skeleton_is_what_it_was(name: str, num_people: int | None) -> None:
    layout = LAYOUTS[name]
    joints = some_joints(name, num_people)
    mirrored = mirror_joints(joints, layout)
    np.testing.assert_allclose(mirror_joints(mirrored, layout), joints, rtol=1e-5, atol=1e-4)
    left, right = layout.index("left_shoulder"), layout.index("right_shoulder")
    np.testing.assert_array_equal(mirrored[..., left, 1:], joints[..., right, 1:])
    width = joints[3, ..., left, 0] - joints[3, ..., right, 0]
    np.testing.assert_allclose(mirrored[3, ..., left, 0] - mirrored[3, ..., right, 0], width, atol=1e-3)


@pytest.mark.parametrize("name", LAYOUTS)
def test_turned_and_scaled_a_skeleton_keeps_its_form_and_its_missing_joints(name: str) -> None:
    layout = LAYOUTS[name]
    joints = some_joints(name)
    view = replace(ClipView.draw("a", 1, ViewConfig()), mirrored=False, scale=1.1)
    changed = view.change_joints(joints, layout)
    assert not changed[2, 0].any()
    dims = 3 if layout.is_3d else 2
    if dims == 2:
        np.testing.assert_array_equal(changed[..., 2], joints[..., 2])
    one, other = 1, layout.num_joints - 1
    before = np.linalg.norm(joints[3, one, :dims] - joints[3, other, :dims])
    after = np.linalg.norm(changed[3, one, :dims] - changed[3, other, :dims])
    assert after == pytest.approx(1.1 * before, rel=1e-4)
    assert changed.dtype == joints.dtype
    assert not view.change_joints(np.zeros_like(joints), layout).any()


def test_joints_of_no_known_layout_are_turned_but_not_mirrored() -> None:
    view = ClipView.draw("a", 1, ViewConfig())
    joints = some_joints("imigue22")
    assert replace(view, mirrored=False).change_joints(joints, None).shape == joints.shape
    mirrored = replace(view, mirrored=True)
    with pytest.raises(
        SkeletonError, match=r"which of its 22 joints .*\(--option joints=imigue22\), or .*no-view-flip"
    ):
        mirrored.change_joints(joints, None)
    with pytest.raises(SkeletonError, match=r"--option joints=openpose25 or joints=ntu25"):
        mirrored.change_joints(some_joints("ntu25"), None)
    with pytest.raises(SkeletonError, match=r"cannot be mirrored; make views that are not: --no-view-flip"):
        mirrored.change_joints(joints[:, :7], None)


def some_joints(name: str, num_people: int | None = None) -> np.ndarray:
    """(6, V, 3) or (6, M, V, 3) joints, one of them missing in one frame."""
    shape = (6, *((num_people,) if num_people else ()), LAYOUTS[name].num_joints, 3)
    joints = np.random.default_rng(0).uniform(1, 100, shape).astype(np.float32)
    joints[2, ..., 0, :] = 0
    return joints


# From the videos to the cache


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("views")
    for i in range(3):
        make_video(folder / f"v{i}.mp4", NUM_FRAMES, first_number=60 * i)
        make_skeleton(folder / f"v{i}.npy", NUM_FRAMES, num_joints=22, seed=i)
        faces = np.concatenate([[22, 10, 46, 38], (REFERENCE_POINTS / 4 + (20, 8)).ravel()])
        np.save(folder / f"f{i}.npy", np.tile(faces, (NUM_FRAMES, 1)).astype(np.float32))
    return folder


def clip_table(media: Path, splits: tuple[str, ...] = ("train", "val", "test"), gesture: str = "3") -> pd.DataFrame:
    """Two clips of each of three videos, one video a split."""
    rows = [
        {
            **{"clip_id": f"v{i}/{k}", "video": str(media / f"v{i}.mp4"), "skeleton": str(media / f"v{i}.npy")},
            **{"face": str(media / f"f{i}.npy"), "split": splits[i], "gesture": gesture, "emotion": "win"},
            **{"start_s": 0.4 * k, "end_s": 0.4 * k + 1.0},
        }
        for i in range(3)
        for k in range(2)
    ]
    return check_clip_table(pd.DataFrame(rows))


def extract(
    cache: FeatureCache, table: pd.DataFrame, *modalities: str, views: Any = 0, **options: Any
) -> ExtractReport:
    wanted = modalities or ("video",)
    backbones = {name: BACKBONES[name] for name in wanted if name in BACKBONES}
    of_backbones = {"pose": {"num_frames": 8}, "face": {"frames_per_s": 2.0}}
    if isinstance(views, ViewConfig):
        views = dict.fromkeys(wanted, views)
    asked = {"options": {name: of_backbones.get(name, {}) for name in wanted}, "views": views} | QUICK | options
    return extract_modalities(cache, table, wanted, backbones=backbones, **asked)


def make(folder: Path, table: pd.DataFrame, *modalities: str, **options: Any) -> FeatureCache:
    cache = open_cache(folder, create=True)
    assert extract(cache, table, *modalities, **options).failed == 0
    return cache


def view_tokens(cache: FeatureCache, table: pd.DataFrame, modality: str, view: int) -> dict[str, np.ndarray]:
    """Clip -> tokens of one view, as stage two would read them."""
    features = cache.feature_set(modality)
    stored = cache.read_clips()
    stored = stored[stored["clip_id"].isin(table["clip_id"])]
    ids, sources = stored["clip_id"].tolist(), features.sources_of(stored, view)
    found = features.holds(ids, sources, view).tolist()
    there = [(clip_id, source) for clip_id, source, held in zip(ids, sources, found, strict=True) if held]
    return {clip_id: features.load([clip_id], sources=[source], view=view)[0].copy() for clip_id, source in there}


def scaled_error(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    assert found.keys() == expected.keys()
    largest = max(np.abs(each).max() for each in expected.values())
    return max(float(np.abs(found[key] - expected[key]).max()) for key in expected) / float(largest)


@pytest.fixture(scope="module")
def whole(media: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    """Every modality with two views."""
    return make(tmp_path_factory.mktemp("whole") / "features", clip_table(media), *MODALITIES, views=2)


def test_the_plain_view_is_the_same_bits_with_and_without_views(
    whole: FeatureCache, media: Path, tmp_path: Path
) -> None:
    table = clip_table(media)
    without = make(tmp_path / "features", table, *MODALITIES)
    for modality in MODALITIES:
        assert without.feature_set(modality).name == whole.feature_set(modality).name
        plain, expected = (view_tokens(each, table, modality, 0) for each in (whole, without))
        assert plain.keys() == expected.keys() == set(table["clip_id"])
        for clip_id in plain:
            np.testing.assert_array_equal(plain[clip_id], expected[clip_id])


@pytest.mark.parametrize("modality", MODALITIES)
def test_views_are_of_training_clips_and_unlike_each_other(whole: FeatureCache, media: Path, modality: str) -> None:
    table = clip_table(media)
    plain, *views = (view_tokens(whole, table, modality, view) for view in range(3))
    assert views[0].keys() == views[1].keys() == {"v0/0", "v0/1"}
    for clip_id in views[0]:
        assert views[0][clip_id].shape == plain[clip_id].shape
        for one, other in ((plain, views[0]), (plain, views[1]), (views[0], views[1])):
            assert np.abs(one[clip_id] - other[clip_id]).max() > 1e-3 * np.abs(plain[clip_id]).max()
    entries = whole.feature_set(modality).clips()
    assert entries.groupby("view").size().to_dict() == {0: 6, 1: 2, 2: 2}


@pytest.mark.parametrize(
    "way",
    [
        {"batch_size": 1},
        {"batch_size": 7, "workers": 2},
        {"shard": Shard(0, 2)},
        {"devices": ["cpu", "cpu"], "workers": 1},
    ],
    ids=str,
)
def test_views_do_not_depend_on_the_way_they_are_made(
    whole: FeatureCache, media: Path, tmp_path: Path, way: dict[str, Any]
) -> None:
    table = clip_table(media)
    other = open_cache(tmp_path / "features", create=True)
    turned = table.iloc[::-1].reset_index(drop=True)
    modalities = MODALITIES if way == {"batch_size": 1} else LIGHT
    assert extract(other, turned, *modalities, views=2, **way).failed == 0
    if "shard" in way:
        assert extract(other, turned, *modalities, views=2, shard=Shard(1, 2)).failed == 0
    for modality in modalities:
        for view in (1, 2):
            found, expected = (view_tokens(each, table, modality, view) for each in (other, whole))
            assert len(found) == 2
            assert scaled_error(found, expected) < 1e-5
    assert verify_cache(other).ok


def test_all_views_come_from_one_decode_pass(media: Path, tmp_path: Path) -> None:
    report = extract(open_cache(tmp_path / "features", create=True), clip_table(media), *LIGHT, views=5)
    assert report.failed == 0
    assert report.profile.decoded_frames <= 3 * NUM_FRAMES
    assert report.profile.converted_frames <= 3 * NUM_FRAMES
    assert report.modalities["video"].views_done == 10
    assert "augmented views 1 to 5 of the training clips: 10 done, 0 there already, 0 failed" in report.summary()
    assert report.to_json()["video"]["views"] == {"asked_for": 5, "done": 10, "skipped": 0, "failed": 0}
    json.dumps(report.to_json())


def test_without_splits_every_clip_has_views(media: Path, tmp_path: Path) -> None:
    cache = make(tmp_path / "features", clip_table(media, ("", "", "")), views=1)
    assert len(view_tokens(cache, clip_table(media), "video", 1)) == 6


def test_a_share_of_clips_without_a_split_has_no_views_where_others_have_one(media: Path, tmp_path: Path) -> None:
    table = clip_table(media, ("train", "", ""))
    cache = open_cache(tmp_path / "features", create=True)
    done = [extract(cache, table, views=1, shard=Shard(i, 3)).modalities["video"] for i in range(3)]
    assert sorted(each.views_done for each in done) == [0, 0, 2]
    again = [extract(cache, table, views=1, shard=Shard(i, 2)).modalities["video"] for i in range(2)]
    assert sorted((each.views_done, each.views_skipped) for each in again) == [(0, 0), (0, 2)]


def test_more_views_only_add_the_missing_ones(media: Path, tmp_path: Path) -> None:
    table = clip_table(media)
    cache = make(tmp_path / "features", table)
    first = extract(cache, table, views=2).modalities["video"]
    assert (first.done, first.skipped, first.views_done, first.views_skipped) == (0, 6, 4, 0)
    parts = {part.name for part in cache.feature_set("video").parts()}
    before = view_tokens(cache, table, "video", 1)
    more = extract(cache, table, views=4).modalities["video"]
    assert (more.done, more.skipped, more.views_done, more.views_skipped) == (0, 6, 4, 4)
    assert parts < {part.name for part in cache.feature_set("video").parts()}
    assert scaled_error(view_tokens(cache, table, "video", 1), before) == 0
    fewer = extract(cache, table, views=1).modalities["video"]
    assert (fewer.views_done, fewer.views_skipped) == (0, 2)
    assert extract(cache, table).modalities["video"].views == 0  # none asked for: those there stay
    assert len(view_tokens(cache, table, "video", 4)) == 2


def test_views_of_another_seed_are_never_mixed_in(media: Path, tmp_path: Path) -> None:
    table = clip_table(media)
    cache = make(tmp_path / "features", table, views=2)
    before = view_tokens(cache, table, "video", 1)
    other = extract(cache, table, views=ViewConfig(count=1, seed=7))
    assert (other.modalities["video"].done, other.modalities["video"].views_done) == (0, 2)
    (said,) = other.warnings
    assert "2 augmented views are in the cache as made with another seed or other settings" in said
    features = cache.feature_set("video")
    assert features.view_recipe is not None
    assert features.view_recipe["seed"] == 7
    assert scaled_error(view_tokens(cache, table, "video", 1), before) > 1e-3
    assert view_tokens(cache, table, "video", 2) == {}  # that of seed 0 is there, and is not this seed's
    back = extract(cache, table, views=2).modalities["video"]
    assert (back.views_done, back.views_skipped) == (0, 4)
    assert scaled_error(view_tokens(cache, table, "video", 1), before) == 0
    assert verify_cache(cache).ok


def test_a_clip_that_moved_gets_new_views(media: Path, tmp_path: Path) -> None:
    table = clip_table(media)
    cache = make(tmp_path / "features", table, views=1)
    moved = table.assign(end_s=table["end_s"].where(table["clip_id"] != "v0/0", 0.9))
    report = extract(cache, moved, views=1).modalities["video"]
    assert (report.done, report.views_done, report.views_skipped) == (1, 1, 1)


def test_nothing_is_mirrored_where_a_class_names_a_side(media: Path, tmp_path: Path) -> None:
    table = clip_table(media, gesture="Left hand up")
    cache = open_cache(tmp_path / "features", create=True)
    report = extract(cache, table, views=3)
    assert report.warnings == ["video: no view is mirrored, because classes name a side: 'Left hand up'"]
    recipe = cache.feature_set("video").view_recipe
    assert recipe is not None
    assert recipe["flip"] is False
    unmirrored = make(tmp_path / "same", clip_table(media), views=ViewConfig(count=3, flip=False))
    for view in (1, 2, 3):
        same = view_tokens(unmirrored, table, "video", view)
        assert scaled_error(view_tokens(cache, table, "video", view), same) < 1e-5
    for name in ("copyright", "leftover food", "Bright smile"):  # no sides
        assert (
            extract(open_cache(tmp_path / name, create=True), clip_table(media, gesture=name), views=1).warnings == []
        )


def test_a_file_that_is_not_there_is_listed_once_and_its_views_are_made_later(media: Path, tmp_path: Path) -> None:
    table = clip_table(media)
    video = tmp_path / "v.mp4"
    table["video"] = table["video"].where(table["clip_id"] != "v0/1", str(video))
    cache = open_cache(tmp_path / "features", create=True)
    report = extract(cache, table, views=3)
    counts = report.modalities["video"]
    assert (counts.done, counts.failed, counts.views_done, counts.views_failed) == (5, 1, 3, 3)
    assert cache.feature_set("video").failures()["clip_id"].tolist() == ["v0/1"]
    assert "1 of 6 clips failed" in report.summary()
    make_video(video, NUM_FRAMES)
    again = extract(cache, table, views=3)
    assert (again.failed, again.modalities["video"].done, again.modalities["video"].views_done) == (0, 1, 3)


def test_a_view_that_fails_is_listed_with_its_number(media: Path, tmp_path: Path) -> None:
    table = clip_table(media)
    cache = open_cache(tmp_path / "features", create=True)
    mirrored = [v for v in range(1, 5) if ClipView.draw("v0/0", v, ViewConfig()).mirrored]
    mirrored += [v for v in range(1, 5) if ClipView.draw("v0/1", v, ViewConfig()).mirrored]
    report = extract_modalities(cache, table, ["pose"], backbones={"pose": "joints"}, views=4, **QUICK)
    counts = report.modalities["pose"]
    assert (counts.done, counts.failed, counts.views_failed) == (6, 0, len(mirrored))
    assert f"{len(mirrored)} views failed, listed in" in report.summary()
    reasons = cache.feature_set("pose").failures()["reason"].tolist()
    assert [int(reason.split(":")[0].removeprefix("view ")) for reason in reasons] == mirrored
    assert all("cannot be mirrored" in reason and "--no-view-flip" in reason for reason in reasons)
    unmirrored = {"pose": ViewConfig(count=4, flip=False)}
    again = extract_modalities(cache, table, ["pose"], backbones={"pose": "joints"}, views=unmirrored, **QUICK)
    assert (again.failed, again.modalities["pose"].views_done) == (0, 8)


# Looking after them


def test_explain_says_which_views_are_there_and_why_others_are_not(media: Path, tmp_path: Path) -> None:
    table = clip_table(media)
    cache = make(tmp_path / "features", table, views=2)

    def explain(clip_id: str, **views: int) -> tuple[str, str, list[int]]:
        asked: dict[str, Any] = {"backbones": BACKBONES, "weights": "random:0", "precision": "float32"}
        asked = {**asked, "backbones": {"video": BACKBONES["video"]}, "views": {"video": ViewConfig(**views)}}
        (found,) = explain_extraction(cache, table, clip_id, ["video"], **asked)
        return found.verdict, found.summary(), found.views

    verdict, said, views = explain("v0/0")
    assert (verdict, views) == ("up to date", [1, 2])
    assert "augmented views that are there: 1, 2" in said
    assert explain("v0/0", count=2)[0] == "up to date"
    verdict, said, _ = explain("v0/0", count=4)
    assert verdict == "missing"
    assert "views 3, 4 not yet; run mgcli extract --modality video --views 4" in said
    verdict, said, views = explain("v0/0", count=1, seed=5)
    assert (verdict, views) == ("missing", [])
    assert "view 1 of another source, or made with another seed or other settings" in said
    assert explain("v2/0", count=4)[0::2] == ("up to date", [])  # a test clip gets none


def test_info_counts_clips_and_views_apart(whole: FeatureCache) -> None:
    for each in whole.info()["feature_sets"]:
        assert (each["clips"], each["views"], each["view_entries"]) == (6, 2, 4)
    assert whole.feature_set("video").describe().endswith("6 clips and 4 augmented views")
