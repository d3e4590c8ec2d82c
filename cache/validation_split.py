"""A validation split for clip tables that have none: whole training subjects, so that nobody is seen in both."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mgcli.cache.clips import TASKS
from mgcli.cache.errors import ClipTableError


def draw_validation(table: pd.DataFrame, seed: int = 0, fraction: float = 0.2) -> pd.DataFrame:
    """Move whole training subjects to `val` where a table has no validation clips.

    Of 200 seeded draws of `fraction` of the subjects it takes the one whose labels are nearest to those of
    the training subjects and that leaves every class some training clip (our choice; the published
    protocols either have no validation split or one that shares subjects with training).

    Args:
        table: a checked clip table, of one task or of several.
        seed: same seed, same table: same subjects.
        fraction: share of the training subjects, at least one subject.

    Returns:
        A copy with `split` changed; the table as it is where it has validation clips already.

    Raises:
        ClipTableError: fewer than two training subjects.
    """
    if (table["split"] == "val").any():
        return table
    train = table[table["split"] == "train"]
    subjects = np.array(sorted(train["subject_id"].unique()))
    if len(subjects) < 2:
        raise ClipTableError(
            f"cannot draw a validation split from {len(subjects)} training subject(s); "
            "mark some clips of other subjects as split=val"
        )
    num_val = min(max(1, round(fraction * len(subjects))), len(subjects) - 1)
    labels = train["gesture"] + "|" + train["emotion"]
    counts = pd.crosstab(train["subject_id"], labels).loc[subjects].to_numpy(float)  # (subjects, labels)
    by_task = [pd.crosstab(train["subject_id"], train[task]).drop(columns="", errors="ignore") for task in TASKS]
    of_classes = np.hstack([each.loc[subjects].to_numpy(float) for each in by_task])  # (subjects, classes)
    rng = np.random.default_rng(seed)
    best, best_cost = subjects[:num_val], np.inf
    for _ in range(200):
        drawn = rng.permutation(len(subjects))[:num_val]
        val = counts[drawn].sum(axis=0)
        left = counts.sum(axis=0) - val
        distance = np.abs(val / max(val.sum(), 1) - left / max(left.sum(), 1)).sum()
        size = abs(val.sum() / counts.sum() - num_val / len(subjects))
        lost = np.count_nonzero(of_classes[drawn].sum(axis=0) == of_classes.sum(axis=0))
        cost = distance + size + 10.0 * lost
        if cost < best_cost:
            best, best_cost = subjects[drawn], cost
    split = table["split"].mask((table["split"] == "train") & table["subject_id"].isin(best), "val")
    return table.assign(split=split)
