"""Whether one head is better than another on the same clips, or was only lucky.

Two tests, for two questions:

* by subjects: the clips of a person are alike, so that whole subjects are the unit. If both heads were alike, a
  subject's difference could as well have the other sign: all signs are flipped (Fisher's randomisation test, exact
  up to EXACT_SUBJECTS subjects, by drawing beyond). This is the one to believe when the claim is about new people.
* by clips: McNemar's test in its exact form (McNemar 1947; a binomial test of the clips that only one head got
  right), as papers report it. It takes clips for independent, and so claims too much where subjects differ.

Many comparisons find something by chance: p-values are corrected by Holm 1979, valid whatever their dependence.

# Shapes: n clips, S subjects.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mgcli.cache import align_columns
from mgcli.fuse.run import Run
from mgcli.fuse.run_names import run_names
from mgcli.fuse.score_table import ScoreError, ScoreTable, run_scores

EXACT_SUBJECTS = 16  # up to here all 2^S signs are tried
NUM_FLIPS = 20_000  # draws beyond


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """A head against another one; the p-values are two-sided."""

    against: str
    lead: float  # top-1 of the head less that of the other, mean over the seeds
    p_subjects: float
    p_mcnemar: float
    p_subjects_holm: float  # corrected for all comparisons made beside this one
    p_mcnemar_holm: float
    num_clips: int
    num_subjects: int

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return asdict(self)


def compare_paired(head: ScoreTable, others: Mapping[str, ScoreTable]) -> list[PairedTest]:
    """Test a head against others on the labelled clips that both have scores of.

    A head of one modality has none of a clip that lacks it.

    Args:
        head: its scores.
        others: name -> scores of another head.

    Raises:
        ScoreError: they have no clip in common, or disagree about its label.
    """
    found = []
    for name, other in others.items():
        ours = head.rows(np.isin(head.clip_ids.astype(str), other.clip_ids.astype(str)))
        if not len(ours):
            raise ScoreError(f"{name} was not scored on any of the {len(head)} clips")
        theirs = other.rows(np.isin(other.clip_ids.astype(str), head.clip_ids.astype(str))).in_order_of(ours)
        difference = ours.right() - theirs.right()  # (n,)
        only = [each.mean.argmax(axis=1) == each.labels for each in (ours, theirs)]
        by_clips = mcnemar(int((only[0] & ~only[1]).sum()), int((only[1] & ~only[0]).sum()))
        by_subjects = flip_subjects(difference, ours.subjects)
        found.append((float(difference.mean()), by_subjects, by_clips, len(ours), len(set(ours.subjects))))
    corrected = [holm([each[i] for each in found]) for i in (1, 2)]
    return [
        PairedTest(
            against=name,
            lead=lead,
            p_subjects=by_subjects,
            p_mcnemar=by_clips,
            p_subjects_holm=corrected[0][i],
            p_mcnemar_holm=corrected[1][i],
            num_clips=num_clips,
            num_subjects=num_subjects,
        )
        for i, (name, (lead, by_subjects, by_clips, num_clips, num_subjects)) in enumerate(
            zip(others, found, strict=True)
        )
    ]


@dataclass(frozen=True, kw_only=True)
class PairedReport:
    """A run against others, on the test clips, or on those of validation where there are none."""

    head: str
    split: str
    tests: list[PairedTest]

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return {"paired": {"split": self.split, "tests": [each.to_json() for each in self.tests]}}

    def text(self) -> str:
        """For people."""
        return paired_table(self.head, self.split, self.tests)


def compare_runs(run: Run, others: Sequence[Run]) -> PairedReport:
    """Test a run against others of the same clips.

    Raises:
        ScoreError: they have no clip in common.
    """
    split = "test" if run.metrics["test"] else "val"
    own, *names = run_names([run, *others])
    scores = {name: run_scores(other).split(split) for name, other in zip(names, others, strict=True)}
    return PairedReport(head=own, split=split, tests=compare_paired(run_scores(run).split(split), scores))


def flip_subjects(difference: np.ndarray, subjects: np.ndarray) -> float:
    """Two-sided p-value of the mean difference, by flipping the signs of whole subjects.

    Args:
        difference: (n,) of the two heads on each clip.
        subjects: (n,) who is seen.
    """
    _, owner = np.unique(subjects.astype(str), return_inverse=True)
    of_subject = np.bincount(owner, weights=difference)
    of_subject = of_subject[np.abs(of_subject) > 1e-12]  # a flip of nothing changes nothing
    observed = abs(of_subject.sum()) - 1e-9
    if len(of_subject) <= EXACT_SUBJECTS:
        sums = np.zeros(1)
        for each in of_subject:
            sums = np.concatenate([sums + each, sums - each])
        return float((np.abs(sums) >= observed).mean())
    signs = np.random.default_rng(0).integers(2, size=(NUM_FLIPS, len(of_subject))) * 2 - 1
    as_large = int((np.abs(signs @ of_subject) >= observed).sum())
    return (as_large + 1) / (NUM_FLIPS + 1)


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p-value of so many clips that only one of two heads got right."""
    total, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(total, k) for k in range(fewer + 1))
    return min(1.0, 2 * (tail / 2**total))  # whole numbers until here: no rounding, whatever the size


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected so that the chance of any false claim among them stays that of one."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(np.argsort(p_values, kind="stable").tolist()):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def paired_table(head: str, split: str, tests: Sequence[PairedTest]) -> str:
    """The tests for people."""
    title = (
        f"{head} against the others on {split} clips; p-values by flipping subjects and by McNemar over clips, "
        f"corrected for {len(tests)} comparison(s) by Holm"
    )
    rows = [["against", "clips", "subjects", "top1 lead", "p subjects", "p McNemar"]]
    rows += [
        [
            *(each.against, str(each.num_clips), str(each.num_subjects), f"{100 * each.lead:+.1f}"),
            *(p_text(each.p_subjects_holm), p_text(each.p_mcnemar_holm)),
        ]
        for each in tests
    ]
    return "\n".join([title, *align_columns(rows)])


def p_text(p: float) -> str:
    """A p-value for people."""
    return f"{p:.3f}" if p >= 0.001 else "<0.001"
