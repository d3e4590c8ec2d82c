"""What one modality of a run consists of: its backbone, its clips, the spec of its tokens."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from mgcli.cache import TASKS, ClipTableError, FeatureSet, FeatureSpec, check_clip_table
from mgcli.extract.backbone import (
    Backbone,
    BackboneError,
    accepted_options,
    backbone_class,
    check_options,
    create_backbone,
)
from mgcli.extract.clip_request import ClipRequest
from mgcli.extract.device import choose_precision
from mgcli.extract.names import MODALITIES, Modality
from mgcli.extract.skeleton import read_skeleton
from mgcli.extract.skeleton_layouts import SkeletonError
from mgcli.extract.source import expect_media
from mgcli.extract.views import ViewConfig
from mgcli.extract.weights import find_weights, trained_file


@dataclass(frozen=True, kw_only=True)
class ModalityConfig:
    """What a caller asks of one modality; None leaves it to the modality's own habits."""

    modality: str
    backbone: str | None = None
    tokens: str | None = None
    weights: str | None = None
    options: Mapping[str, Any] | None = None
    precision: str = "auto"
    store_dtype: str | None = None
    task: str | None = None
    protocol: str = "table"
    weights_dir: Path | None = None
    download: bool = False
    views: ViewConfig = field(default_factory=ViewConfig)

    def __post_init__(self) -> None:
        for name in ("backbone", "tokens", "weights"):
            value = getattr(self, name)
            if not isinstance(value, str | None):
                raise BackboneError(f"{self.modality}: {name} is {value!r}; it must be text, in mgcli.toml in quotes")

    @property
    def usual(self) -> Modality:
        """What the modality is made with unless the caller says otherwise.

        Raises:
            BackboneError: unknown modality, and no backbone named for it.
        """
        if self.modality in MODALITIES:
            return MODALITIES[self.modality]
        if self.backbone is not None:
            return Modality(backbone=self.backbone)
        near = difflib.get_close_matches(self.modality, MODALITIES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(MODALITIES)}."
        raise BackboneError(f"unknown modality {self.modality!r}{hint} A new one needs --backbone NAME")

    @property
    def backbone_name(self) -> str:
        return self.backbone or self.usual.backbone


