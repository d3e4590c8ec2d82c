"""SwinFace's released checkpoint: four of its sections make the network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mgcli.extract.weights_checkpoint import WeightsError

SECTIONS = ("backbone", "fam", "tss", "om")


def swinface_state(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """One flat state dict, `backbone.`, `fam.`, `tss.` and `om.`, from the released file or from such a dict.

    Left out on purpose: `state_dict_softmax_fc`, a shard of the training's identity classifier, and the state of
    the optimiser and its schedule.

    Raises:
        WeightsError: a section is missing or holds something else than tensors.
    """
    if not any(key.startswith("state_dict_") for key in content):
        return dict(content)
    state: dict[str, Tensor] = {}
    for section in SECTIONS:
        entries = content.get(f"state_dict_{section}")
        if not isinstance(entries, Mapping):
            raise WeightsError(f"a SwinFace checkpoint has a section state_dict_{section}; this file has none")
        state |= {f"{section}.{key.removeprefix('module.')}": value for key, value in entries.items()}
    return state
