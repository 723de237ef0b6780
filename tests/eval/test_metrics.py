"""The metrics equal values computed by hand."""

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

from levit_cli.eval import metrics
from tests.eval.cases import by_chance, logits_of

TARGETS = np.array([0, 0, 0, 0, 1, 1, 2, 2])
PREDICTED = np.array([0, 0, 0, 1, 1, 1, 2, 0])


def test_confusion_matrix_and_class_metrics_equal_values_computed_by_hand() -> None:
    counts = metrics.count_confusions(PREDICTED, TARGETS, 4)
    assert counts.tolist() == [[3, 1, 0, 0], [0, 2, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    of_class = metrics.class_metrics(PREDICTED, TARGETS, 4)
    assert of_class.precision == pytest.approx([3 / 4, 2 / 3, 1, 0])
    assert of_class.recall == pytest.approx([3 / 4, 1, 1 / 2, 0])
    assert of_class.f1 == pytest.approx([3 / 4, 4 / 5, 2 / 3, 0])


def test_top_k_hits_equal_values_computed_by_hand() -> None:
    ranked = np.array([[2, 0, 1], [0, 1, 2], [0, 1, 3], [3, 2, 0]])
    targets = np.array([2, 2, 4, 0])
    assert [metrics.count_hits(ranked[:, :k], targets, 6) for k in (1, 2, 3)] == [1, 1, 3]


def test_top_k_hits_equal_the_accuracy_of_torchmetrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "CHUNK", 7)  # several chunks, the last one smaller
    logits, targets = by_chance(100, 9)
    ranked = np.argsort(-logits, axis=1)
    for k in (1, 5):
        theirs = multiclass_accuracy(torch.from_numpy(logits), torch.tensor(targets), 9, average="micro", top_k=k)
        assert metrics.count_hits(ranked[:, :k], np.array(targets), 9) == round(100 * float(theirs))


def test_calibration_error_equals_a_value_computed_by_hand() -> None:
    confidences = np.array([0.9, 0.9, 0.5, 0.5])  # two bins: accuracy 0.5 at confidence 0.9, accuracy 1 at 0.5
    error = metrics.calibration_error(confidences, np.array([True, False, True, True]), 15)
    assert error == pytest.approx((0.4 + 0.5) / 2)


def test_calibration_error_equals_the_multiclass_one_of_torchmetrics() -> None:
    logits, targets = by_chance(300, 6)
    probs = np.exp(logits.astype(np.float64)) / np.exp(logits.astype(np.float64)).sum(axis=1, keepdims=True)
    theirs = multiclass_calibration_error(torch.from_numpy(probs), torch.tensor(targets), 6, n_bins=15)
    ours = metrics.calibration_error(probs.max(axis=1), probs.argmax(axis=1) == np.array(targets), 15)
    assert ours == pytest.approx(float(theirs), abs=1e-7)


def test_log_loss_equals_a_value_computed_by_hand() -> None:
    logits = logits_of([0.5, 0.25, 0.25], [0.125, 0.75, 0.125])
    assert metrics.log_loss(logits, np.array([0, 2]), 1.0) == pytest.approx((math.log(2) + math.log(8)) / 2)
    assert metrics.log_loss(logits, np.array([0, 2]), 1e9) == pytest.approx(math.log(3))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_fitted_temperature_equals_a_value_computed_by_hand(scale: float) -> None:
    logits = scale * np.array([[2, 0], [2, 0], [0, 2], [2, 0]], np.float32)
    targets = np.array([0, 0, 1, 1])  # equal confidence, three of four correct: sigmoid(2 / T) = 3 / 4
    assert metrics.fit_temperature(logits, targets) == pytest.approx(scale * 2 / math.log(3), rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_fitted_temperature_minimizes_the_log_loss(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "CHUNK", 64)
    logits, labels = by_chance(200, 5, seed)
    targets = np.array(labels)
    best = metrics.fit_temperature(logits * 3, targets)
    assert best is not None
    least = metrics.log_loss(logits * 3, targets, best)
    assert all(metrics.log_loss(logits * 3, targets, best * factor) > least for factor in (0.5, 0.99, 1.01, 2))


@pytest.mark.parametrize("targets", [[0, 0, 1], [1, 1, 0]], ids=["all correct", "all wrong"])
def test_no_temperature_is_fitted_without_both_correct_and_wrong_predictions(targets: list[int]) -> None:
    logits = np.array([[2, 0], [1, 0], [0, 1]], np.float32)
    assert metrics.fit_temperature(logits, np.array(targets)) is None


def test_no_temperature_is_fitted_to_constant_logits() -> None:
    assert metrics.fit_temperature(np.zeros((4, 3), np.float32), np.array([0, 1, 2, 0])) is None


def test_without_images_all_counts_are_zero() -> None:
    empty = np.zeros(0, np.int64)
    assert metrics.count_confusions(empty, empty, 3).sum() == 0
    assert metrics.count_hits(np.zeros((0, 3), np.int64), empty, 3) == 0
    assert metrics.class_metrics(empty, empty, 3).f1.tolist() == [0, 0, 0]
