"""Whether probabilities mean what they say, and what the validation split alone can mend of it.

Expected calibration error and temperature scaling as in Guo et al. 2017, "On Calibration of Modern Neural Networks"
(arXiv 1706.04599), Sec. 2 and 4.2. The temperature and the threshold are fitted on validation clips, never on those
that they are judged by.

# Shapes: n clips, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mgcli.fuse.metrics import over_seeds

NUM_BINS = 15  # as in the paper
_LOG_TEMPERATURES = (-3.0, 3.0)  # searched: from 0.05 to 20
_FLOOR = np.finfo(float).tiny  # a sure head's small probabilities tell its logits


def calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean gap between the confidence of the answers and the share of right ones, in bins of equal width.

    Args:
        labels: (n,) int.
        probabilities: (n, K).
    """
    _, confidence, right = reliability(labels, probabilities)
    return float(np.abs(right - confidence).sum() / len(labels))


def reliability(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clips, sum of their confidences, and right answers in each bin of confidence, (NUM_BINS,) each.

    Args:
        labels: (n,) int.
        probabilities: (n, K).
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    count, sums, hits = (np.bincount(bins, weights=w, minlength=NUM_BINS) for w in (None, confidence, right))
    return count, sums, hits


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean negative log probability of the true class."""
    return float(-np.log(probabilities[np.arange(len(labels)), labels].clip(_FLOOR)).mean())


def with_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """(n, K) of logits divided by the temperature; above 1 is less sure."""
    logits = np.log(probabilities.clip(_FLOOR)) / temperature
    scaled = np.exp(logits - logits.max(axis=1, keepdims=True))
    return scaled / scaled.sum(axis=1, keepdims=True)


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The temperature with the lowest log loss, by golden-section search: the loss is convex in its inverse."""
    golden = (5**0.5 - 1) / 2
    low, high = _LOG_TEMPERATURES
    for _ in range(60):
        left, right = high - golden * (high - low), low + golden * (high - low)
        losses = [log_loss(labels, with_temperature(probabilities, np.exp(each))) for each in (left, right)]
        low, high = (low, right) if losses[0] <= losses[1] else (left, high)
    return float(np.exp((low + high) / 2))


def fit_threshold(labels: np.ndarray, positive: np.ndarray, prior: float = 0.5) -> float:
    """From which probability on to answer class 1 of two, where the classes come with another prior than here.

    Args:
        labels: (n,) of 0 and 1, both there.
        positive: (n,) probability of class 1.
        prior: share of class 1 where the answers will count. One half asks for mean class accuracy.

    Returns:
        The threshold with the highest accuracy under that prior; of several the one nearest to 0.5.
    """
    values = np.unique(positive)
    between = (values[1:] + values[:-1]) / 2
    cuts = np.unique([0.0, *between, 0.5, 1.0 + 1e-9])  # from all positive to none; 0.5 where it is as good
    below = [np.searchsorted(np.sort(own), cuts) / len(own) for own in (positive[labels == 0], positive[labels == 1])]
    accuracy = prior * (1 - below[1]) + (1 - prior) * below[0]
    best = cuts[accuracy >= accuracy.max() - 1e-12]
    return float(best[np.abs(best - 0.5).argmin()])


def calibrate(fit: Sequence[np.ndarray], labels: np.ndarray, judged: dict[str, Any]) -> dict[str, Any]:
    """What `metrics.json` says of calibration, each seed fitted on its own validation answers.

    Args:
        fit: for each seed (n, K) probabilities of the validation clips.
        labels: (n,) of the validation clips, n at least 1.
        judged: split -> (labels, probabilities of each seed).

    Returns:
        temperature (values of the seeds); threshold of class 1, with two classes; and for each judged split the
        expected calibration error and log loss as they are and `scaled`, and the scores `at_threshold`.
    """
    temperatures = [fit_temperature(labels, each) for each in fit]
    result: dict[str, Any] = {"fitted_on": "val", "temperature": temperatures}
    two = fit[0].shape[1] == 2 and len(np.unique(labels)) == 2
    if two:
        result["threshold"] = [fit_threshold(labels, each[:, 1]) for each in fit]
    for split, (true, probabilities) in judged.items():
        scaled = [with_temperature(each, t) for each, t in zip(probabilities, temperatures, strict=True)]
        found = [
            {
                "ece": calibration_error(true, plain),
                "ece_scaled": calibration_error(true, cool),
                "log_loss": log_loss(true, plain),
                "log_loss_scaled": log_loss(true, cool),
            }
            for plain, cool in zip(probabilities, scaled, strict=True)
        ]
        if two:
            for scores, each, threshold in zip(found, probabilities, result["threshold"], strict=True):
                scores |= {f"{name}_at_threshold": v for name, v in _at(threshold, true, each[:, 1]).items()}
        result[split] = over_seeds(found)
    return result


def calibration_text(calibration: dict[str, Any], classes: Sequence[str], split: str) -> str:
    """One line for people, of the judged split."""
    found = {name: each["mean"] for name, each in calibration[split].items()}
    text = (
        f"calibration, fitted on val: temperature {np.mean(calibration['temperature']):.2f} takes the {split} "
        f"calibration error from {100 * found['ece']:.1f} % to {100 * found['ece_scaled']:.1f} %"
    )
    if "threshold" in calibration:
        text += (
            f"; {classes[1]!r} from {np.mean(calibration['threshold']):.2f} on gives {split} top1 "
            f"{100 * found['top1_at_threshold']:.1f}, mean class accuracy "
            f"{100 * found['mean_class_accuracy_at_threshold']:.1f}"
        )
    return text


def _at(threshold: float, labels: np.ndarray, positive: np.ndarray) -> dict[str, float]:
    said = positive >= threshold
    recalls = [float((said[labels == k] == bool(k)).mean()) for k in (0, 1) if (labels == k).any()]
    return {"top1": float((said == (labels == 1)).mean()), "mean_class_accuracy": float(np.mean(recalls))}
