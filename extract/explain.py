"""Why an extraction would compute a clip again, or pass over it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from mgcli.cache import Explanation, FeatureCache, explain_clip, find_clip
from mgcli.extract.device import choose_device
from mgcli.extract.modality import checked_clips, clips_of, make_backbone, make_spec, modality_configs
from mgcli.extract.source import add_sources
from mgcli.extract.views import views_for


def explain_extraction(
    cache: FeatureCache, table: pd.DataFrame, clip_id: str, modalities: Sequence[str], **asked_for: Any
) -> list[Explanation]:
    """Why an extraction would compute a clip or pass over it, for each modality.

    Args:
        cache: which.
        table: the clips, with this one.
        clip_id: the clip.
        modalities: such as video, pose, context.
        asked_for: as `modality_configs` takes it, and `device`.

    Raises:
        MgcliError: no such clip, or a backbone that cannot be made.
    """
    device = choose_device(asked_for.pop("device", None))
    table = add_sources(checked_clips(table))
    row = find_clip(table, clip_id)
    explanations = []
    for config in modality_configs(modalities, **asked_for):
        backbone = make_backbone(config, clips_of(config, table), device)
        source = row[f"{backbone.reads}_source"]
        views = views_for(config.views, table)
        count = views.count if views.wanted(table)[(table["clip_id"] == clip_id).to_numpy()].any() else 0
        recipe = views.recipe(backbone.reads) if views.count else None
        explanations.append(
            explain_clip(cache, clip_id, make_spec(config, backbone), source, views=count, recipe=recipe)
        )
    return explanations
