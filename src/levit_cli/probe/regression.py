"""Multinomial logistic regression on features, with its strength chosen by cross-validation.

The features are standardized, and then rotated to their principal components, of which each is divided by the square
root of its standard deviation. The penalty of the regression so lies between that on the standardized features and that
on the whitened ones. It is more accurate than either on the photos that were tried, and needs fewer iterations
(docs/dev/log.md). The result is one linear layer on the standardized features.

One thread computes it: for matrices of this size, threads of OpenBLAS wait for each other longer than they compute, and
the result would depend on their number.

Each image has two views, the image and its mirror image, which share its weight in the loss. Predictions for
cross-validation are made for the images only, as in ``levit predict``.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from levit_cli.choices import ClassWeights
from levit_cli.errors import RefusedError
from levit_cli.eval.metrics import fit_temperature
from levit_cli.eval.results import Classes
from levit_cli.model.config import BATCH_NORM_EPS

STRENGTHS = tuple(10.0 ** (exponent / 2) for exponent in range(-6, 5))  # scikit-learn's C: 0.001 to 100
DEFAULT_STRENGTH = 0.1  # of classes with one image each, which cannot be cross-validated
FOLDS = 5
PATIENCE = 2  # strengths with a larger log loss than the best one, after which no larger ones are tried
MAX_ITERATIONS = 300
SMALLEST_COMPONENT = 1e-4  # relative to the largest standard deviation; smaller components are rounding errors
SMALLEST_VARIANCE = 1e-10  # a feature that varies less is constant
VIEWS = 2
TRAINED_ONLY = -1  # the fold of an image that is never predicted

Features = NDArray[np.float32]
Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Standardization:
    """The mean and the variance of each feature, (C,) float32, as the batch norm of a head stores them."""

    mean: Features
    variance: Features

    def __call__(self, features: Features) -> Values:
        """Return (..., C) features with mean 0 and variance 1."""
        scaled: Values = (features - self.mean.astype(np.float64)) / np.sqrt(
            self.variance.astype(np.float64) + BATCH_NORM_EPS
        )
        return scaled


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """A fitted regression: a standardization and a linear layer, ``weight`` (classes, C) and ``bias`` (classes,)."""

    standardization: Standardization
    weight: Features
    bias: Features

    def logits(self, features: Features) -> Features:
        """Return the logits (N, classes) of features (N, C)."""
        logits = self.standardization(features) @ self.weight.astype(np.float64).T + self.bias
        return logits.astype(np.float32)


@dataclass(frozen=True, eq=False)
class Labeled:
    """Labeled images.

    Args:
        views: (N, 2, C) the features of each image and of its mirror image.
        targets: (N,) class indices.
        num_classes: every class has at least one image.
    """

    views: Features
    targets: Classes
    num_classes: int

    def select(self, rows: NDArray[np.bool_]) -> "Labeled":
        return Labeled(self.views[rows], self.targets[rows], self.num_classes)

    def weights(self, class_weights: ClassWeights) -> Values:
        """Return the (N,) weights of the images in the loss; their mean is 1."""
        if class_weights == "none":
            return np.ones(len(self.targets))
        counts = np.bincount(self.targets, minlength=self.num_classes)
        weights: Values = (len(self.targets) / (self.num_classes * counts))[self.targets]
        return weights


@dataclass(frozen=True)
class Score:
    """The cross-validated log loss of a strength, and how many of the predictions are correct."""

    strength: float
    log_loss: float
    correct: int


@dataclass(frozen=True, eq=False)
class Choice:
    """The strength that cross-validation chose.

    Args:
        strength: scikit-learn's C.
        temperature: fitted to the predictions of the cross-validation; 1 if it cannot be fitted.
        images: number of images that were predicted in the cross-validation.
        scores: one for each strength that was tried.
    """

    strength: float
    temperature: float
    images: int
    scores: tuple[Score, ...]


def choose(
    labeled: Labeled, class_weights: ClassWeights, seed: int, on_strength: Callable[[], None] = lambda: None
) -> Choice:
    """Choose the strength with the smallest log loss in a cross-validation, weighted as in the regression.

    Strengths are tried in rising order, until the log loss has risen twice.

    Args:
        on_strength: called after each strength.

    Raises:
        RefusedError: the images do not differ.
    """
    folds = make_folds(labeled.targets, seed)
    predicted = folds != TRAINED_ONLY
    if not predicted.any():  # each class has one image
        return Choice(DEFAULT_STRENGTH, 1.0, 0, ())
    targets, weights = labeled.targets[predicted], labeled.weights(class_weights)[predicted]
    scores: list[Score] = []
    kept: list[Features] = []  # the logits of each strength
    with threadpool_limits(1):
        for strength, logits in _cross_validate(labeled, folds, class_weights):
            kept.append(logits[predicted])
            scores.append(_score(strength, kept[-1], targets, weights))
            on_strength()
            best = min(range(len(scores)), key=lambda index: scores[index].log_loss)
            if len(scores) - 1 - best >= PATIENCE:
                break
    return Choice(scores[best].strength, fit_temperature(kept[best], targets) or 1.0, len(targets), tuple(scores))


def _score(strength: float, logits: Features, targets: Classes, weights: Values) -> Score:
    correct = int(np.count_nonzero(logits.argmax(axis=1) == targets))
    return Score(strength, weighted_log_loss(logits, targets, weights), correct)


def _cross_validate(labeled: Labeled, folds: Classes, class_weights: ClassWeights) -> Iterator[tuple[float, Features]]:
    """Yield each strength and the logits (N, classes) by regressions that were not fitted to the image."""
    paths = {fold: _Path(labeled.select(folds != fold), class_weights) for fold in range(FOLDS)}
    for strength in STRENGTHS:
        logits = np.zeros((len(folds), labeled.num_classes), np.float32)
        for fold, path in paths.items():
            logits[folds == fold] = path.fit(strength).logits(labeled.views[folds == fold, 0])
        yield strength, logits


def make_folds(targets: Classes, seed: int) -> Classes:
    """Return the (N,) fold of each image; the images of each class are dealt out evenly, in random order.

    The only image of a class belongs to no fold, because there would be no image to learn the class from.
    """
    folds = np.full(len(targets), TRAINED_ONLY)
    random = Random(f"folds {seed}")
    for index in range(int(targets.max()) + 1):
        rows = np.flatnonzero(targets == index)
        start = random.randrange(FOLDS)  # otherwise the first folds would get the images of all small classes
        if len(rows) > 1:
            folds[random.sample(list(rows), len(rows))] = (start + np.arange(len(rows))) % FOLDS
    return folds


def weighted_log_loss(logits: Features, targets: Classes, weights: Values) -> float:
    """Return the weighted mean of the negative log likelihood of the true classes."""
    gaps = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    losses = np.log(np.exp(gaps).sum(axis=1)) - gaps[np.arange(len(targets)), targets]
    return float(np.average(losses, weights=weights))


def fit(labeled: Labeled, class_weights: ClassWeights, strength: float) -> LinearProbe:
    """Fit the regression with a strength. The smaller strengths come first, which is faster and more robust."""
    with threadpool_limits(1):
        path = _Path(labeled, class_weights)
        for smaller in STRENGTHS:
            if smaller < strength:
                path.fit(smaller)
        return path.fit(strength)


class _Path:
    """Fits regressions with rising strengths on the same images; each starts from the one before it."""

    def __init__(self, labeled: Labeled, class_weights: ClassWeights) -> None:
        views = labeled.views.reshape(-1, labeled.views.shape[-1])  # (2 N, C)
        self._standardization = standardization_of(views)
        standardized = self._standardization(views)
        self._components = components_of(standardized)
        self._inputs = (standardized @ self._components).astype(np.float32)
        self._targets = labeled.targets.repeat(VIEWS)
        self._weights = (labeled.weights(class_weights) / VIEWS).repeat(VIEWS)
        self._model = LogisticRegression(max_iter=MAX_ITERATIONS, warm_start=True)

    def fit(self, strength: float) -> LinearProbe:
        self._model.set_params(C=strength)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # it only means that it is regularized more
            self._model.fit(self._inputs, self._targets, self._weights)
        weight, bias = self._model.coef_.astype(np.float64), self._model.intercept_.astype(np.float64)
        if len(weight) == 1:  # of two classes, scikit-learn models the difference
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        weight = weight @ self._components.T
        return LinearProbe(self._standardization, weight.astype(np.float32), bias.astype(np.float32))


def standardization_of(features: Features) -> Standardization:
    """Return the mean and the variance of features (N, C). The variance of a constant feature is 1."""
    mean = features.mean(axis=0, dtype=np.float64)
    variance = features.var(axis=0, dtype=np.float64)
    variance[variance < SMALLEST_VARIANCE] = 1
    return Standardization(mean.astype(np.float32), variance.astype(np.float32))


def components_of(standardized: Values) -> Values:
    """Return the matrix (C, components) that rotates to the principal components, divided as the module describes.

    Raises:
        RefusedError: no feature varies.
    """
    variances, directions = np.linalg.eigh(standardized.T @ standardized / len(standardized))
    deviations = np.sqrt(np.maximum(variances, 0))
    kept = deviations > SMALLEST_COMPONENT * deviations[-1]
    if not kept.any():
        raise RefusedError("The features of all images are the same", why="the images do not differ for the model")
    components: Values = directions[:, kept] / np.sqrt(deviations[kept])
    return components
