"""Labelled images classified as ``predict`` does it: every image's logits, kept beside its true class.

What cannot be read has no part in the figures and is kept apart.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from levit_cli.checkpoints import Checkpoint
from levit_cli.choices import Decoding
from levit_cli.data.image_folder import ClassFolders
from levit_cli.data.inputs import Input
from levit_cli.data.labels import Labels
from levit_cli.engines import Engine, EngineSpec
from levit_cli.errors import RefusedError
from levit_cli.eval.match_labels import match
from levit_cli.eval.results import Classes
from levit_cli.predict.decoding import Preparation
from levit_cli.predict.pipeline import Prediction, Stats, predict
from levit_cli.predict.reader import Reader
from levit_cli.predict.request import Request, engine_for, sized
from levit_cli.system.progress import Log

TOP_K = 5


@dataclass(frozen=True, eq=False)
class Evaluated:
    """What a model answered to labelled images, N of which could be read.

    Args:
        folders: the images.
        labels: the model's.
        class_of_folder: the model's class for each class of ``folders``.
        paths: of the N images.
        targets: (N,) their true classes.
        ranked: (N, k) the k likeliest classes, best first; k is 5, or all where the model has fewer.
        confidences: (N,) the probability of the first of them, as ``predict`` prints it.
        logits: (N, classes), not divided by the temperature.
        failures: the images that could not be read, with the reasons.
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


def evaluate(
    checkpoint: Checkpoint,
    folders: ClassFolders,
    spec: EngineSpec,
    *,
    decoding: Decoding = "exact",
    batch_size: int = 16,
    workers: int = 0,
    verbose: bool = False,
    log: Log = lambda _: None,
    advance: Callable[[], None] = lambda: None,
) -> Evaluated:
    """Classify the images of a data set, by the same path as ``levit predict``.

    Args:
        folders: each of its classes is matched to one of the model's labels by name.
        spec: threads are shared out as ``predict`` does.
        advance: called for each image that is done.

    Raises:
        RefusedError: a folder has no label, or there is no such device.
    """
    if len(checkpoint.labels) < 2:
        raise RefusedError("There is nothing to evaluate", why="the model knows one class only, and is always right")
    class_of_folder = match(folders.classes, checkpoint.labels)
    asked = Request((), checkpoint.origin, spec=spec, batch_size=batch_size, workers=workers, verbose=verbose)
    asked = sized(asked, alone=len(folders.samples) == 1)
    inputs = (Input(str(path)) for path, _ in folders.samples)
    with Preparation(Reader(checkpoint.transform, decoding), limit_s=asked.timeout_s, isolate=False) as preparation:
        ahead = preparation.ahead(inputs, batch_size=asked.batch_size, workers=asked.workers)
        try:
            engine, stats = engine_for(asked, checkpoint, log), Stats()
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
    """The stream as arrays, filled as it comes: a hundred thousand images of a thousand classes are 400 MB."""
    num_images, num_classes = len(folders.samples), len(checkpoint.labels)
    top_k = min(TOP_K, num_classes)
    logits = np.empty((num_images, num_classes), np.float32)
    ranked = np.empty((num_images, top_k), np.int64)
    confidences, targets = np.empty(num_images), np.empty(num_images, np.int64)
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
