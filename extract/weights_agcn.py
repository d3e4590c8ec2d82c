"""AGCN and AAGCN checkpoints: every published way to name the keys, brought to one.

- 2s-AGCN: a flat dict, with or without `module.`; written by PyTorch 0.3, hence without batch counters;
  the cross-view bone file says `conv_res` for `down`.
- pyskl and mmaction2 (AAGCN only): `state_dict` with `backbone.` and `cls_head.`; there PA is called A.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from mgcli.extract.weights import PublishedWeights
from mgcli.extract.weights_checkpoint import WeightsError

_2S_AGCN_PAGE = "release v0.0 of https://github.com/lshiwjx/2s-AGCN"
RELEASED: dict[str, tuple[PublishedWeights, ...]] = {  # backbone -> files for joints=ntu25; no hash is published
    "agcn_bone": tuple(
        PublishedWeights(file=file, sha256="", url="", licence="CC BY-NC 4.0", page=_2S_AGCN_PAGE)
        for file in ("ntu_cv_agcn_bone-49-29400.pt", "ntu_cs_agcn_bone-49-31300.pt")
    ),
}

_FLAT = (
    (re.compile(r"^.*\bmodule\."), ""),
    (re.compile(r"\bconv_res\."), "down."),
)
_OPENMMLAB = (
    (re.compile(r"^backbone\.data_bn\."), "data_bn."),
    (re.compile(r"^backbone\.gcn\.(\d+)\.gcn\.A$"), r"backbone.gcn.\1.gcn.PA"),
    (re.compile(r"^backbone\.gcn\.(\d+)\.gcn\."), r"backbone.gcn.\1.gcn1."),
    (re.compile(r"^backbone\.gcn\.(\d+)\.tcn\."), r"backbone.gcn.\1.tcn1."),
    (re.compile(r"^cls_head\.fc(_cls)?\."), "fc."),
)
_OPENMMLAB_BLOCK = re.compile(r"^backbone\.gcn\.(\d+)\.")
_OPENMMLAB_GRAPH = "backbone.A"  # a fixed copy of the graph, unused


def agcn_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under the released names (`l1.gcn1.PA`, ...).

    Raises:
        WeightsError: two keys come to the same name.
    """
    renamed: dict[str, Tensor] = {}
    is_openmmlab = any(_OPENMMLAB_BLOCK.match(_rename(key, _FLAT)) for key in state)
    for key, value in state.items():
        name = _rename(key, _FLAT)
        if is_openmmlab:
            if name == _OPENMMLAB_GRAPH:
                continue
            name = _rename(name, _OPENMMLAB)
            name = _OPENMMLAB_BLOCK.sub(lambda block: f"l{int(block[1]) + 1}.", name)
        if name in renamed:
            raise WeightsError(f"the checkpoint holds {name} twice, the second time as {key}")
        renamed[name] = value
    return renamed


def _rename(key: str, rules: tuple[tuple[re.Pattern[str], str], ...]) -> str:
    for pattern, name in rules:
        key = pattern.sub(name, key)
    return key
