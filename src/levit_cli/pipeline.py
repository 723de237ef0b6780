"""One stream of predictions: decode ahead on threads, batch, run, yield in input order.

There is one prediction for each input, errors included, and never another input's answer. Memory is bounded: at most
``workers * AHEAD_PER_WORKER + BATCHES_AHEAD * batch_size`` pictures wait for a batch, and two batches a stream are
behind them.
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
BATCHES_AHEAD = 3  # fewer, and a batch is cut short because nobody was allowed to list more

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


class DecodeAhead:
    """Inputs on their way to being pixels, in order, from now on.

    Decoding begins at once, while the caller still makes its network ready.

    Args:
        inputs: what to read; listed on a thread of its own.
        prepare: reads one input into (H, W, 3) bytes; runs on ``workers`` threads.
        batch_size: of the batches that are taken from here, at most.
    """

    def __init__(
        self, inputs: Iterable[Input], prepare: Callable[[Input], Pixels], *, batch_size: int, workers: int
    ) -> None:
        self._inputs, self._prepare, self._batch_size = inputs, prepare, batch_size
        self._slots = threading.Semaphore(workers * AHEAD_PER_WORKER + BATCHES_AHEAD * batch_size)
        self._tasks: Queue[_Task | _End] = Queue()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        self._stopped = threading.Event()
        # a daemon: the list may wait for standard input forever
        threading.Thread(target=self._list, name="inputs", daemon=True).start()

    def take(self) -> tuple[list[_Task], _End | None]:
        """Wait for one task, then take what is there, up to a batch; and the end, if that is reached."""
        batch, end = _take(self._tasks, self._batch_size)
        for _ in batch:
            self._slots.release()
        return batch, end

    def stop(self) -> None:
        """Decode nothing more; nobody waits for what is under way."""
        self._stopped.set()
        self._slots.release()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._tasks.put(_End())

    def _list(self) -> None:
        try:
            for item in self._inputs:
                self._slots.acquire()
                if self._stopped.is_set():
                    return
                self._tasks.put(_Task(item, self._pool.submit(_timed, self._prepare, item)))
            self._tasks.put(_End())
        except BaseException as error:  # whatever the list raises belongs to the reader of the stream
            self._tasks.put(_End(error))


def predict(
    ahead: DecodeAhead, network: Network, *, top_k: int, streams: int = 1, stats: Stats | None = None
) -> Iterator[Prediction]:
    """Classify a stream of inputs.

    Args:
        ahead: the inputs; belongs to this stream from here on, and ends with it.
        network: (B, H, W, 3) bytes -> (B, classes) logits; runs on ``streams`` threads at once.
        top_k: classes per prediction, at most.
        stats: filled while the stream runs.

    Yields:
        One prediction for each input, in order.
    """
    stats = stats if stats is not None else Stats()
    batches = _Batches(ahead, network, top_k, streams)
    try:
        for answers in batches.answers():
            stats.add(answers)
            yield from answers.predictions
    finally:
        batches.stop()


class _Batches:
    """Batches under way: one thread forms them, ``streams`` threads compute them, the caller takes them in order."""

    def __init__(self, ahead: DecodeAhead, network: Network, top_k: int, streams: int) -> None:
        self._ahead, self._network, self._top_k = ahead, network, top_k
        self._running: Queue[Future[_Answers] | _End] = Queue(maxsize=streams)
        self._streams = ThreadPoolExecutor(streams, thread_name_prefix="network")
        self._stopped = threading.Event()

    def answers(self) -> Iterator[_Answers]:
        threading.Thread(target=self._form, name="batches", daemon=True).start()
        while not isinstance(answers := self._running.get(), _End):
            yield answers.result()
        if answers.error is not None:
            raise answers.error

    def stop(self) -> None:
        self._stopped.set()
        self._ahead.stop()
        self._streams.shutdown(wait=False, cancel_futures=True)
        with suppress(Empty):
            while True:  # somebody may be waiting for room
                self._running.get_nowait()

    def _form(self) -> None:
        end = None
        while end is None and not self._stopped.is_set():
            batch, end = self._ahead.take()
            if batch and not self._stopped.is_set():
                self._start(batch)
        self._running.put(end or _End())

    def _start(self, batch: list[_Task]) -> None:
        try:
            self._running.put(self._streams.submit(_run, batch, self._network, self._top_k))
        except RuntimeError:  # stopped in this very moment: the pool takes nothing any more
            if not self._stopped.is_set():
                raise


def _take(tasks: "Queue[_Task | _End]", batch_size: int) -> tuple[list[_Task], _End | None]:
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
