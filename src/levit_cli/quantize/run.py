"""``levit quantize``: make an int8 model and compare it with the original.

Checks run from cheap to expensive: the output, the installed packages, the images, the model. Everything is written
into a temporary folder beside the output. It is renamed to the output only if the model passes the gate, which runs the
graph from that folder.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from levit_cli import __version__
from levit_cli.checkpoints import Checkpoint, save
from levit_cli.checkpoints.quantized import (
    CONSTANTS,
    GRAPH,
    Gate,
    Int8Description,
    QuantizedGraph,
    write_description,
)
from levit_cli.checkpoints.weights import INT8_DESCRIPTION, sha256_of
from levit_cli.data.skipped import Skipped
from levit_cli.engines import Engine, EngineSpec, keep_until_exit, make_engine
from levit_cli.errors import InputError, RefusedError, UsageError
from levit_cli.predict.model import ModelOptions, load_model, make_prediction_engine
from levit_cli.predict.pipeline import Prediction, predict
from levit_cli.predict.prefetch import DecodeOptions, Decoder
from levit_cli.predict.reader import Reader
from levit_cli.quantize.card import int8_card
from levit_cli.quantize.gate import Compared, as_rows, require_accurate, require_readable
from levit_cli.quantize.images import Sample, decoded, describe_failure, inputs, samples_of, shuffled
from levit_cli.system.atomic import replace_text
from levit_cli.system.extras import require_extra
from levit_cli.system.new_folder import new_folder, require_new
from levit_cli.system.progress import Log, progress, shows_progress
from levit_cli.system.text import count_noun, printable

MIN_IMAGES = 100
MIN_COMPARED = 25  # fewer are left only if many images cannot be read
BATCH_SIZE = 16
FP32 = EngineSpec("cpu", "openvino", "fp32")

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Calibration:
    """How the model is calibrated and how accurate it must be.

    Args:
        data: folder of images, or of class folders.
        samples: number of images for the calibration; at most half of the images are used.
        seed: seed of their choice.
        max_drop: the largest allowed drop of top-1, in percentage points.
    """

    data: Path
    samples: int = 300
    seed: int = 0
    max_drop: float = 1.0


def quantize(
    model: ModelOptions,
    output: Path,
    calibration: Calibration,
    log: Log,
    *,
    workers: int = 0,
    threads: int = 0,
    quiet: bool = False,
    verbose: bool = False,
) -> str:
    """Make the int8 model in the folder ``output``, and return a report.

    Raises:
        UsageError: the output exists, there are no images, or the extra ``export`` is not installed.
        RefusedError: the model cannot be loaded, has no such classes, or there are too few images.
        GateError: the int8 model is not accurate enough.
        OutputError: the output cannot be written.
    """
    _require_separate(output, calibration.data)
    require_new(output)
    require_extra("export", "Quantizing")
    checkpoint = load_model(model, log, verbose=verbose)
    _require_openvino(checkpoint, is_chosen=model.preprocessing is not None)
    skipped = Skipped(log if verbose and not quiet else None)
    samples = samples_of(calibration.data, checkpoint.labels, skipped)
    if not quiet and (sentence := skipped.sentence()):
        log(sentence)
    require_readable(len(samples), MIN_IMAGES, str(calibration.data), ())
    with (
        Decoder(Reader(checkpoint.transform), DecodeOptions(workers=workers)) as decoder,
        new_folder(output) as folder,
    ):
        spec = replace(FP32, threads=threads).with_batching(BATCH_SIZE, single=False)
        original = make_prediction_engine(checkpoint, spec, log, verbose=False)
        run = _Run(checkpoint, original, calibration, decoder, None if quiet else log)
        description, gate = run.make_graph(folder, shuffled(samples, calibration.seed))
        require_accurate(gate, calibration.max_drop, checkpoint.origin)
        _complete(folder, checkpoint, replace(description, gate=gate), gate)
    if checkpoint.threshold is not None and not quiet:
        log("The stored threshold was not copied, because int8 changes the probabilities · levit eval stores a new one")
    rows = {
        "model": f"{checkpoint.origin} ({checkpoint.architecture})",
        "int8 model": str(output),
        "calibrated": f"on {count_noun(description.samples, 'image')} of {calibration.data}, seed {calibration.seed}",
        **as_rows(gate, calibration.max_drop),
    }
    return "".join(f"{name:<14}{value}\n" for name, value in rows.items())


def _complete(folder: Path, checkpoint: Checkpoint, description: Int8Description, gate: Gate) -> None:
    """Write the original weights, and the file that ties the graph to them, beside the graph."""
    card = int8_card(checkpoint, description, gate)
    (weights, *_) = save(replace(checkpoint, threshold=None), folder, "hf", card=card)
    files = {**description.files, weights.name: sha256_of(weights)}
    replace_text(folder / INT8_DESCRIPTION, write_description(replace(description, files=files)))


def _require_separate(output: Path, data: Path) -> None:
    """Check that the output is not among the images, where it would be taken for a class."""
    if output.absolute().parent == data.absolute():
        raise UsageError(f"The output {output} lies among the images of {data}", hint="choose another folder for it")


def _require_openvino(checkpoint: Checkpoint, *, is_chosen: bool) -> None:
    """Check that OpenVINO, which runs the int8 graph, can be used with the preprocessing.

    Args:
        is_chosen: the user chose the preprocessing; otherwise it is the checkpoint's own.
    """
    if checkpoint.transform.resizer == "torch":
        error = UsageError if is_chosen else RefusedError
        raise error(
            f"{checkpoint.origin} cannot be quantized with the preprocessing {checkpoint.transform.name}",
            why="it resizes with torch, and the engine of int8 models is OpenVINO",
            hint="use --preprocessing hf, which resizes with Pillow",
        )


@dataclass(frozen=True)
class _Run:
    """A model that is being quantized."""

    checkpoint: Checkpoint
    original: Engine
    calibration: Calibration
    decoder: Decoder
    log: Log | None

    def make_graph(self, folder: Path, samples: Sequence[Sample]) -> tuple[Int8Description, Gate]:
        """Write the int8 graph into a folder, and return its description and how accurate it is."""
        chosen, failures, used = self._calibration_images(samples)
        require_readable(len(samples) - len(failures), MIN_IMAGES, str(self.calibration.data), failures)
        if self.log:
            images = count_noun(len(chosen), "image")
            self.log(f"Calibrating on {images}, then comparing on up to {len(samples) - used:,}")
        self._write_graph(folder, chosen)
        description = self._describe(folder, len(chosen))
        return description, self._compare(QuantizedGraph(folder, description), samples[used:], failures)

    def _calibration_images(self, samples: Sequence[Sample]) -> tuple[list[Pixels], list[str], int]:
        """Return the pixels of the first readable images, the unreadable ones, and how many samples that took.

        They are at most half of the images that are not known to be unreadable.
        """
        pixels: list[Pixels] = []
        failures: list[str] = []
        prefetcher = self.decoder.prefetch(inputs(samples), BATCH_SIZE)
        try:
            for sample, result in zip(samples, decoded(prefetcher), strict=False):
                if isinstance(result, InputError):
                    failures.append(describe_failure(sample.image.path, result))
                else:
                    pixels.append(result)
                if pixels and len(pixels) >= min(self.calibration.samples, (len(samples) - len(failures)) // 2):
                    break
        finally:
            prefetcher.stop()
        return pixels, failures, len(pixels) + len(failures)

    def _write_graph(self, folder: Path, images: Sequence[Pixels]) -> None:
        from levit_cli.quantize.nncf_graph import quantize_graph  # needs the extra

        with progress(shown=self._shows_progress, title="calibrating") as bar:
            quantize_graph(self.checkpoint, images, folder / GRAPH, bar.advance)

    def _describe(self, folder: Path, samples: int) -> Int8Description:
        from levit_cli.engines.openvino import OPENVINO_VERSION
        from levit_cli.quantize.nncf_graph import nncf_version

        transform = self.checkpoint.transform
        return Int8Description(
            levit=__version__,
            openvino=OPENVINO_VERSION,
            nncf=nncf_version(),
            files={name: sha256_of(folder / name) for name in (GRAPH, CONSTANTS)},
            image_size=self.checkpoint.config.image_size,
            mean=transform.mean,
            std=transform.std,
            data=str(self.calibration.data),
            samples=samples,
            seed=self.calibration.seed,
            gate=None,
        )

    def _compare(self, graph: QuantizedGraph, samples: Sequence[Sample], failures: list[str]) -> Gate:
        """Compare both models on samples that were not used for the calibration; add those that cannot be read."""
        spec = replace(self.original.spec, precision="int8")
        pair = _Pair(self.original, make_engine(replace(self.checkpoint, int8=graph), spec))
        keep_until_exit(pair)
        prefetcher = self.decoder.prefetch(inputs(samples), BATCH_SIZE)
        stream = predict(prefetcher, pair, top_k=1, streams=spec.streams)
        kept: list[Sample] = []
        classes: list[tuple[int, int]] = []
        with (
            closing(stream),
            progress(shown=self._shows_progress, total=len(samples), title="comparing") as bar,
        ):
            for sample, prediction in zip(samples, stream, strict=True):
                bar.advance()
                if prediction.logits is None:
                    failures.append(_failure(sample, prediction))
                else:
                    kept.append(sample)
                    classes.append(pair.first_classes(prediction.logits))
        require_readable(len(kept) + graph.description.samples, MIN_IMAGES, str(self.calibration.data), failures)
        require_readable(len(kept), MIN_COMPARED, f"The rest of {self.calibration.data}", failures)
        before, after = np.array(classes, np.int64).T
        targets = None if kept[0].target is None else np.array([sample.target for sample in kept], np.int64)
        return Compared(before, after, targets, len(failures)).gate()

    @property
    def _shows_progress(self) -> bool:
        return shows_progress(quiet=self.log is None)


class _Pair:
    """Both models as one network, whose logits (B, 2 * classes) are those of the original and of the int8 model."""

    def __init__(self, original: Engine, int8: Engine) -> None:
        self._engines = original, int8

    def __call__(self, pixels: Pixels) -> NDArray[np.float32]:
        return np.concatenate([engine(pixels) for engine in self._engines], axis=1)

    @staticmethod
    def first_classes(logits: NDArray[np.float32]) -> tuple[int, int]:
        """Return the classes that the two models predict."""
        before, after = (int(half.argmax()) for half in np.split(logits, 2))
        return before, after


def _failure(sample: Sample, prediction: Prediction) -> str:
    """Describe an image that could not be read.

    Raises:
        RefusedError: a model computed something else than numbers for it.
    """
    error = prediction.error
    assert error is not None
    if error.kind == "non_finite":
        raise RefusedError(f"The logits for {printable(sample.image.path)} are not finite", why="nothing was written")
    return describe_failure(sample.image.path, error)
