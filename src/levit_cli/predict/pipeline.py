"""The pipeline: decode in the background, form batches, run the network, yield results in input order.

``predict`` yields predictions and ``embed`` yields feature vectors. There is exactly one result for each input, errors
included. Memory is bounded: at most
``workers * AHEAD_PER_WORKER + BATCHES_AHEAD * batch_size`` images wait for a batch, and there are at most two batches
per stream. A batch takes the inputs that are listed so far and does not wait for more, so results are not delayed
if the inputs arrive slowly.
"""

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, Queue
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from levit_cli.errors import IS_WINDOWS, InputError
from levit_cli.predict.prefetch import Decoded, End, Pixels, Prefetcher, Task
from levit_cli.system.text import count_noun

__all__ = [
    "Embedding",
    "Network",
    "Prediction",
    "Prefetcher",
    "Ranked",
    "Result",
    "Stats",
    "embed",
    "logits_of",
    "predict",
    "probabilities",
    "rank",
    "results_of",
]

HINT_AFTER_S = 5.0  # the closing line of shorter runs gives no hint
FAST_HINT = "; most of the time was for decoding large photos, which --decode fast does faster but less accurately"
CLOSED_POOL = "cannot schedule new futures"  # in the message of a ThreadPoolExecutor that accepts no more work
# Parts of the out-of-memory messages of libraries that do not raise MemoryError.
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "bad_alloc", "bad allocation")

# How long the main thread waits at a time. On Windows, Ctrl-C does not interrupt it.
WAIT_S = 0.5 if IS_WINDOWS else None

Row = NDArray[np.float32]  # what the network computes for one image
Logits = Row
Network = Callable[[Pixels], Row]


class Result(Protocol):
    """The result of one input, such as a prediction; it has an error if there is none."""

    @property
    def path(self) -> str: ...
    @property
    def error(self) -> InputError | None: ...


R = TypeVar("R", bound=Result)
MakeResult = Callable[[str, Row | InputError], R]


class Ranked(NamedTuple):
    """A class index and its softmax probability over all classes."""

    class_index: int
    prob: float


@dataclass(frozen=True)
class Prediction:
    """The most likely classes of one input, or its error.

    Args:
        top: best class first; empty for an error.
        logits: (classes,) the output of the network, not divided by the temperature; None for an error.
        accepted: whether the probability of the best class reaches the run's threshold; None for an error and for a run
            without a threshold.
    """

    path: str
    top: tuple[Ranked, ...] = ()
    error: InputError | None = None
    logits: Logits | None = field(default=None, repr=False, compare=False)
    accepted: bool | None = None


@dataclass(frozen=True)
class Embedding:
    """The feature vector of one input, or its error.

    Args:
        vector: (C,) float32 or float16; None for an error.
    """

    path: str
    vector: NDArray[np.floating] | None = field(default=None, repr=False, compare=False)
    error: InputError | None = None


@dataclass(frozen=True)
class _BatchResult(Generic[R]):
    """The results of a batch, and the seconds spent on it."""

    results: list[R]
    decode_s: float
    wait_s: float
    network_s: float


@dataclass
class Stats:
    """Counts and times of a run. ``decode_s``, ``wait_s`` and ``network_s`` are summed over threads."""

    images: int = 0
    failed: int = 0
    accepted: int = 0
    not_accepted: int = 0
    batches: int = 0
    decode_s: float = 0.0
    wait_s: float = 0.0
    network_s: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self.started

    def add(self, batch: _BatchResult[R]) -> None:
        self.images += len(batch.results)
        self.failed += sum(result.error is not None for result in batch.results)
        accepted = [getattr(result, "accepted", None) for result in batch.results]
        self.accepted += accepted.count(True)
        self.not_accepted += accepted.count(False)
        self.batches += 1
        self.decode_s += batch.decode_s
        self.wait_s += batch.wait_s
        self.network_s += batch.network_s

    def summary(self) -> str:
        """Return one line with the number of images, the rate, and the numbers of failed and of accepted images."""
        elapsed_s = self.elapsed_s
        rate = self.images / elapsed_s if elapsed_s else 0.0
        failed = f", {self.failed:,} failed" if self.failed else ""
        judged = self.accepted + self.not_accepted
        accepted = f", {self.accepted:,} of {judged:,} accepted" if judged else ""
        return f"{count_noun(self.images, 'image')} in {elapsed_s:.2f} s ({rate:.1f}/s){failed}{accepted}"

    def decoding_hint(self, large_jpeg_s: float) -> str:
        """Return what the closing line adds if decoding large JPEGs exactly took most of the run; otherwise nothing."""
        is_most = large_jpeg_s > (self.decode_s + self.network_s) / 2
        return FAST_HINT if is_most and self.elapsed_s >= HINT_AFTER_S else ""

    def timings(self) -> str:
        """Return a table of the time that each stage took, one line per stage."""
        classified = max(self.images - self.failed, 1)
        decode_ms, network_ms = 1000 * self.decode_s / classified, 1000 * self.network_s / classified
        batches = count_noun(self.batches, "batch", "batches")
        rows = (
            ("elapsed", self.elapsed_s, "from the first image to the last record"),
            ("read + decode + resize", self.decode_s, f"summed over threads; {decode_ms:.2f} ms per image"),
            (
                "network",
                self.network_s,
                f"{batches}; {network_ms:.2f} ms per image",
            ),
            ("waiting for images", self.wait_s, "the network was idle"),
        )
        return "\n".join(f"{name:<24}{seconds:9.3f} s  {remark}" for name, seconds, remark in rows)


