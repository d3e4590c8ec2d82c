"""Scores of predictions, and intervals by bootstrap over subjects.

# Shapes: n clips, K classes, S subjects, G resamples, P seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mgcli.cache import CLASS_GROUP_NAMES
from mgcli.fuse.intervals import clustered_interval

NUM_RESAMPLES = 2000
GROUP_SCORES = {name: f"{name}_accuracy" for name in CLASS_GROUP_NAMES}
CONFUSION_METRICS = ("top1", "macro_f1", "mean_class_accuracy")  # those that have an interval


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """(K, K) counts: row the true class, column the predicted one."""
    cells = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def scores(
    labels: np.ndarray, probabilities: np.ndarray, groups: Mapping[str, Sequence[int]] | None = None
) -> dict[str, float]:
    """Every score that makes sense for these clips.

    Args:
        labels: (n,) int, n at least 1.
        probabilities: (n, K).
        groups: head, middle and tail -> their classes.

    Returns:
        top1, macro_f1 and mean_class_accuracy; top5 with more than five classes; auc with two classes
        that both occur; head_accuracy, middle_accuracy and tail_accuracy of the groups that have clips: the
        mean over a group's classes of each one's accuracy, as Liu et al. (CVPR 2019) report it, so that the
        rarest class counts as much as any.
    """
    num_classes = probabilities.shape[1]
    matrix = confusion_matrix(labels, probabilities.argmax(axis=1), num_classes)
    result = {name: float(value[0]) for name, value in _confusion_scores(matrix[None]).items()}
    if num_classes > 5:
        # Ties count against the clip: a head that knows nothing shall not profit from the order of classes.
        own = probabilities[np.arange(len(labels)), labels]
        result["top5"] = float(((probabilities >= own[:, None]).sum(axis=1) <= 5).mean())
    if num_classes == 2 and len(np.unique(labels)) == 2:
        result["auc"] = _auc(labels, probabilities[:, 1])
    true = matrix.sum(axis=1)
    for name, classes in (groups or {}).items():
        there = [label for label in classes if true[label]]
        if there:
            result[GROUP_SCORES[name]] = float((matrix.diagonal()[there] / true[there]).mean())
    return result


def over_seeds(values: Sequence[dict[str, float]]) -> dict[str, dict[str, Any]]:
    """Mean, standard deviation (n - 1; 0 with one seed) and values of each score over the seeds."""
    result = {}
    for name in values[0]:
        each = np.array([seed[name] for seed in values])
        std = float(each.std(ddof=1)) if len(each) > 1 else 0.0
        result[name] = {"mean": float(each.mean()), "std": std, "values": each.tolist()}
    return result


def subject_intervals(
    labels: np.ndarray, predicted: Sequence[np.ndarray], subjects: np.ndarray, num_classes: int
) -> dict[str, list[float]]:
    """95 % intervals of the mean over seeds, by drawing whole subjects again and again: see `intervals`.

    Clips of one person are alike, so that drawing clips would make intervals far too narrow.

    Args:
        labels: (n,) int.
        predicted: for each seed (n,) int.
        subjects: (n,) of any type.
        num_classes: K.

    Returns:
        Score -> [low, high]; nothing where there is one subject only.
    """
    _, owner = np.unique(subjects, return_inverse=True)
    num_subjects = int(owner.max()) + 1
    if num_subjects < 2:
        return {}
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(num_subjects, np.full(num_subjects, 1 / num_subjects), size=NUM_RESAMPLES)  # (G, S)
    samples: list[dict[str, np.ndarray]] = []
    for seed in predicted:
        cells = (owner * num_classes + labels) * num_classes + seed
        counts = np.bincount(cells, minlength=num_subjects * num_classes**2)
        counts = counts.reshape(num_subjects, -1).astype(np.float64)  # (S, K * K)
        whole = counts.sum(axis=0, keepdims=True)
        matrices = np.concatenate([whole, whole - counts, drawn @ counts])  # (1 + S + G, K * K)
        samples.append(_confusion_scores(matrices.reshape(-1, num_classes, num_classes)))
    sizes, result = np.bincount(owner), {}
    for name in CONFUSION_METRICS:
        mean = np.mean([each[name] for each in samples], axis=0)  # over the seeds
        estimate, left_out, resampled = np.split(mean, [1, 1 + num_subjects])
        result[name] = clustered_interval(float(estimate[0]), resampled, left_out, sizes)
    return result


def _confusion_scores(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of (G, K, K) confusion matrices, (G,) each.

    Mean class accuracy is over the classes that have clips; macro-F1 over those that have clips or were
    predicted, as a class that is neither has no F1.
    """
    right = np.einsum("gkk->gk", matrix)  # (G, K)
    true, predicted = matrix.sum(axis=2), matrix.sum(axis=1)  # (G, K)
    recall = np.divide(right, true, out=np.zeros(right.shape), where=true > 0)
    f1 = np.divide(2 * right, true + predicted, out=np.zeros(right.shape), where=true + predicted > 0)
    return {
        "top1": right.sum(axis=1) / matrix.sum(axis=(1, 2)),
        "macro_f1": f1.sum(axis=1) / (true + predicted > 0).sum(axis=1),
        "mean_class_accuracy": recall.sum(axis=1) / (true > 0).sum(axis=1),
    }


def _auc(labels: np.ndarray, positive: np.ndarray) -> float:
    """Chance that a clip of class 1 scores above one of class 0; a tie counts half."""
    values, place = np.unique(positive, return_inverse=True)
    ones = np.bincount(place, weights=labels == 1, minlength=len(values))
    zeros = np.bincount(place, weights=labels == 0, minlength=len(values))
    below = np.cumsum(zeros) - zeros
    return float((ones * (below + zeros / 2)).sum() / (ones.sum() * zeros.sum()))
