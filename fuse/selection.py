"""Which clips of a table a run learns from, chooses by and is tested on, and what is odd about them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mgcli.cache import (
    SPLITS,
    TASKS,
    FeatureSet,
    LeakageReport,
    draw_validation,
    find_leakage,
)
from mgcli.fuse.data import ClipTensors
from mgcli.fuse.folds import draw_fold
from mgcli.fuse.usable_clips import LoadedClips, SelectionError, Warn, have_tokens, with_tokens

TEST_SET_ASIDE = "test_set_aside"  # in a table's `attrs`: how many test clips were taken out of it on purpose


@dataclass(frozen=True)
class Selection:
    """The clips of a run: row i of the table is clip i of the tensors."""

    table: pd.DataFrame  # with the split that the run uses
    tensors: ClipTensors
    classes: list[str]
    drawn_val_subjects: list[str]  # empty where the table has its own validation split
    class_groups: dict[str, list[str]]  # head, middle, tail -> classes, by training clips

    def rows(self, split: str) -> np.ndarray:
        """(n,) int64, the clips of a split."""
        return np.flatnonzero((self.table["split"] == split).to_numpy())

    def counts(self) -> dict[str, dict[str, int]]:
        """Split -> how many clips and subjects."""
        return {
            split: {"clips": len(part), "subjects": part["subject_id"].nunique()}
            for split in SPLITS
            for part in [self.table[self.table["split"] == split]]
        }


def protocol_of(table: pd.DataFrame) -> str | None:
    """The protocol whose clips a table holds, where the cache or the caller said so in `attrs`."""
    return table.attrs.get("protocol") or None


def backbones_trained_on(feature_sets: dict[str, FeatureSet]) -> dict[str, dict[str, Any]]:
    """What the backbones of some feature sets were trained on, of those that we trained."""
    return {
        f"{modality} backbone": each.provenance["trained_on"]
        for modality, each in feature_sets.items()
        if "trained_on" in each.provenance
    }


def select_for_training(
    loaded: LoadedClips,
    task: str,
    feature_sets: dict[str, FeatureSet],
    *,
    validation_fraction: float,
    split_seed: int,
    folds: int,
    fold: int,
    allow_unseen_classes: bool,
    allow_leakage: bool,
    warn: Warn,
) -> Selection:
    """Settle which clips a run learns from, chooses by and is tested on.

    Args:
        loaded: the clips.
        task: the label column.
        feature_sets: modality -> its tokens.
        validation_fraction: share of the training subjects that are held back where the table has no val split.
        split_seed: of that draw.
        folds: cut the training subjects into so many, and hold back one fold instead; 0 for none.
        fold: which.
        allow_unseen_classes: accept a class that has clips, but none to train on.
        allow_leakage: accept what the leakage guard refuses, as a warning.
        warn: told what is left out, missing or shared.

    Raises:
        SelectionError: a class without training clips.
        ClipTableError: a validation split is needed and cannot be drawn.
        LeakageError: two splits share what they must not, or a backbone was trained on test clips.
        FoldError: fewer subjects than folds.
    """
    for text in loaded.warnings:
        warn(text)
    table, drawn = loaded.table, []
    if folds:
        if (table["split"] == "val").any():
            warn(f"the clip table's own validation split is cut into the {folds} folds with the training clips")
        table = draw_fold(table, task, folds, fold, seed=split_seed)
        drawn = sorted(table.loc[table["split"] == "val", "subject_id"].unique())
    elif not (table["split"] == "val").any():
        table = draw_validation(table, seed=split_seed, fraction=validation_fraction)
        drawn = sorted(table.loc[table["split"] == "val", "subject_id"].unique())
    if not allow_unseen_classes:
        _check_classes_seen(loaded.table, table, task)
    _find_leakage(table, loaded.given, feature_sets, drawn=bool(drawn)).enforce(allow=allow_leakage, warn=warn)
    if not (table["split"] == "test").any():
        aside = loaded.given.attrs.get(TEST_SET_ASIDE)
        warn(
            f"the {aside} test clips were set aside: settings are chosen by validation clips alone"
            if aside
            else "the clip table has no test clips for this task; there will be no test scores"
        )
    return Selection(table, loaded.tensors, loaded.classes, drawn, loaded.class_groups)


def refuse_leakage(table: pd.DataFrame, task: str, feature_sets: dict[str, FeatureSet], *, folds: int) -> None:
    """Find out without reading tokens what `select_for_training` would refuse of the table's own splits.

    Raises:
        LeakageError: as there.
    """
    used = table[(table[task] != "") & (table["split"] != "") & have_tokens(table, feature_sets)]
    drawn = folds > 0 or not (used["split"] == "val").any()
    if folds:
        used = used.assign(split=used["split"].replace("val", "train"))
    _find_leakage(used, table, feature_sets, drawn=drawn).enforce(allow=False, warn=lambda text: None)


def select_for_prediction(
    table: pd.DataFrame,
    task: str,
    feature_sets: dict[str, FeatureSet],
    classes: list[str],
    *,
    max_tokens: int,
    split: str | None,
    labelled: bool,
    val_subjects: Sequence[str],
    in_folds: bool,
    warn: Warn,
) -> Selection:
    """The clips that a trained head is shown.

    Args:
        table: a checked clip table.
        task: the label column.
        feature_sets: modality -> its tokens.
        classes: those that the head knows.
        max_tokens: of a clip and modality.
        split: only clips of this split; None for every clip.
        labelled: only clips that have a label, to score them.
        val_subjects: training subjects that the run held back for validation.
        in_folds: the run cut the table's own validation split into its folds.
        warn: told what is left out.

    Raises:
        SelectionError: no clip is left, or a label is none of `classes`.
    """
    table = with_held_back(table, val_subjects, in_folds=in_folds)
    if split is not None:
        if split not in SPLITS:
            raise SelectionError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
        table = table[table["split"] == split].reset_index(drop=True)
        if table.empty:
            raise SelectionError(f"the clip table has no {split} clip")
    if labelled:
        table = table[table[task] != ""].reset_index(drop=True)
        if table.empty:
            raise SelectionError(f"no {split or 'such'} clip has a {task} label")
        unknown = sorted(set(table[task]) - set(classes))
        if unknown:
            raise SelectionError(
                f"the run was not trained on {task} {', '.join(unknown)}; its classes: {', '.join(classes)}"
            )
    table, tensors = with_tokens(table, task, classes, feature_sets, max_tokens, warn)
    return Selection(table, tensors, classes, [], {})


def with_held_back(table: pd.DataFrame, val_subjects: Sequence[str], *, in_folds: bool) -> pd.DataFrame:
    """The clips with the validation split of a run that held back these training subjects."""
    if in_folds:
        table = table.assign(split=table["split"].replace("val", "train"))
    if val_subjects and not (table["split"] == "val").any():
        held_back = (table["split"] == "train") & table["subject_id"].isin(val_subjects)
        table = table.assign(split=table["split"].mask(held_back, "val"))
    return table


def clip_list_hash(table: pd.DataFrame, task: str) -> str:
    """16 hex digits that change with the clips, their splits, subjects or labels, not with their order."""
    rows = sorted(zip(table["clip_id"], table["split"], table["subject_id"], table[task], strict=True))
    return hashlib.sha256(repr(rows).encode("utf-8")).hexdigest()[:16]


def _find_leakage(
    used: pd.DataFrame, table: pd.DataFrame, feature_sets: dict[str, FeatureSet], *, drawn: bool
) -> LeakageReport:
    """What the clips that are used share, and the unlabelled test clips of the whole table with them."""
    guarded = pd.concat([used, _unlabelled_test_clips(table)])
    trained_on = backbones_trained_on(feature_sets)
    return find_leakage(guarded, protocol_of(table), drawn_validation=drawn, trained_on=trained_on)


def _unlabelled_test_clips(table: pd.DataFrame) -> pd.DataFrame:
    """Test clips of a challenge: nobody can score them here, and yet no one may train on the people in them."""
    return table[(table["split"] == "test") & (table[list(TASKS)] == "").all(axis=1)]


def _check_classes_seen(given: pd.DataFrame, table: pd.DataFrame, task: str) -> None:
    """Every class must have clips to train on, also once validation subjects are held back."""
    counts = pd.crosstab(table[task], table["split"]).reindex(columns=list(SPLITS), fill_value=0)
    unseen = counts[counts["train"] == 0]
    if unseen.empty:
        return
    listed = "; ".join(f"{label!r}: 0 train, {row['val']} val, {row['test']} test" for label, row in unseen.iterrows())
    had = set(given.loc[given["split"] == "train", task])
    why = " (all its training clips are of subjects drawn for validation)" if set(unseen.index) & had else ""
    raise SelectionError(
        f"{len(unseen)} {task} class(es) without training clips{why}: {listed}. Mark clips of them as split=train, "
        "remove their labels, or allow it with --allow-unseen-classes"
    )
