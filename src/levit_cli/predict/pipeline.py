"""One stream of predictions: decode ahead on threads, batch, run, yield in input order.

There is one prediction for each input, errors included, and never another input's answer. Memory is bounded: at most
``workers * AHEAD_PER_WORKER + BATCHES_AHEAD * batch_size`` images wait for a batch, and two batches a stream are
behind them.
A batch takes what has been asked for by then and does not wait for more input, so a slow list still streams.
"""

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, Queue
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from levit_cli.errors import InputError
from levit_cli.predict.prefetch import End, Pixels, Prefetcher, Prepared, Task
from levit_cli.system.text import count

__all__ = ["Network", "Prediction", "Prefetcher", "Ranked", "Stats", "predict", "probabilities"]

# How those libraries call it that raise no MemoryError.
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "bad_alloc", "bad allocation")

Logits = NDArray[np.float32]
Network = Callable[[Pixels], Logits]


class Ranked(NamedTuple):
    """A class and its softmax probability over all classes."""

    class_index: int
    prob: float


@dataclass(frozen=True)
class Prediction:
    """The answer to one input: the likeliest classes, or why there is none.

    Args:
        logits: (classes,) the network's answer as it came; None where there is none.
    """

    path: str
    top: tuple[Ranked, ...] = ()
    error: InputError | None = None
    logits: Logits | None = field(default=None, repr=False, compare=False)


Rank = Callable[[str, Logits], Prediction]


class _Answers(NamedTuple):
    """A batch's predictions and what they took."""

    predictions: list[Prediction]
    prepare_s: float
    wait_s: float
    network_s: float


@dataclass
class Stats:
    """Where the time went. ``prepare_s``, ``wait_s`` and ``network_s`` add up over their threads."""

    images: int = 0
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
        self.images += len(answers.predictions)
        self.failed += sum(prediction.error is not None for prediction in answers.predictions)
        self.batches += 1
        self.prepare_s += answers.prepare_s
        self.wait_s += answers.wait_s
        self.network_s += answers.network_s

    def summary(self) -> str:
        """One line: the number of images, the rate, and the number of failures."""
        elapsed_s = self.elapsed_s
        rate = self.images / elapsed_s if elapsed_s else 0.0
        failed = f", {self.failed:,} failed" if self.failed else ""
        return f"{count(self.images, 'image')} in {elapsed_s:.2f} s ({rate:.1f}/s){failed}"

    def timings(self) -> str:
        """A table of where the time went, one line for each part."""
        classified = max(self.images - self.failed, 1)
        decode_ms, network_ms = 1000 * self.prepare_s / classified, 1000 * self.network_s / classified
        rows = (
            ("elapsed", self.elapsed_s, "from the first image to the last record"),
            ("read + decode + resize", self.prepare_s, f"summed over threads; {decode_ms:.2f} ms per image"),
            ("network", self.network_s, f"{count(self.batches, 'batch')}; {network_ms:.2f} ms per image"),
            ("waiting for images", self.wait_s, "the network was idle"),
        )
        return "\n".join(f"{name:<24}{seconds:9.3f} s  {remark}" for name, seconds, remark in rows)


def predict(
    ahead: Prefetcher,
    network: Network,
    *,
    top_k: int,
    streams: int = 1,
    stats: Stats | None = None,
    temperature: float = 1.0,
) -> Generator[Prediction, None, None]:
    """Classify a stream of inputs.

    Args:
        ahead: the inputs; belongs to this stream from here on, and ends with it.
        network: (B, H, W, 3) bytes -> (B, classes) logits; runs on ``streams`` threads at once.
        top_k: classes per prediction, at most.
        stats: filled while the stream runs.
        temperature: divides the logits before the softmax; the order of the classes does not depend on it.

    Yields:
        One prediction for each input, in order.
    """
    stats = stats if stats is not None else Stats()
    batches = _Batches(ahead, network, partial(_rank, top_k=top_k, temperature=temperature), streams)
    try:
        for answers in batches.answers():
            stats.add(answers)
            yield from answers.predictions
    finally:
        batches.stop()


class _Batches:
    """Batches under way: one thread forms them, ``streams`` threads compute them, the caller takes them in order."""

    def __init__(self, ahead: Prefetcher, network: Network, rank: Rank, streams: int) -> None:
        self._ahead, self._network, self._rank = ahead, network, rank
        self._running: Queue[Future[_Answers] | End] = Queue(maxsize=streams)
        self._streams = ThreadPoolExecutor(streams, thread_name_prefix="network")
        self._stopped = threading.Event()

    def answers(self) -> Iterator[_Answers]:
        threading.Thread(target=self._form, name="batches", daemon=True).start()
        while not isinstance(answers := self._running.get(), End):
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
        self._running.put(end or End())

    def _start(self, batch: list[Task]) -> None:
        try:
            self._running.put(self._streams.submit(self._run, batch))
        except RuntimeError:  # stopped in this very moment: the pool takes nothing any more
            if not self._stopped.is_set():
                raise

    def _run(self, batch: list[Task]) -> _Answers:
        start = time.perf_counter()
        prepared = [self._ahead.result(task) for task in batch]
        ready = time.perf_counter()
        good = [result for result in prepared if isinstance(result, Prepared)]
        logits = iter(_logits(self._network, [result.pixels for result in good]))
        done = time.perf_counter()
        predictions = [
            self._predict(task.item.path, result if isinstance(result, InputError) else next(logits))
            for task, result in zip(batch, prepared, strict=True)
        ]
        return _Answers(predictions, sum(result.seconds for result in good), ready - start, done - ready)

    def _predict(self, path: str, answer: Logits | InputError) -> Prediction:
        return Prediction(path, error=answer) if isinstance(answer, InputError) else self._rank(path, answer)


def _logits(network: Network, pixels: Sequence[Pixels]) -> list[Logits | InputError]:
    """The logits of each image. What is too much for the memory at once is computed in halves, down to one."""
    if not pixels:
        return []
    try:
        rows = network(np.stack(pixels))
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
    else:
        assert len(rows) == len(pixels)
        return [*rows]
    if len(pixels) == 1:
        return [InputError("too_large", "not enough memory to classify it")]
    middle = len(pixels) // 2
    return _logits(network, pixels[:middle]) + _logits(network, pixels[middle:])


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in OUT_OF_MEMORY)


def probabilities(logits: Logits, temperature: float = 1.0) -> NDArray[np.float64]:
    """Softmax over the last axis of logits divided by a temperature; what every ``prob`` is."""
    with np.errstate(over="ignore"):  # of a tiny temperature, whose quotient of minus infinity is right
        shifted = np.exp((logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)) / temperature)
    quotients: NDArray[np.float64] = shifted / shifted.sum(axis=-1, keepdims=True)
    return quotients


def _rank(path: str, logits: Logits, *, top_k: int, temperature: float) -> Prediction:
    if not np.isfinite(logits).all():
        return Prediction(path, error=InputError("non_finite", "the network's answer holds NaN or infinity"))
    probs = probabilities(logits, temperature)
    order = np.argsort(-logits, kind="stable")[:top_k]  # equal logits: the lower index first
    return Prediction(path, tuple(Ranked(int(index), float(probs[index])) for index in order), logits=logits)
