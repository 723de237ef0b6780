"""What a probe chose and measured: as values, as JSON, and as rows for people."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from levit_cli.eval import metrics
from levit_cli.eval.results import BINS, Classes, Proportion
from levit_cli.eval.wording import percent
from levit_cli.finetune.split import Split
from levit_cli.predict.pipeline import probabilities
from levit_cli.probe.regression import FOLDS, Choice
from levit_cli.system.text import count_noun


@dataclass(frozen=True)
class Measured:
    """The accuracy on images that were used neither for the regression nor to choose its strength.

    Args:
        balanced_accuracy: the mean recall of the classes that have such images.
        log_loss, calibration_error: with the chosen temperature.
    """

    top1: Proportion
    balanced_accuracy: float
    log_loss: float
    calibration_error: float


@dataclass(frozen=True)
class Result:
    """What a probe chose and measured.

    Args:
        precision: in which the features were computed.
    """

    split: Split
    choice: Choice
    measured: Measured
    precision: str


def measure(logits: NDArray[np.float32], targets: Classes, temperature: float) -> Measured:
    """Return the accuracy and the calibration of logits (N, classes), for at least one image."""
    predicted, num_classes = logits.argmax(axis=1), logits.shape[1]
    confusion = metrics.count_confusions(predicted, targets, num_classes)
    recall, has_images = metrics.class_metrics(confusion).recall, confusion.sum(axis=1) > 0
    confidences = probabilities(logits, temperature).max(axis=1)
    return Measured(
        top1=Proportion(int(np.count_nonzero(predicted == targets)), len(targets)),
        balanced_accuracy=float(recall[has_images].mean()),
        log_loss=metrics.log_loss(logits, targets, temperature),
        calibration_error=metrics.calibration_error(metrics.calibration_bins(confidences, predicted == targets, BINS)),
    )


def as_json(result: Result) -> dict[str, Any]:
    """Return the result as it is stored in the run folder."""
    split, choice, measured = result.split, result.choice, result.measured
    return {
        "images": {"train": len(split.train), "val": len(split.val), "unreadable": len(split.unreadable)},
        "precision": result.precision,
        "cross_validation": {
            "folds": FOLDS,
            "images": choice.images,
            "scores": [asdict(score) for score in choice.scores],
        },
        "strength": choice.strength,
        "temperature": choice.temperature,
        "val": {
            "images": measured.top1.total,
            "correct": measured.top1.correct,
            "top1": measured.top1.value,
            "top1_interval": list(measured.top1.interval),
            "balanced_accuracy": measured.balanced_accuracy,
            "log_loss": measured.log_loss,
            "calibration_error": measured.calibration_error,
        },
        "fitted_to": "train" if split.has_val_folder else "train and val",
    }


def as_rows(result: Result) -> dict[str, str]:
    """Return the result as rows of a report."""
    split, choice, measured = result.split, result.choice, result.measured
    low, high = measured.top1.interval
    top1 = f"{percent(measured.top1.value)}, {measured.top1.correct:,} of {count_noun(measured.top1.total, 'image')}"
    chosen = f"chosen by cross-validation on {count_noun(choice.images, 'image')}"
    fitted = len(split.train) + (0 if split.has_val_folder else len(split.val))
    return {
        "top-1": f"{top1}; 95 % confidence interval {100 * low:.1f} to {percent(high)}",
        "": f"by the head fitted to the training images; mean over classes {percent(measured.balanced_accuracy)}",
        "strength": f"C = {choice.strength:.3g}, {chosen}" if choice.images else f"C = {choice.strength:g}",
        "temperature": f"{choice.temperature:.3f}; calibration error {100 * measured.calibration_error:.1f} points",
        "fitted to": count_noun(fitted, "image") + _which(split),
    }


def _which(split: Split) -> str:
    return "" if split.has_val_folder else ", the validation images included"
