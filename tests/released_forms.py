"""AGCN and AAGCN tensors under the names that released checkpoints give them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

from mgcli.extract.backbone_agcn import NETWORKS
from mgcli.extract.skeleton_graph import adjacency
from mgcli.extract.skeleton_layouts import joint_layout

NTU = {"joints": "ntu25", "normalize": "ntu"}


def agcn_released(network: str = "agcn", num_people: int = 2) -> dict[str, Tensor]:
    """As a current torch would save a network for NTU: 25 joints, 60 classes; no bias is 0, and no token is huge."""
    torch.manual_seed(3)
    built = NETWORKS[network](adjacency(joint_layout("ntu25")), num_people=num_people, num_classes=60)
    return {key: value + 0.01 if value.ndim == 1 else value for key, value in built.state_dict().items()}


def with_module(state: dict[str, Tensor]) -> dict[str, Any]:
    """From inside a parallel wrapper."""
    return OrderedDict((f"module.{key}", value) for key, value in state.items())


def as_old_torch(state: dict[str, Tensor]) -> dict[str, Any]:
    """As PyTorch 0.3 wrote the cross-view bone file: no batch counters, and its name for `down`."""
    kept = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    return OrderedDict((key.replace(".down.", ".conv_res."), value) for key, value in kept.items())


def as_openmmlab(state: dict[str, Tensor]) -> dict[str, Any]:
    """As mmaction2 and pyskl save AAGCN."""
    renamed = {"backbone.A": torch.zeros(3, 25, 25)}
    for key, value in state.items():
        block, _, rest = key.partition(".")
        if block == "fc":
            renamed[f"cls_head.fc_cls.{rest}"] = value
        elif block == "data_bn":
            renamed[f"backbone.{key}"] = value
        else:
            rest = {"gcn1.PA": "gcn.A"}.get(rest, rest.replace("gcn1.", "gcn.").replace("tcn1.", "tcn."))
            renamed[f"backbone.gcn.{int(block[1:]) - 1}.{rest}"] = value
    return {"meta": {"epoch": 16}, "state_dict": renamed}
