"""Decode inputs in background threads, ahead of the network, in order and with a timeout for each image.

Python cannot stop a thread whose decoder hangs. Such a thread is abandoned and replaced by a new one; its image gets an
error, and pixels that it returns later are discarded. Each abandoned thread may keep one core busy. After the first
timeout, all further images can therefore be decoded in processes, which can be killed.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, InvalidStateError, wait
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from levit_cli.choices import Decoding, Resizer
from levit_cli.data.input import Input
from levit_cli.data.remote.ahead import ReadAhead
from levit_cli.errors import InputError
from levit_cli.predict.reader import ImageReader
from levit_cli.system.cpu import usable_threads

if TYPE_CHECKING:
    from levit_cli.predict.isolation import IsolatedReader

DECODE_TIMEOUT_S = 30.0  # the largest image that is allowed takes about 5 s on one core
MAX_TIMEOUT_S = 30 * 86400.0  # no system waits much longer than this; Windows' limit is 49 days
AHEAD_PER_WORKER = 4
BATCHES_AHEAD = 3  # with fewer, batches would not be full, because no more inputs could be listed in time
MAX_BYTES_AHEAD = 64 << 20  # of inputs that are read when they are listed, as in a compressed archive
POLL_INTERVAL_S = 0.5  # how often an image whose decoding has not begun is checked

Pixels = NDArray[np.uint8]
Decode = Callable[[Input], Pixels]


class Decoded(NamedTuple):
    """The pixels of an image, (H, W, 3), and the seconds spent on them."""

    pixels: Pixels
    seconds: float


class End(NamedTuple):
    """The end of the tasks, with the exception that listing the inputs raised, if any."""

    error: BaseException | None = None


class Task:
    """An input and the future of its pixels.

    Attributes:
        item: the input; without its content once it has an outcome.
        deadline: the ``time.monotonic`` at which it times out; None before decoding has begun.
    """

    def __init__(self, item: Input) -> None:
        self.item = item
        self.deadline: float | None = None
        self.outcome: Future[Decoded] = Future()

    @property
    def seconds_left(self) -> float:
        return POLL_INTERVAL_S if self.deadline is None else self.deadline - time.monotonic()

    def finish(self, outcome: Decoded | BaseException) -> bool:
        """Set the outcome; return False if there is one already."""
        try:
            if isinstance(outcome, Decoded):
                self.outcome.set_result(outcome)
            else:
                self.outcome.set_exception(outcome)
        except InvalidStateError:
            return False
        return True


class _ByteLimit:
    """Limits the bytes that are held at a time. One holder may exceed the limit, if it is alone."""

    def __init__(self, limit: int) -> None:
        self._limit, self._held, self._is_lifted = limit, 0, False
        self._changed = threading.Condition()

    def take(self, count: int) -> None:
        """Wait until there is room for ``count`` bytes."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_lifted or not self._held or self._held + count <= self._limit)
            self._held += count

    def give_back(self, count: int) -> None:
        with self._changed:
            self._held -= count
            self._changed.notify_all()

    def lift(self) -> None:
        """Let no thread wait any more."""
        with self._changed:
            self._is_lifted = True
            self._changed.notify_all()


def identity(item: Input) -> Input:
    """Return the input unchanged; for inputs that need no fetching."""
    return item


