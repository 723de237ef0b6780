"""The operators of Ray Data: list, read and decode, compute. They use the reader, the engine and the records of a local
run.

A row of a dataset is a chunk of inputs, so that the overhead of Ray is per chunk. Three operators are connected, and
Ray Data limits what is between them: one task lists the inputs on the machine of the driver; tasks read and decode
chunks; a pool of actors, each with one engine, computes their results and encodes them as records. The driver receives
the records and writes them (``parts``).
"""

import os
import pickle
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray
from ray.data import ActorPoolStrategy, DataContext, Dataset, TaskPoolStrategy
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from levit_cli import __version__
from levit_cli.checkpoints import Checkpoint
from levit_cli.data.input import Input
from levit_cli.data.inputs import InputOptions
from levit_cli.data.skipped import Skipped
from levit_cli.distributed.done import Done, DoneItems, Key, hash_of
from levit_cli.distributed.parts import Record, with_key
from levit_cli.engines import EngineSpec
from levit_cli.errors import InputError, LevitError, RefusedError, UsageError
from levit_cli.images.transforms import Transform
from levit_cli.predict.model import make_prediction_engine
from levit_cli.predict.pipeline import Stats
from levit_cli.predict.prefetch import Decoded, DecodeOptions, Decoder, Prefetcher
from levit_cli.predict.reader import Reader
from levit_cli.predict.run import Kind, Task
from levit_cli.system.progress import silent

DECODE_BATCH = 16  # limits how many images are decoded ahead
CHUNK = 128  # images; more make the overhead of Ray smaller, fewer balance the load better and need less memory
NO_PROGRESS_S = 600.0  # as when an actor's machine is lost, and no other has room for it
ONE_ROW = 1  # bytes: each row is a block of its own


@dataclass(frozen=True)
class Resources:
    """What the actors and the tasks of a run request from Ray.

    Half of an actor's cores are requested by the actor. The other half is for decoding, whose tasks request nothing,
    but their number is limited. So the actors of a lost machine find room on the others.

    Args:
        actors: the number of actors, each with one engine.
        cpus_per_actor: the number of cores per actor, for the network and the decoding of its images.
        gpus_per_actor: the number of GPUs per actor.
    """

    actors: int
    cpus_per_actor: float
    gpus_per_actor: float

    @property
    def cpus_of_actor(self) -> float:
        """The number of cores that an actor requests."""
        return self.cpus_per_actor / 2

    @property
    def decode_tasks(self) -> int:
        return max(1, round(self.actors * self.cpus_per_actor))


@dataclass(frozen=True)
class Work:
    """What a run computes.

    Args:
        inputs: the inputs, in which archives are not opened.
        transform: the preprocessing.
        kind: what is computed and how its records are written; None where nothing is computed.
        checkpoint: a reference to the ``Checkpoint`` in the object store.
        spec: the settings of each engine; its precision is not ``auto``, so that all compute the same.
        batch_size: the maximum number of images that an engine computes at once.
        folder: the current folder of the driver, to which the paths are relative.
    """

    inputs: InputOptions
    transform: Transform
    decode: DecodeOptions
    kind: Kind[Any] | None
    checkpoint: Any
    spec: EngineSpec
    batch_size: int
    folder: str
    version: str = __version__


class Source(NamedTuple):
    """One of the listed inputs.

    Args:
        done: its items that have a record already.
    """

    number: int
    item: Input
    done: DoneItems


class End(NamedTuple):
    """The end of an archive, or of the list of all sources if ``source`` is None.

    Args:
        num_items: the number of its images, or of all sources.
        containers: the number of archives and Parquet files among all sources.
        skipped: what was skipped in it.
    """

    source: int | None
    num_items: int
    containers: int
    skipped: Skipped


class _Chunk(NamedTuple):
    """Inputs that were decoded, or their errors.

    Args:
        keys: of each input.
        paths: of each input.
        errors: of each input; None for one that was decoded.
        shape: of the pixels of all decoded inputs, (N, H, W, 3).
        ends: the archives that end in this chunk.
    """

    keys: list[Key]
    paths: list[str]
    errors: list[InputError | None]
    shape: tuple[int, ...]
    ends: list[End]


class Results(NamedTuple):
    """The records of a chunk."""

    records: list[Record]
    ends: list[End]


