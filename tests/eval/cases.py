"""Build evaluations without a model, from given or random logits and true classes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from levit_cli.data.image_folder import ClassFolders
from levit_cli.data.input import Input
from levit_cli.data.labels import Labels
from levit_cli.engines import EngineSpec
from levit_cli.errors import InputError
from levit_cli.eval.evaluate import TOP_K, Evaluated
from levit_cli.images.transforms import transform_for
from levit_cli.predict.pipeline import Prediction, Stats, probabilities
from levit_cli.predict.reader import Reader
from levit_cli.predict.run_description import ModelDescription, RunDescription

RUN = RunDescription(
    ModelDescription("tiny", "levit-tiny", 7, 1.0, sha256="ab" * 32),
    transform_for("fb", (64, 64)), "exact", "simd", "openvino", "cpu", "fp32", threads=2, top_k=5, version="0.1.0",
)  # fmt: skip


class NoEngine:
    """Stands in for the engine; calling it is an error."""

    spec = EngineSpec("cpu", "openvino", "fp32", 1)

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        raise AssertionError("the images have been classified already")

    def save_cache(self) -> None: ...


def evaluation(
    logits: NDArray[np.float32],
    targets: Sequence[int],
    *,
    labels: Labels | None = None,
    folders: Sequence[int] | None = None,
    paths: Sequence[Path] | None = None,
    root: Path = Path("data"),
    failures: Sequence[tuple[Path, InputError]] = (),
    temperature: float = 1.0,
) -> Evaluated:
    """Return what ``evaluate`` returns for these logits.

    Args:
        logits: (N, classes).
        targets: (N,) true classes.
        folders: the classes that have a folder; by default all classes.
        paths: the paths of the images; by default data/CLASS/0.jpg and so on.
    """
    labels = labels or Labels(tuple("abcdefghijklmnopqrstuvwxyz"[: logits.shape[1]]))
    classes = tuple(range(len(labels))) if folders is None else tuple(folders)
    names = [labels.names[index] for index in targets]
    paths = paths if paths is not None else [root / name / f"{number}.jpg" for number, name in enumerate(names)]
    folder_number = {index: number for number, index in enumerate(classes)}
    samples = [(Input(str(path)), folder_number[index]) for path, index in zip(paths, targets, strict=True)]
    samples += [(Input(str(path)), 0) for path, _ in failures]
    ranked = np.argsort(-logits, axis=1, kind="stable")
    return Evaluated(
        folders=ClassFolders(root, tuple(labels.names[index] for index in classes), tuple(samples)),
        labels=labels,
        class_of_folder=classes,
        paths=tuple(map(str, paths)),
        targets=np.array(targets, np.int64),
        ranked=ranked[:, : min(TOP_K, len(labels))],
        confidences=probabilities(logits, temperature).max(axis=1) if len(logits) else np.zeros(0),
        logits=logits,
        failures=tuple(Prediction(str(path), error=error) for path, error in failures),
        temperature=temperature,
        reader=Reader(transform_for("fb", (64, 64))),
        engine=NoEngine(),
        stats=Stats(),
    )


def logits_of(*probs: Sequence[float]) -> NDArray[np.float32]:
    """Return the logits of these probabilities, one row per image."""
    logits: NDArray[np.float32] = np.log(np.array(probs)).astype(np.float32)
    return logits


def random_logits(num_images: int, num_classes: int, seed: int = 0) -> tuple[NDArray[np.float32], list[int]]:
    """Return random logits, in which the true class is likely to be the highest, and the true classes."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, num_classes, num_images)
    logits = rng.normal(0, 1, (num_images, num_classes))
    logits[np.arange(num_images), targets] += 2
    return logits.astype(np.float32), [int(target) for target in targets]
