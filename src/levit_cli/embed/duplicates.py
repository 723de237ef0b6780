"""``levit duplicates``: find images with equal pixels, and images that show the same photo."""

import base64
import tempfile
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from levit_cli.checkpoints import Checkpoint
from levit_cli.choices import TableFormat
from levit_cli.data.inputs import Input, InputOptions
from levit_cli.embed.candidates import Load, connected_photos
from levit_cli.embed.group_output import BY_SUFFIX, Report
from levit_cli.embed.groups import Facts, groups_of, sorted_groups
from levit_cli.embed.index import open_index, require_not_written, unit_blocks
from levit_cli.embed.linkage import Members, Vectors, distinct, similar_components, split_components
from levit_cli.embed.same_photo import SIDE, Small, small_images
from levit_cli.engines import EngineSpec, LevitEngine
from levit_cli.errors import ExitCode, InputError, OutputError, UsageError, raise_faults, reason_of
from levit_cli.images.thumbnail import thumbnail
from levit_cli.predict.model import ModelOptions, conflicts
from levit_cli.predict.pipeline import Row, Stats, normalized, results_of
from levit_cli.predict.prefetch import DecodeOptions, Pixels, Prefetcher
from levit_cli.predict.reader import Reader, read_image
from levit_cli.predict.records import RecordFormat
from levit_cli.predict.run import DisplayOptions, Kind, OutputOptions, input_faults, output_faults, run_task
from levit_cli.predict.writers import Writer
from levit_cli.system.cpu import usable_threads
from levit_cli.system.output import (
    Document,
    OutputFile,
    Sink,
    Target,
    choose_format,
    is_terminal,
    require_free,
    write_output,
)
from levit_cli.system.progress import Log

if TYPE_CHECKING:
    from PIL.Image import Image

    from levit_cli.predict.resume.fingerprint import Fingerprint

# The lowest cosine similarity of two duplicates. With the images, pairs of similar vectors are compared pixel by pixel,
# so that the vectors need not separate copies from similar scenes.
WITH_IMAGES, WITHOUT_IMAGES = 0.7, 0.97
THUMBNAIL_PX = 360  # twice the size on the page, for high-density screens
NUM_SMALL = SIDE * SIDE * 3


@dataclass(frozen=True)
class DuplicateOptions:
    """How duplicates are found and written.

    Args:
        threshold: the lowest cosine similarity of two images in a group; None for the default.
        format: the format of the output; None selects it by the suffix of the output.
        page: the file of an HTML page that shows the groups.
    """

    threshold: float | None = None
    format: TableFormat | None = None
    page: Path | None = None


def find_duplicates(
    inputs: InputOptions,
    model: ModelOptions,
    spec: EngineSpec,
    decode_options: DecodeOptions,
    output: OutputOptions,
    options: DuplicateOptions,
    display: DisplayOptions,
    log: Log,
    *,
    batch_size: int,
) -> ExitCode:
    """Write the groups of duplicates among the inputs.

    Raises:
        LevitError: as for ``levit_cli.predict.run.classify``.
    """
    format = _format(
        output, options, [*input_faults(inputs, "compare"), *conflicts(model, spec, decode_options.resizer)]
    )
    report = _report(output, options, format, display, log, [*inputs.arguments])

    def task(checkpoint: Checkpoint, engine: LevitEngine, reader: Reader, path: Path | None) -> _Comparison:
        del checkpoint
        folder = path.parent if path is not None else None
        return _Comparison(engine, reader, inputs, report, options.threshold or WITH_IMAGES, folder)

    kind = Kind(task, is_replaced=True, for_features=True)
    return run_task(kind, inputs, model, spec, decode_options, output, display, log, batch_size=batch_size)


def group_index(
    index_path: Path, output: OutputOptions, options: DuplicateOptions, display: DisplayOptions, log: Log
) -> ExitCode:
    """Write the groups of similar vectors of an index. The images are not read, so no group is known to be exact.

    Raises:
        LevitError: the options were refused, the index cannot be read, or the output cannot be written.
    """
    format = _format(output, options, [])
    index = open_index(index_path)
    require_not_written(index_path, output.path)
    require_free(output.path, [index_path], overwrite=output.overwrite)
    report = _report(output, options, format, display, log, [str(index_path)])
    paths: list[str] = []
    parts = [np.zeros((0, index.size), np.float32)]
    for names, vectors in unit_blocks(index):
        paths += names
        parts.append(vectors)
    found = similar_groups(np.concatenate(parts), None, options.threshold or WITHOUT_IMAGES)
    groups = [group for members, lowest in found for group in groups_of(members, paths, {}, lowest)]
    content = report.complete(sorted_groups(iter(groups)), [], _facts_of_file)
    write_output(output.path, content)
    return ExitCode.OK


