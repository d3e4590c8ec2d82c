"""What the cache holds of one clip: each feature set's tokens as a course over time, small enough to be looked at."""

# Shapes: R tokens of the clip.

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mgcli.cache.derive import GRID_KEY
from mgcli.cache.entries import MISSING
from mgcli.cache.errors import CacheError
from mgcli.cache.feature_set import FeatureSet
from mgcli.cache.store import FeatureCache
from mgcli.cache.token_grid import TokenGrid

CLASS_TOKEN, NO_PLACE = -2, -1  # instead of a token's place


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenTrace:
    """The tokens of one clip in one feature set, without their content."""

    features: FeatureSet
    time_s: np.ndarray  # (R,) float64, centre of each token in the video
    valid: np.ndarray  # (R,) bool
    norm: np.ndarray  # (R,) float64, Euclidean; 0 where a token is not valid
    place: np.ndarray  # (R,) int64 in [0, places); NO_PLACE, or CLASS_TOKEN for what sums up a window

    @property
    def num_places(self) -> int:
        """How many places the layout tells apart; 0 for one without places."""
        return int(self.place.max(initial=NO_PLACE)) + 1


@dataclass(frozen=True, kw_only=True)
class AbsentTokens:
    """A feature set without tokens of a clip."""

    feature_set: str
    reason: str


def trace_clip(cache: FeatureCache, clip: Mapping[str, Any]) -> tuple[list[TokenTrace], list[AbsentTokens]]:
    """What every feature set of the cache holds of a clip, and why some hold nothing.

    Args:
        cache: which.
        clip: a row of a checked clip table; where it names the clip's sources, older tokens do not count.

    Raises:
        CacheError: a part is damaged.
    """
    traces, absent = [], []
    for features in cache.feature_sets():
        column = features.spec.source_column
        source = str(clip.get(column) or "") if column else ""
        if features.find([clip["clip_id"]], [source])[0] == MISSING:
            absent.append(AbsentTokens(feature_set=features.name, reason=_why_absent(features, clip, source)))
            continue
        try:
            selection = features.select([clip["clip_id"]], sources=[source])
        except CacheError as error:  # several sources, and the table does not say which
            absent.append(AbsentTokens(feature_set=features.name, reason=str(error)))
            continue
        tokens, _ = selection.load()
        valid = np.asarray(selection.load_companions("valid"), dtype=bool)
        norm = np.linalg.norm(np.asarray(tokens, dtype=np.float64), axis=1)
        traces.append(
            TokenTrace(
                features=features,
                time_s=np.asarray(selection.load_companions("time_s"), dtype=np.float64),
                valid=valid,
                norm=np.where(valid, norm, 0.0),
                place=_places(features, len(tokens)),
            )
        )
    return traces, absent


def _why_absent(features: FeatureSet, clip: Mapping[str, Any], source: str) -> str:
    modality, clip_id = features.spec.modality, clip["clip_id"]
    if source and features.find([clip_id])[0] != MISSING:
        return f"only tokens of another {features.spec.reads} file or interval; see: mgcli cache explain {clip_id}"
    failures = features.failures()
    failed = failures[failures["clip_id"] == clip_id]
    if len(failed):
        return f"extraction failed: {failed.iloc[-1]['stage']}: {failed.iloc[-1]['reason']}"
    return f"not extracted; where it should be: mgcli extract --modality {modality}"


def _places(features: FeatureSet, num_tokens: int) -> np.ndarray:
    """(R,) place of each token, as far as the feature set says how its tokens lie."""
    unknown = np.full(num_tokens, NO_PLACE)
    try:
        grid = TokenGrid(**features.provenance[GRID_KEY])
    except (KeyError, TypeError, CacheError):  # imported tokens, or a backbone that has no grid
        return unknown
    window = grid.places_of(features.spec.tokens, class_token=CLASS_TOKEN, no_place=NO_PLACE)
    if not len(window) or num_tokens % len(window):
        return unknown
    return np.tile(window, num_tokens // len(window))
