"""What there is to choose from, for `mgcli backbones` and `mgcli datasets`."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

from mgcli.extract.backbone import BACKBONES, FAMILIES, MODALITIES, Backbone, backbone_class, family_class
from mgcli.extract.dataset import DATASETS
from mgcli.extract.weights import find_weights


def describe_backbones(weights_dir: Path | None = None) -> list[dict[str, Any]]:
    """One row a backbone: name, modalities, token layouts, weights, whether they are here, licence."""
    kinds = {name: backbone_class(name) for name in BACKBONES} | {
        f"{each}:NAME": family_class(each) for each in FAMILIES
    }
    rows = []
    for name, kind in kinds.items():
        weights = kind.published
        fitting = [each for each, usual in MODALITIES.items() if backbone_class(usual.backbone).reads == kind.reads]
        rows.append(
            {
                "name": name,
                "modalities": ",".join(fitting),
                "layouts": ",".join(kind.layouts),
                "weights": weights.file if weights else _other_weights(kind),
                "here": "-" if kind.has_weights and not weights else _yes_no(weights_are_here(name, weights_dir)),
                "licence": weights.licence if weights else "-",
            }
        )
    return rows


def weights_are_here(name: str, weights_dir: Path | None = None) -> bool:
    """Whether a backbone's published weights lie in one of the weights folders, or it needs none."""
    kind = backbone_class(name)
    if kind.published is None:
        return not kind.has_weights
    return find_weights(kind.published.file, weights_dir) is not None


def describe_datasets() -> list[dict[str, Any]]:
    """One row a data set: name, and the first line of its class."""
    rows = []
    for name, place in DATASETS.items():
        module, kind = place.split(":")
        text = inspect.getdoc(getattr(import_module(module), kind)) or ""
        rows.append({"name": name, "about": text.splitlines()[0]})
    return rows


def _other_weights(kind: type[Backbone]) -> str:
    if not kind.has_weights:
        return "none needed"
    return "your own" if kind.weights_hint else "the model's own"


def _yes_no(answer: bool) -> str:
    return "yes" if answer else "no"
