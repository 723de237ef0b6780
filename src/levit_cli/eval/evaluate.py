"""Classify labeled images with the pipeline of ``levit predict`` and keep each image's logits and true class.

Images that cannot be read are kept separately and do not count in the metrics.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from levit_cli.checkpoints import Checkpoint
from levit_cli.choices import Decoding, Resizer
from levit_cli.data.image_folder import ClassFolders
from levit_cli.data.labels import Labels
from levit_cli.engines import Engine, EngineSpec
from levit_cli.errors import RefusedError
from levit_cli.eval.match_labels import match
from levit_cli.eval.results import Classes
from levit_cli.predict.model import make_prediction_engine
from levit_cli.predict.pipeline import Prediction, Stats, predict
from levit_cli.predict.prefetch import DecodeOptions, Decoder
from levit_cli.predict.reader import Reader
from levit_cli.system.progress import Log, silent

TOP_K = 5


@dataclass(frozen=True, eq=False)
class Evaluated:
    """The predictions of a model for labeled images, N of which could be read.

    Args:
        folders: the images by class.
        labels: the class names of the model.
        class_of_folder: the model's class index for each class of ``folders``.
        paths: the paths of the N images.
        targets: (N,) true class indices.
        ranked: (N, k) the k most likely class indices, best first; k is 5, or all classes if the model has fewer.
        confidences: (N,) probability of the most likely class, as ``predict`` reports it.
        logits: (N, classes), not divided by the temperature.
        failures: the images that could not be read, with their errors.
        temperature: the temperature of the model.
        reader: what decoded and resized the images.
        engine: the engine that computed the logits.
        stats: the counts and times of the run.
        threshold: the threshold that the model stores, if any.
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
    reader: Reader
    engine: Engine
    stats: Stats
    threshold: float | None = None


def evaluate(
    checkpoint: Checkpoint,
    folders: ClassFolders,
    spec: EngineSpec,
    *,
    decoding: Decoding = "exact",
    resizer: Resizer = "auto",
    batch_size: int = 16,
    workers: int = 0,
    verbose: bool = False,
    log: Log = silent,
    on_image: Callable[[], None] = lambda: None,
) -> Evaluated:
    """Classify the images of class folders with the pipeline of ``levit predict``.

    Args:
        folders: the images; the name of each class folder must match one of the model's labels.
        spec: the engine's settings; its threads are divided among the streams as in ``predict``.
        workers: the number of decode threads; 0 for one per usable core.
        on_image: called after each image.

    Raises:
        RefusedError: a folder matches no label, the model has only one class, or the device does not exist.
    """
    if len(checkpoint.labels) < 2:
        raise RefusedError("Cannot evaluate a model with only one class", why="all of its predictions are correct")
    class_of_folder = match(folders.classes, checkpoint.labels)
    spec = spec.with_batching(batch_size, single=len(folders.samples) == 1)
    inputs = (image for image, _ in folders.samples)
    reader = Reader(checkpoint.transform, decoding, resizer)
    if verbose:
        log(f"resizer {reader.resizer}")
    with Decoder(reader, DecodeOptions(workers=workers)) as decoder:
        prefetcher = decoder.prefetch(inputs, spec.batch_size)
        try:
            engine, stats = make_prediction_engine(checkpoint, spec, log, verbose=verbose), Stats()
            stream = predict(
                prefetcher,
                engine,
                top_k=min(TOP_K, len(checkpoint.labels)),
                streams=engine.spec.streams,
                stats=stats,
                temperature=checkpoint.temperature,
            )
            return _collect(checkpoint, folders, class_of_folder, reader, engine, stats, _reporting(stream, on_image))
        finally:
            prefetcher.stop()


def _reporting(stream: Iterator[Prediction], on_image: Callable[[], None]) -> Iterator[Prediction]:
    for prediction in stream:
        on_image()
        yield prediction


def _collect(
    checkpoint: Checkpoint,
    folders: ClassFolders,
    class_of_folder: tuple[int, ...],
    reader: Reader,
    engine: Engine,
    stats: Stats,
    stream: Iterator[Prediction],
) -> Evaluated:
    """Collect the predictions in arrays.

    The arrays are allocated once, because 100,000 images with 1,000 classes take 400 MB.
    """
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
        reader=reader,
        engine=engine,
        stats=stats,
        threshold=checkpoint.threshold.min_prob if checkpoint.threshold else None,
    )
