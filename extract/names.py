"""What there is by name in stage one: backbones, their families, modalities. No torch: a shell completes from here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

BACKBONES: dict[str, str] = {  # name -> where it is; imported when asked for
    "mvit_v2_s": "mgcli.extract.backbone_mvit:MViTv2S",
    "agcn_joint": "mgcli.extract.backbone_agcn:JointStream",
    "agcn_bone": "mgcli.extract.backbone_agcn:BoneStream",
    "agcn_two_stream": "mgcli.extract.backbone_agcn_two_stream:TwoStreamAGCN",
    "swinface": "mgcli.extract.backbone_swinface:SwinFace",
    "joints": "mgcli.extract.backbone_joints:Joints",
}
FAMILIES: dict[str, str] = {  # FAMILY of `FAMILY:NAME` -> class whose `member(NAME)` is the backbone
    "timm": "mgcli.extract.backbone_framewise:TimmFrames",
    "torchvision": "mgcli.extract.backbone_torchvision:TorchvisionVideo",
}


@dataclass(frozen=True, kw_only=True)
class Modality:
    """What a modality is made with unless the caller says otherwise."""

    backbone: str
    tokens: str | None = None  # layout; None: the backbone's own default
    options: dict[str, Any] = field(default_factory=dict)  # passed to backbones that take them
    task: str | None = None  # the clips with a label of this task, where there are any; None: every clip


MODALITIES: dict[str, Modality] = {
    "video": Modality(backbone="mvit_v2_s", tokens="time", options={"sampling": "official"}, task="gesture"),
    "context": Modality(backbone="mvit_v2_s", tokens="pooled", options={"sampling": "windows"}, task="emotion"),
    "pose": Modality(backbone="agcn_two_stream", task="gesture"),
    "face": Modality(backbone="swinface", tokens="expression", task="emotion"),
}
