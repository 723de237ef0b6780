"""Evaluation metrics from torchmetrics, and temperature scaling by Guo et al. 2017 ("On Calibration of Modern Neural
Networks"). The import takes seconds because it imports torch: import this module after the images are classified.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
    multiclass_stat_scores,
)

from levit_cli.model.levit import to_tensor

CHUNK = 4096  # images per step; with a thousand classes, a float64 copy takes 32 MB
MAX_ITERATIONS = 100

Classes = NDArray[np.int64]


class ClassMetrics(NamedTuple):
    """Arrays of shape (classes,); 0 for a class that has no images or was never predicted."""

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]


def count_hits(ranked: Classes, targets: Classes, num_classes: int) -> int:
    """Count the images whose true class is among the top k predictions.

    Args:
        ranked: (N, k) class indices, each at most once per image.
        targets: (N,) true class indices.
    """
    hits = 0
    for predictions, true in _chunks(ranked, targets):
        # torchmetrics ranks by score. Scores of 0 and 1 keep it from breaking ties differently from our ranking.
        scores = torch.zeros(len(predictions), num_classes).scatter_(1, predictions, 1.0)
        hit, *_ = multiclass_stat_scores(scores, true, num_classes, average="micro", top_k=ranked.shape[1])
        hits += int(hit)
    return hits


def count_confusions(predicted: Classes, targets: Classes, num_classes: int) -> Classes:
    """Return the (classes, classes) confusion matrix; rows are true classes, columns are predicted classes."""
    counts = multiclass_confusion_matrix(to_tensor(predicted), to_tensor(targets), num_classes)
    return np.asarray(counts.numpy(), np.int64)


def class_metrics(predicted: Classes, targets: Classes, num_classes: int) -> ClassMetrics:
    """Compute precision, recall and F1 of each class."""
    if not len(targets):  # torchmetrics fails on empty input
        return ClassMetrics(*(np.zeros(num_classes) for _ in range(3)))
    metrics = (multiclass_precision, multiclass_recall, multiclass_f1_score)
    pair = to_tensor(predicted), to_tensor(targets)
    return ClassMetrics(*(metric(*pair, num_classes, average="none").double().numpy() for metric in metrics))


def calibration_error(confidences: NDArray[np.float64], correct: NDArray[np.bool_], bins: int) -> float:
    """Compute the expected calibration error: the mean gap between confidence and accuracy over bins of equal width.

    Args:
        confidences: (N,) probability of the predicted class, below 1: torchmetrics puts 1 into a bin of its own.
        correct: (N,) whether the prediction is correct.
    """
    return float(binary_calibration_error(to_tensor(confidences), to_tensor(correct).long(), n_bins=bins, norm="l1"))


def log_loss(logits: NDArray[np.float32], targets: Classes, temperature: float) -> float:
    """Compute the mean negative log likelihood of the true classes."""
    return sum(float(part) for part in _losses(logits, targets, lambda: torch.tensor(temperature, dtype=torch.float64)))


def _losses(logits: NDArray[np.float32], targets: Classes, temperature: Callable[[], Tensor]) -> Iterator[Tensor]:
    """Yield the log loss in float64, as one summand per chunk, each with its own gradient for the temperature."""
    for chunk, true in _chunks(logits, targets):
        yield F.cross_entropy(chunk.double() / temperature().double(), true, reduction="sum") / len(logits)


def fit_temperature(logits: NDArray[np.float32], targets: Classes) -> float | None:
    """Find the temperature with the smallest log loss.

    Returns:
        None if there is no minimum: the best temperature is 0 if all predictions are correct, and infinite if they are
        no better than chance.
    """
    true_logits = np.take_along_axis(logits, targets[:, None], axis=1)[:, 0]
    if (true_logits == logits.max(axis=1)).all() or true_logits.mean(dtype=np.float64) <= logits.mean(dtype=np.float64):
        return None
    scale = float(logits.std(dtype=np.float64))  # start at the magnitude of the logits
    log_ratio = torch.zeros((), dtype=torch.float64, requires_grad=True)  # of the temperature to the scale
    optimizer = torch.optim.LBFGS(
        [log_ratio], max_iter=MAX_ITERATIONS, tolerance_grad=1e-9, line_search_fn="strong_wolfe"
    )

    def loss() -> float:
        optimizer.zero_grad()
        total = 0.0
        for part in _losses(logits, targets, lambda: scale * log_ratio.exp()):
            part.backward()  # type: ignore[no-untyped-call]
            total += float(part.detach())
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    temperature = scale * float(log_ratio.detach().exp())
    return temperature if 0 < temperature < float("inf") else None


def _chunks(array: NDArray[Any], targets: Classes) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(targets), CHUNK):
        yield to_tensor(array[start : start + CHUNK]), to_tensor(targets[start : start + CHUNK])
