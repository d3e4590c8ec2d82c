"""Cutting the training subjects into folds, each the validation split of one run.

# Shapes: S subjects, F folds, K classes.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from mgcli.cache import MgcliError


class FoldError(MgcliError):
    """Subjects that cannot be cut as asked."""


def draw_fold(table: pd.DataFrame, task: str, folds: int, fold: int, seed: int = 0) -> pd.DataFrame:
    """Mark the clips of one fold's subjects as `val` and those of all others as `train`; test clips stay.

    A validation split that the table has is training material here, and is cut with the rest.

    Args:
        table: a clip table of which every clip has a split and a label.
        task: the label column.
        folds: how many; each subject is in the validation split of exactly one.
        fold: which, from 0.
        seed: same seed, same folds.

    Raises:
        FoldError: fewer subjects than folds.
    """
    own = table["split"] != "test"
    fold_of = assign_folds(table[own], task, folds, seed)
    held_back = table["subject_id"].map(fold_of) == fold
    return table.assign(split=table["split"].where(~own, np.where(held_back, "val", "train")))


def assign_folds(table: pd.DataFrame, task: str, folds: int, seed: int = 0) -> dict[str, int]:
    """Subject -> fold, with labels spread as evenly as whole subjects allow.

    Subjects with many clips are placed first, each where the classes' shares of the folds stay most even: the
    way of scikit-learn's StratifiedGroupKFold.

    Raises:
        FoldError: fewer subjects than folds.
    """
    counts = pd.crosstab(table["subject_id"], table[task])
    if len(counts) < 2:
        raise FoldError(
            f"{len(counts)} training subject(s) cannot be cut into {folds} folds: two are needed, one to learn from "
            "and one to validate on. Use a clip table with more subjects, or one with a val split, without folds"
        )
    if len(counts) < folds:
        raise FoldError(
            f"{len(counts)} training subject(s) cannot be cut into {folds} folds, one or more in each. "
            f"Ask for {len(counts)} folds or fewer"
        )
    share = counts.to_numpy(float) / counts.to_numpy().sum(axis=0)  # (S, K) of each class's clips
    size = counts.to_numpy().sum(axis=1)
    shuffled = np.random.default_rng(seed).permutation(len(counts))
    order = shuffled[np.argsort(-size[shuffled], kind="stable")]
    of_fold = np.zeros((folds, share.shape[1]))
    filled = np.zeros(folds, bool)
    fold_of: dict[str, int] = {}
    for place, subject in enumerate(order.tolist()):
        after = of_fold[None] + np.eye(folds)[:, :, None] * share[subject]  # (F, F, K): were it put into each
        uneven = after.std(axis=1).mean(axis=1)
        if len(order) - place <= folds - filled.sum():  # the last ones fill what is empty
            uneven[filled] = np.inf
        chosen = int(np.lexsort((of_fold.sum(axis=1), uneven.round(12)))[0])
        of_fold[chosen] += share[subject]
        filled[chosen] = True
        fold_of[str(counts.index[subject])] = chosen
    return fold_of
