"""Calibration: by hand, and with a known cure."""

from __future__ import annotations

import numpy as np
import pytest

from mgcli.fuse.calibration import calibrate, calibration_error, fit_temperature, fit_threshold, with_temperature


def drawn(n: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from probabilities, and the probabilities made too sure by the temperature."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((n, 4)) * 1.5
    true = with_temperature(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), 1.0)
    labels = (true.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    return labels, with_temperature(true, 1 / temperature)


def test_calibration_error_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.45, 0.55]])
    labels = np.array([0, 1, 1, 0])  # at 0.9 half are right, at 0.7 all, at 0.55 none
    assert calibration_error(labels, probabilities) == pytest.approx((2 * 0.4 + 0.3 + 0.55) / 4)
    assert calibration_error(np.array([0, 1]), np.eye(2)) == 0.0


def test_temperature_finds_how_much_too_sure_the_head_is() -> None:
    labels, probabilities = drawn(4000, 3.0)
    assert fit_temperature(labels, probabilities) == pytest.approx(3.0, rel=0.1)


def test_temperature_is_of_the_logits_however_sure_they_are() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=2000)
    logits = 30 * (rng.standard_normal((2000, 4)) + 1.5 * np.eye(4)[labels])
    sure = np.exp(logits - logits.max(axis=1, keepdims=True))
    sure /= sure.sum(axis=1, keepdims=True)
    temperature = fit_temperature(labels, sure)

    def loss(divisor: float) -> float:
        scaled = logits / divisor
        return float((np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(2000), labels]).mean())

    assert loss(temperature) <= min(loss(1.01 * temperature), loss(temperature / 1.01))


def test_a_temperature_fitted_on_validation_mends_the_test_clips() -> None:
    labels, probabilities = drawn(2000, 3.0)
    test_labels, test_probabilities = drawn(2000, 3.0, seed=1)
    found = calibrate([probabilities], labels, {"test": (test_labels, [test_probabilities])})
    assert found["test"]["ece"]["mean"] > 0.15
    assert found["test"]["ece_scaled"]["mean"] < 0.05
    assert found["test"]["log_loss_scaled"]["mean"] < found["test"]["log_loss"]["mean"]
    assert "threshold" not in found


def test_threshold_answers_for_the_prior_that_is_asked_for() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(4000) < 0.9).astype(int)  # class 1 is far more frequent here
    score = rng.standard_normal(4000) + 1.5 * labels
    positive = 1 / (1 + np.exp(-(1.5 * score - 1.125 + np.log(9))))  # what a calibrated head would say
    balanced = fit_threshold(labels, positive)
    assert balanced == pytest.approx(0.9, abs=0.05)
    assert fit_threshold(labels, positive, prior=0.9) == pytest.approx(0.5, abs=0.25)
    assert fit_threshold(labels, positive, prior=0.9) < balanced < fit_threshold(labels, positive, prior=0.1)


def test_of_equal_thresholds_the_usual_one_stays() -> None:
    labels = np.array([0, 0, 1, 1])
    assert fit_threshold(labels, np.array([0.1, 0.2, 0.8, 0.9])) == 0.5
    assert 0.6 < fit_threshold(labels, np.array([0.55, 0.6, 0.8, 0.9])) < 0.8
