"""How good a model is on pictures whose classes are known: classified as ``predict`` does, then counted.

``evaluate`` gives every picture's logits beside its true class, ``summarise`` the figures. What cannot be read has no
part in the figures and is kept beside them. torch is imported when the pictures are classified, and not before.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from levit_cli.checkpoints import Checkpoint
from levit_cli.choices import Decoding
from levit_cli.class_folders import ClassFolders
from levit_cli.classifying import Request, Say, engine_for, sized
from levit_cli.engines import Engine, EngineSpec
from levit_cli.errors import RefusedError
from levit_cli.evaluation.matching import match
from levit_cli.inputs import Input
from levit_cli.labels import Labels
from levit_cli.pipeline import Prediction, Stats, predict, probabilities
from levit_cli.preparing import Preparation
from levit_cli.reading import Reader

if TYPE_CHECKING:
    from levit_cli.evaluation.metrics import ClassFigures

TOP_K = 5
CONFIDENCE = 0.95  # of the intervals
BINS = 15  # as in Guo et al. 2017
MISTAKES = 24
CHUNK = 4096

Classes = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Evaluated:
    """What a model answered to labelled pictures, N of which could be read.

    Args:
        folders: the pictures.
        labels: the model's.
        class_of_folder: the model's class for each class of ``folders``.
        paths: of the N pictures.
        targets: (N,) their true classes.
        ranked: (N, k) the k likeliest classes, best first; k is 5, or all where the model has fewer.
        confidences: (N,) the probability of the first of them, as ``predict`` prints it.
        logits: (N, classes), not divided by the temperature.
        failures: the pictures that could not be read, with the reasons.
        temperature: the model's.
        engine: that computed this, and with what.
        stats: what it took.
    """

    folders: ClassFolders
    labels: Labels
    class_of_folder: tuple[int, ...]
    paths: tuple[str, ...]
    targets: Classes
    ranked: Classes
    confidences: NDArray[np.float64]
    logits: NDArray[np.float32]
    failures: tuple[Prediction, ...]
    temperature: float
    engine: Engine
    stats: Stats


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
        """Where the true value lies with 95 % confidence, by Wilson's score, if the pictures are a fair sample."""
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
        folder: where its pictures are.
        pictures: of it that could be read.
        predicted: pictures of any class that were taken for it.
        precision: None where it was never predicted.
        recall: None where it has no pictures.
        f1: None where neither is there.
    """

    index: int
    folder: str
    pictures: int
    predicted: int
    correct: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class Bin:
    """Pictures whose confidence lies in [low, high)."""

    low: float
    high: float
    pictures: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """Whether the probabilities can be believed, at one temperature.

    Args:
        error: the expected calibration error, over ``BINS`` bins.
        confidence: the mean probability of the first answer.
        log_loss: the mean negative log likelihood, in nats.
        bins: those that hold pictures.
    """

    temperature: float
    error: float
    confidence: float
    log_loss: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class Mistake:
    """A picture that was taken for another class, and how surely."""

    path: str
    true: int
    predicted: int
    prob: float


@dataclass(frozen=True)
class Confusion:
    """How many pictures of one class were taken for another."""

    true: int
    predicted: int
    pictures: int


@dataclass(frozen=True, eq=False)
class Summary:
    """The figures of an evaluation.

    Args:
        top5: None where the model has no more than five classes.
        scores: of the classes that have a folder, in the folders' order.
        balanced_accuracy, macro_f1: means of recall and F1 over the classes that have pictures, each class counting
            the same; NaN of none.
        confusion: (classes, classes) pictures, the true class down, the predicted one across.
        calibration: at the model's temperature; None where no picture could be read.
        fitted: at the temperature that fits these very pictures best; None where there is none.
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
        return sorted(found, key=lambda confusion: -confusion.pictures)

    @property
    def classes_in_play(self) -> list[int]:
        """Those that have a folder or were predicted, in the model's order."""
        with_folder = {score.index for score in self.scores}
        return sorted(with_folder | set(map(int, np.flatnonzero(self.confusion.sum(axis=0)))))


