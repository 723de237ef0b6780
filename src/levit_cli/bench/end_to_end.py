"""From file to record over a folder, as ``levit predict`` does it, with a clock at every joint.

One step is one passage through the images: read, decode, resize, network, a record in jsonl that goes nowhere. The
first passage is not timed, so the files then come from memory and not from the disk.
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

from levit_cli.bench.models import Net, RandomWeights
from levit_cli.bench.protocol import Protocol, Step, Timing, interleave
from levit_cli.bench.results import printable_name, rounded
from levit_cli.checkpoints import Checkpoint
from levit_cli.data.inputs import SUFFIXES, Input, walk
from levit_cli.engines import EngineSpec, make_engine, usable_threads
from levit_cli.errors import InputError, UsageError
from levit_cli.images.decode import decode
from levit_cli.images.transforms import Transform
from levit_cli.predict.pipeline import Prefetcher, Stats, predict
from levit_cli.predict.reader import Reader, open_regular
from levit_cli.predict.records import JsonLines
from levit_cli.predict.writers import Records
from levit_cli.system.output import Sink

MOST_IMAGES = 256
MOST_LISTED = 100_000
PROTOCOL = Protocol("quick", warmup_s=0, duration_s=0, rounds=3, average="median", untimed=0)
BATCH = 16
TOP_K = 5
PARTS = ("decode", "resize", "network", "output")


@dataclass(frozen=True)
class Passage:
    """What the passages of one net took.

    Args:
        images: in one passage.
        failed: of them, because they could not be read.
        parts_s: seconds of one thread for one image, by the names of ``PARTS``.
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
        """Of one image's work, all parts together."""
        return self.parts_s[part] / sum(self.parts_s.values())


def images_of(folder: Path) -> list[Input]:
    """At most ``MOST_IMAGES`` of a folder, spread evenly over it.

    Raises:
        UsageError: it is no folder, or holds no image that can be read.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder", hint="--end-to-end takes one that holds images")
    listed = [item for item in itertools.islice(walk(str(folder)), MOST_LISTED) if item.error is None]
    if not listed:
        raise UsageError(f"No images in {folder}", why=f"looked for {' '.join(SUFFIXES)}")
    count = min(len(listed), MOST_IMAGES)
    chosen = [listed[number * len(listed) // count] for number in range(count)]
    if not any(map(_is_readable, chosen)):
        raise UsageError(f"No image in {folder} can be read", hint="levit predict says what is wrong with each")
    return chosen


def _is_readable(item: Input) -> bool:
    try:
        with open_regular(item.path) as file:
            decode(file)
    except (InputError, OSError):
        return False
    return True


def measure_folder(
    folder: Path, nets: list[Net], spec: EngineSpec, batch_size: int | None, on_step: Callable[[str], None]
) -> list[Passage]:
    """Passages of each LeViT among the nets, interleaved."""
    images = images_of(folder)
    lines = {
        net.name: _Line(net.made_of, images, spec, batch_size or BATCH)
        for net in nets
        if not isinstance(net.made_of, str)
    }
    steps: dict[str, Step] = {name: line.run for name, line in lines.items()}
    timings = interleave(steps, PROTOCOL, on_step=lambda text: on_step(f"{text}, end to end"))
    return [line.passage(name, folder, timings[name]) for name, line in lines.items()]


class _Seconds(NamedTuple):
    """Of one passage, summed over threads."""

    decode: float
    resize: float
    network: float
    output: float


class _Line:
    """Everything from the file to the record, for one net."""

    def __init__(
        self, weights: RandomWeights | Checkpoint, images: list[Input], spec: EngineSpec, batch_size: int
    ) -> None:
        self.images, self.batch_size, self.workers = images, batch_size, usable_threads()
        self.transform, self.labels = weights.transform, weights.labels
        threads = usable_threads(spec.threads)
        spec = replace(spec, threads=threads, streams=threads, batch_size=batch_size)
        self.engine = make_engine(weights, spec)
        self.passages: list[_Seconds] = []
        self.failed = 0

    def run(self) -> None:
        """One passage."""
        reader, stats, output_s = _ClockedReader(self.transform), Stats(), 0.0
        ahead = Prefetcher(self.images, reader, batch_size=self.batch_size, workers=self.workers)
        predictions = predict(ahead, self.engine, top_k=TOP_K, streams=self.engine.spec.streams, stats=stats)
        with Sink(Path(os.devnull)) as sink:
            writer = Records(sink, JsonLines(self.labels, TOP_K))
            for prediction in predictions:
                start = time.perf_counter()
                writer.write(prediction)
                output_s += time.perf_counter() - start
            writer.finish()
        self.failed = stats.failed
        self.passages.append(_Seconds(sum(reader.decode_s), sum(reader.resize_s), stats.network_s, output_s))

    def passage(self, model: str, folder: Path, timing: Timing) -> Passage:
        """What the timed passages took; the first one was to warm up."""
        timed = self.passages[-len(timing.steps) :]
        per_image = (median(seconds) / len(self.images) for seconds in zip(*timed, strict=True))
        return Passage(
            model, folder, self.engine.spec, self.workers, self.batch_size, len(self.images), self.failed, timing,
            dict(zip(PARTS, per_image, strict=True)),
        )  # fmt: skip


class _ClockedReader(Reader):
    """A ``Reader`` that knows what it took, apart for decoding and resizing."""

    def __init__(self, transform: Transform) -> None:
        super().__init__(transform)
        self.decode_s: list[float] = []  # appended to from many threads
        self.resize_s: list[float] = []
        self._resize, self._preprocess = self._preprocess, self._clocked_resize

    def _image(self, item: Input) -> Image:
        start = time.perf_counter()
        image = super()._image(item)
        self.decode_s.append(time.perf_counter() - start)
        return image

    def _clocked_resize(self, image: Image, transform: Transform) -> NDArray[np.uint8]:
        start = time.perf_counter()
        pixels = self._resize(image, transform)
        self.resize_s.append(time.perf_counter() - start)
        return pixels


def records(passages: list[Passage]) -> list[dict[str, Any]]:
    """For the document."""
    return [
        {
            "model": printable_name(each.model),
            "engine": each.spec.engine,
            "precision": each.spec.precision,
            "batch_size": each.batch_size,
            "threads": each.spec.threads,
            "workers": each.workers,
            "images": each.images,
            "failed": each.failed,
            "images_per_s": rounded(each.images_per_s),
            "cv": rounded(each.timing.cv),
            "ms_per_image": {part: rounded(1000 * seconds) for part, seconds in each.parts_s.items()},
        }
        for each in passages
    ]
