"""Class probabilities of some clips, as a run or another program gave them: what is compared, averaged and handed in.

# Shapes: P seeds, n clips, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from mgcli.cache import MgcliError
from mgcli.fuse.run import Run

UNKNOWN = -1  # the label of a clip that has none


class ScoreError(MgcliError):
    """Scores that cannot be read, or do not belong to the clips that they are said to."""


@dataclass(frozen=True, kw_only=True)
class ScoreTable:
    """Row i of every array is clip i."""

    clip_ids: np.ndarray  # (n,) text
    subjects: np.ndarray  # (n,) text
    splits: np.ndarray  # (n,) text
    labels: np.ndarray  # (n,) int64, index into `classes`, or UNKNOWN
    probabilities: np.ndarray  # (P, n, K) float64
    classes: list[str]

    def __len__(self) -> int:
        return len(self.clip_ids)

    @property
    def mean(self) -> np.ndarray:
        """(n, K), over the seeds."""
        return self.probabilities.mean(axis=0)

    def right(self) -> np.ndarray:
        """(n,) share of the seeds that name the true class."""
        return (self.probabilities.argmax(axis=2) == self.labels).mean(axis=0)

    def rows(self, chosen: np.ndarray) -> ScoreTable:
        """Some clips, by a mask or in an order."""
        return replace(
            self,
            clip_ids=self.clip_ids[chosen],
            subjects=self.subjects[chosen],
            splits=self.splits[chosen],
            labels=self.labels[chosen],
            probabilities=self.probabilities[:, chosen],
        )

    def split(self, name: str) -> ScoreTable:
        """The clips of a split."""
        return self.rows(self.splits == name)

    def with_probabilities(self, probabilities: np.ndarray) -> ScoreTable:
        """The same clips with other scores."""
        return replace(self, probabilities=probabilities)

    def in_order_of(self, other: ScoreTable) -> ScoreTable:
        """The same clips as another table's, in its order.

        Raises:
            ScoreError: they are not the same clips, or have other labels or subjects there.
        """
        place = {clip_id: i for i, clip_id in enumerate(self.clip_ids)}
        if set(place) != set(other.clip_ids):
            only = sorted(set(place) ^ set(other.clip_ids))
            some = ", ".join(map(repr, only[:3])) + (", ..." if len(only) > 3 else "")
            raise ScoreError(f"these results are of different clips: {len(only)} are in one only ({some})")
        ordered = self.rows(np.array([place[clip_id] for clip_id in other.clip_ids], np.int64))
        same = (_names(ordered) == _names(other)) & (ordered.subjects == other.subjects)
        if not same.all():
            raise ScoreError(f"clip {other.clip_ids[~same][0]!r} has another label or subject in one of the results")
        return ordered


def run_scores(run: Run) -> ScoreTable:
    """What a run predicted for the clips of its validation and test split, each seed by itself."""
    classes = run.config["classes"]
    predictions = run.predictions()
    seeds = list(dict.fromkeys(predictions["seed"]))
    parts = [predictions[predictions["seed"] == seed] for seed in seeds]
    first = parts[0] if parts else predictions
    columns = [f"p_{name}" for name in classes]
    if any(list(part["clip_id"]) != list(first["clip_id"]) for part in parts):
        raise ScoreError(f"{run.path}: predictions.csv does not list the same clips for every seed")
    return score_table(first, classes, np.stack([part[columns].to_numpy(np.float64) for part in parts]))


def score_table(clips: pd.DataFrame, classes: Sequence[str], probabilities: np.ndarray) -> ScoreTable:
    """Scores of the clips of a table with the columns clip_id, subject_id, split and true (empty: unknown)."""
    index = {name: i for i, name in enumerate(classes)}
    return ScoreTable(
        clip_ids=clips["clip_id"].to_numpy(object),
        subjects=clips["subject_id"].to_numpy(object),
        splits=clips["split"].to_numpy(object),
        labels=np.array([index.get(name, UNKNOWN) for name in clips["true"]], np.int64),
        probabilities=probabilities,
        classes=list(classes),
    )


def joined(tables: Sequence[ScoreTable]) -> ScoreTable:
    """The clips of several tables of the same classes and seeds, one table after another."""
    first = tables[0]
    return replace(
        first,
        clip_ids=np.concatenate([each.clip_ids for each in tables]),
        subjects=np.concatenate([each.subjects for each in tables]),
        splits=np.concatenate([each.splits for each in tables]),
        labels=np.concatenate([each.labels for each in tables]),
        probabilities=np.concatenate([each.probabilities for each in tables], axis=1),
    )


def _names(table: ScoreTable) -> np.ndarray:
    """(n,) labels as text; empty where unknown."""
    return np.array([*table.classes, ""], dtype=object)[table.labels]
