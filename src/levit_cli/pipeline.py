"""One stream of predictions: decode ahead on threads, batch, run, yield in input order.

There is one prediction for each input, errors included, and never another input's answer. Memory is bounded: at most
``workers * AHEAD_PER_WORKER + batch_size`` pictures are between the list and the network, whatever the list's length.
A batch takes what has been asked for by then and does not wait for more input, so a slow list still streams.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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


@dataclass
class Stats:
    """Where the time went. Seconds are wall time but for ``prepare_s``, which adds up over the threads."""

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


class _Prepared(NamedTuple):
    pixels: Pixels
    seconds: float


class _Task(NamedTuple):
    item: Input
    pixels: "Future[_Prepared]"


def predict(
    inputs: Iterable[Input],
    network: Network,
    prepare: Callable[[Input], Pixels],
    *,
    top_k: int,
    batch_size: int,
    workers: int,
    stats: Stats | None = None,
) -> Iterator[Prediction]:
    """Classify a stream of inputs.

    Args:
        network: (B, H, W, 3) bytes -> (B, classes) logits.
        prepare: reads one input into (H, W, 3) bytes; runs on ``workers`` threads.
        top_k: classes per prediction, at most.
        stats: filled while the stream runs.

    Yields:
        One prediction for each input, in order.
    """
    stats = stats if stats is not None else Stats()
    for batch in _batches(inputs, prepare, batch_size, workers):
        yield from _run(batch, network, top_k, stats)


def _batches(
    inputs: Iterable[Input], prepare: Callable[[Input], Pixels], batch_size: int, workers: int
) -> Iterator[list[_Task]]:
    """Tasks under way, in input order, a batch at a time."""
    tasks: Queue[_Task | BaseException | None] = Queue()
    slots = threading.Semaphore(workers * AHEAD_PER_WORKER + batch_size)
    stop = threading.Event()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")

    def feed() -> None:
        try:
            for item in inputs:
                slots.acquire()
                if stop.is_set():
                    return
                tasks.put(_Task(item, pool.submit(_timed, prepare, item)))
            tasks.put(None)
        except BaseException as error:  # whatever the list raises belongs to the reader of the stream
            tasks.put(error)

    threading.Thread(target=feed, name="inputs", daemon=True).start()  # it may wait for standard input forever
    try:
        while batch := _take(tasks, batch_size):
            slots.release(len(batch))
            yield batch
    finally:
        stop.set()
        slots.release()
        pool.shutdown(wait=False, cancel_futures=True)


def _take(tasks: "Queue[_Task | BaseException | None]", batch_size: int) -> list[_Task]:
    """Wait for one task, then take what is there; an empty list is the end."""
    batch: list[_Task] = []
    while len(batch) < batch_size:
        try:
            task = tasks.get(block=not batch)
        except Empty:
            break
        if not isinstance(task, _Task):
            if batch:
                tasks.put(task)  # nothing comes behind it
                break
            if task is not None:
                raise task
            break
        batch.append(task)
    return batch


def _timed(prepare: Callable[[Input], Pixels], item: Input) -> _Prepared:
    start = time.perf_counter()
    if item.error is not None:
        raise item.error
    return _Prepared(prepare(item), time.perf_counter() - start)


def _run(batch: list[_Task], network: Network, top_k: int, stats: Stats) -> list[Prediction]:
    start = time.perf_counter()
    prepared = [_result(task) for task in batch]
    stats.wait_s += time.perf_counter() - start
    good = [result for result in prepared if isinstance(result, _Prepared)]
    logits = iter(_logits(network, [result.pixels for result in good], stats))
    predictions = [
        Prediction(task.item.path, error=result)
        if isinstance(result, InputError)
        else _rank(task.item.path, next(logits), top_k)
        for task, result in zip(batch, prepared, strict=True)
    ]
    stats.pictures += len(batch)
    stats.failed += sum(prediction.error is not None for prediction in predictions)
    stats.prepare_s += sum(result.seconds for result in good)
    return predictions


def _result(task: _Task) -> _Prepared | InputError:
    try:
        return task.pixels.result()
    except InputError as error:
        return error


def _logits(network: Network, pixels: list[Pixels], stats: Stats) -> Iterable[NDArray[np.float32]]:
    if not pixels:
        return ()
    start = time.perf_counter()
    logits = network(np.stack(pixels))
    stats.network_s += time.perf_counter() - start
    stats.batches += 1
    return logits


def _rank(path: str, logits: NDArray[np.float32], top_k: int) -> Prediction:
    if not np.isfinite(logits).all():
        return Prediction(path, error=InputError("non_finite", "the network's answer holds NaN or infinity"))
    shifted = np.exp(logits.astype(np.float64) - logits.max())
    probs = shifted / shifted.sum()
    order = np.argsort(-logits, kind="stable")[:top_k]  # equal logits: the lower index first
    return Prediction(path, tuple(Ranked(int(index), float(probs[index])) for index in order))
