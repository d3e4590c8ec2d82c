"""Folds: every training subject is held back once, and nobody is on both sides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import QUICK, clips_of

from mgcli.cache import FeatureCache
from mgcli.fuse import TrainError, evaluate_run, make_config, train_head
from mgcli.fuse.folds import FoldError, assign_folds, draw_fold


def clips(sizes: list[int], seed: int = 0) -> pd.DataFrame:
    """Subjects with so many clips each, of three classes."""
    subjects = np.repeat([f"s{i}" for i in range(len(sizes))], sizes)
    labels = np.random.default_rng(seed).integers(3, size=len(subjects)).astype(str)
    return pd.DataFrame({"subject_id": subjects, "split": "train", "gesture": labels})


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=25), st.integers(2, 8), st.integers(0, 5))
def test_every_subject_is_held_back_exactly_once(sizes: list[int], folds: int, seed: int) -> None:
    table = clips(sizes)
    if len(sizes) < folds:
        with pytest.raises(FoldError, match=rf"{len(sizes)} training subject.* cannot be cut into {folds} folds"):
            assign_folds(table, "gesture", folds, seed)
        return
    held_back = []
    for fold in range(folds):
        cut = draw_fold(table, "gesture", folds, fold, seed)
        val, train = (set(cut.loc[cut["split"] == split, "subject_id"]) for split in ("val", "train"))
        assert val
        assert not val & train
        held_back += list(val)
    assert sorted(held_back) == sorted(set(table["subject_id"]))


def test_one_subject_cannot_be_cut_at_all() -> None:
    with pytest.raises(FoldError, match=r"1 training subject.* into 3 folds: two are needed, one to learn from"):
        assign_folds(clips([4]), "gesture", 3)
    with pytest.raises(FoldError, match=r"2 training subject.* Ask for 2 folds or fewer"):
        assign_folds(clips([4, 4]), "gesture", 3)


def test_folds_are_even_in_clips_and_classes() -> None:
    table = clips([5, 30, 12, 8, 20, 9, 17, 3, 25, 11, 14, 6])
    fold = table["subject_id"].map(assign_folds(table, "gesture", 3))
    shares = pd.crosstab(fold, table["gesture"], normalize="columns").to_numpy()
    assert np.abs(shares - 1 / 3).max() < 0.12


def test_test_clips_stay_and_an_own_validation_split_is_cut_with_the_rest() -> None:
    table = clips([4] * 8)
    table["split"] = np.repeat(["train", "val", "test"], [16, 8, 8])
    cut = draw_fold(table, "gesture", 2, 0)
    assert (cut["split"][24:] == "test").all()
    assert set(cut["split"][:24]) == {"train", "val"}


def test_a_run_of_a_fold_is_scored_again_on_its_own_validation_subjects(planted: FeatureCache, tmp_path: Path) -> None:
    table = clips_of(planted)
    table.loc[:39, "split"] = "val"
    config = replace(QUICK, folds=4, fold=2)
    run = train_head(planted, "gesture", head="concat", seeds=1, config=config, clips=table, runs=tmp_path / "runs")
    assert "the clip table's own validation split is cut into the 4 folds" in run.config["warnings"][-1]
    assert run.config["clips"]["counts"]["val"]["subjects"] == 2
    assert evaluate_run(run, planted, split="val", clips=table).metrics == run.metrics["val"]


def test_a_fold_that_does_not_exist_is_refused() -> None:
    for settings_ in ({"folds": 1}, {"folds": 3, "fold": 3}, {"fold": 1}, {"folds": -2}):
        with pytest.raises(TrainError, match="give 2 folds or more, and a fold from 0 below"):
            make_config(settings_)
