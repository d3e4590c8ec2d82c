"""The map of clips in the report, by itself: where points come to lie."""

from __future__ import annotations

import numpy as np
import pytest

from mgcli.fuse.report_map import MapConfig, MapError, draw_map, principal_components


def test_principal_components_find_the_axis_on_which_points_lie() -> None:
    rng = np.random.default_rng(0)
    along = rng.standard_normal(50)
    points = np.outer(along, [1.0, -2.0, 0.5]) + 5.0
    places, share = principal_components(points)
    assert share[0] == pytest.approx(1.0)
    assert abs(np.corrcoef(places[:, 0], along)[0, 1]) == pytest.approx(1.0)
    assert principal_components(np.ones((4, 3)))[1].tolist() == [0.0, 0.0]
    assert principal_components(np.ones((2, 1)))[0].shape == (2, 2)


@pytest.mark.slow
def test_a_umap_keeps_groups_apart_and_refuses_what_has_none() -> None:
    pytest.importorskip("umap")
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.standard_normal((30, 60)), rng.standard_normal((30, 60)) + 4])
    places = draw_map(points, MapConfig(kind="umap")).places
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert ((apart.argmin(axis=1) < 30) == (np.arange(60) < 30)).all()
    with pytest.raises(MapError, match="all clips have the same tokens"):
        draw_map(np.ones((20, 4)), MapConfig(kind="umap"))
    for few in (np.arange(5.0)[:, None], rng.standard_normal((5, 3))):
        assert np.isfinite(draw_map(few, MapConfig(kind="umap")).places).all()
