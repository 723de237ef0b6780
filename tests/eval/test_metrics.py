"""The metrics equal values computed by hand, and those of torchmetrics where it is installed."""

import math
import tracemalloc
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from levit_cli.eval import metrics
from tests.eval.cases import logits_of, random_logits

TARGETS = np.array([0, 0, 0, 0, 1, 1, 2, 2])
PREDICTED = np.array([0, 0, 0, 1, 1, 1, 2, 0])


def test_confusion_matrix_and_class_metrics_equal_values_computed_by_hand() -> None:
    counts = metrics.count_confusions(PREDICTED, TARGETS, 4)
    assert counts.tolist() == [[3, 1, 0, 0], [0, 2, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    of_class = metrics.class_metrics(counts)
    assert of_class.precision == pytest.approx([3 / 4, 2 / 3, 1, 0])
    assert of_class.recall == pytest.approx([3 / 4, 1, 1 / 2, 0])
    assert of_class.f1 == pytest.approx([3 / 4, 4 / 5, 2 / 3, 0])


def test_top_k_hits_equal_values_computed_by_hand() -> None:
    ranked = np.array([[2, 0, 1], [0, 1, 2], [0, 1, 3], [3, 2, 0]])
    targets = np.array([2, 2, 4, 0])
    assert [metrics.count_hits(ranked[:, :k], targets) for k in (1, 2, 3)] == [1, 1, 3]


def test_calibration_error_equals_a_value_computed_by_hand() -> None:
    confidences = np.array([0.9, 0.9, 0.5, 0.5])  # two bins: accuracy 0.5 at confidence 0.9, accuracy 1 at 0.5
    bins = metrics.calibration_bins(confidences, np.array([True, False, True, True]), 15)
    assert metrics.calibration_error(bins) == pytest.approx((0.4 + 0.5) / 2)


def test_the_last_bin_holds_a_confidence_of_one() -> None:
    (last,) = metrics.calibration_bins(np.array([1.0, 0.95]), np.array([True, False]), 10)
    assert (round(last.low, 9), last.high, last.images) == (0.9, 1.0, 2)
    assert (round(last.confidence, 9), last.accuracy) == (0.975, 0.5)


def test_log_loss_equals_a_value_computed_by_hand() -> None:
    logits = logits_of([0.5, 0.25, 0.25], [0.125, 0.75, 0.125])
    assert metrics.log_loss(logits, np.array([0, 2]), 1.0) == pytest.approx((math.log(2) + math.log(8)) / 2)
    assert metrics.log_loss(logits, np.array([0, 2]), 1e9) == pytest.approx(math.log(3))


@pytest.mark.parametrize("scale", [1e-40, 1e-3, 1.0, 1e4, 1e38])
def test_fitted_temperature_equals_a_value_computed_by_hand(scale: float) -> None:
    logits = (scale * np.array([[2, 0], [2, 0], [0, 2], [2, 0]])).astype(np.float32)
    targets = np.array([0, 0, 1, 1])  # equal confidence, three of four correct: sigmoid(2 / T) = 3 / 4
    assert metrics.fit_temperature(logits, targets) == pytest.approx(scale * 2 / math.log(3), rel=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_fitted_temperature_minimizes_the_log_loss(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "CHUNK_VALUES", 64)
    logits, labels = random_logits(200, 5, seed)
    targets = np.array(labels)
    best = metrics.fit_temperature(logits * 3, targets)
    assert best is not None
    least = metrics.log_loss(logits * 3, targets, best)
    assert all(metrics.log_loss(logits * 3, targets, best * factor) > least for factor in (0.5, 0.99, 1.01, 2))


def test_the_size_of_the_chunks_does_not_change_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = random_logits(101, 7)
    targets = np.array(labels)
    results = []
    for size in (1, 50, 10**6):  # one row at a time, several rows and a smaller last chunk, all rows
        monkeypatch.setattr(metrics, "CHUNK_VALUES", size)
        results.append((metrics.log_loss(logits, targets, 0.7), metrics.fit_temperature(logits, targets)))
    assert all(first == pytest.approx(second, rel=1e-9) for first, second in pairwise(results))


@pytest.mark.parametrize("targets", [[0, 0, 1], [1, 1, 0]], ids=["all correct", "all wrong"])
def test_no_temperature_is_fitted_without_both_correct_and_wrong_predictions(targets: list[int]) -> None:
    logits = np.array([[2, 0], [1, 0], [0, 1]], np.float32)
    assert metrics.fit_temperature(logits, np.array(targets)) is None


def test_no_temperature_is_fitted_to_constant_logits() -> None:
    assert metrics.fit_temperature(np.zeros((4, 3), np.float32), np.array([0, 1, 2, 0])) is None


def test_a_temperature_far_from_the_scale_of_the_logits_is_found() -> None:
    """Of 10,000 images with a gap of 10 one is wrong, and one with a gap of 1e-6."""
    logits = np.zeros((10_001, 2), np.float32)
    logits[:, 0] = 10
    logits[-1, 0] = 1e-6
    targets = np.zeros(10_001, np.int64)
    targets[-1] = 1
    best = metrics.fit_temperature(logits, targets)  # the derivative is 0: 10,000 * 10 / (1 + exp(10 / T)) = 1e-6 / 2
    assert best == pytest.approx(10 / math.log(2e11 - 1), rel=1e-5)
    targets[0] = 1
    best = metrics.fit_temperature(logits, targets)  # the confidence of the 10,000 is their accuracy
    assert best == pytest.approx(10 / math.log(9999), rel=1e-5)


def test_without_images_all_counts_are_zero() -> None:
    empty = np.zeros(0, np.int64)
    counts = metrics.count_confusions(empty, empty, 3)
    assert counts.shape == (3, 3)
    assert counts.sum() == 0
    assert metrics.count_hits(np.zeros((0, 3), np.int64), empty) == 0
    assert metrics.class_metrics(counts).f1.tolist() == [0, 0, 0]
    assert metrics.fit_temperature(np.zeros((0, 3), np.float32), empty) is None


def test_memory_stays_small_beside_the_logits() -> None:
    logits, labels = random_logits(4000, 1000)  # 16 MB
    targets = np.array(labels)
    tracemalloc.start()
    metrics.log_loss(logits, targets, 1.5)
    metrics.fit_temperature(logits, targets)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6e6


# --- held against torchmetrics and torch


class Case(NamedTuple):
    """Logits and true classes, as float32 (N, classes) and int64 (N,)."""

    logits: NDArray[np.float32]
    targets: NDArray[np.int64]

    @property
    def ranked(self) -> NDArray[np.int64]:
        return np.argsort(-self.logits, axis=1, kind="stable")


def case(num_images: int, num_classes: int, *, scale: float = 1, classes: int = 0, step: float = 0) -> Case:
    """Return random logits.

    Args:
        classes: only the first ones have images.
        step: rounds the logits, so that many of them are equal.
    """
    logits, targets = random_logits(num_images, num_classes, seed=num_images)
    if step:
        logits = np.round(logits / step).astype(np.float32) * np.float32(step)
    return Case((logits * scale).astype(np.float32), np.array(targets, np.int64) % (classes or num_classes))


CASES = {
    "random": case(500, 8),
    "two classes": case(300, 2),
    "many classes": case(200, 300),
    "one image": case(1, 4),
    "absent classes": case(300, 12, classes=5),
    "images of one class": case(100, 6, classes=1),
    "ties": case(400, 7, step=1),
    "all logits are equal": case(60, 5, step=100),
    "huge logits": case(300, 6, scale=5e36),
    "tiny logits": case(300, 6, scale=1e-40),
    "overconfident": case(300, 6, scale=50),
    "all wrong": Case(np.eye(4, dtype=np.float32)[[1, 2, 3, 0]], np.arange(4)),
    "all correct": Case(np.eye(4, dtype=np.float32), np.arange(4)),
}


@pytest.fixture(params=CASES)
def each(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
def theirs() -> Any:
    pytest.importorskip("torch")
    return pytest.importorskip("torchmetrics.functional.classification")


def test_counts_equal_those_of_torchmetrics(each: Case, theirs: Any) -> None:
    import torch

    num_classes, targets = each.logits.shape[1], torch.from_numpy(each.targets)
    predicted = each.ranked[:, 0]
    counts = metrics.count_confusions(predicted, each.targets, num_classes)
    matrix = theirs.multiclass_confusion_matrix(torch.from_numpy(predicted), targets, num_classes)
    assert counts.tolist() == matrix.tolist()
    for k in range(1, min(6, num_classes + 1)):
        scores = torch.zeros(len(targets), num_classes)  # with the ranking's own order of equal logits
        scores.scatter_(
            1, torch.from_numpy(each.ranked[:, :k].copy()), torch.arange(k, 0, -1.0).expand(len(targets), k)
        )
        accuracy = theirs.multiclass_accuracy(scores, targets, num_classes, average="micro", top_k=k)
        assert metrics.count_hits(each.ranked[:, :k], each.targets) == round(len(targets) * float(accuracy))


def test_class_metrics_equal_those_of_torchmetrics(each: Case, theirs: Any) -> None:
    import torch

    num_classes, predicted = each.logits.shape[1], each.ranked[:, 0]
    ours = metrics.class_metrics(metrics.count_confusions(predicted, each.targets, num_classes))
    pair = torch.from_numpy(predicted.copy()), torch.from_numpy(each.targets)
    for name, metric in (("precision", "precision"), ("recall", "recall"), ("f1", "f1_score")):
        expected = getattr(theirs, f"multiclass_{metric}")(*pair, num_classes, average="none")
        assert getattr(ours, name) == pytest.approx(expected.numpy(), abs=1e-6)  # theirs are float32
    macro = theirs.multiclass_accuracy(*pair, num_classes, average="none").numpy()[np.unique(each.targets)].mean()
    assert ours.recall[np.unique(each.targets)].mean() == pytest.approx(macro, abs=1e-6)  # the balanced accuracy


def test_calibration_error_equals_that_of_torchmetrics(each: Case, theirs: Any) -> None:
    import torch

    probs = torch.from_numpy(each.logits).double().softmax(dim=1).clamp(max=math.nextafter(1, 0))
    targets, num_classes = torch.from_numpy(each.targets), each.logits.shape[1]
    expected = theirs.multiclass_calibration_error(probs, targets, num_classes, n_bins=15)
    confidences, predicted = probs.max(dim=1)
    bins = metrics.calibration_bins(confidences.numpy(), (predicted == targets).numpy(), 15)
    assert metrics.calibration_error(bins) == pytest.approx(float(expected), abs=1e-6)  # theirs is float32


@pytest.mark.parametrize("temperature", [0.3, 1.0, 7.0])
def test_log_loss_equals_the_cross_entropy_of_torch(each: Case, temperature: float, theirs: Any) -> None:
    import torch

    logits, targets = torch.from_numpy(each.logits).double(), torch.from_numpy(each.targets)
    expected = float(torch.nn.functional.cross_entropy(logits / temperature, targets))
    assert metrics.log_loss(each.logits, each.targets, temperature) == pytest.approx(expected, rel=1e-9)


def test_fitted_temperature_equals_that_of_the_optimizer_of_torch(each: Case, theirs: Any) -> None:
    import torch

    ours = metrics.fit_temperature(each.logits, each.targets)
    if ours is None:  # no minimum: the loss falls to the largest or to the smallest temperature
        losses = [
            metrics.log_loss(each.logits / (each.logits.std() or 1), each.targets, temperature)
            for temperature in np.geomspace(1e-3, 1e3, 13)
        ]
        assert losses in (sorted(losses), sorted(losses, reverse=True))
        return
    scale = float(each.logits.std(dtype=np.float64))
    logits, targets = torch.from_numpy(each.logits).double() / scale, torch.from_numpy(each.targets)
    log_ratio = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_ratio], max_iter=100, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(logits / log_ratio.exp(), targets)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    assert ours == pytest.approx(scale * math.exp(log_ratio.item()), rel=1e-4)
