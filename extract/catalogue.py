"""What there is to choose from, for `mgcli backbones`, `mgcli weights` and `mgcli datasets`."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

from mgcli.extract.backbone import Backbone, backbone_class, family_class
from mgcli.extract.dataset import DATASETS
from mgcli.extract.names import BACKBONES, FAMILIES, MODALITIES
from mgcli.extract.weights import PublishedWeights, find_published, weights_folders
from mgcli.extract.weights_agcn import RELEASED
from mgcli.extract.weights_checkpoint import file_sha256


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
    return find_published(kind.published, weights_dir) is not None


def describe_weights(weights_dir: Path | None = None) -> list[dict[str, Any]]:
    """One row a weights file: backbone, file, size, SHA-256, licence, whether it is here, and where it comes from.

    The folders that all of them are looked for in are `weights_folders(weights_dir)`.
    """
    rows = []
    of_torchvision = (f"torchvision:{each}" for each in family_class("torchvision").member_names())
    for name in [*BACKBONES, *of_torchvision]:
        kind = backbone_class(name)
        published = (kind.published,) if kind.published else ()
        if not published:
            rows.append(_weights_row(name, _other_weights(kind), source=kind.weights_hint or "-"))
        rows += [_trained_row(name, path) for path in _trained_files(kind, weights_dir)]
        for weights in (*published, *RELEASED.get(name, ())):
            rows.append(_published_row(name, weights, find_published(weights, weights_dir)))
    rows.append(_weights_row("timm:NAME", "the model's own", source=family_class("timm").weights_hint))
    return rows


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


def _trained_files(kind: type[Backbone], weights_dir: Path | None) -> list[Path]:
    """What `mgcli backbone-train` made for the backbone that its files are named after."""
    if kind.trained_stem != kind.name:
        return []
    return [path for each in weights_folders(weights_dir) for path in sorted(each.glob(f"{kind.name}-*.safetensors"))]


def _trained_row(name: str, path: Path) -> dict[str, Any]:
    size = f"{path.stat().st_size / 1e6:.0f} MB"
    return _weights_row(
        name, path.name, size=size, sha256=file_sha256(path)[:8], here=f"yes: {path}", source="mgcli backbone-train"
    )


def _published_row(name: str, weights: PublishedWeights, path: Path | None) -> dict[str, Any]:
    return _weights_row(
        name,
        weights.file,
        size="unknown" if weights.size_mb is None else f"{weights.size_mb:.0f} MB",
        sha256=weights.sha256 or "-",
        licence=weights.licence,
        here="no" if path is None else f"yes: {path}",
        source=weights.url or weights.page,
    )


def _weights_row(
    name: str,
    file: str,
    *,
    size: str = "-",
    sha256: str = "-",
    licence: str = "-",
    here: str = "-",
    source: str,
) -> dict[str, Any]:
    return {
        "name": name,
        "file": file,
        "size": size,
        "sha256": sha256,
        "licence": licence,
        "here": here,
        "source": source,
    }
