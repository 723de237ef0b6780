"""The results of an evaluation as data classes, which the table, the JSON document and the HTML report show."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

CONFIDENCE_LEVEL = 0.95  # of the confidence intervals
BINS = 15  # as in Guo et al. 2017

Classes = NDArray[np.int64]


@dataclass(frozen=True)
class Proportion:
    """A number of correct predictions out of a total, as exact counts."""

    correct: int
    total: int

    @property
    def value(self) -> float:
        """The proportion in [0, 1]; NaN if the total is 0."""
        return self.correct / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson score interval; it assumes that the images are a random sample."""
        return self.interval_at((1 - CONFIDENCE_LEVEL) / 2)

    def interval_at(self, tail: float) -> tuple[float, float]:
        """Return the Wilson score interval that the true proportion misses on each side with probability ``tail``."""
        if not self.total:
            return 0.0, 1.0
        z, n, p = NormalDist().inv_cdf(1 - tail), self.total, self.value
        center, scale = p + z * z / (2 * n), 1 + z * z / n
        margin = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, (center - margin) / scale), min(1.0, (center + margin) / scale)


@dataclass(frozen=True)
class ClassScore:
    """The results of one class.

    Args:
        index: the model's class index.
        folder: the name of the folder that holds the images of the class.
        images: number of readable images of the class.
        predicted: number of images, of any class, that were predicted as this class.
        correct: number of images of the class that were predicted correctly.
        precision: None if the class was never predicted.
        recall: None if the class has no images.
        f1: None if the class has no images and was never predicted.
    """

    index: int
    folder: str
    images: int
    predicted: int
    correct: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class Bin:
    """The images whose confidence lies in [low, high)."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """The calibration of a model at one temperature: how well its confidence matches its accuracy.

    Args:
        error: the expected calibration error (ECE) over ``BINS`` bins of equal width.
        confidence: the mean confidence, which is the probability of the predicted class.
        log_loss: the mean negative log likelihood of the true class, in nats.
        bins: the bins that contain images.
    """

    temperature: float
    error: float
    confidence: float
    log_loss: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class ConfidentError:
    """A misclassified image, with the probability of the class that was predicted."""

    path: str
    true: int
    predicted: int
    prob: float


@dataclass(frozen=True)
class Confusion:
    """The number of images of one class that were predicted as another."""

    true: int
    predicted: int
    images: int


@dataclass(frozen=True)
class CoveragePoint:
    """What a threshold does: which images it accepts, and how many of them are classified correctly.

    Args:
        threshold: the smallest probability of the predicted class of an accepted image.
        accepted: the correct ones of the accepted images.
        images: number of all images.
    """

    threshold: float
    accepted: Proportion
    images: int

    @property
    def coverage(self) -> float:
        """The share of the images that are accepted."""
        return self.accepted.total / self.images


@dataclass(frozen=True)
class AccuracyTarget:
    """The search for a threshold with a required accuracy on accepted images.

    Args:
        accuracy: the required accuracy.
        chosen: the threshold that was found, if any.
        lower_bound: of the accuracy with the chosen threshold; see ``coverage`` for its confidence.
    """

    accuracy: float
    chosen: CoveragePoint | None
    lower_bound: float | None


@dataclass(frozen=True)
class Coverage:
    """How accurate the accepted images are, over the share of images that is accepted.

    Args:
        temperature: that of the probabilities.
        thresholds: the effect of fixed thresholds, in ascending order.
        curve: points from few to all images, for a chart.
        stored: the effect of the threshold that the model's folder stores, if any.
        target: the search for a threshold, if one was requested.
    """

    temperature: float
    thresholds: tuple[CoveragePoint, ...]
    curve: tuple[CoveragePoint, ...]
    stored: CoveragePoint | None = None
    target: AccuracyTarget | None = None


@dataclass(frozen=True, eq=False)
class Summary:
    """The results of an evaluation.

    Args:
        top5: None if the model has five classes or fewer.
        scores: the results of the classes that have a folder, in the order of the folders.
        balanced_accuracy, macro_f1: unweighted means of recall and F1 over the classes that have images; NaN if there
            are none.
        confusion: (classes, classes) numbers of images; rows are true classes, columns are predicted classes.
        calibration: the calibration at the model's temperature; None if no image could be read.
        fitted: the calibration at the temperature that minimizes the log loss on these images; None if no temperature
            could be fitted.
        coverage: accuracy over coverage; None if no image could be read.
        confident_errors: the misclassified images with the highest confidence, in descending order.
    """

    top1: Proportion
    top5: Proportion | None
    scores: tuple[ClassScore, ...]
    balanced_accuracy: float
    macro_f1: float
    confusion: Classes
    calibration: Calibration | None
    fitted: Calibration | None
    confident_errors: tuple[ConfidentError, ...]
    coverage: Coverage | None = None

    @property
    def confusions(self) -> list[Confusion]:
        """The pairs of classes that were confused, most frequent first."""
        off_diagonal = self.confusion - np.diag(np.diag(self.confusion))
        pairs = np.argwhere(off_diagonal)
        confusions = [Confusion(int(true), int(other), int(off_diagonal[true, other])) for true, other in pairs]
        return sorted(confusions, key=lambda confusion: -confusion.images)

    @property
    def confusion_classes(self) -> list[int]:
        """The classes that have a folder or were predicted, in the model's order."""
        with_folder = {score.index for score in self.scores}
        return sorted(with_folder | set(map(int, np.flatnonzero(self.confusion.sum(axis=0)))))
