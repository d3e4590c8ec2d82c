"""Points of many dimensions laid out on a plane: by principal components, or by UMAP where that is installed.

UMAP: McInnes, Healy and Melville 2018, arXiv 1802.03426, as the package umap-learn has it.

# Shapes: n points, D their width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mgcli.cache import MgcliError

MAPS = ("pca", "umap")
NEIGHBOURS = 15  # that UMAP keeps near each point; the package's own choice
FEWEST_POINTS = 5  # of which UMAP makes a map that says anything
_AXES = 2
_STRONGEST = 50  # principal components that UMAP measures distances in: bounds its time, whatever the width of a token


class MapError(MgcliError):
    """A map that cannot be drawn."""


@dataclass(frozen=True, kw_only=True)
class MapConfig:
    """How points are laid out."""

    kind: str = "pca"  # one of MAPS
    seed: int = 0  # of what UMAP draws; principal components draw nothing

    def __post_init__(self) -> None:
        if self.kind not in MAPS:
            raise MapError(f"unknown map {self.kind!r}; there are {' and '.join(MAPS)}")
        if not 0 <= self.seed < 2**32:
            raise MapError(f"seed is {self.seed}; it must be from 0 to {2**32 - 1}")

    @property
    def about(self) -> str:
        """How the points lie and what may be read from it, the end of a sentence on what they are."""
        if self.kind == "pca":
            return "laid on the two directions in which the clips differ most (principal components)"
        return (
            f"laid out by UMAP ({NEIGHBOURS} neighbours, seed {self.seed}), which keeps clips near that are near in "
            "the token space. Which clips lie together can be read from it; how far groups are from each other, how "
            "large they are, and the axes mean little"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class PointMap:
    """Points on a plane."""

    places: np.ndarray  # (n, 2)
    axes: tuple[str, str]  # their titles


def expect_map(config: MapConfig) -> None:
    """Find out before the work whether such a map can be drawn here.

    Raises:
        MapError: UMAP is not installed.
    """
    if config.kind == "umap":
        _umap()


def draw_map(points: np.ndarray, config: MapConfig) -> PointMap:
    """(n, D) -> (n, 2), every number scaled to unit spread first; the same each time.

    Raises:
        MapError: UMAP is not installed, or has too few points, or all of one place.
    """
    if config.kind == "pca":
        places, share = principal_components(points)
        first, second = (f"component {i + 1} ({100 * share[i]:.1f} % of the variance)" for i in range(_AXES))
        return PointMap(places=places, axes=(first, second))
    if len(points) < FEWEST_POINTS:
        raise MapError(f"UMAP wants {FEWEST_POINTS} clips with tokens or more, and there are {len(points)}")
    if not points.std(axis=0).any():
        raise MapError("all clips have the same tokens, so that there is nothing to lay out")
    return PointMap(places=_umap_places(points, config.seed), axes=("UMAP 1", "UMAP 2"))


def principal_components(points: np.ndarray, number: int = _AXES) -> tuple[np.ndarray, np.ndarray]:
    """(n, D) -> (n, number) places on the strongest axes, and the share of the variance that each carries, (number,).

    The sign of an axis is chance: its largest weight is made positive, so that a page is drawn the same each time.
    Axes that the points do not have are 0.
    """
    spread = points.std(axis=0)
    standard = (points - points.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    left, singular, right = np.linalg.svd(standard, full_matrices=False)
    kept = min(number, len(singular))
    sign = np.sign(right[np.arange(kept), np.abs(right[:kept]).argmax(axis=1)])
    places = np.zeros((len(points), number))
    places[:, :kept] = left[:, :kept] * singular[:kept] * sign
    share = np.zeros(number)
    share[:kept] = singular[:kept] ** 2 / max(float((singular**2).sum()), 1e-12)
    return places, share


def _umap_places(points: np.ndarray, seed: int) -> np.ndarray:
    """(n, D) -> (n, 2). One thread and a start at the principal components: a seed gives the same places."""
    strongest, _ = principal_components(points, min(_STRONGEST, *points.shape) if points.shape[1] > 1 else _AXES)
    layout = _umap().UMAP(
        n_neighbors=min(NEIGHBOURS, len(points) - 1), init="pca", random_state=seed, n_jobs=1, low_memory=False
    )
    return np.asarray(layout.fit_transform(strongest.astype(np.float32)), dtype=np.float64)


def _umap() -> Any:
    try:
        import umap
    except ImportError as error:
        raise MapError(f"umap-learn is not installed ({error}): pip install 'mgcli[umap]'") from None
    return umap
