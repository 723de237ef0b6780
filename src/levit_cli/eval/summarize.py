"""Compute the results of an evaluation from its predictions, with the formulas of ``metrics``."""

import math
from collections.abc import Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from levit_cli.eval import metrics
from levit_cli.eval.coverage import FIXED_THRESHOLDS, AcceptedImages
from levit_cli.eval.evaluate import TOP_K, Evaluated
from levit_cli.eval.results import (
    BINS,
    Calibration,
    Classes,
    ClassScore,
    ConfidentError,
    Coverage,
    Proportion,
    Summary,
)
from levit_cli.predict.pipeline import probabilities

CONFIDENT_ERRORS = 24
CHUNK = 4096


def summarize(evaluated: Evaluated, *, target_accuracy: float | None = None, calibrates: bool = False) -> Summary:
    """Compute the results over the readable images. Top-k accuracy considers all of the model's classes.

    Args:
        target_accuracy: the accuracy on accepted images to find a threshold for.
        calibrates: the fitted temperature will be stored, so that thresholds refer to its probabilities.
    """
    targets, ranked, num_classes = evaluated.targets, evaluated.ranked, len(evaluated.labels)
    total = len(targets)
    confusion = metrics.count_confusions(ranked[:, 0], targets, num_classes)
    scores = tuple(_scores(evaluated, confusion))
    fitted = metrics.fit_temperature(evaluated.logits, targets) if total else None
    return Summary(
        top1=Proportion(metrics.count_hits(ranked[:, :1], targets), total),
        top5=Proportion(metrics.count_hits(ranked, targets), total) if num_classes > TOP_K else None,
        scores=scores,
        balanced_accuracy=_mean([score.recall for score in scores if score.recall is not None]),
        macro_f1=_mean([score.f1 or 0.0 for score in scores if score.images]),
        confusion=confusion,
        calibration=_calibration(evaluated, evaluated.temperature) if total else None,
        fitted=_calibration(evaluated, fitted) if fitted else None,
        confident_errors=tuple(islice(_confident_errors(evaluated), CONFIDENT_ERRORS)),
        coverage=_coverage(evaluated, (calibrates and fitted) or evaluated.temperature, target_accuracy)
        if total
        else None,
    )


def _coverage(evaluated: Evaluated, temperature: float, target_accuracy: float | None) -> Coverage:
    accepted = AcceptedImages(_confidences(evaluated, temperature), evaluated.ranked[:, 0] == evaluated.targets)
    threshold = evaluated.threshold
    return Coverage(
        temperature,
        thresholds=tuple(map(accepted.at, FIXED_THRESHOLDS)),
        curve=accepted.curve(),
        stored=accepted.at(threshold) if threshold is not None and temperature == evaluated.temperature else None,
        target=None if target_accuracy is None else accepted.find_threshold(target_accuracy),
    )


def _scores(evaluated: Evaluated, confusion: Classes) -> Iterator[ClassScore]:
    """Yield the results of each class; an undefined metric is None, not 0."""
    of_class = metrics.class_metrics(confusion)
    images, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    for folder, index in zip(evaluated.folders.classes, evaluated.class_of_folder, strict=True):
        has_images, was_predicted = bool(images[index]), bool(predicted[index])
        yield ClassScore(
            index=index,
            folder=folder,
            images=int(images[index]),
            predicted=int(predicted[index]),
            correct=int(confusion[index, index]),
            precision=float(of_class.precision[index]) if was_predicted else None,
            recall=float(of_class.recall[index]) if has_images else None,
            f1=float(of_class.f1[index]) if has_images or was_predicted else None,
        )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _calibration(evaluated: Evaluated, temperature: float) -> Calibration:
    correct = evaluated.ranked[:, 0] == evaluated.targets
    confidences = _confidences(evaluated, temperature)
    bins = metrics.calibration_bins(confidences, correct, BINS)
    return Calibration(
        temperature=temperature,
        error=metrics.calibration_error(bins),
        confidence=float(confidences.mean()),
        log_loss=metrics.log_loss(evaluated.logits, evaluated.targets, temperature),
        bins=bins,
    )


def _confidences(evaluated: Evaluated, temperature: float) -> NDArray[np.float64]:
    """Return the (N,) probabilities of the predicted classes at a temperature."""
    if temperature == evaluated.temperature:
        return evaluated.confidences
    starts = range(0, len(evaluated.logits), CHUNK)
    parts = (probabilities(evaluated.logits[start : start + CHUNK], temperature) for start in starts)
    return np.concatenate([part.max(axis=1) for part in parts])


def _confident_errors(evaluated: Evaluated) -> Iterator[ConfidentError]:
    """Yield the misclassified images, most confident first; ties keep the order of the data set."""
    predicted = evaluated.ranked[:, 0]
    wrong = np.flatnonzero(predicted != evaluated.targets)
    for row in wrong[np.argsort(-evaluated.confidences[wrong], kind="stable")]:
        yield ConfidentError(
            path=evaluated.paths[row],
            true=int(evaluated.targets[row]),
            predicted=int(predicted[row]),
            prob=float(evaluated.confidences[row]),
        )
