"""Compute the evaluation metrics, and fit the temperature of a model.

The definitions are those of torchmetrics, and a test compares the two. Temperature scaling follows Guo et al. 2017, "On
Calibration of Modern Neural Networks". Logits are float32. They are converted to float64 in small chunks, which stay in
the processor's cache: 50,000 images with 1,000 classes take 200 MB as float32.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from levit_cli.eval.results import Bin, Classes

CHUNK_VALUES = 1 << 17  # 1 MB in float64
MAX_ITERATIONS = 100
TOLERANCE = 1e-10  # relative to the temperature
LARGEST_STEP = 10.0  # factor by which one iteration may increase the inverse temperature

Logits = NDArray[np.float32]
Values = NDArray[np.float64]


class ClassMetrics(NamedTuple):
    """One value per class, in arrays of shape (classes,). A value that is undefined is 0."""

    precision: Values
    recall: Values
    f1: Values


def count_hits(ranked: Classes, targets: Classes) -> int:
    """Count the images whose true class is among the top k predictions.

    Args:
        ranked: (N, k) class indices, each at most once per image.
        targets: (N,) true class indices.
    """
    return int(np.count_nonzero(ranked == targets[:, None]))


def count_confusions(predicted: Classes, targets: Classes, num_classes: int) -> Classes:
    """Return the (classes, classes) confusion matrix; rows are true classes, columns are predicted classes."""
    cells = np.bincount(targets * num_classes + predicted, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes).astype(np.int64, copy=False)


def class_metrics(confusion: Classes) -> ClassMetrics:
    """Compute precision, recall and F1 of each class from a confusion matrix."""
    correct, images, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    return ClassMetrics(
        _divide(correct, predicted),
        _divide(correct, images),
        _divide(2 * correct, images + predicted),
    )


def _divide(numerator: Classes, denominator: Classes) -> Values:
    """Return the quotients, and 0 where the denominator is 0, as the numerator is then too."""
    quotients: Values = numerator / np.maximum(denominator, 1)
    return quotients


def calibration_bins(confidences: Values, correct: NDArray[np.bool_], num_bins: int) -> tuple[Bin, ...]:
    """Group the predictions by confidence in bins of equal width; bins without predictions are left out.

    Args:
        confidences: (N,) probability of the predicted class. A confidence of 1 is lowered to the next smaller number,
            so that it belongs to the last bin.
        correct: (N,) whether each prediction is correct.
    """
    edges = np.linspace(0, 1, num_bins + 1)
    confidences = np.minimum(confidences, np.nextafter(1.0, 0.0))
    bin_of_image = np.searchsorted(edges, confidences, side="right") - 1
    images, sums, hits = (
        np.bincount(bin_of_image, weights, num_bins) for weights in (None, confidences, correct.astype(np.float64))
    )
    return tuple(
        Bin(
            low=float(edges[index]),
            high=float(edges[index + 1]),
            images=int(images[index]),
            confidence=float(sums[index] / images[index]),
            accuracy=float(hits[index] / images[index]),
        )
        for index in map(int, np.flatnonzero(images))
    )


def calibration_error(bins: Sequence[Bin]) -> float:
    """Compute the expected calibration error: the mean gap between confidence and accuracy, over all images."""
    gaps = sum(each.images * abs(each.accuracy - each.confidence) for each in bins)
    return gaps / sum(each.images for each in bins)


def log_loss(logits: Logits, targets: Classes, temperature: float) -> float:
    """Compute the mean negative log likelihood of the true classes."""
    total = 0.0
    with np.errstate(over="ignore"):  # a tiny temperature gives minus infinity, which is correct
        for gaps, true in _chunks(logits, targets):
            gaps /= temperature
            true_gaps = _true_values(gaps, true)
            total += float((np.log(np.exp(gaps, out=gaps).sum(axis=1)) - true_gaps).sum())
    return total / len(targets)


def fit_temperature(logits: Logits, targets: Classes) -> float | None:
    """Find the temperature with the smallest log loss.

    The log loss is convex in the inverse temperature. Its minimum is found by Newton's method, which starts at 0 and is
    kept between the values where the slope is known to be negative and positive.

    Returns:
        The temperature; None if there is no minimum. If all predictions are correct, the best temperature is 0; if they
        are no better than chance, it is infinite.
    """
    if not len(targets) or (_true_values(logits, targets) == logits.max(axis=1)).all():
        return None
    inverse, low, high = 0.0, 0.0, np.inf
    for _ in range(MAX_ITERATIONS):
        slope, curvature = _derivatives(logits, targets, inverse)
        if slope >= 0 and not inverse:
            return None
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        previous, inverse = inverse, _next_inverse(inverse, slope, curvature, low, high)
        if abs(inverse - previous) <= TOLERANCE * inverse:
            break
    temperature = 1 / inverse
    return temperature if 0 < temperature < np.inf else None


def _next_inverse(inverse: float, slope: float, curvature: float, low: float, high: float) -> float:
    """Return the result of a Newton step; a smaller step if it leaves the interval or goes too far."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        newton = float(inverse - np.float64(slope) / curvature)
    if not low <= newton <= high:
        newton = (low + high) / 2 if high < np.inf else np.inf
    return min(newton, LARGEST_STEP * inverse) if inverse else newton


def _derivatives(logits: Logits, targets: Classes, inverse: float) -> tuple[float, float]:
    """Return the first and second derivative of the mean log loss by the inverse temperature.

    For one image, they are the mean of the logits under the softmax, minus the true logit, and their variance.
    """
    slope = curvature = 0.0
    with np.errstate(over="ignore"):
        for gaps, true in _chunks(logits, targets):
            weights = np.exp(gaps * inverse)
            sums = weights.sum(axis=1)
            weights *= gaps
            means = weights.sum(axis=1) / sums
            squares = np.einsum("ij,ij->i", weights, gaps) / sums
            slope += float((means - _true_values(gaps, true)).sum())
            curvature += float(np.maximum(squares - means**2, 0).sum())
    return slope / len(targets), curvature / len(targets)


def _true_values(values: NDArray[np.floating], targets: Classes) -> NDArray[np.floating]:
    return np.take_along_axis(values, targets[:, None], axis=1)[:, 0]


def _chunks(logits: Logits, targets: Classes) -> Iterator[tuple[Values, Classes]]:
    """Yield float64 copies of a few rows at a time, from which the largest logit of the row is subtracted."""
    rows = max(CHUNK_VALUES // logits.shape[1], 1)
    for start in range(0, len(targets), rows):
        gaps = logits[start : start + rows].astype(np.float64)
        gaps -= gaps.max(axis=1, keepdims=True)
        yield gaps, targets[start : start + rows]
