"""Joint coordinates as tokens, of skeletons whose file names their layout, or whose user does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mgcli.cache import FeatureCache, FeatureSet, check_clip_table, open_cache
from mgcli.extract import BackboneError, ExtractReport, ViewConfig, create_backbone, extract_modalities
from mgcli.extract.skeleton_layouts import LAYOUTS, LayoutError
from mgcli.extract.views import ClipView, mirror_joints

NUM_FRAMES = 64
FPS = 25.0
VIEWS = {"pose": ViewConfig(count=4)}


@pytest.fixture
def table(tmp_path: Path) -> pd.DataFrame:
    """Two clips of 22 joints in `.npy` files, which say nothing of their layout."""
    rng = np.random.default_rng(0)
    rows = []
    for name in ("a", "b"):
        joints = rng.uniform(1, 100, (NUM_FRAMES, 22, 3)).astype(np.float32)
        joints[::7, 3] = 0
        np.save(tmp_path / f"{name}.npy", joints)
        rows.append({"clip_id": name, "skeleton": str(tmp_path / f"{name}.npy"), "skeleton_fps": FPS, "split": "train"})
    return check_clip_table(pd.DataFrame(rows))


def extract(cache: FeatureCache, table: pd.DataFrame, **more: Any) -> ExtractReport:
    asked = {"backbones": {"pose": "joints"}, "views": VIEWS, "workers": 0, "progress": False}
    return extract_modalities(cache, table, ["pose"], **{**asked, **more})


def tokens_of(features: FeatureSet, table: pd.DataFrame, view: int) -> dict[str, np.ndarray]:
    sources = features.sources_of(table, view)
    return {
        clip_id: features.load([clip_id], sources=[source], view=view)[0]
        for clip_id, source in zip(table["clip_id"], sources, strict=True)
    }


def test_without_a_layout_mirrored_views_fail_and_the_reason_names_the_way_out(
    tmp_path: Path, table: pd.DataFrame
) -> None:
    cache = open_cache(tmp_path / "features", create=True)
    report = extract(cache, table)
    assert report.modalities["pose"].done == 2
    assert 0 < report.modalities["pose"].views_failed < 8
    for reason in cache.feature_set("pose").failures()["reason"]:
        assert "which of its 22 joints are left and right" in reason
        assert "name their layout (--option joints=imigue22), or make views that are not: --no-view-flip" in reason


def test_with_its_layout_named_every_view_is_made_and_mirrored_ones_change_sides(
    tmp_path: Path, table: pd.DataFrame
) -> None:
    without, named = (open_cache(tmp_path / each, create=True) for each in ("without", "named"))
    extract(without, table, views=0)
    report = extract(named, table, options={"pose": {"joints": "imigue22"}})
    assert (report.failed, report.modalities["pose"].views_done) == (0, 8)
    features, unnamed = named.feature_set("pose"), without.feature_set("pose")
    assert features.spec.transform == unnamed.spec.transform | {"joints": "imigue22"}
    plain = tokens_of(features, table, 0)
    for clip_id, expected in tokens_of(unnamed, table, 0).items():
        np.testing.assert_array_equal(plain[clip_id], expected)
    backbone = create_backbone("joints", joints="imigue22")
    layout = LAYOUTS["imigue22"]
    seen = set()
    for number in range(1, 5):
        for clip_id, tokens in tokens_of(features, table, number).items():
            view = ClipView.draw(clip_id, number, VIEWS["pose"])
            seen.add(view.mirrored)
            (times_s,) = view.times(backbone.windows(0.0, NUM_FRAMES / FPS), 0.0, NUM_FRAMES / FPS)
            joints = np.load(tmp_path / f"{clip_id}.npy")[np.floor(times_s * FPS + 1e-4).astype(int)]
            joints = mirror_joints(joints, layout) if view.mirrored else joints
            present = joints[..., 2] > 0  # of one side, a joint is missing now and then
            np.testing.assert_array_equal(tokens.reshape(-1, 22, 3)[..., 2] > 0, present)
    assert seen == {True, False}


def test_a_named_layout_is_what_skeletons_are_brought_to(tmp_path: Path) -> None:
    backbone = create_backbone("joints", joints="coco17")
    assert backbone.embed_dim == 3 * 17
    assert create_backbone("joints").embed_dim == 3 * 22
    assert create_backbone("joints", num_joints=17, joints="coco17").embed_dim == 3 * 17


def test_a_layout_that_does_not_fit_is_refused(tmp_path: Path, table: pd.DataFrame) -> None:
    with pytest.raises(LayoutError, match=r"unknown joint layout 'imigue22x'; did you mean 'imigue22'\?"):
        create_backbone("joints", joints="imigue22x")
    with pytest.raises(BackboneError, match=r"num_joints is 5, layout 'coco17' has 17; leave out num_joints"):
        create_backbone("joints", joints="coco17", num_joints=5)
    cache = open_cache(tmp_path / "features", create=True)
    report = extract(cache, table, options={"pose": {"joints": "coco17"}}, views=0)
    assert report.failed == 2
    reason = cache.feature_set("pose").failures()["reason"][0]
    assert "the skeleton has 22 joints, layout 'coco17' has 17; name its layout with joints=NAME" in reason
