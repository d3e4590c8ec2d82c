"""Intervals of scores whose clips come in groups: the clips of a person are alike, and some people have many.

With a dozen test subjects the plain percentile bootstrap over subjects covers the truth 85-90 % of the time when
it says 95 % (Hesterberg 2015, "What Teachers Should Know About the Bootstrap", Sec. 5: too narrow by the factor
sqrt((S - 1) / S) and by normal instead of t quantiles), BCa is no better, and both give a width of nothing where
every clip is right. What stands here is the Wilson interval at the effective number of clips, found best for
proportions in clustered samples by Dean and Pagano 2015 ("Evaluating Confidence Interval Methods for Binomial
Proportions in Clustered Surveys"), after Korn and Graubard 1998:

* the standard error is that of the bootstrap over subjects, times sqrt(S / (S - 1)), or that of leaving each subject
  out in turn where it is larger (the jackknife; MacKinnon, Nielsen and Webb 2023 find it the safest where few groups
  are large), as with classes that have clips of few subjects, which most resamples lack;
* the effective number of clips is p (1 - p) / error^2: as many independent clips would be as uncertain;
* the quantile is Student's t with the effective number of subjects (Kish 1965: (sum n)^2 / sum n^2) less one.

Departures: the error is resampled, where surveys linearise it, so that it serves macro-F1 and mean class accuracy
too; the effective number of clips is at most that of all clips. `pytest -m slow tests/test_fuse_intervals.py -s`
prints the coverage of all these methods in simulation.
"""

# Shapes: S subjects, G resamples.

from __future__ import annotations

import math

import numpy as np

CONFIDENCE = 0.95


def clustered_interval(estimate: float, resampled: np.ndarray, left_out: np.ndarray, sizes: np.ndarray) -> list[float]:
    """[low, high] within [0, 1], around a score between 0 and 1.

    Args:
        estimate: the score on all clips.
        resampled: (G,) the score on the clips of S subjects drawn with replacement.
        left_out: (S,) the score on the clips of all subjects but one.
        sizes: (S,) clips of each subject; S at least 2.
    """
    num_subjects, num_clips = len(sizes), float(sizes.sum())
    effective_subjects = num_clips**2 / float((sizes.astype(np.float64) ** 2).sum())
    bootstrap = float(np.std(resampled, ddof=1)) * math.sqrt(num_subjects / (num_subjects - 1))
    jackknife = float(np.std(left_out)) * math.sqrt(num_subjects - 1)
    error = max(bootstrap, jackknife)
    spread = estimate * (1 - estimate)
    effective_clips = min(num_clips, spread / max(error, 1e-12) ** 2)
    if spread < 1e-12:  # all right, or all wrong: that says no more than one clip of each subject would
        effective_clips = effective_subjects
    t = student_quantile(max(1.0, effective_subjects - 1))
    pull = t**2 / effective_clips
    centre = (estimate + pull / 2) / (1 + pull)
    half = t / (1 + pull) * math.sqrt(spread / effective_clips + pull / (4 * effective_clips))
    return [max(0.0, centre - half), min(1.0, centre + half)]


def student_quantile(freedom: float, confidence: float = CONFIDENCE) -> float:
    """What |t| stays below with this chance, for any number of degrees of freedom from 1.

    With t = sqrt(freedom) tan(a), the density of a is that of cos(a)^(freedom - 1): smooth, and easy to sum.
    """
    angle = np.linspace(0.0, np.pi / 2, 20_001)
    density = np.cos(angle).clip(0.0) ** (freedom - 1)
    below = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return math.sqrt(freedom) * math.tan(float(np.interp(confidence * below[-1], below, angle)))