def _format(output: OutputOptions, options: DuplicateOptions, others: list[UsageError]) -> TableFormat:
    faults = [*others, *(output_faults(output) if options.page is None else [])]  # --overwrite may be for the page
    if options.threshold is not None and not 0 < options.threshold <= 1:  # also true for NaN
        faults.append(UsageError(f"--threshold must be above 0 and at most 1, not {options.threshold}"))
    default: TableFormat = "table" if is_terminal() else "jsonl"
    try:
        format = choose_format(options.format, output.path, BY_SUFFIX, default)
    except UsageError as error:
        raise_faults([*faults, error])
        raise
    raise_faults(faults)
    return format


def _report(
    output: OutputOptions, options: DuplicateOptions, format: TableFormat, display: DisplayOptions, log: Log,
    inputs: list[str],
) -> Report:  # fmt: skip
    if options.page is not None:
        from levit_cli.system.extras import require_extra

        require_extra("plot", "The page of duplicates")
        require_free(options.page, inputs, overwrite=output.overwrite)
    return Report(format, options.page, log if not display.quiet else None)


def similar_groups(vectors: Vectors, load: Load | None, threshold: float) -> Iterator[tuple[Members, float]]:
    """Yield the numbers of the images of each group, and the lowest similarity in the group.

    Args:
        vectors: (N, C), divided by their norms.
        load: returns the small images with these numbers; None if there are only vectors.
        threshold: the lowest similarity in a group.
    """
    units, originals = distinct(vectors)
    if load is None:
        components = similar_components(units, threshold)
    else:
        firsts = np.array([numbers[0] for numbers in originals], np.intp)
        components = connected_photos(units, lambda numbers: load(firsts[numbers]), threshold)
    is_grouped = np.zeros(len(units), np.bool_)
    for members, lowest in split_components(units, components, threshold):
        is_grouped[members] = True
        yield [number for member in members for number in originals[member]], lowest
    for numbers, grouped in zip(originals, is_grouped, strict=True):
        if len(numbers) > 1 and not grouped:
            yield numbers, 1.0


@dataclass(frozen=True)
class _Described:
    """The vector and the small image of one input, or its error."""

    path: str
    vector: Row | None = field(default=None, repr=False, compare=False)
    small: NDArray[np.uint8] | None = field(default=None, repr=False, compare=False)
    error: InputError | None = None


def _described(path: str, outcome: Row | InputError) -> _Described:
    if isinstance(outcome, InputError):
        return _Described(path, error=outcome)
    vector = outcome[:-NUM_SMALL]
    if not np.isfinite(vector).all():
        return _Described(path, error=InputError("non_finite", "the features contain NaN or infinity"))
    return _Described(path, normalized(vector), outcome[-NUM_SMALL:].astype(np.uint8))


@dataclass(frozen=True)
class _Comparison:
    """The task of ``levit duplicates``.

    Args:
        inputs: listed again to read the images of groups once more.
        folder: of the temporary file; None for that of the system.
    """

    engine: LevitEngine
    reader: Reader
    inputs: InputOptions
    report: Report
    threshold: float
    folder: Path | None

    records: RecordFormat[_Described] | None = None

    def results(self, prefetcher: Prefetcher, stats: Stats) -> Generator[_Described, None, None]:
        return results_of(prefetcher, self._network, _described, streams=self.engine.spec.streams, stats=stats)

    def _network(self, pixels: Pixels) -> Row:
        """Return the features and the small images (B, C + NUM_SMALL)."""
        small = small_images(pixels).reshape(len(pixels), NUM_SMALL)
        return np.concatenate([self.engine.features(pixels), small.astype(np.float32)], axis=1)

    def fingerprint(self) -> "Fingerprint":
        raise NotImplementedError("the output cannot be resumed")

    def target(self, target: Target, output: Sink | OutputFile) -> Target:
        return Document(output, keeps_partial=False) if isinstance(output, OutputFile) else target

    def writer(self, target: Target, *, continues: bool) -> Writer[_Described]:
        del continues
        return _Collector(target, self)

    def restore_journal(self, journal: OutputFile) -> bool:
        del journal
        return False


