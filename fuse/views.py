"""Whether the cache has the augmented views that a training asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from mgcli.cache import FeatureSet
from mgcli.fuse.settings import TrainError


def check_views(
    feature_sets: Mapping[str, FeatureSet], table: pd.DataFrame, views: int, note: Callable[[str], None]
) -> None:
    """Say which augmented views of the training clips are not there; the plain view is shown in their place.

    Args:
        feature_sets: modality -> its tokens.
        table: the clips.
        views: that are asked for, beside the plain one.
        note: told what some clips lack.

    Raises:
        TrainError: no training clip has an augmented view.
    """
    if not views:
        return
    training = table[table["split"] == "train"]
    ids = training["clip_id"].tolist()
    lacking: dict[str, int] = {}  # modality -> how many views its clips lack together
    nothing: list[str] = []
    for name, each in feature_sets.items():
        plain = each.holds(ids, each.sources_of(training))
        there = [plain & each.holds(ids, each.sources_of(training, view), view) for view in range(1, views + 1)]
        lacking[name] = int(plain.sum()) * views - int(np.sum(there))
        if not np.any(there):
            nothing.append(name)
    flags = " ".join(f"--modality {each}" for each in dict.fromkeys(s.spec.modality for s in feature_sets.values()))
    make = f"mgcli extract {flags} --views {views}"
    if len(nothing) == len(feature_sets):
        raise TrainError(
            f"views is {views}, but the cache has no augmented views of {', '.join(nothing)}; make them: {make}"
        )
    if nothing:
        note(f"the cache has no augmented views of {', '.join(nothing)}; their plain view is shown instead")
    for name, count in lacking.items():
        if count and name not in nothing:
            note(f"the cache lacks {count} of the augmented views of {name} that were asked for; to make them: {make}")
