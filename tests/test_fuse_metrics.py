"""Scores against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mgcli.cache import classes_by_group
from mgcli.fuse.metrics import confusion_matrix, over_seeds, scores, subject_intervals


def one_hot(predicted: list[int], num_classes: int) -> np.ndarray:
    return np.eye(num_classes)[predicted]


def test_scores_of_three_classes() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    found = scores(labels, one_hot([0, 0, 0, 1, 1, 1, 2, 0], 3))
    assert found["top1"] == pytest.approx(6 / 8)
    assert found["mean_class_accuracy"] == pytest.approx((3 / 4 + 2 / 2 + 1 / 2) / 3)
    assert found["macro_f1"] == pytest.approx((2 * 3 / 8 + 2 * 2 / 5 + 2 * 1 / 3) / 3)
    assert set(found) == {"top1", "macro_f1", "mean_class_accuracy"}


def test_a_class_without_clips_or_predictions_counts_nowhere() -> None:
    found = scores(np.array([0, 1]), one_hot([0, 1], 3))
    assert found["macro_f1"] == found["mean_class_accuracy"] == 1.0


def test_a_class_that_is_only_predicted_lowers_macro_f1_alone() -> None:
    found = scores(np.array([0, 0, 1, 1]), one_hot([0, 0, 1, 2], 3))
    assert found["mean_class_accuracy"] == pytest.approx(0.75)
    assert found["macro_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_top5_counts_ties_against_the_clip() -> None:
    sure = np.eye(7)[[0, 6]] + np.linspace(0.01, 0.07, 7)
    assert scores(np.array([0, 2]), sure)["top5"] == pytest.approx(1.0)  # 2 is the fifth: after 6, 5, 4, 3
    assert scores(np.array([0, 1]), sure)["top5"] == pytest.approx(0.5)
    assert scores(np.array([0, 1]), np.full((2, 7), 1 / 7))["top5"] == 0.0


def test_auc_of_two_classes_counts_a_tie_half() -> None:
    positive = np.array([0.1, 0.4, 0.4, 0.8])
    found = scores(np.array([0, 0, 1, 1]), np.stack([1 - positive, positive], axis=1))
    assert found["auc"] == pytest.approx((1 + 1 + 0.5 + 1) / 4)


def test_auc_needs_both_classes() -> None:
    assert "auc" not in scores(np.array([1, 1]), one_hot([0, 1], 2))


def test_group_accuracies_are_means_over_the_classes_that_have_clips() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 2])
    groups = {"head": [0], "middle": [1, 3], "tail": [2, 4]}
    found = scores(labels, one_hot([0, 0, 0, 1, 1, 0, 2], 5), groups)
    assert found["head_accuracy"] == pytest.approx(3 / 4)
    assert found["middle_accuracy"] == pytest.approx(1 / 2)  # class 3 has no clip
    assert found["tail_accuracy"] == 1.0
    without = scores(labels[:4], one_hot([0, 0, 0, 1], 5), groups)
    assert set(without) & {"middle_accuracy", "tail_accuracy"} == set()


def test_classes_are_grouped_by_training_clips_as_in_the_literature() -> None:
    counts = {"0": 101, "1": 100, "2": 20, "3": 19}
    rows = [("train", name) for name, count in counts.items() for _ in range(count)] + [("test", "4")] * 200
    table = pd.DataFrame(rows, columns=["split", "gesture"])
    assert classes_by_group(table, "gesture", ["0", "1", "2", "3", "4"]) == {
        "head": ["0"],
        "middle": ["1", "2"],
        "tail": ["3", "4"],
    }


def test_confusion_matrix_has_true_classes_in_rows() -> None:
    matrix = confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2)
    assert matrix.tolist() == [[1, 1], [0, 1]]


def test_over_seeds_gives_mean_deviation_and_values() -> None:
    found = over_seeds([{"top1": 0.5}, {"top1": 0.7}])["top1"]
    assert found["mean"] == pytest.approx(0.6)
    assert found["std"] == pytest.approx(np.sqrt(0.02))
    assert found["values"] == [0.5, 0.7]
    assert over_seeds([{"top1": 0.5}])["top1"]["std"] == 0.0


def test_intervals_hold_the_score_and_widen_with_alike_clips() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=400)
    subjects = np.arange(400) % 20
    own_luck = rng.random(20) < 0.7  # whole subjects are right or wrong
    by_subject = np.where(own_luck[subjects], labels, 1 - labels)
    by_clip = np.where(rng.random(400) < own_luck.mean(), labels, 1 - labels)
    low, high = subject_intervals(labels, [by_subject], subjects, 2)["top1"]
    narrow_low, narrow_high = subject_intervals(labels, [by_clip], subjects, 2)["top1"]
    assert low <= (by_subject == labels).mean() <= high
    assert high - low > 2.5 * (narrow_high - narrow_low)


def test_interval_width_is_that_of_the_subjects_mean() -> None:
    labels = np.zeros(1000, int)
    subjects = np.arange(1000) // 10
    wrong = (subjects % 2 == 0).astype(int)  # half of 100 subjects: standard error 0.05
    low, high = subject_intervals(labels, [wrong], subjects, 2)["top1"]
    assert high - low == pytest.approx(2 * 1.96 * 0.05, rel=0.1)


def test_one_subject_has_no_interval() -> None:
    assert subject_intervals(np.array([0, 1]), [np.array([0, 1])], np.array(["a", "a"]), 2) == {}