class _Collector:
    """Collects all images, and writes the groups at the end."""

    def __init__(self, target: Target, task: _Comparison) -> None:
        self._target, self._task = target, task
        self._paths: list[str] = []
        self._vectors: list[Row] = []
        self._small = _SmallImages(task.folder)
        self._errors: list[tuple[str, InputError]] = []

    def write(self, image: _Described) -> None:
        if image.error is not None:
            self._errors.append((image.path, image.error))
            return
        assert image.vector is not None
        assert image.small is not None
        self._paths.append(image.path)
        self._vectors.append(image.vector)
        self._small.add(image.small)

    def finish(self) -> None:
        vectors = np.stack(self._vectors) if self._vectors else np.zeros((0, 1), np.float32)
        with closing(self._small):
            found = [*similar_groups(vectors, self._small.load, self._task.threshold)]
        facts = self._facts([number for members, _ in found for number in members])
        groups = (group for members, lowest in found for group in groups_of(members, self._paths, facts, lowest))
        by_path = {self._paths[number]: found_facts for number, found_facts in facts.items()}
        self._target.write(self._task.report.complete(sorted_groups(groups), self._errors, by_path.get))

    def _facts(self, numbers: Members) -> dict[int, Facts]:
        """Decode images again and return what is needed to find equal pixels and the best image."""
        waiting: defaultdict[str, deque[int]] = defaultdict(deque)
        for number in sorted(numbers):
            waiting[self._paths[number]].append(number)
        again = self._task.inputs.stream() if self._task.inputs.can_be_read_again else map(Input, waiting)
        wanted = ((waiting[item.path].popleft(), item) for item in again if waiting.get(item.path))
        with_thumbnail = self._task.report.page is not None

        def read(item: Input) -> Facts | None:
            with suppress(InputError):
                return read_facts(self._task.reader.fetch(item), with_thumbnail=with_thumbnail)
            return None

        return dict(_in_threads(read, wanted))


def read_facts(item: Input, *, with_thumbnail: bool) -> Facts | None:
    """Decode an image and return its facts; None if it cannot be read."""
    with suppress(InputError, OSError, MemoryError):
        image = read_image(item)
        digest = blake2b(repr(image.size).encode() + image.tobytes(), digest_size=16).digest()
        num_bytes = item.size if item.content is None else len(item.content)
        return Facts(digest, image.width, image.height, num_bytes, _as_text(image) if with_thumbnail else "")
    return None


def _facts_of_file(path: str) -> Facts | None:
    return read_facts(Input(path), with_thumbnail=True)


def _in_threads(
    compute: Callable[[Input], Facts | None], items: Iterable[tuple[int, Input]]
) -> Iterator[tuple[int, Facts]]:
    """Yield the results of items that have one, in order; only a few items are held at a time."""
    running: deque[tuple[int, Future[Facts | None]]] = deque()
    threads = usable_threads()
    with ThreadPoolExecutor(threads) as pool:
        for number, item in items:
            running.append((number, pool.submit(compute, item)))
            if len(running) > 2 * threads:
                yield from _result(*running.popleft())
        for number, future in running:
            yield from _result(number, future)


def _result(number: int, future: "Future[Facts | None]") -> Iterator[tuple[int, Facts]]:
    facts = future.result()
    if facts is not None:
        yield number, facts


class _SmallImages:
    """The small images of a run, in a temporary file without a name.

    Raises (each method):
        OutputError: it cannot be written.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder if folder is not None and folder.is_dir() else Path(tempfile.gettempdir())
        with self._writing():
            self._file: IO[bytes] = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115

    def add(self, small: NDArray[np.uint8]) -> None:
        with self._writing():
            self._file.write(small.tobytes())

    def load(self, numbers: NDArray[np.intp]) -> Small:
        """Return the small images (B, SIDE, SIDE, 3) with these numbers."""
        with self._writing():
            self._file.flush()
            images = []
            for number in numbers.tolist():
                self._file.seek(number * NUM_SMALL)
                images.append(np.frombuffer(self._file.read(NUM_SMALL), np.uint8))
        return np.stack(images).reshape(-1, SIDE, SIDE, 3) if images else np.zeros((0, SIDE, SIDE, 3), np.uint8)

    def close(self) -> None:
        with suppress(OSError):  # closing flushes, and the disk may be full
            self._file.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(f"Cannot write a temporary file in {self._folder}", why=reason_of(error)) from error


def _as_text(image: "Image") -> str:
    return base64.b64encode(thumbnail(image, THUMBNAIL_PX)).decode("ascii")
