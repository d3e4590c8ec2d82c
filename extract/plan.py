"""What is asked of a run, and what is left to do: backbones, feature sets, the clips that the cache lacks."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import pandas as pd
import torch

from mgcli.cache import GRID_KEY, LAYOUTS_KEY, FeatureCache, FeatureSet
from mgcli.extract.backbone import Backbone
from mgcli.extract.device import choose_batch_size, choose_compile, choose_workers
from mgcli.extract.face import load_detector
from mgcli.extract.inputs import ClipRequest
from mgcli.extract.modality import ModalityConfig, clips_of, make_backbone, make_spec, missing_clips
from mgcli.extract.shard import Shard, files_of, share_of
from mgcli.extract.weights_released import weights_licence

_PROVENANCE_PACKAGES = ("mgcli", "torch", "torchvision", "timm", "av", "numpy")


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """What is asked of a run; a plain value, for every process that has a share in it. See `extract_modalities`."""

    configs: Sequence[ModalityConfig]
    protocol: str = "table"
    shard: Shard | None = None
    batch_size: int | None = None
    workers: int | None = None
    compile: str = "auto"
    num_processes: int = 1  # that share the clips, each with a device of its own

    def __post_init__(self) -> None:
        anywhere = torch.device("cpu")
        choose_batch_size(self.batch_size, anywhere)
        choose_workers(self.workers)
        choose_compile(self.compile, anywhere, 0)


@dataclass(frozen=True, eq=False)
class Stage:
    """One modality of a run: what it is computed with, where to, and what is left to do."""

    modality: str
    backbone: Backbone
    feature_set: FeatureSet
    requests: list[ClipRequest]
    num_skipped: int
    compiled: bool


def plan_stages(cache: FeatureCache, extraction: Extraction, table: pd.DataFrame, device: torch.device) -> list[Stage]:
    """Make every backbone and find out what the cache lacks; it is not touched before all of them are made.

    Args:
        cache: where tokens go.
        extraction: what is asked for.
        table: the clips, with their sources.
        device: that the backbones compute on.
    """
    configs = extraction.configs
    clips = [clips_of(config, table) for config in configs]
    backbones = [make_backbone(config, of_it, device) for config, of_it in zip(configs, clips, strict=True)]
    specs = [make_spec(config, backbone) for config, backbone in zip(configs, backbones, strict=True)]
    cache.write_clips(table, extraction.protocol)
    if extraction.shard is not None:
        share = share_of(clips, extraction.shard)
        clips = [of_it[[file in share for file in files_of(of_it)]] for of_it in clips]
    stages = []
    num_requests = 0
    for spec, backbone, of_it in zip(specs, backbones, clips, strict=True):
        feature_set = cache.create_feature_set(spec, _provenance(device, backbone))
        requests = missing_clips(feature_set, backbone, of_it, first_number=num_requests)
        if backbone.reads == "face" and any(request.face is None for request in requests):
            load_detector(backbone.detector, device)  # its weights are missing for all clips or for none
        num_requests += len(requests)
        num_own = len(requests) // extraction.num_processes
        compiled = bool(requests) and choose_compile(extraction.compile, device, num_own)
        stages.append(Stage(spec.modality, backbone, feature_set, requests, len(of_it) - len(requests), compiled))
    return stages


def plan_warnings(stages: Sequence[Stage]) -> list[str]:
    """One for each modality that has clips from another video or interval than before."""
    said = []
    for stage in stages:
        known = set(stage.feature_set.clips()["clip_id"]) if stage.requests and len(stage.feature_set) else set()
        count = sum(request.clip_id in known for request in stage.requests)
        if count:
            are = "clip is" if count == 1 else "clips are"
            said.append(
                f"{stage.modality}: {count} {are} in the cache as made from another file or interval, and extracted "
                f"again; what differs: mgcli cache explain CLIP --modality {stage.modality}"
            )
    return said


def plan_notes(stages: Sequence[Stage]) -> list[str]:
    """What a person should know while nothing seems to happen: which networks are compiled."""
    return [
        f"{stage.backbone.name} is compiled for {len(stage.requests)} clips; --compile off forbids it"
        for stage in stages
        if stage.compiled
    ]


def _provenance(device: torch.device, backbone: Backbone) -> dict[str, Any]:
    """What made the tokens and does not change them."""
    trained_on = {} if backbone.trained_on is None else {"trained_on": backbone.trained_on}
    lies = {} if backbone.token_grid is None else {GRID_KEY: asdict(backbone.token_grid)}
    return {
        **trained_on,
        **lies,
        LAYOUTS_KEY: list(backbone.layouts),
        "weights_licence": weights_licence(backbone),
        **{name: version(name) for name in _PROVENANCE_PACKAGES},
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device} {platform.machine()}",
        "host": platform.node(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