def dataset(work: Work, done: Done, resources: Resources) -> Dataset:
    """Return the dataset whose rows are the results of all inputs without a record."""
    context = DataContext.get_current()
    context.target_max_block_size = ONE_ROW
    context.execution_no_progress_timeout_s = NO_PROGRESS_S
    context.raise_original_map_exception = True  # else the error of the worker is lost when it is pickled
    context.enable_progress_bars = context.print_on_execution_start = False
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    listed = ray.data.read_datasource(_Listing(work, done), override_num_blocks=1, num_cpus=0, label_selector=here)
    decoded = listed.map_batches(
        _decode, fn_args=(_without_model(work),), batch_size=None, batch_format="pyarrow", num_cpus=0,
        compute=TaskPoolStrategy(resources.decode_tasks),
    )  # fmt: skip
    return decoded.map_batches(
        _Compute, fn_constructor_args=(work,), batch_format="pyarrow",
        batch_size=1 if resources.gpus_per_actor else None,  # of rows; Ray Data requires a number for GPUs
        compute=ActorPoolStrategy(size=resources.actors),
        num_cpus=resources.cpus_of_actor,
        **({"num_gpus": resources.gpus_per_actor} if resources.gpus_per_actor else {}),
    )  # fmt: skip


def results_of(data: Dataset) -> Generator[Results, None, None]:
    """Run a dataset and yield its results as they arrive."""
    for table in data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
        for row in table.column("results"):
            yield Results(*pickle.loads(row.as_buffer()))


def _without_model(work: Work) -> Work:
    return replace(work, checkpoint=None, kind=None)


def _row(**columns: Any) -> pa.Table:
    """Return a table of one row, whose values are bytes; buffers are not copied."""
    return pa.table({name: _binary(value) for name, value in columns.items()})


def _binary(value: Any) -> pa.Array:
    data = pa.py_buffer(value)
    offsets = pa.py_buffer(np.array([0, data.size], np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, data])


class _Listing(Datasource):  # type: ignore[misc]
    """Lists the inputs in one task, which yields a row per chunk."""

    def __init__(self, work: Work, done: Done) -> None:
        super().__init__()
        self._work, self._done = _without_model(work), done

    def get_read_tasks(self, *_: Any, **__: Any) -> list[ReadTask]:
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(partial(_listed, self._work, self._done), metadata)]

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_name(self) -> str:
        return "List"


def _listed(work: Work, done: Done) -> Iterator[pa.Table]:
    """Yield the sources that may have inputs without a record, and the end of the list."""
    _prepare(work)
    skipped, end = Skipped(), [0, 0]
    for sources in _chunks(_unfinished(work.inputs, done, skipped, end)):
        yield _row(sources=pickle.dumps((sources, [])))
    yield _row(sources=pickle.dumps(([], [End(None, end[0], end[1], skipped)])))


def _unfinished(inputs: InputOptions, done: Done, skipped: Skipped, end: list[int]) -> Iterator[Source]:
    for number, item in enumerate(inputs.stream(skipped)):
        end[0] += 1
        end[1] += item.members is not None
        items = done.of(number)
        if item.members is not None or not _is_done(items, 0, item.path):
            yield Source(number, item, items)


def _is_done(done: DoneItems, item: int, path: str) -> bool:
    """Whether an input has a record.

    Raises:
        UsageError: there is a record of another path with the same number.
    """
    found = done.hash_at(item)
    if found is not None and found != hash_of(os.fsencode(path)):
        raise UsageError(
            "The inputs are not those of the interrupted run",
            why=f"{path} is where another input was",
            hint="restore the inputs, or begin again with --overwrite",
        )
    return found is not None


def _chunks(sources: Iterator[Source]) -> Iterator[list[Source]]:
    """Yield chunks of sources; an archive or a Parquet file is a chunk of its own, which one task reads."""
    chunk: list[Source] = []
    for source in sources:
        if source.item.members is not None:
            yield [source]
            continue
        chunk.append(source)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _prepare(work: Work) -> None:
    """Prepare a worker process: relative paths are those of the driver.

    Raises:
        RefusedError: the worker has another version of levit.
    """
    if work.version != __version__:
        why = f"it has {__version__}, the driver has {work.version}"
        raise RefusedError(
            "A worker has another version of levit", why=why, hint="install the same one on all machines"
        )
    with suppress(OSError):  # the folder exists on the driver's machine only
        os.chdir(work.folder)


def _decode(table: pa.Table, work: Work) -> Iterator[pa.Table]:
    """Read and decode the inputs of a chunk of sources, and yield them in chunks of images."""
    _prepare(work)
    sources, ends = pickle.loads(table.column("sources")[0].as_buffer())
    inputs = _Inputs(sources)
    decoder = _decoder(
        work.transform,
        replace(work.decode, workers=1, isolate=work.decode.isolate or _is_retry()),
        offline=work.inputs.offline,
    )
    prefetcher = decoder.prefetch(inputs, DECODE_BATCH)
    try:
        outcomes = _outcomes(prefetcher)
        while batch := list(islice(outcomes, CHUNK)):
            yield _decoded_row([inputs.keys.popleft() for _ in batch], batch, [])
    finally:
        prefetcher.stop()
    if ends or inputs.ends:
        yield _decoded_row([], [], [*ends, *inputs.ends])


