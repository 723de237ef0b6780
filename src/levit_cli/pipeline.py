"""One stream of predictions: decode ahead on threads, batch, run, yield in input order.

There is one prediction for each input, errors included, and never another input's answer. Memory is bounded: at most
``workers * AHEAD_PER_WORKER + batch_size`` pictures wait for a batch, and two batches a stream are behind them.
A batch takes what has been asked for by then and does not wait for more input, so a slow list still streams.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, Queue
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from levit_cli.errors import InputError
from levit_cli.inputs import Input

AHEAD_PER_WORKER = 4

Pixels = NDArray[np.uint8]
Network = Callable[[Pixels], NDArray[np.float32]]


class Ranked(NamedTuple):
    """A class and its softmax probability over all classes."""

    class_index: int
    prob: float


@dataclass(frozen=True)
class Prediction:
    """The answer to one input: the likeliest classes, or why there is none."""

    path: str
    top: tuple[Ranked, ...] = ()
    error: InputError | None = None


class _Answers(NamedTuple):
    """A batch's predictions and what they took."""

    predictions: list[Prediction]
    prepare_s: float
    wait_s: float
    network_s: float


@dataclass
class Stats:
    """Where the time went. ``prepare_s``, ``wait_s`` and ``network_s`` add up over their threads."""

    pictures: int = 0
    failed: int = 0
    batches: int = 0
    prepare_s: float = 0.0
    wait_s: float = 0.0
    network_s: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self.started

    def add(self, answers: _Answers) -> None:
        self.pictures += len(answers.predictions)
        self.failed += sum(prediction.error is not None for prediction in answers.predictions)
        self.batches += 1
        self.prepare_s += answers.prepare_s
        self.wait_s += answers.wait_s
        self.network_s += answers.network_s


class _Prepared(NamedTuple):
    pixels: Pixels
    seconds: float


class _Task(NamedTuple):
    item: Input
    pixels: "Future[_Prepared]"


class _End(NamedTuple):
    """Behind the last task; with what the list raised, if it did."""

    error: BaseException | None = None


def predict(
    inputs: Iterable[Input],
    network: Network,
    prepare: Callable[[Input], Pixels],
    *,
    top_k: int,
    batch_size: int,
    workers: int,
    streams: int = 1,
    stats: Stats | None = None,
) -> Iterator[Prediction]:
    """Classify a stream of inputs.

    Args:
        network: (B, H, W, 3) bytes -> (B, classes) logits; runs on ``streams`` threads at once.
        prepare: reads one input into (H, W, 3) bytes; runs on ``workers`` threads.
        top_k: classes per prediction, at most.
        stats: filled while the stream runs.

    Yields:
        One prediction for each input, in order.
    """
    stats = stats if stats is not None else Stats()
    line = _Line(network, prepare, top_k, batch_size, workers, streams)
    try:
        for answers in line.answers(inputs):
            stats.add(answers)
            yield from answers.predictions
    finally:
        line.stop()


class _Line:
    """The threads between inputs and answers: one lists, ``workers`` decode, one forms batches, ``streams`` compute."""

    def __init__(
        self,
        network: Network,
        prepare: Callable[[Input], Pixels],
        top_k: int,
        batch_size: int,
        workers: int,
        streams: int,
    ) -> None:
        self._network, self._prepare = network, prepare
        self._top_k, self._batch_size = top_k, batch_size
        self._slots = threading.Semaphore(workers * AHEAD_PER_WORKER + batch_size)
        self._tasks: Queue[_Task | _End] = Queue()
        self._running: Queue[Future[_Answers] | _End] = Queue(maxsize=streams)
        self._decoders = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        self._streams = ThreadPoolExecutor(streams, thread_name_prefix="network")
        self._stopped = threading.Event()

    def answers(self, inputs: Iterable[Input]) -> Iterator["_Answers"]:
        # daemons: the list may wait for standard input forever
        threading.Thread(target=self._list, args=(inputs,), name="inputs", daemon=True).start()
        threading.Thread(target=self._batch, name="batches", daemon=True).start()
        while not isinstance(answers := self._running.get(), _End):
            yield answers.result()
        if answers.error is not None:
            raise answers.error

    def stop(self) -> None:
        self._stopped.set()
        self._slots.release()
        self._decoders.shutdown(wait=False, cancel_futures=True)
        self._streams.shutdown(wait=False, cancel_futures=True)
        with suppress(Empty):
            while True:  # somebody may be waiting for room
                self._running.get_nowait()

    def _list(self, inputs: Iterable[Input]) -> None:
        try:
            for item in inputs:
                self._slots.acquire()
                if self._stopped.is_set():
                    return
                self._tasks.put(_Task(item, self._decoders.submit(_timed, self._prepare, item)))
            self._tasks.put(_End())
        except BaseException as error:  # whatever the list raises belongs to the reader of the stream
            self._tasks.put(_End(error))

    def _batch(self) -> None:
        end = None
        while end is None and not self._stopped.is_set():
            batch, end = _take(self._tasks, self._batch_size)
            if batch and not self._stopped.is_set():
                self._slots.release(len(batch))
                self._start(batch)
        self._running.put(end or _End())

    def _start(self, batch: list[_Task]) -> None:
        try:
            self._running.put(self._streams.submit(_run, batch, self._network, self._top_k))
        except RuntimeError:  # stopped in this very moment: the pool takes nothing any more
            if not self._stopped.is_set():
                raise


def _take(tasks: "Queue[_Task | _End]", batch_size: int) -> tuple[list[_Task], "_End | None"]:
    """Wait for one task, then take what is there, up to a batch; and the end, if that is reached."""
    batch: list[_Task] = []
    while len(batch) < batch_size:
        try:
            task = tasks.get(block=not batch)
        except Empty:
            break
        if isinstance(task, _End):
            return batch, task
        batch.append(task)
    return batch, None


def _timed(prepare: Callable[[Input], Pixels], item: Input) -> _Prepared:
    start = time.perf_counter()
    if item.error is not None:
        raise item.error
    return _Prepared(prepare(item), time.perf_counter() - start)


def _run(batch: list[_Task], network: Network, top_k: int) -> _Answers:
    start = time.perf_counter()
    prepared = [_result(task) for task in batch]
    ready = time.perf_counter()
    good = [result for result in prepared if isinstance(result, _Prepared)]
    logits = iter(network(np.stack([result.pixels for result in good])) if good else ())
    done = time.perf_counter()
    predictions = [
        Prediction(task.item.path, error=result)
        if isinstance(result, InputError)
        else _rank(task.item.path, next(logits), top_k)
        for task, result in zip(batch, prepared, strict=True)
    ]
    return _Answers(predictions, sum(result.seconds for result in good), ready - start, done - ready)


def _result(task: _Task) -> _Prepared | InputError:
    try:
        return task.pixels.result()
    except InputError as error:
        return error


def _rank(path: str, logits: NDArray[np.float32], top_k: int) -> Prediction:
    if not np.isfinite(logits).all():
        return Prediction(path, error=InputError("non_finite", "the network's answer holds NaN or infinity"))
    shifted = np.exp(logits.astype(np.float64) - logits.max())
    probs = shifted / shifted.sum()
    order = np.argsort(-logits, kind="stable")[:top_k]  # equal logits: the lower index first
    return Prediction(path, tuple(Ranked(int(index), float(probs[index])) for index in order))
