"""From what a model answered to the figures that say how good that was; ``metrics`` holds the formulas."""

import math
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from levit_cli.eval.evaluate import TOP_K, Evaluated
from levit_cli.eval.results import BINS, Bin, Calibration, Classes, ClassScore, Mistake, Proportion, Summary
from levit_cli.predict.pipeline import probabilities

if TYPE_CHECKING:
    from levit_cli.eval.metrics import ClassFigures

MISTAKES = 24
CHUNK = 4096


def summarize(evaluated: Evaluated) -> Summary:
    """The figures of what was evaluated; over the readable images, and top-k over all of the model's classes."""
    from levit_cli.eval import metrics

    targets, ranked, num_classes = evaluated.targets, evaluated.ranked, len(evaluated.labels)
    total = len(targets)
    predicted = ranked[:, 0]
    confusion = metrics.count_confusions(predicted, targets, num_classes)
    scores = tuple(_scores(evaluated, confusion, metrics.class_figures(predicted, targets, num_classes)))
    fitted = metrics.fit_temperature(evaluated.logits, targets) if total else None
    return Summary(
        top1=Proportion(metrics.count_hits(ranked[:, :1], targets, num_classes), total),
        top5=Proportion(metrics.count_hits(ranked, targets, num_classes), total) if num_classes > TOP_K else None,
        scores=scores,
        balanced_accuracy=_mean([score.recall for score in scores if score.recall is not None]),
        macro_f1=_mean([score.f1 or 0.0 for score in scores if score.images]),
        confusion=confusion,
        calibration=_calibration(evaluated, evaluated.temperature) if total else None,
        fitted=_calibration(evaluated, fitted) if fitted else None,
        mistakes=tuple(islice(_mistakes(evaluated), MISTAKES)),
    )


def _scores(evaluated: Evaluated, confusion: Classes, figures: "ClassFigures") -> Iterator[ClassScore]:
    """A class without images, or never predicted, has no figure rather than a zero."""
    images, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    for folder, index in zip(evaluated.folders.classes, evaluated.class_of_folder, strict=True):
        has, was = bool(images[index]), bool(predicted[index])
        yield ClassScore(
            index=index,
            folder=folder,
            images=int(images[index]),
            predicted=int(predicted[index]),
            correct=int(confusion[index, index]),
            precision=float(figures.precision[index]) if was else None,
            recall=float(figures.recall[index]) if has else None,
            f1=float(figures.f1[index]) if has or was else None,
        )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _calibration(evaluated: Evaluated, temperature: float) -> Calibration:
    from levit_cli.eval import metrics

    correct = evaluated.ranked[:, 0] == evaluated.targets
    confidences = np.minimum(_confidences(evaluated, temperature), np.nextafter(1.0, 0.0))
    return Calibration(
        temperature=temperature,
        error=metrics.calibration_error(confidences, correct, BINS),
        confidence=float(confidences.mean()),
        log_loss=metrics.log_loss(evaluated.logits, evaluated.targets, temperature),
        bins=tuple(_bins(confidences, correct)),
    )


def _confidences(evaluated: Evaluated, temperature: float) -> NDArray[np.float64]:
    """(N,) the probability of the first answer at a temperature."""
    if temperature == evaluated.temperature:
        return evaluated.confidences
    starts = range(0, len(evaluated.logits), CHUNK)
    parts = (probabilities(evaluated.logits[start : start + CHUNK], temperature) for start in starts)
    return np.concatenate([part.max(axis=1) for part in parts])


def _bins(confidences: NDArray[np.float64], correct: NDArray[np.bool_]) -> Iterator[Bin]:
    edges = np.linspace(0, 1, BINS + 1)
    places = np.searchsorted(edges, confidences, side="right") - 1
    for place in map(int, np.unique(places)):
        here = places == place
        yield Bin(
            low=float(edges[place]),
            high=float(edges[place + 1]),
            images=int(here.sum()),
            confidence=float(confidences[here].mean()),
            accuracy=float(correct[here].mean()),
        )


def _mistakes(evaluated: Evaluated) -> Iterator[Mistake]:
    """All of them, the surest first; of equals the first in the data set."""
    predicted = evaluated.ranked[:, 0]
    wrong = np.flatnonzero(predicted != evaluated.targets)
    for row in wrong[np.argsort(-evaluated.confidences[wrong], kind="stable")]:
        yield Mistake(
            path=evaluated.paths[row],
            true=int(evaluated.targets[row]),
            predicted=int(predicted[row]),
            prob=float(evaluated.confidences[row]),
        )