def predict(
    prefetcher: Prefetcher,
    network: Network,
    *,
    top_k: int,
    streams: int = 1,
    stats: Stats | None = None,
    temperature: float = 1.0,
    min_prob: float | None = None,
) -> Generator[Prediction, None, None]:
    """Classify a stream of inputs.

    Args:
        prefetcher: decodes the inputs; stopped when the stream ends.
        network: (B, H, W, 3) uint8 -> (B, classes) logits; called from ``streams`` threads at once.
        top_k: the maximum number of classes per prediction.
        stats: updated while the stream runs.
        temperature: divides the logits before the softmax; does not change the order of the classes.
        min_prob: the threshold; predictions whose best class is less probable are not accepted.

    Yields:
        One prediction for each input, in order.
    """
    make_prediction = partial(_prediction, top_k=top_k, temperature=temperature, min_prob=min_prob)
    return results_of(prefetcher, network, make_prediction, streams=streams, stats=stats)


def embed(
    prefetcher: Prefetcher,
    features: Network,
    *,
    normalize: bool = False,
    dtype: type[np.floating] = np.float32,
    streams: int = 1,
    stats: Stats | None = None,
) -> Generator[Embedding, None, None]:
    """Compute the feature vectors of a stream of inputs.

    Args:
        prefetcher: decodes the inputs; stopped when the stream ends.
        features: (B, H, W, 3) uint8 -> (B, C) features, such as ``LevitEngine.features``; called from ``streams``
            threads at once.
        normalize: divide each vector by its Euclidean norm.
        dtype: the type of the vectors, float32 or float16.
        stats: updated while the stream runs.

    Yields:
        One embedding for each input, in order.
    """
    return results_of(
        prefetcher, features, partial(_embedding, normalize=normalize, dtype=dtype), streams=streams, stats=stats
    )


def results_of(
    prefetcher: Prefetcher,
    network: Network,
    make_result: MakeResult[R],
    *,
    streams: int = 1,
    stats: Stats | None = None,
) -> Generator[R, None, None]:
    """Run the network on a stream of inputs, and yield the result of each input, in order.

    Args:
        prefetcher: decodes the inputs; stopped when the stream ends.
        network: (B, H, W, 3) uint8 -> (B, any); called from ``streams`` threads at once.
        make_result: returns the result of a path and its row of the network's output, or its error.
        stats: updated while the stream runs.
    """
    stats = stats if stats is not None else Stats()
    batches = _Batches(prefetcher, network, make_result, streams)
    try:
        for batch in batches.results():
            stats.add(batch)
            yield from batch.results
    finally:
        batches.stop()