class Prefetcher:
    """Decodes inputs in background threads, in order. Decoding begins at once, while the caller creates the engine.

    Args:
        inputs: the inputs; a separate thread iterates over them.
        decode: reads one input and returns its pixels, (H, W, 3); called in ``workers`` threads.
        batch_size: the maximum number of tasks that ``take`` returns.
        fetch: loads content that is not in a file, such as that of a URL; the timeout begins after it.
        timeout_s: wall-clock limit for ``decode``; None if ``decode`` has its own limit or needs none.
        on_timeout: called after the first timeout; returns the function that decodes all further inputs, to which
            ``timeout_s`` does not apply.
        on_stop: called by ``stop``, for ``inputs`` that wait for something.
    """

    def __init__(
        self,
        inputs: Iterable[Input],
        decode: Decode,
        *,
        batch_size: int,
        workers: int,
        fetch: Callable[[Input], Input] = identity,
        timeout_s: float | None = None,
        on_timeout: Callable[[], Decode] | None = None,
        on_stop: Callable[[], None] | None = None,
    ) -> None:
        self._inputs, self._batch_size, self._workers, self._fetch = inputs, batch_size, workers, fetch
        self._decode, self._timeout_s, self._on_timeout, self._on_stop = decode, timeout_s, on_timeout, on_stop
        self._free_slots = threading.Semaphore(workers * AHEAD_PER_WORKER + BATCHES_AHEAD * batch_size)
        self._bytes_ahead = _ByteLimit(MAX_BYTES_AHEAD)
        self._tasks: SimpleQueue[Task | End] = SimpleQueue()  # in input order, for ``take``
        self._waiting: SimpleQueue[Task | None] = SimpleQueue()  # the same tasks, for the worker threads
        self._stopped = threading.Event()
        self._timeout_lock, self._has_timeout = threading.Lock(), timeout_s is not None
        for _ in range(workers):
            self._start_worker()
        # daemon threads: the list may wait for standard input forever, and a decoder may hang
        threading.Thread(target=self._list, name="inputs", daemon=True).start()

    def take(self) -> tuple[list[Task], End | None]:
        """Wait for one task and return all that are listed so far, at most a batch, and the end if it was reached."""
        batch: list[Task] = []
        while len(batch) < self._batch_size:
            try:
                task = self._tasks.get(block=not batch)
            except Empty:
                break
            if isinstance(task, End):
                return batch, task
            batch.append(task)
            self._free_slots.release()
        return batch, None

    def result(self, task: Task) -> Decoded | InputError:
        """Wait for the pixels or the error of a task, at most until its timeout.

        Raises:
            CancelledError: ``stop`` was called.
        """
        while not task.outcome.done():
            if self._stopped.is_set():
                raise CancelledError
            if task.seconds_left <= 0:
                self._time_out(task)
            else:
                wait([task.outcome], task.seconds_left)
        try:
            return task.outcome.result()
        except InputError as error:
            return error

    def outcomes(self) -> Iterator[tuple[str, Decoded | InputError]]:
        """Yield the path of each input with its pixels or its error, in order."""
        end = None
        while end is None:
            batch, end = self.take()
            for task in batch:
                outcome = self.result(task)
                yield task.item.path, outcome
        if end.error is not None:
            raise end.error

    def stop(self) -> None:
        """Start no further decoding; do not wait for images that are being decoded."""
        self._stopped.set()
        self._free_slots.release()
        self._bytes_ahead.lift()
        if self._on_stop is not None:
            self._on_stop()
        for _ in range(self._workers):
            self._waiting.put(None)
        self._tasks.put(End())

    def _list(self) -> None:
        try:
            for item in self._inputs:
                self._free_slots.acquire()
                if item.content:
                    self._bytes_ahead.take(len(item.content))
                if self._stopped.is_set():
                    return
                task = Task(item)
                del item  # while the next one is listed, only the task holds its content
                self._waiting.put(task)
                self._tasks.put(task)
                del task
            self._tasks.put(End())
        except BaseException as error:  # the pipeline raises it again
            self._tasks.put(End(error))

    def _start_worker(self) -> None:
        threading.Thread(target=self._work, name="decode", daemon=True).start()

    def _work(self) -> None:
        while (task := self._waiting.get()) is not None and not self._stopped.is_set():
            if not self._finish(task, self._outcome(task)):
                return  # the task timed out, and another thread has replaced this one

    def _finish(self, task: Task, outcome: Decoded | BaseException) -> bool:
        """Set the outcome and drop the content; return False if there is an outcome already."""
        if not task.finish(outcome):
            return False
        if task.item.content:
            self._bytes_ahead.give_back(len(task.item.content))
        task.item = Input(task.item.path)
        return True

    def _outcome(self, task: Task) -> Decoded | BaseException:
        start = time.perf_counter()
        try:
            if task.item.error is not None:
                return task.item.error
            item = self._fetch(task.item)
            decode, has_timeout = self._decode, self._has_timeout
            task.deadline = time.monotonic() + (self._timeout_s or 0) if has_timeout else None
            return Decoded(decode(item), time.perf_counter() - start)
        except InputError as error:
            return InputError(error.kind, error.message)  # without its traceback, which refers to the image
        except BaseException as error:  # raised again by ``result``
            return error

    def _time_out(self, task: Task) -> None:
        with self._timeout_lock:  # several threads of the network may reach a timeout at once
            if not self._finish(task, InputError("timeout", f"not decoded within {self._timeout_s:g} s")):
                return  # it finished just in time
            if self._has_timeout and self._on_timeout is not None:
                self._has_timeout, self._decode = False, self._on_timeout()
            self._start_worker()


@dataclass(frozen=True)
class DecodeOptions:
    """How the images of a run are decoded.

    Args:
        decoding: ``exact``, or ``fast`` to let the JPEG decoder scale large photos down.
        resizer: what resizes the images.
        timeout_s: wall-clock limit for one image; it begins after the image's bytes were fetched.
        isolate: decode in separate processes from the start.
        workers: number of decode threads; 0 for one per usable core.
    """

    decoding: Decoding = "exact"
    resizer: Resizer = "auto"
    timeout_s: float = DECODE_TIMEOUT_S
    isolate: bool = False
    workers: int = 0


class Decoder:
    """Decodes the images of a run in threads, or in processes, where a crash fails only one image.

    Threads add no overhead, but a thread that hangs cannot be stopped, and a crash in a thread ends the run. Decoding
    therefore moves to processes after the first timeout; with ``isolate``, it uses processes from the start. The
    processes are killed when the decoder is closed.
    """

    def __init__(self, reader: ImageReader, options: DecodeOptions) -> None:
        self._reader, self._options = reader, replace(options, timeout_s=min(MAX_TIMEOUT_S, options.timeout_s))
        self._isolated: IsolatedReader | None = None

    def prefetch(self, inputs: Iterable[Input], batch_size: int) -> Prefetcher:
        """Start to decode inputs in the background, for batches of at most ``batch_size`` images."""
        options = self._options
        ahead = ReadAhead(inputs)
        return Prefetcher(
            ahead,
            self._isolated_reader() if options.isolate else self._reader,
            batch_size=batch_size,
            workers=options.workers or usable_threads(),
            fetch=self._reader.fetch,
            timeout_s=None if options.isolate else options.timeout_s,
            on_timeout=self._isolated_reader,
            on_stop=ahead.stop,
        )

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._isolated is not None:
            self._isolated.close()

    def _isolated_reader(self) -> "IsolatedReader":
        if self._isolated is None:
            from levit_cli.predict.isolation import IsolatedReader  # imported here because few runs need it

            self._isolated = IsolatedReader(self._reader, self._options.timeout_s)
        return self._isolated
