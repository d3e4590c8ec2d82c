"""How often 95 % intervals hold the truth, in simulated data sets whose subjects differ; and values known elsewhere."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

from mgcli.fuse.intervals import clustered_interval, student_quantile
from mgcli.fuse.metrics import CONFUSION_METRICS, scores, subject_intervals

NUM_DATA_SETS = 500


@dataclass(frozen=True)
class World:
    """Where data sets come from: subjects of unequal sizes, some easier than others."""

    num_classes: int
    top1: float  # of a subject in the middle
    subject_std: float  # of the subjects' log odds of a right answer
    sizes: str  # geometric, lognormal, or one clip a subject

    def draw(self, num_subjects: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(n,) labels, predictions and subjects."""
        size = {
            "geometric": rng.geometric(1 / 20, num_subjects),
            "lognormal": np.exp(rng.normal(3, 1, num_subjects)).round().astype(int).clip(1),
            "one": np.ones(num_subjects, int),
        }[self.sizes]
        log_odds = math.log(self.top1 / (1 - self.top1)) + self.subject_std * rng.standard_normal(num_subjects)
        subjects = np.repeat(np.arange(num_subjects), size)
        share = 0.7 ** np.arange(self.num_classes) if self.num_classes > 2 else np.ones(2)  # a long tail
        labels = rng.choice(self.num_classes, len(subjects), p=share / share.sum())
        right = rng.random(len(subjects)) < (1 / (1 + np.exp(-log_odds)))[subjects]
        wrong = (labels + rng.integers(1, self.num_classes, len(subjects))) % self.num_classes
        return labels, np.where(right, labels, wrong), subjects


WORLDS = (
    World(2, 0.7, 1.0, "geometric"),
    World(2, 0.9, 1.0, "lognormal"),
    World(5, 0.6, 1.0, "lognormal"),
    World(2, 0.55, 2.0, "lognormal"),
    World(32, 0.6, 0.5, "geometric"),
)


def coverage(world: World, num_subjects: tuple[int, int], num_data_sets: int) -> dict[str, dict[str, float]]:
    """Method -> score -> share of the data sets whose interval holds the truth.

    `subjects` is what mgcli prints; `percentile` the plain bootstrap over subjects; `clips` the naive one, as if
    each clip were a person of its own.
    """
    rng = np.random.default_rng(1)
    labels, predicted, _ = world.draw(50_000, np.random.default_rng(0))
    truth = scores(labels, np.eye(world.num_classes)[predicted])
    held: dict[str, dict[str, list[bool]]] = {}
    for _ in range(num_data_sets):
        labels, predicted, subjects = world.draw(int(rng.integers(num_subjects[0], num_subjects[1] + 1)), rng)
        found = {
            "subjects": subject_intervals(labels, [predicted], subjects, world.num_classes),
            "percentile": {"top1": percentile_interval(labels == predicted, subjects)},
            "clips": {"top1": naive_interval(labels == predicted)},
        }
        for method, intervals in found.items():
            for name, (low, high) in intervals.items():
                held.setdefault(method, {}).setdefault(name, []).append(low <= truth[name] <= high)
    return {method: {name: float(np.mean(each)) for name, each in found.items()} for method, found in held.items()}


def percentile_interval(right: np.ndarray, subjects: np.ndarray) -> list[float]:
    """Of top-1, by the plain percentile bootstrap over subjects."""
    size, hits = np.bincount(subjects), np.bincount(subjects, weights=right)
    drawn = np.random.default_rng(0).multinomial(len(size), np.full(len(size), 1 / len(size)), size=1000)
    return np.quantile((drawn @ hits) / (drawn @ size), [0.025, 0.975]).tolist()


def naive_interval(right: np.ndarray) -> list[float]:
    """Of top-1, by drawing clips: so many right ones as a binomial says."""
    drawn = np.random.default_rng(0).binomial(len(right), right.mean(), size=1000) / len(right)
    return np.quantile(drawn, [0.025, 0.975]).tolist()


def test_intervals_hold_the_truth_as_often_as_they_say_and_a_bootstrap_of_clips_does_not() -> None:
    found = coverage(WORLDS[0], (12, 40), NUM_DATA_SETS)
    assert 0.92 <= found["subjects"]["top1"] <= 0.98
    assert found["clips"]["top1"] < 0.7


@pytest.mark.slow
@pytest.mark.parametrize("num_subjects", [(8, 12), (12, 20), (20, 40), (12, 40)])
@pytest.mark.parametrize("world", WORLDS, ids=str)
def test_coverage(world: World, num_subjects: tuple[int, int]) -> None:
    found = coverage(world, num_subjects, NUM_DATA_SETS)
    shown = "  ".join(
        f"{method} {' / '.join(f'{100 * found[method][name]:.1f}' for name in found[method])}" for method in found
    )
    print(f"\n{num_subjects[0]} to {num_subjects[1]} subjects, {world}: {shown}")
    assert 0.92 <= found["subjects"]["top1"] <= 0.98
    for name in CONFUSION_METRICS:  # the two others are biased where a class has hardly a clip: above is no fault
        assert found["subjects"][name] >= 0.9


def test_one_clip_a_subject_is_no_trap() -> None:
    """The percentile bootstrap gives [1, 1] where every clip is right, which a dozen of good ones often are."""
    found = coverage(World(2, 0.9, 0.5, "one"), (12, 12), 200)
    assert found["subjects"]["top1"] >= 0.92
    assert found["percentile"]["top1"] < 0.85


def test_student_quantiles_are_those_of_the_tables() -> None:
    for freedom, expected in ((1, 12.7062), (2, 4.30265), (5, 2.57058), (11, 2.20099), (30, 2.04227), (1000, 1.96234)):
        assert student_quantile(freedom) == pytest.approx(expected, rel=1e-4)


def test_with_independent_clips_it_is_wilsons_interval() -> None:
    """60 of 100: Wilson's interval with a normal quantile is [0.502, 0.691]; t of 99 widens it a little."""
    resampled = np.random.default_rng(0).binomial(100, 0.6, 200_000) / 100
    left_out = np.repeat([59 / 99, 60 / 99], [60, 40])
    low, high = clustered_interval(0.6, resampled, left_out, np.ones(100, int))
    assert (low, high) == (pytest.approx(0.5005, abs=2e-3), pytest.approx(0.6917, abs=2e-3))


def test_a_perfect_score_keeps_its_doubt() -> None:
    low, high = clustered_interval(1.0, np.ones(2000), np.ones(6), np.full(6, 50))
    assert 0.3 < low < 0.6
    assert high == 1.0
