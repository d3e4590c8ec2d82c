"""What there is to choose from, for `mgcli backbones` and `mgcli datasets`."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

from mgcli.extract.backbone import BACKBONES, MODALITIES, backbone_class
from mgcli.extract.dataset import DATASETS
from mgcli.extract.weights import find_weights


def describe_backbones(weights_dir: Path | None = None) -> list[dict[str, Any]]:
    """One row a backbone: name, modalities, token layouts, weights, whether they are here, licence."""
    rows = []
    for name in BACKBONES:
        kind = backbone_class(name)
        weights = kind.published
        usual_for = [modality for modality, usual in MODALITIES.items() if usual.backbone == name]
        rows.append(
            {
                "name": name,
                "modalities": ",".join(usual_for),
                "layouts": ",".join(kind.layouts),
                "weights": weights.file if weights else "none needed",
                "here": "yes" if not weights or find_weights(weights.file, weights_dir) else "no",
                "licence": weights.licence if weights else "-",
            }
        )
    return rows


def weights_are_here(name: str, weights_dir: Path | None = None) -> bool:
    """Whether a backbone's published weights lie in one of the weights folders, or it needs none."""
    weights = backbone_class(name).published
    return weights is None or find_weights(weights.file, weights_dir) is not None


def describe_datasets() -> list[dict[str, Any]]:
    """One row a data set: name, and the first line of its class."""
    rows = []
    for name, place in DATASETS.items():
        module, kind = place.split(":")
        text = inspect.getdoc(getattr(import_module(module), kind)) or ""
        rows.append({"name": name, "about": text.splitlines()[0]})
    return rows
