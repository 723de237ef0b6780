"""The figures of an evaluation, from torchmetrics, and the temperature of Guo et al. 2017 ("On Calibration of Modern
Neural Networks"). Importing this takes seconds, as it imports torch: import it when the images are classified.
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

CHUNK = 4096  # images at once: of a thousand classes, 32 MB a copy
ITERATIONS = 100

Classes = NDArray[np.int64]


class ClassFigures(NamedTuple):
    """(classes,) each; 0 where a class has no images, or was never the answer."""

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]


def count_hits(ranked: Classes, targets: Classes, num_classes: int) -> int:
    """How many of the true classes are among the ranked ones.

    Args:
        ranked: (N, k) classes, no class twice in a row.
        targets: (N,) the true ones.
    """
    hits = 0
    for some, true in _chunks(ranked, targets):
        # torchmetrics ranks by score; scores of our own keep it from breaking ties in another way than we did
        scores = torch.zeros(len(some), num_classes).scatter_(1, some, 1.0)
        hit, *_ = multiclass_stat_scores(scores, true, num_classes, average="micro", top_k=ranked.shape[1])
        hits += int(hit)
    return hits


def count_confusions(predicted: Classes, targets: Classes, num_classes: int) -> Classes:
    """(classes, classes) images: the true class down, the predicted one across."""
    counts = multiclass_confusion_matrix(_tensor(predicted), _tensor(targets), num_classes)
    return np.asarray(counts.numpy(), np.int64)


def class_figures(predicted: Classes, targets: Classes, num_classes: int) -> ClassFigures:
    """Precision, recall and F1 of each class."""
    if not len(targets):  # on which torchmetrics stumbles
        return ClassFigures(*(np.zeros(num_classes) for _ in range(3)))
    measures = (multiclass_precision, multiclass_recall, multiclass_f1_score)
    pair = _tensor(predicted), _tensor(targets)
    return ClassFigures(*(measure(*pair, num_classes, average="none").double().numpy() for measure in measures))


def calibration_error(confidences: NDArray[np.float64], correct: NDArray[np.bool_], bins: int) -> float:
    """The expected calibration error: how far confidence and accuracy are apart, on average over bins of one width.

    Args:
        confidences: (N,) the probability of the first answer, below 1: torchmetrics gives 1 itself a bin of its own.
        correct: (N,) whether it was right.
    """
    return float(binary_calibration_error(_tensor(confidences), _tensor(correct).long(), n_bins=bins, norm="l1"))


def log_loss(logits: NDArray[np.float32], targets: Classes, temperature: float) -> float:
    """The mean negative log likelihood of the true classes."""
    return sum(float(part) for part in _losses(logits, targets, lambda: torch.tensor(temperature, dtype=torch.float64)))


def _losses(logits: NDArray[np.float32], targets: Classes, temperature: Callable[[], Tensor]) -> Iterator[Tensor]:
    """The log loss in float64, as parts that add up to it, each with a gradient of its own towards the temperature."""
    for some, true in _chunks(logits, targets):
        yield F.cross_entropy(some.double() / temperature().double(), true, reduction="sum") / len(logits)


def fit_temperature(logits: NDArray[np.float32], targets: Classes) -> float | None:
    """The temperature with the least log loss.

    Returns:
        None where there is none: without a mistake the best is 0, with answers no better than chance infinity.
    """
    own = np.take_along_axis(logits, targets[:, None], axis=1)[:, 0]
    if (own == logits.max(axis=1)).all() or own.mean(dtype=np.float64) <= logits.mean(dtype=np.float64):
        return None
    scale = float(logits.std(dtype=np.float64))  # the search begins where the logits are
    exponent = torch.zeros((), dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([exponent], max_iter=ITERATIONS, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> float:
        search.zero_grad()
        total = 0.0
        for part in _losses(logits, targets, lambda: scale * exponent.exp()):
            part.backward()  # type: ignore[no-untyped-call]
            total += float(part.detach())
        return total

    search.step(loss)  # type: ignore[no-untyped-call]
    temperature = scale * float(exponent.detach().exp())
    return temperature if 0 < temperature < float("inf") else None


def _chunks(answers: NDArray[Any], targets: Classes) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(targets), CHUNK):
        yield _tensor(answers[start : start + CHUNK]), _tensor(targets[start : start + CHUNK])


def _tensor(array: NDArray[Any]) -> Tensor:
    return to_tensor(array)