class _Batches(Generic[R]):
    """Runs batches: one thread forms them, ``streams`` threads compute them, and the caller gets them in order."""

    def __init__(self, prefetcher: Prefetcher, network: Network, make_result: MakeResult[R], streams: int) -> None:
        self._prefetcher, self._network, self._make_result = prefetcher, network, make_result
        self._running: Queue[Future[_BatchResult[R]] | End] = Queue(maxsize=streams)
        self._streams = ThreadPoolExecutor(streams, thread_name_prefix="network")
        self._stopped = threading.Event()

    def results(self) -> Iterator[_BatchResult[R]]:
        threading.Thread(target=self._form, name="batches", daemon=True).start()
        while not isinstance(batch := self._next(), End):
            while not batch.done():
                wait([batch], WAIT_S)
            yield batch.result()
        if batch.error is not None:
            raise batch.error

    def _next(self) -> "Future[_BatchResult[R]] | End":
        while True:
            with suppress(Empty):
                return self._running.get(timeout=WAIT_S)

    def stop(self) -> None:
        self._stopped.set()
        self._prefetcher.stop()
        self._streams.shutdown(wait=False, cancel_futures=True)
        with suppress(Empty):
            while True:  # ``_form`` may be waiting for space in the queue
                self._running.get_nowait()

    def _form(self) -> None:
        end = None
        while end is None and not self._stopped.is_set():
            batch, end = self._prefetcher.take()
            if batch and not self._stopped.is_set():
                self._start(batch)
        self._running.put(end or End())

    def _start(self, batch: list[Task]) -> None:
        try:
            self._running.put(self._streams.submit(self._run, batch))
        except RuntimeError as error:
            if CLOSED_POOL not in str(error):
                raise
            self._stopped.set()  # ``stop`` was called, or the interpreter is exiting

    def _run(self, batch: list[Task]) -> _BatchResult[R]:
        start = time.perf_counter()
        decoded = [self._prefetcher.result(task) for task in batch]
        ready = time.perf_counter()
        readable = [result for result in decoded if isinstance(result, Decoded)]
        rows = iter(logits_of(self._network, [result.pixels for result in readable]))
        done = time.perf_counter()
        results = [
            self._make_result(task.item.path, result if isinstance(result, InputError) else next(rows))
            for task, result in zip(batch, decoded, strict=True)
        ]
        return _BatchResult(results, sum(result.seconds for result in readable), ready - start, done - ready)


def logits_of(network: Network, pixels: Sequence[Pixels]) -> list[Row | InputError]:
    """Return the network's output of each image, such as its logits.

    A batch that does not fit in memory is split in half, down to single images.
    """
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
    return logits_of(network, pixels[:middle]) + logits_of(network, pixels[middle:])


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in OUT_OF_MEMORY)


def probabilities(logits: Logits, temperature: float = 1.0) -> NDArray[np.float64]:
    """Return softmax(logits / temperature) over the last axis. The output reports these values as ``prob``."""
    with np.errstate(over="ignore"):  # a tiny temperature gives minus infinity, which is correct
        exponentials = np.exp((logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)) / temperature)
    probs: NDArray[np.float64] = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return probs


def _prediction(
    path: str, outcome: Logits | InputError, *, top_k: int, temperature: float, min_prob: float | None
) -> Prediction:
    if isinstance(outcome, InputError):
        return Prediction(path, error=outcome)
    return rank(path, outcome, top_k=top_k, temperature=temperature, min_prob=min_prob)


def rank(path: str, logits: Logits, *, top_k: int, temperature: float, min_prob: float | None = None) -> Prediction:
    """Return the prediction of one image: its ``top_k`` most likely classes, or an error if a logit is not finite.

    The threshold ``min_prob`` is compared with the probability in full precision, before it is rounded for a record.
    """
    if not np.isfinite(logits).all():
        return Prediction(path, error=InputError("non_finite", "the logits contain NaN or infinity"))
    probs = probabilities(logits, temperature)
    order = np.argsort(-logits, kind="stable")[:top_k]  # stable: of equal logits, the lower index comes first
    top = tuple(Ranked(int(index), float(probs[index])) for index in order)
    accepted = None if min_prob is None else top[0].prob >= min_prob
    return Prediction(path, top, logits=logits, accepted=accepted)


def _embedding(path: str, outcome: Row | InputError, *, normalize: bool, dtype: type[np.floating]) -> Embedding:
    if isinstance(outcome, InputError):
        return Embedding(path, error=outcome)
    if not np.isfinite(outcome).all():
        return Embedding(path, error=InputError("non_finite", "the features contain NaN or infinity"))
    with np.errstate(over="ignore"):
        vector = (normalized(outcome) if normalize else outcome).astype(dtype)
    if not np.isfinite(vector).all():
        message = f"a feature is too large for {np.dtype(dtype)}; choose float32 or normalize the vectors"
        return Embedding(path, error=InputError("non_finite", message))
    return Embedding(path, vector)


def normalized(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return vectors (..., C) divided by their Euclidean norms; a zero vector stays zero."""
    norms = np.linalg.norm(vectors.astype(np.float64), axis=-1, keepdims=True)
    return (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)