def evaluate(
    checkpoint: Checkpoint,
    folders: ClassFolders,
    spec: EngineSpec,
    *,
    decoding: Decoding = "exact",
    batch_size: int = 16,
    workers: int = 0,
    verbose: bool = False,
    say: Say = lambda _: None,
    advance: Callable[[], None] = lambda: None,
) -> Evaluated:
    """Classify the pictures of a data set, by the same path as ``levit predict``.

    Args:
        folders: each of its classes is matched to one of the model's labels by name.
        spec: threads are shared out as ``predict`` does.
        advance: called for each picture that is done.

    Raises:
        RefusedError: a folder has no label, or there is no such device.
    """
    if len(checkpoint.labels) < 2:
        raise RefusedError("There is nothing to evaluate", why="the model knows one class only, and is always right")
    class_of_folder = match(folders.classes, checkpoint.labels)
    asked = Request((), checkpoint.origin, spec=spec, batch_size=batch_size, workers=workers, verbose=verbose)
    asked = sized(asked, alone=len(folders.samples) == 1)
    inputs = (Input(str(path)) for path, _ in folders.samples)
    with Preparation(Reader(checkpoint.recipe, decoding), limit_s=asked.timeout_s, isolate=False) as preparation:
        ahead = preparation.ahead(inputs, batch_size=asked.batch_size, workers=asked.workers)
        try:
            engine, stats = engine_for(asked, checkpoint, say), Stats()
            stream = predict(
                ahead,
                engine,
                top_k=min(TOP_K, len(checkpoint.labels)),
                streams=engine.spec.streams,
                stats=stats,
                temperature=checkpoint.temperature,
            )
            return _collected(checkpoint, folders, class_of_folder, engine, stats, _counted(stream, advance))
        finally:
            ahead.stop()


def _counted(stream: Iterator[Prediction], advance: Callable[[], None]) -> Iterator[Prediction]:
    for prediction in stream:
        advance()
        yield prediction


def _collected(
    checkpoint: Checkpoint,
    folders: ClassFolders,
    class_of_folder: tuple[int, ...],
    engine: Engine,
    stats: Stats,
    stream: Iterator[Prediction],
) -> Evaluated:
    """The stream as arrays, filled as it comes: a hundred thousand pictures of a thousand classes are 400 MB."""
    num_pictures, num_classes = len(folders.samples), len(checkpoint.labels)
    top_k = min(TOP_K, num_classes)
    logits = np.empty((num_pictures, num_classes), np.float32)
    ranked = np.empty((num_pictures, top_k), np.int64)
    confidences, targets = np.empty(num_pictures), np.empty(num_pictures, np.int64)
    paths: list[str] = []
    failures: list[Prediction] = []
    for (_, folder), prediction in zip(folders.samples, stream, strict=True):
        if prediction.error is not None:
            failures.append(prediction)
            continue
        row = len(paths)
        paths.append(prediction.path)
        logits[row], targets[row] = prediction.logits, class_of_folder[folder]
        ranked[row] = [rank.class_index for rank in prediction.top]
        confidences[row] = prediction.top[0].prob
    stop = len(paths)
    return Evaluated(
        folders=folders,
        labels=checkpoint.labels,
        class_of_folder=class_of_folder,
        paths=tuple(paths),
        targets=targets[:stop],
        ranked=ranked[:stop],
        confidences=confidences[:stop],
        logits=logits[:stop],
        failures=tuple(failures),
        temperature=checkpoint.temperature,
        engine=engine,
        stats=stats,
    )


def summarise(evaluated: Evaluated) -> Summary:
    """The figures of what was evaluated; over the readable pictures, and top-k over all of the model's classes."""
    from levit_cli.evaluation import metrics

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
        macro_f1=_mean([score.f1 or 0.0 for score in scores if score.pictures]),
        confusion=confusion,
        calibration=_calibration(evaluated, evaluated.temperature) if total else None,
        fitted=_calibration(evaluated, fitted) if fitted else None,
        mistakes=tuple(islice(_mistakes(evaluated), MISTAKES)),
    )


def _scores(evaluated: Evaluated, confusion: Classes, figures: "ClassFigures") -> Iterator[ClassScore]:
    """A class without pictures, or never predicted, has no figure rather than a zero."""
    pictures, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    for folder, index in zip(evaluated.folders.classes, evaluated.class_of_folder, strict=True):
        has, was = bool(pictures[index]), bool(predicted[index])
        yield ClassScore(
            index=index,
            folder=folder,
            pictures=int(pictures[index]),
            predicted=int(predicted[index]),
            correct=int(confusion[index, index]),
            precision=float(figures.precision[index]) if was else None,
            recall=float(figures.recall[index]) if has else None,
            f1=float(figures.f1[index]) if has or was else None,
        )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _calibration(evaluated: Evaluated, temperature: float) -> Calibration:
    from levit_cli.evaluation import metrics

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
            pictures=int(here.sum()),
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
