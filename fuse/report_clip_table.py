"""The clips of a reported run, found again in the cache, and their tokens."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mgcli.cache import FeatureCache, MgcliError
from mgcli.fuse.predict import run_feature_sets, select_for_run
from mgcli.fuse.report_group import RunGroup
from mgcli.fuse.run import Run
from mgcli.fuse.selection import Selection, with_held_back
from mgcli.fuse.usable_clips import have_tokens

MAX_CLIPS = 3000  # whose tokens are read; of more, so many are taken evenly, which the page says


def used_clips(run: Run, cache: FeatureCache | str) -> pd.DataFrame | str:
    """The clips that the run used, with its splits; or why they cannot be told.

    Args:
        run: any.
        cache: where its tokens were; or why there is none.
    """
    if isinstance(cache, str):
        return cache
    if run.is_ensemble:
        return f"{run.name} is an ensemble, which reads no tokens of its own"
    try:
        feature_sets = run_feature_sets(run, cache)
        table = cache.read_clips(run.protocol)
    except MgcliError as error:
        return str(error)
    clips = run.config["clips"]
    table = with_held_back(table, clips["drawn_val_subjects"], in_folds=run.config["config"].get("folds", 0) > 0)
    labelled = (table[run.config["task"]] != "") & (table["split"] != "")
    table = table[labelled & have_tokens(table, feature_sets)].reset_index(drop=True)
    there, then = int((table["split"] == "train").sum()), clips["counts"].get("train", {"clips": 0})["clips"]
    if there != then:
        return (
            f"the cache's clip table has {there:,} training clips with tokens, and {run.name} was trained on {then:,}: "
            "the table or the feature sets have changed since"
        )
    return table


def judged_clips(group: RunGroup, cache: FeatureCache | str, table: pd.DataFrame | str) -> Selection | str:
    """The clips that the group's first run is judged by, at most MAX_CLIPS of them, with their tokens; or why not.

    Args:
        group: runs.
        cache: where its tokens are; or why there is none.
        table: as `used_clips` gives it.
    """
    if isinstance(table, str) or isinstance(cache, str):
        return str(table if isinstance(table, str) else cache)
    scores = group.scores[0]
    if scores is None:
        return group.faults[0]
    chosen = table[(table["split"] == group.split) & table["clip_id"].isin(scores.clip_ids.tolist())]
    if len(chosen) < len(scores):
        lost = len(scores) - len(chosen)
        return f"{lost:,} of the {len(scores):,} clips in predictions.csv are not in the cache's clip table"
    if len(chosen) > MAX_CLIPS:
        chosen = chosen.iloc[np.linspace(0, len(chosen) - 1, MAX_CLIPS).astype(int)]
    try:
        return select_for_run(group.run, cache, chosen.reset_index(drop=True), None, _nothing, labelled=True)
    except MgcliError as error:
        return str(error)


def _nothing(message: str) -> None:
    """What is odd about these clips was said when the run was trained, and stands on the page."""
