"""Words that a shell completes: names of backbones, modalities and data sets."""

from __future__ import annotations


def backbone_names() -> list[str]:
    """Those of the table."""
    from mgcli.extract.names import BACKBONES

    return list(BACKBONES)


def modality_names() -> list[str]:
    """Those that have a usual backbone."""
    from mgcli.extract.names import MODALITIES

    return list(MODALITIES)


def dataset_names() -> list[str]:
    """Those of the table."""
    from mgcli.extract.dataset import DATASETS

    return list(DATASETS)