@lru_cache(maxsize=1)
def _decoder(transform: Transform, options: DecodeOptions, *, offline: bool = False) -> Decoder:
    """Return the decoder of this worker process, whose own processes live as long."""
    return Decoder(Reader(transform, options.decoding, options.resizer, offline=offline), options)


def _is_retry() -> bool:
    """Whether this task runs again, because its worker died. An image may have crashed it, so it is isolated now."""
    with suppress(AttributeError):  # Ray has no public function for it
        return bool(ray._private.worker.global_worker.core_worker.get_current_task_attempt_number())
    return True


class _Inputs:
    """The inputs of sources that have no record. One thread iterates over them, another reads the attributes.

    Attributes:
        keys: of the inputs that were yielded.
        ends: of the archives that were read to their end.
    """

    def __init__(self, sources: Iterable[Source]) -> None:
        self._sources = sources
        self.keys: deque[Key] = deque()
        self.ends: list[End] = []

    def __iter__(self) -> Iterator[Input]:
        for source in self._sources:
            if source.item.members is None:
                self.keys.append(Key(source.number, 0))
                yield source.item
            else:
                yield from self._members(source)

    def _members(self, source: Source) -> Iterator[Input]:
        assert source.item.members is not None
        skipped, count = Skipped(), 0
        for count, item in enumerate(source.item.members(skipped), start=1):
            if not _is_done(source.done, count - 1, item.path):
                self.keys.append(Key(source.number, count - 1))
                yield item
        self.ends.append(End(source.number, count, 0, skipped))


class _Outcome(NamedTuple):
    path: str
    decoded: Decoded | InputError


def _outcomes(prefetcher: Prefetcher) -> Iterator[_Outcome]:
    end = None
    while end is None:
        tasks, end = prefetcher.take()
        for task in tasks:
            yield _Outcome(task.item.path, prefetcher.result(task))
    if end.error is not None:
        raise end.error


def _decoded_row(keys: list[Key], outcomes: list[_Outcome], ends: list[End]) -> pa.Table:
    errors = [outcome.decoded if isinstance(outcome.decoded, InputError) else None for outcome in outcomes]
    pixels = [outcome.decoded.pixels for outcome in outcomes if isinstance(outcome.decoded, Decoded)]
    stacked = np.stack(pixels) if pixels else np.empty(0, np.uint8)
    chunk = _Chunk(keys, [outcome.path for outcome in outcomes], errors, stacked.shape, ends)
    return _row(chunk=pickle.dumps(tuple(chunk)), pixels=stacked)


class _Compute:
    """An actor: one engine, which computes the results of chunks."""

    def __init__(self, work: Work) -> None:
        self._error: LevitError | None = None
        try:
            self._task, self._batch_size = _loaded(work)
            assert self._task.records is not None
            self._encode = self._task.records.encode
        except LevitError as error:
            self._error = error  # raised by the first call, because Ray repeats what fails here
        except Exception as error:
            self._error = RefusedError("A worker cannot load the model", why=f"{type(error).__name__}: {error}"[:300])

    def __call__(self, table: pa.Table) -> pa.Table:
        if self._error is not None:
            raise self._error
        chunk = _Chunk(*pickle.loads(table.column("chunk")[0].as_buffer()))
        pixels = np.frombuffer(table.column("pixels")[0].as_buffer(), np.uint8).reshape(chunk.shape)
        return _row(results=pickle.dumps((self._records(chunk, pixels), chunk.ends)))

    def _records(self, chunk: _Chunk, pixels: NDArray[np.uint8]) -> list[Record]:
        if not chunk.keys:
            return []
        inputs = [Input(path, error) for path, error in zip(chunk.paths, chunk.errors, strict=True)]
        rows = iter(pixels)
        prefetcher = Prefetcher(inputs, lambda _: next(rows), batch_size=self._batch_size, workers=1)
        results = self._task.results(prefetcher, Stats())
        return [
            Record(key, hash_of(os.fsencode(result.path)), result.error is None, with_key(self._encode(result), key))
            for key, result in zip(chunk.keys, results, strict=True)
        ]


def _loaded(work: Work) -> tuple[Task[Any], int]:
    _prepare(work)
    assert work.kind is not None
    checkpoint: Checkpoint = ray.get(work.checkpoint)
    reader = Reader(checkpoint.transform, work.decode.decoding, work.decode.resizer)
    spec = work.spec.with_batching(work.batch_size, single=False)
    engine = make_prediction_engine(checkpoint, spec, silent, verbose=False, for_features=work.kind.for_features)
    return work.kind.make_task(checkpoint, engine, reader, None), engine.spec.batch_size
