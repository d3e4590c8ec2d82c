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

from mgcli.cache import GRID_KEY, LAYOUTS_KEY, VIEWS_KEY, FeatureCache, FeatureSet
from mgcli.extract.backbone import Backbone
from mgcli.extract.clip_request import ClipRequest
from mgcli.extract.decoder_library import Library, check_decoder
from mgcli.extract.device import choose_batch_size, choose_compile, choose_workers
from mgcli.extract.engine import ClipKey, PlannedModality
from mgcli.extract.face import load_detector
from mgcli.extract.modality import ModalityConfig, clips_of, make_backbone, make_spec, missing_clips
from mgcli.extract.shard import Shard, files_of, share_of
from mgcli.extract.views import ViewConfig, sided_classes, views_for
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
    decoder: str = "auto"
    num_processes: int = 1  # that share the clips, each with a device of its own

    def __post_init__(self) -> None:
        anywhere = torch.device("cpu")
        choose_batch_size(self.batch_size, anywhere)
        choose_workers(self.workers)
        choose_compile(self.compile, anywhere, 0)
        check_decoder(self.decoder)


@dataclass(frozen=True, eq=False)
class Stage:
    """One modality of a run: what it is computed with, where to, and what is left to do."""

    modality: str
    backbone: Backbone
    feature_set: FeatureSet
    requests: list[ClipRequest]
    num_skipped: int  # clips that are in the cache already
    num_views_skipped: int  # augmented views that are
    views: ViewConfig
    not_mirrored: list[str]  # classes that name a side, for which no view is mirrored
    compiled: bool
    decoder: str  # the label of what decodes its videos; empty where it reads none


def plan_stages(
    cache: FeatureCache, extraction: Extraction, table: pd.DataFrame, device: torch.device, library: Library
) -> list[Stage]:
    """Make every backbone and find out what the cache lacks; it is not touched before all of them are made.

    Args:
        cache: where tokens go.
        extraction: what is asked for.
        table: the clips, with their sources.
        device: that the backbones compute on.
        library: that decodes the videos.
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
    for config, spec, backbone, of_it in zip(configs, specs, backbones, clips, strict=True):
        feature_set = cache.create_feature_set(spec, _provenance(device, backbone))
        views = views_for(config.views, table)
        if views.count and feature_set.view_recipe != views.recipe(backbone.reads):
            feature_set.write_provenance(**{VIEWS_KEY: views.recipe(backbone.reads)})
        requests = missing_clips(feature_set, backbone, of_it, views, first_number=num_requests)
        if backbone.reads == "face" and any(request.face is None for request in requests):
            load_detector(backbone.detector, device)  # its weights are missing for all clips or for none
        num_requests += len(requests)
        num_own = len(requests) // extraction.num_processes
        compiled = bool(requests) and choose_compile(extraction.compile, device, num_own)
        decoder = "" if backbone.reads == "skeleton" else library.label
        if requests and decoder:
            _note_decoder(feature_set, decoder)
        num_clips = sum(request.view is None for request in requests)
        stages.append(
            Stage(
                modality=spec.modality,
                backbone=backbone,
                feature_set=feature_set,
                requests=requests,
                num_skipped=len(of_it) - num_clips,
                num_views_skipped=views.count * int(views.wanted(of_it).sum()) - (len(requests) - num_clips),
                views=views,
                not_mirrored=sided_classes(table) if views.count and config.views.flip else [],
                compiled=compiled,
                decoder=decoder,
            )
        )
    return stages


def plan_warnings(stages: Sequence[Stage]) -> list[str]:
    """What is in the cache as made otherwise than is asked for now, and whose views are not mirrored."""
    said = []
    for stage in stages:
        entries = stage.feature_set.clips() if stage.requests and len(stage.feature_set) else None
        known = set() if entries is None else set(zip(entries["clip_id"], entries["view"], strict=True))
        again = [request for request in stage.requests if (request.clip_id, request.view_number) in known]
        count = sum(request.view is None for request in again)
        if count:
            are = "clip is" if count == 1 else "clips are"
            said.append(
                f"{stage.modality}: {count} {are} in the cache as made from another file or interval, and extracted "
                f"again; what differs: mgcli cache explain CLIP --modality {stage.modality}"
            )
        elif again:
            said.append(
                f"{stage.modality}: {len(again)} augmented views are in the cache as made with another seed or other "
                "settings, or from another file, and made again; those are kept, and not read"
            )
        if stage.not_mirrored:
            named = ", ".join(map(repr, stage.not_mirrored[:5])) + (", ..." if len(stage.not_mirrored) > 5 else "")
            said.append(f"{stage.modality}: no view is mirrored, because classes name a side: {named}")
    return said


def plan_notes(stages: Sequence[Stage]) -> list[str]:
    """What a person should know while nothing seems to happen: that torchcodec decodes, which networks are compiled."""
    decoders = dict.fromkeys(stage.decoder for stage in stages if stage.requests)
    return [
        *(f"videos are decoded by {decoder}" for decoder in decoders if decoder.startswith("torchcodec")),
        *(
            f"{stage.backbone.name} is compiled for {len(stage.requests)} clips; --compile off forbids it"
            for stage in stages
            if stage.compiled
        ),
    ]


def planned_modality(stage: Stage) -> PlannedModality:
    """A stage as those know it who only count."""
    return PlannedModality(
        modality=stage.modality,
        feature_set=stage.feature_set.name,
        weights=stage.feature_set.spec.weights,
        num_skipped=stage.num_skipped,
        views=stage.views.count,
        num_views_skipped=stage.num_views_skipped,
    )


def clip_key(request: ClipRequest) -> ClipKey:
    """What tells a request from all others of the run, in every process."""
    return request.modality, request.clip_id, request.view_number


def _note_decoder(feature_set: FeatureSet, decoder: str) -> None:
    """Have the provenance name all decoders that the tokens of a feature set come from."""
    known = feature_set.provenance.get("decoders", [])
    if decoder not in known:
        feature_set.write_provenance(decoders=sorted([*known, decoder]))


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
