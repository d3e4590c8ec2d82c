"""Which augmented views a feature set means, and how their entries are told from views that were made otherwise.

The plain view, 0, follows from the spec; whether views were asked for changes neither its tokens nor the fingerprint.
Views 1 and up follow from the spec and a recipe: what may be done to a clip, how much of it, and the seed. `spec.json`
keeps the newest recipe in its provenance. The recipe is also hashed into the source of every view's entry, so that
views of two recipes are two entries, as clips of two videos are: none is taken for the other, and the older ones are
there again when their recipe is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mgcli.cache.feature_set import FeatureSet

VIEWS_KEY = "views"  # of the recipe, in the provenance


def view_source(source: str, recipe: Mapping[str, Any]) -> str:
    """The source of a view's entry, 16 hex digits, from that of its clip."""
    return hashlib.sha256(json.dumps([source, recipe], sort_keys=True).encode()).hexdigest()[:16]


def adopt_views(ours: FeatureSet, recipe: Mapping[str, Any] | None) -> bool:
    """Let a feature set that got entries of another mean the same views, where it means none yet.

    Args:
        ours: that got the entries.
        recipe: of the other; None where it has none.

    Returns:
        False where ours has another recipe, which stays: views of the other one are there, and not read.
    """
    if not isinstance(recipe, Mapping) or ours.view_recipe == recipe:
        return True
    if ours.view_recipe is not None:
        return False
    ours.write_provenance(**{VIEWS_KEY: dict(recipe)})
    return True
