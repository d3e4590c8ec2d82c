"""Whose clips: subjects from file names, and splits that are drawn from whole subjects."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mgcli.cache import SPLITS, TASKS
from mgcli.extract.dataset import DatasetError


class SubjectPattern:
    """A regular expression whose first group, found in a file name, is the subject: `(s[0-9]+)_`."""

    def __init__(self, pattern: str) -> None:
        """Check it.

        Raises:
            DatasetError: no regular expression, or one without a group.
        """
        try:
            self._pattern = re.compile(str(pattern))
        except re.error as error:
            raise DatasetError(f"subject_pattern {pattern!r} is no regular expression: {error}") from error
        if self._pattern.groups < 1:
            raise DatasetError(f"subject_pattern {pattern!r} needs a group, such as (s[0-9]+)_")

    def subject(self, name: str) -> str:
        """The subject in a file name.

        Raises:
            DatasetError: there is none.
        """
        found = self._pattern.search(name)
        if found is None or not found[1]:
            raise DatasetError(f"subject_pattern {self._pattern.pattern!r} finds no subject in {name}")
        return found[1]


@dataclass(frozen=True, kw_only=True)
class SplitDraw:
    """How subjects are drawn into train, val and test: whole ones at a time, so that none is in two of them."""

    fractions: Sequence[float] = (0.6, 0.2, 0.2)  # of the subjects in train, val and test
    seed: int = 0

    def __post_init__(self) -> None:
        if not _are_fractions(self.fractions):
            raise DatasetError(
                f"fractions {self.fractions!r} must be three numbers (train, val, test) that add up to 1, "
                "such as [0.6, 0.2, 0.2]"
            )
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or self.seed < 0:
            raise DatasetError(f"seed is {self.seed!r}; it must be a whole number from 0")

    def draw(self, table: pd.DataFrame) -> pd.DataFrame:
        """A checked clip table with its splits drawn; `attrs["warnings"]` says what came out.

        Where there are labels, subjects without any are not drawn and get no split.
        """
        labelled = table[(table["gesture"] + table["emotion"]) != ""]
        split_of = self._splits(sorted(set((labelled if len(labelled) else table)["subject_id"])))
        drawn = table.assign(split=table["subject_id"].map(split_of).fillna(""))
        counts = []
        for split in SPLITS:
            clips = drawn[drawn["split"] == split]
            counts.append(f"{split} {len(clips)} clips of {clips['subject_id'].nunique()}")
        notes = [f"splits drawn with seed {self.seed}, whole subjects at a time: {', '.join(counts)} subjects"]
        train = drawn[drawn["split"] == "train"]
        for task in TASKS:
            unseen = sorted(set(drawn[task]) - set(train[task]) - {""})
            if unseen:
                notes.append(f"no training clip has the {task} {', '.join(unseen)}; another seed may do better")
        drawn.attrs["warnings"] = [*table.attrs.get("warnings", []), *notes]
        return drawn

    def _splits(self, subjects: list[str]) -> dict[str, str]:
        """Subject -> split; with few subjects, training comes first, then test, then validation."""
        fractions = np.asarray(self.fractions, dtype=float)
        drawn = np.random.default_rng(self.seed).permutation(subjects)
        wanted = np.round(fractions * len(drawn))
        counts = np.where(fractions > 0, np.maximum(1, wanted), 0).astype(int)  # train, val, test
        counts[0] = len(drawn) - counts[1:].sum()
        least = int(fractions[0] > 0)
        for split in (1, 2):
            given_up = min(counts[split], max(0, least - counts[0]))
            counts[split] -= given_up
            counts[0] += given_up
        return dict(zip(drawn.tolist(), np.repeat(SPLITS, counts).tolist(), strict=True))


def _are_fractions(given: Any) -> bool:
    try:
        fractions = np.asarray(given, dtype=float)
    except (TypeError, ValueError):
        return False
    return bool(fractions.shape == (3,) and (fractions >= 0).all() and np.isclose(fractions.sum(), 1))
