"""The report's section on data: which clips, classes and subjects, and which tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from mgcli.cache import SPLITS, Section, counted, html_table
from mgcli.fuse.report_group import RunGroup, not_shown
from mgcli.fuse.report_plot import folded_table


def data_section(group: RunGroup, table: pd.DataFrame | str) -> Section:
    """Clips and subjects of each split, the feature sets, and the clips of each class.

    Args:
        group: runs; those of the first are counted.
        table: the clips that it used, with their splits; or why they are not known.
    """
    config = group.run.config
    counts = config["clips"]["counts"]
    protocol = f"protocol {group.run.protocol}" if group.run.protocol else "a clip table of its own"
    about = (
        f"{sum(each['clips'] for each in counts.values()):,} clips labelled for {group.task}, {len(group.classes):,} "
        f"classes, {protocol}."
    )
    drawn = config["clips"]["drawn_val_subjects"]
    if drawn:
        about += f" For validation, {counted(len(drawn), 'training subject')} stood aside."
    splits = html_table(
        ["split", "clips", "subjects"],
        [
            [split, f"{counts[split]['clips']:,}", f"{counts[split]['subjects']:,}"]
            for split in SPLITS
            if split in counts
        ],
        caption=f"Clips of {group.name} by split.",
    )
    return group.section("data", "Data", about, splits, _feature_sets(group), _classes(group, table))


def _feature_sets(group: RunGroup) -> Markup:
    """Every feature set that a run of the group reads."""
    sets: dict[tuple[str, str], dict[str, Any]] = {
        (modality, each["feature_set"]): each for run in group.runs for modality, each in run.config["features"].items()
    }
    rows = [
        [modality, each["backbone"], each["weights"], each["tokens"], each["dim"], each["fingerprint"]]
        for (modality, _), each in sets.items()
    ]
    header = ["modality", "backbone", "weights", "layout", "width", "fingerprint"]
    return html_table(header, rows, caption="Feature sets that the runs read.")


def _classes(group: RunGroup, table: pd.DataFrame | str) -> Markup:
    if isinstance(table, str):
        return not_shown(table, "Clips by class are not shown")
    counts = pd.crosstab(table[group.task], table["split"])
    numbers = counts.reindex(index=group.classes, columns=list(SPLITS), fill_value=0).to_numpy()  # (K, 3)
    names = group.class_names
    rows = [
        [
            names[i],
            *(f"{count:,}" for count in numbers[i].tolist()),
            group.class_group(group.classes[i], int(numbers[i, 0])),
        ]
        for i in np.argsort(-numbers[:, 0], kind="stable").tolist()
    ]
    return folded_table(
        f"Clips of each of the {len(rows):,} classes", ["class", *SPLITS, "group"], rows, caption="Clips by class."
    )
