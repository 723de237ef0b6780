"""Time the pipeline of ``levit predict`` on a folder, from file to record, and each part of the pipeline.

One step classifies all images once: read, decode, resize, network, and a jsonl record that is written to the null
device. The first step is a warm-up, so the timed steps read files from the page cache, not from the disk.
"""

import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from levit_cli.bench.models import BenchModel, RandomWeights
from levit_cli.bench.protocol import Step, Timing, interleave, single_steps
from levit_cli.bench.results import rounded, utf8_name
from levit_cli.checkpoints import Checkpoint
from levit_cli.data.inputs import SUFFIXES, Input, from_paths
from levit_cli.data.skipped import READ_ARCHIVE_SUFFIXES, Skipped
from levit_cli.engines import EngineSpec, make_engine
from levit_cli.errors import InputError, UsageError
from levit_cli.images.transforms import Transform
from levit_cli.predict.pipeline import Prefetcher, Stats, predict
from levit_cli.predict.reader import Reader, read_image
from levit_cli.predict.records import JsonLines
from levit_cli.predict.writers import Records
from levit_cli.system.cpu import usable_threads
from levit_cli.system.output import Sink

MAX_IMAGES = 256
MAX_LISTED = 100_000
PROTOCOL = single_steps(rounds=3)
BATCH_SIZE = 16
TOP_K = 5
PARTS = ("decode", "resize", "network", "output")


@dataclass(frozen=True)
class EndToEndRun:
    """The timings of one model on a folder.

    Args:
        images: number of images in one step.
        failed: number of them that could not be decoded.
        parts_s: thread seconds per image, for each of ``PARTS``.
    """

    model: str
    folder: Path
    spec: EngineSpec
    workers: int
    batch_size: int
    images: int
    failed: int
    timing: Timing
    parts_s: dict[str, float]

    @property
    def images_per_s(self) -> float:
        return self.images / self.timing.median_s

    def share(self, part: str) -> float:
        """The fraction of an image's total thread time that a part takes."""
        return self.parts_s[part] / sum(self.parts_s.values())


def images_of(folder: Path, skipped: Skipped | None = None) -> list[Input]:
    """Return at most ``MAX_IMAGES`` images of a folder or an archive, evenly spaced in its listing.

    Args:
        skipped: counts what is skipped in the folder.

    Raises:
        UsageError: ``folder`` is neither, or no image in it can be decoded.
    """
    if not folder.is_dir() and not (folder.is_file() and folder.name.lower().endswith(READ_ARCHIVE_SUFFIXES)):
        raise UsageError(f"{folder} is not a folder", hint="--end-to-end needs a folder of images or an archive")
    stream = from_paths([str(folder)], skipped)
    first = [*itertools.islice(stream, 1)]
    # the images of a compressed tar archive are read when they are listed
    limit = MAX_IMAGES if first and first[0].content is not None else MAX_LISTED
    listed = [item for item in itertools.islice(itertools.chain(first, stream), limit) if item.error is None]
    if not listed:
        raise UsageError(f"No images in {folder}", why=f"looked for {' '.join(SUFFIXES)}")
    count = min(len(listed), MAX_IMAGES)
    chosen = [listed[number * len(listed) // count] for number in range(count)]
    if not any(map(_is_readable, chosen)):
        raise UsageError(f"No image in {folder} can be read", hint="run levit predict to get the error of each image")
    return chosen


def _is_readable(item: Input) -> bool:
    try:
        read_image(item)
    except (InputError, OSError):
        return False
    return True


def measure_folder(
    folder: Path, models: list[BenchModel], spec: EngineSpec, batch_size: int | None, on_turn: Callable[[str], None]
) -> list[EndToEndRun]:
    """Time each LeViT on a folder, interleaved. Baselines are left out."""
    images = images_of(folder)
    pipelines = {
        model.name: _TimedPipeline(model.weights, images, spec, batch_size or BATCH_SIZE)
        for model in models
        if not isinstance(model.weights, str)
    }
    steps: dict[str, Step] = {name: pipeline.run for name, pipeline in pipelines.items()}
    timings = interleave(steps, PROTOCOL, on_turn=lambda text: on_turn(f"{text}, end to end"))
    return [pipeline.result(name, folder, timings[name]) for name, pipeline in pipelines.items()]


class _PartSeconds(NamedTuple):
    """Seconds of each part in one step, summed over threads."""

    decode: float
    resize: float
    network: float
    output: float


class _TimedPipeline:
    """The pipeline of ``levit predict`` for one model, with its parts timed."""

    def __init__(
        self, weights: RandomWeights | Checkpoint, images: list[Input], spec: EngineSpec, batch_size: int
    ) -> None:
        self.images, self.batch_size, self.workers = images, batch_size, usable_threads()
        self.transform, self.labels = weights.transform, weights.labels
        threads = usable_threads(spec.threads)
        spec = replace(spec, threads=threads, streams=threads, batch_size=batch_size)
        self.engine = make_engine(weights, spec)
        self.steps: list[_PartSeconds] = []
        self.failed = 0

    def run(self) -> None:
        """Classify all images once."""
        reader, stats, output_s = _TimedReader(self.transform), Stats(), 0.0
        prefetcher = Prefetcher(self.images, reader, batch_size=self.batch_size, workers=self.workers)
        predictions = predict(prefetcher, self.engine, top_k=TOP_K, streams=self.engine.spec.streams, stats=stats)
        with Sink(Path(os.devnull)) as sink:
            writer = Records(sink, JsonLines(self.labels, TOP_K))
            for prediction in predictions:
                start = time.perf_counter()
                writer.write(prediction)
                output_s += time.perf_counter() - start
            writer.finish()
        self.failed = stats.failed
        self.steps.append(_PartSeconds(sum(reader.decode_s), sum(reader.resize_s), stats.network_s, output_s))

    def result(self, model: str, folder: Path, timing: Timing) -> EndToEndRun:
        """Return the medians of the timed steps, without the warm-up."""
        timed = self.steps[-len(timing.steps) :]
        per_image = (median(seconds) / len(self.images) for seconds in zip(*timed, strict=True))
        return EndToEndRun(
            model, folder, self.engine.spec, self.workers, self.batch_size, len(self.images), self.failed, timing,
            dict(zip(PARTS, per_image, strict=True)),
        )  # fmt: skip


class _TimedReader(Reader):
    """A ``Reader`` that records the seconds of decoding and of resizing each image."""

    def __init__(self, transform: Transform) -> None:
        super().__init__(transform)
        self.decode_s: list[float] = []  # appended to by several threads
        self.resize_s: list[float] = []

    def _image(self, item: Input) -> Image:
        start = time.perf_counter()
        image = super()._image(item)
        self.decode_s.append(time.perf_counter() - start)
        return image

    def preprocess(self, image: Image) -> NDArray[np.uint8]:
        start = time.perf_counter()
        pixels = super().preprocess(image)
        self.resize_s.append(time.perf_counter() - start)
        return pixels


def end_to_end_records(runs: list[EndToEndRun]) -> list[dict[str, Any]]:
    """Return the runs as JSON objects."""
    return [
        {
            "model": utf8_name(run.model),
            "engine": run.spec.engine,
            "precision": run.spec.precision,
            "batch_size": run.batch_size,
            "threads": run.spec.threads,
            "workers": run.workers,
            "images": run.images,
            "failed": run.failed,
            "images_per_s": rounded(run.images_per_s),
            "cv": rounded(run.timing.cv),
            "ms_per_image": {part: rounded(1000 * seconds) for part, seconds in run.parts_s.items()},
        }
        for run in runs
    ]
