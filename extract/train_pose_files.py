"""What a training of 2s-AGCN leaves on disk: its checkpoint, and what it takes up again after a stop."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import save

from mgcli.cache import committed_file, media_names, warn, writing
from mgcli.extract.backbone_agcn import TRAINED_STEM
from mgcli.extract.train_pose_clips import BackboneTrainError, PoseClips
from mgcli.extract.train_pose_loop import BackboneTrainConfig, StreamState
from mgcli.extract.weights_checkpoint import PROVENANCE_KEY, WeightsError, read_provenance


@dataclass(frozen=True, eq=False)
class TrainPlan:
    """All that decides a training."""

    table: pd.DataFrame
    task: str
    protocol: str
    options: dict[str, Any]  # of the backbone
    config: BackboneTrainConfig
    precision: str
    device: torch.device

    def to_json(self) -> dict[str, Any]:
        """As plain values; two trainings with the same ones give the same weights on one machine."""
        columns = ["clip_id", "split", "subject_id", self.task, "skeleton_source"]
        clips = self.table[columns].sort_values("clip_id").to_csv(index=False)
        return {
            "task": self.task,
            "protocol": self.protocol,
            "clips_sha256": hashlib.sha256(clips.encode()).hexdigest(),
            "options": self.options,
            "config": asdict(self.config),
            "precision": self.precision,
        }


def write_checkpoint(
    path: Path, states: Mapping[str, StreamState], plan: TrainPlan, clips: PoseClips, results: Mapping[str, Any]
) -> None:
    """The weights of both streams and what they were made of; nothing in it changes from one run to the next.

    `results`, plain values, is kept as it is.
    """
    tensors = {
        f"{stream}.{name}": value.detach().cpu().contiguous()
        for stream, state in states.items()
        for name, value in state.best.items()
    }
    train, val = (clips.table[clips.table["split"] == split] for split in ("train", "val"))
    content = {
        "made_by": f"mgcli {version('mgcli')} backbone-train",
        "backbone": TRAINED_STEM,
        "options": plan.options,
        "classes": clips.classes,
        "trained_on": {
            "protocol": plan.protocol,
            "task": plan.task,
            "clips": sorted(train["clip_id"]),
            "subjects": sorted(train["subject_id"].unique()),
            "videos": media_names(train),
            "epoch_chosen_by_subjects": sorted(val["subject_id"].unique()),
        },
        "training": plan.to_json(),
        **results,
    }
    with writing(path), committed_file(path) as temporary:
        temporary.write_bytes(save(tensors, {PROVENANCE_KEY: json.dumps(content)}))


def read_finished(path: Path, plan: TrainPlan) -> dict[str, Any]:
    """What the checkpoint of a finished training says of its making, if it is the training asked for.

    Raises:
        BackboneTrainError: it is of another training, or damaged.
    """
    try:
        made = read_provenance(path)
    except WeightsError as error:
        raise BackboneTrainError(f"{error}; replace it with --overwrite") from error
    if made.get("training") != json.loads(json.dumps(plan.to_json())):
        differing = _differing(made.get("training", {}), plan.to_json())
        raise BackboneTrainError(
            f"{path} was trained otherwise ({differing}); keep it under another name, or replace it with --overwrite"
        )
    return made


def _differing(kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Which parts of two trainings differ, in words."""
    wanted = json.loads(json.dumps(wanted))
    names = []
    for name, value in wanted.items():
        if kept.get(name) != value:
            inner = isinstance(value, dict) and isinstance(kept.get(name), dict)
            names += [key for key in value if kept[name].get(key) != value[key]] if inner else [name]
    return ", ".join({"clips_sha256": "clips, labels, splits or skeletons"}.get(name, name) for name in names)


def write_unfinished(path: Path, plan: TrainPlan, states: dict[str, StreamState]) -> None:
    """Keep the streams as far as they are trained."""
    content = {
        "training": json.dumps(plan.to_json()),
        "streams": {name: each.to_dict() for name, each in states.items()},
    }
    with writing(path), committed_file(_unfinished(path)) as temporary:
        torch.save(content, temporary)


def read_unfinished(path: Path, plan: TrainPlan) -> dict[str, StreamState]:
    """What an earlier run of the very same training kept; nothing where there is none, or it is damaged."""
    file = _unfinished(path)
    if not file.is_file():
        return {}
    try:
        content = torch.load(file, map_location=plan.device, weights_only=True)
        if content["training"] == json.dumps(plan.to_json()):
            return {name: StreamState(**each) for name, each in content["streams"].items()}
    except Exception as error:  # torch and zip raise many kinds for a damaged file, and all mean the same here
        warn(f"{file} cannot be read ({type(error).__name__}); the training starts anew")
        return {}
    warn(f"{file} is of a training with other settings or clips; this one starts anew")
    return {}


def remove_unfinished(path: Path) -> None:
    """Forget what was kept for a training that is now finished."""
    _unfinished(path).unlink(missing_ok=True)


def _unfinished(path: Path) -> Path:
    return path.with_name(f".{path.stem}.unfinished.pt")
