"""The figures of an evaluation, as values that the table, the document and the report all show."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95  # of the intervals
BINS = 15  # as in Guo et al. 2017

Classes = NDArray[np.int64]


@dataclass(frozen=True)
class Proportion:
    """So many of so many, exactly."""

    correct: int
    total: int

    @property
    def value(self) -> float:
        """In [0, 1]; NaN of none."""
        return self.correct / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Where the true value lies with 95 % confidence, by Wilson's score, if the images are a fair sample."""
        if not self.total:
            return 0.0, 1.0
        z, n, p = NormalDist().inv_cdf((1 + CONFIDENCE) / 2), self.total, self.value
        centre, scale = p + z * z / (2 * n), 1 + z * z / n
        reach = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, (centre - reach) / scale), min(1.0, (centre + reach) / scale)


@dataclass(frozen=True)
class ClassScore:
    """How one class fares.

    Args:
        index: the model's.
        folder: where its images are.
        images: of it that could be read.
        predicted: images of any class that were taken for it.
        precision: None where it was never predicted.
        recall: None where it has no images.
        f1: None where neither is there.
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
    """Images whose confidence lies in [low, high)."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """Whether the probabilities can be believed, at one temperature.

    Args:
        error: the expected calibration error, over ``BINS`` bins.
        confidence: the mean probability of the first answer.
        log_loss: the mean negative log likelihood, in nats.
        bins: those that hold images.
    """

    temperature: float
    error: float
    confidence: float
    log_loss: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class Mistake:
    """An image that was taken for another class, and how surely."""

    path: str
    true: int
    predicted: int
    prob: float


@dataclass(frozen=True)
class Confusion:
    """How many images of one class were taken for another."""

    true: int
    predicted: int
    images: int


@dataclass(frozen=True, eq=False)
class Summary:
    """The figures of an evaluation.

    Args:
        top5: None where the model has no more than five classes.
        scores: of the classes that have a folder, in the folders' order.
        balanced_accuracy, macro_f1: means of recall and F1 over the classes that have images, each class counting
            the same; NaN of none.
        confusion: (classes, classes) images, the true class down, the predicted one across.
        calibration: at the model's temperature; None where no image could be read.
        fitted: at the temperature that fits these very images best; None where there is none.
        mistakes: those with the highest confidence.
    """

    top1: Proportion
    top5: Proportion | None
    scores: tuple[ClassScore, ...]
    balanced_accuracy: float
    macro_f1: float
    confusion: Classes
    calibration: Calibration | None
    fitted: Calibration | None
    mistakes: tuple[Mistake, ...]

    @property
    def confusions(self) -> list[Confusion]:
        """The pairs of classes that were confused, the most frequent first."""
        off_diagonal = self.confusion - np.diag(np.diag(self.confusion))
        pairs = np.argwhere(off_diagonal)
        found = [Confusion(int(true), int(other), int(off_diagonal[true, other])) for true, other in pairs]
        return sorted(found, key=lambda confusion: -confusion.images)

    @property
    def classes_in_play(self) -> list[int]:
        """Those that have a folder or were predicted, in the model's order."""
        with_folder = {score.index for score in self.scores}
        return sorted(with_folder | set(map(int, np.flatnonzero(self.confusion.sum(axis=0)))))
