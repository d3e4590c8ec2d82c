"""Paired tests against values worked out by hand, and what chance alone may claim."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgcli.fuse.paired import compare_paired, flip_subjects, holm, mcnemar, paired_table
from mgcli.fuse.score_table import ScoreError, ScoreTable


def table(right: np.ndarray, subjects: list[str] | None = None) -> ScoreTable:
    """Scores of two classes, right or wrong as given (n,)."""
    labels = np.arange(len(right)) % 2
    answer = np.where(right, labels, 1 - labels)
    return ScoreTable(
        clip_ids=np.array([f"c{i}" for i in range(len(right))], dtype=object),
        subjects=np.array(subjects or [f"s{i}" for i in range(len(right))], dtype=object),
        splits=np.full(len(right), "test", dtype=object),
        labels=labels,
        probabilities=np.eye(2)[answer][None],
        classes=["lose", "win"],
    )


def test_mcnemar_is_a_binomial_test_of_the_clips_that_one_head_alone_got_right() -> None:
    assert mcnemar(10, 2) == pytest.approx(2 * (1 + 12 + 66) / 2**12)
    assert mcnemar(0, 0) == mcnemar(3, 3) == 1.0
    assert mcnemar(2, 10) == mcnemar(10, 2)
    assert 0 < mcnemar(3000, 2700) < 1e-4


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=7))
def test_flipping_subjects_counts_every_choice_of_signs(sums: list[int]) -> None:
    difference = np.array([*sums, 0.0])
    subjects = np.array([*map(str, range(len(sums))), "0"])
    observed = abs(sum(sums))
    signs = itertools.product([1, -1], repeat=len(sums))
    as_large = sum(abs(np.dot(each, sums)) >= observed for each in signs)
    assert flip_subjects(difference, subjects) == pytest.approx(as_large / 2 ** len(sums))


def test_many_subjects_are_drawn_and_give_the_normal_answer() -> None:
    difference = np.where(np.arange(100) < 60, 1.0, -1.0)  # z = 20 / 10
    p = flip_subjects(difference, np.arange(100).astype(str))
    assert p == pytest.approx(math.erfc(1.9 / math.sqrt(2)), abs=0.01)  # with the continuity correction
    assert p == flip_subjects(difference, np.arange(100).astype(str))


def test_alike_clips_of_few_subjects_fool_mcnemar_and_not_the_flip_of_subjects() -> None:
    right = np.repeat([True, True, True, True, False], 20)
    (found,) = compare_paired(
        table(right, [f"s{i // 20}" for i in range(100)]), {"other": table(~right, [f"s{i // 20}" for i in range(100)])}
    )
    assert found.p_mcnemar < 1e-6
    assert found.p_subjects > 0.3
    assert found.lead == pytest.approx(0.6)
    assert (found.num_clips, found.num_subjects) == (100, 5)
    assert "+60.0" in paired_table("ours", "test", [found])


def test_holm_multiplies_the_smallest_most_and_keeps_the_order() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]


def test_heads_that_are_alike_are_told_apart_as_seldom_as_the_level_says() -> None:
    rng = np.random.default_rng(0)
    subjects = np.repeat(np.arange(12), 10)
    found = []
    for _ in range(300):
        tilt = rng.normal(0, 0.15, 12)[subjects]  # who is easier for which head
        difference = (rng.random(120) < 0.6 + tilt).astype(float) - (rng.random(120) < 0.6 - tilt)
        found.append(flip_subjects(difference, subjects.astype(str)))
    assert np.mean(np.array(found) <= 0.05) <= 0.08


def test_only_shared_clips_are_compared_and_their_number_is_said() -> None:
    ours, theirs = table(np.ones(6, bool)), table(np.zeros(6, bool))
    (found,) = compare_paired(ours, {"other": theirs.rows(np.array([4, 1, 3]))})
    assert (found.num_clips, found.num_subjects, found.lead) == (3, 3, 1.0)
    with pytest.raises(ScoreError, match="other was not scored on any of the 2 clips"):
        compare_paired(ours.rows(np.arange(2)), {"other": theirs.rows(np.arange(2, 6))})
    relabelled = table(np.ones(6, bool))
    relabelled.labels[2] = 1 - relabelled.labels[2]
    with pytest.raises(ScoreError, match="clip 'c2' has another label or subject"):
        compare_paired(ours, {"other": relabelled})