def modality_configs(
    modalities: Sequence[str],
    *,
    backbones: Mapping[str, str] | None = None,
    tokens: str | Mapping[str, str] | None = None,
    weights: str | Mapping[str, str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    views: int | Mapping[str, ViewConfig] | None = None,
    **common: Any,
) -> list[ModalityConfig]:
    """What is asked for, modality by modality.

    Args:
        modalities: such as video, pose, context.
        backbones: modality -> backbone, where it is not the usual one.
        tokens: token layout, for each modality that offers it; or modality -> layout.
        weights: for each modality that has weights; or modality -> weights.
        options: modality -> options of its backbone.
        views: how many augmented views of each modality; or modality -> which.
        common: fields of ModalityConfig that are the same for all.

    Raises:
        BackboneError: a modality or layout that does not exist.
    """
    configs = [
        ModalityConfig(
            modality=modality,
            backbone=(backbones or {}).get(modality),
            options=(options or {}).get(modality),
            views=views.get(modality, ViewConfig()) if isinstance(views, Mapping) else ViewConfig(count=views or 0),
            **common,
        )
        for modality in dict.fromkeys(modalities)
    ]
    configs = _spread(configs, "tokens", tokens, lambda kind, layout: layout in kind.layouts)
    configs = _spread(configs, "weights", weights, lambda kind, _: kind.has_weights)
    if isinstance(tokens, str) and not any(config.tokens for config in configs):
        raise BackboneError(f"no token layout {tokens!r}; {_layouts(configs)}")
    return configs


def checked_clips(table: pd.DataFrame) -> pd.DataFrame:
    """The table checked, also one that a notebook made; what its reader noted in `attrs` stays."""
    checked = check_clip_table(table)
    checked.attrs |= table.attrs
    return checked


def clips_of(config: ModalityConfig, table: pd.DataFrame) -> pd.DataFrame:
    """The clips that a modality is extracted for.

    Raises:
        ClipTableError: a task was asked for of which the table has no clip; or no clip names a file to read.
    """
    of_it = _clips_asked_for(config, table)
    expect_media(of_it, backbone_class(config.backbone_name).reads, config.modality)
    return of_it


def _clips_asked_for(config: ModalityConfig, table: pd.DataFrame) -> pd.DataFrame:
    if config.task is not None:
        if config.task not in TASKS:
            raise ClipTableError(f"unknown task {config.task!r}; known: {', '.join(TASKS)}")
        of_task = _clips_of_task(table, config.task)
        if of_task.empty:
            raise ClipTableError(f"no clip of the table has a label in its column {config.task!r}")
        return of_task
    of_task = table if config.usual.task is None else _clips_of_task(table, config.usual.task)
    return table if of_task.empty else of_task


def _clips_of_task(table: pd.DataFrame, task: str) -> pd.DataFrame:
    """The clips with a label of the task, and those without any label that look like them.

    Test clips may come without labels: an interval of a video among intervals, a whole video among whole videos.
    """
    labelled = table[task] != ""
    is_interval = table["start_s"].notna() | table["start_frame"].notna()
    unlabelled = (table[list(TASKS)] == "").all(axis=1) & is_interval.isin(is_interval[labelled].unique())
    return table[labelled | unlabelled]


def make_backbone(config: ModalityConfig, clips: pd.DataFrame, device: torch.device) -> Backbone:
    """The backbone of a modality, with the caller's options over the modality's own.

    Raises:
        BackboneError: an option that does not exist.
        WeightsError: weights missing, damaged or for another network.
    """
    kind = backbone_class(config.backbone_name)
    check_options(kind, config.options or {})
    accepted = accepted_options(kind)
    options = {key: value for key, value in config.usual.options.items() if key in accepted}
    if "num_joints" in accepted and "joints" not in (config.options or {}):
        options |= _num_joints(clips)
    options |= config.options or {}
    usual_tokens = config.usual.tokens if config.usual.tokens in kind.layouts else None
    return create_backbone(
        config.backbone_name,
        weights=config.weights or _trained_weights(kind, config),
        tokens=config.tokens or usual_tokens,
        precision=choose_precision(config.precision, kind, device),
        device=device,
        weights_dir=config.weights_dir,
        download=config.download,
        **options,
    )


def make_spec(config: ModalityConfig, backbone: Backbone) -> FeatureSpec:
    """Everything that decides the value of this modality's tokens."""
    narrow = "float32" if backbone.precision == "float32" else "float16"
    return FeatureSpec(
        modality=config.modality,
        backbone=backbone.name,
        reads=backbone.reads,
        weights=backbone.weights.name,
        weights_sha256=backbone.weights.sha256,
        tokens=backbone.tokens,
        dim=backbone.embed_dim,
        dtype=config.store_dtype or narrow,
        precision=backbone.precision,
        sampling=backbone.sampling,
        transform=backbone.transform,
    )


def missing_clips(
    feature_set: FeatureSet, backbone: Backbone, clips: pd.DataFrame, views: ViewConfig, first_number: int
) -> list[ClipRequest]:
    """Requests for the clips, and for augmented views of those that get any, whose tokens are not committed.

    Args:
        feature_set: whose entries count; views are those of its recipe.
        backbone: of the requests.
        clips: with sources.
        views: that are asked for beside the plain one.
        first_number: of the requests; the views of a clip stand side by side.
    """
    ids = clips["clip_id"].tolist()
    sources = [feature_set.sources_of(clips, view) for view in range(views.count + 1)]
    is_absent = np.array([not source for source in sources[0]], dtype=bool)  # its media are not there
    missing = np.array([is_absent | ~feature_set.holds(ids, each, view) for view, each in enumerate(sources)])
    missing[1:] &= views.wanted(clips)
    rows, numbers = np.nonzero(missing.T)  # by clip, then by view
    wanted = zip(rows.tolist(), numbers.tolist(), strict=True)
    requests = clip_requests(clips.iloc[rows], backbone, feature_set.spec.modality, first_number=first_number)
    return [
        replace(request, source=sources[view][row] if request.source else "", view=views.view(ids[row], view))
        for request, (row, view) in zip(requests, wanted, strict=True)
    ]


def clip_requests(
    clips: pd.DataFrame, backbone: Backbone, modality: str, *, first_number: int = 0
) -> list[ClipRequest]:
    """A request for every clip of a table with sources, numbered in its order."""
    return [
        ClipRequest(
            number=number,
            clip_id=row["clip_id"],
            source=row[f"{backbone.reads}_source"],
            modality=modality,
            backbone=backbone,
            video=Path(row["video"]) if row["video"] else None,
            skeleton=Path(row["skeleton"]) if row["skeleton"] else None,
            face=Path(row["face"]) if row["face"] else None,
            skeleton_fps=None if pd.isna(row["skeleton_fps"]) else float(row["skeleton_fps"]),
            seconds=None if pd.isna(row["start_s"]) else (float(row["start_s"]), float(row["end_s"])),
            frames=None if pd.isna(row["start_frame"]) else (int(row["start_frame"]), int(row["end_frame"])),
            video_source=row["video_source"],
            file_source=row[f"{backbone.reads}_source"],
        )
        for number, row in enumerate(clips.to_dict("records"), start=first_number)
    ]


def _trained_weights(kind: type[Backbone], config: ModalityConfig) -> str | None:
    """The checkpoint that `mgcli backbone-train` made for this protocol, for a backbone that is trained so."""
    if not kind.trained_stem:
        return None
    path = find_weights(trained_file(kind.trained_stem, config.protocol), config.weights_dir)
    return None if path is None else str(path)


def _num_joints(clips: pd.DataFrame) -> dict[str, int]:
    """Joints in the first skeleton that can be read, as an option; none where no skeleton can be."""
    for name in clips["skeleton"].unique():
        if name:
            try:
                return {"num_joints": read_skeleton(Path(name), fps=1.0).joints.shape[1]}
            except SkeletonError:
                continue  # its clips will fail with the reason
    return {}


def _spread(
    configs: list[ModalityConfig],
    field: str,
    value: str | Mapping[str, str] | None,
    fits: Callable[[type[Backbone], str], bool],
) -> list[ModalityConfig]:
    """Set a field of the modalities that a mapping names, or, for a plain value, of those that it fits."""
    if value is None:
        return configs
    if isinstance(value, Mapping):
        unknown = sorted(set(value) - {config.modality for config in configs})
        if unknown:
            raise BackboneError(f"{field} are given for {', '.join(unknown)}, which this run does not extract")
        return [_with(config, field, value.get(config.modality)) for config in configs]
    fitting = [fits(backbone_class(config.backbone_name), value) for config in configs]
    return [_with(config, field, value) if fit else config for config, fit in zip(configs, fitting, strict=True)]


def _with(config: ModalityConfig, field: str, value: Any) -> ModalityConfig:
    return replace(config, **{field: value})


def _layouts(configs: Sequence[ModalityConfig]) -> str:
    kinds = {kind.name: kind for kind in (backbone_class(config.backbone_name) for config in configs)}
    return "; ".join(f"{name} offers: {', '.join(kind.layouts)}" for name, kind in kinds.items())
