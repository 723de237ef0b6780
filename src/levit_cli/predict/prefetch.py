"""Inputs on their way to being pixels: read and decoded ahead on threads, in order, each within its time.

Nobody can stop a decoder that does not come to an end by itself. Its thread is left alone and another one takes its
place; its image has an error, and pixels that come late are nobody's. So that such threads do not take the cores one
by one, everything behind the first of them may be prepared otherwise: in processes, which can be ended.
"""

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future, InvalidStateError, wait
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from levit_cli.choices import Decoding
from levit_cli.data.inputs import Input
from levit_cli.engines import usable_threads
from levit_cli.errors import InputError
from levit_cli.predict.reader import Reader

if TYPE_CHECKING:
    from levit_cli.predict.isolation import IsolatedReader

DECODE_TIMEOUT_S = 30.0  # the largest image that is allowed takes about 5 s on one core

AHEAD_PER_WORKER = 4
BATCHES_AHEAD = 3  # fewer, and a batch is cut short because nobody was allowed to list more
POLL_INTERVAL_S = 0.5  # between two looks at whether an image without a deadline is still wanted

Pixels = NDArray[np.uint8]
Prepare = Callable[[Input], Pixels]


class Prepared(NamedTuple):
    """(H, W, 3) bytes and what they took."""

    pixels: Pixels
    seconds: float


class End(NamedTuple):
    """Behind the last task; with what the list raised, if it did."""

    error: BaseException | None = None


class Task:
    """An input and, some day, its pixels.

    Attributes:
        deadline: by ``time.monotonic``; none before its decoding has begun.
    """

    def __init__(self, item: Input) -> None:
        self.item = item
        self.deadline: float | None = None
        self.outcome: Future[Prepared] = Future()

    @property
    def seconds_left(self) -> float:
        return POLL_INTERVAL_S if self.deadline is None else self.deadline - time.monotonic()

    def finish(self, outcome: Prepared | BaseException) -> bool:
        """Set its outcome; False if it has one."""
        try:
            if isinstance(outcome, Prepared):
                self.outcome.set_result(outcome)
            else:
                self.outcome.set_exception(outcome)
        except InvalidStateError:
            return False
        return True


def identity(item: Input) -> Input:
    """The input itself: nothing of it must be fetched."""
    return item


class Prefetcher:
    """Inputs on their way to being pixels, in order, from now on.

    Decoding begins at once, while the caller still makes its network ready.

    Args:
        inputs: what to read; listed on a thread of its own.
        prepare: reads one input into (H, W, 3) bytes; runs on ``workers`` threads.
        batch_size: of the batches that are taken from here, at most.
        fetch: gets what is not in a file, which may take its time: the clock of the limit starts behind it.
        limit_s: wall clock for ``prepare``; None where that keeps to a limit by itself, or needs none.
        when_stuck: gives what prepares everything behind the first input that exceeded the limit, without one.
    """

    def __init__(
        self,
        inputs: Iterable[Input],
        prepare: Prepare,
        *,
        batch_size: int,
        workers: int,
        fetch: Callable[[Input], Input] = identity,
        limit_s: float | None = None,
        on_timeout: Callable[[], Prepare] | None = None,
    ) -> None:
        self._inputs, self._batch_size, self._workers, self._fetch = inputs, batch_size, workers, fetch
        self._prepare, self._limit_s, self._on_timeout = prepare, limit_s, on_timeout
        self._slots = threading.Semaphore(workers * AHEAD_PER_WORKER + BATCHES_AHEAD * batch_size)
        self._tasks: SimpleQueue[Task | End] = SimpleQueue()  # in order, for who takes them
        self._waiting: SimpleQueue[Task | None] = SimpleQueue()  # for a thread
        self._stopped = threading.Event()
        self._giving_up, self._is_watched = threading.Lock(), limit_s is not None
        for _ in range(workers):
            self._start_worker()
        # daemons: the list may wait for standard input forever, a decoder may never end
        threading.Thread(target=self._list, name="inputs", daemon=True).start()

    def take(self) -> tuple[list[Task], End | None]:
        """Wait for one task, then take what is there, up to a batch; and the end, if that is reached."""
        batch: list[Task] = []
        while len(batch) < self._batch_size:
            try:
                task = self._tasks.get(block=not batch)
            except Empty:
                break
            if isinstance(task, End):
                return batch, task
            batch.append(task)
            self._slots.release()
        return batch, None

    def result(self, task: Task) -> Prepared | InputError:
        """The pixels of a task, or why there are none; waited for, but not beyond the limit."""
        while not task.outcome.done():
            if self._stopped.is_set():
                raise CancelledError
            if task.seconds_left <= 0:
                self._give_up(task)
            else:
                wait([task.outcome], task.seconds_left)
        try:
            return task.outcome.result()
        except InputError as error:
            return error

    def stop(self) -> None:
        """Decode nothing more; nobody waits for what is under way."""
        self._stopped.set()
        self._slots.release()
        for _ in range(self._workers):
            self._waiting.put(None)
        self._tasks.put(End())

    def _list(self) -> None:
        try:
            for item in self._inputs:
                self._slots.acquire()
                if self._stopped.is_set():
                    return
                task = Task(item)
                self._waiting.put(task)
                self._tasks.put(task)
            self._tasks.put(End())
        except BaseException as error:  # whatever the list raises belongs to the reader of the stream
            self._tasks.put(End(error))

    def _start_worker(self) -> None:
        threading.Thread(target=self._work, name="decode", daemon=True).start()

    def _work(self) -> None:
        while (task := self._waiting.get()) is not None and not self._stopped.is_set():
            if not task.finish(self._outcome(task)):
                return  # it was given up, and another thread is in the place of this one

    def _outcome(self, task: Task) -> Prepared | BaseException:
        start = time.perf_counter()
        try:
            if task.item.error is not None:
                return task.item.error
            item = self._fetch(task.item)
            prepare, is_watched = self._prepare, self._is_watched
            task.deadline = time.monotonic() + (self._limit_s or 0) if is_watched else None
            return Prepared(prepare(item), time.perf_counter() - start)
        except InputError as error:
            return InputError(error.kind, error.message)  # without its trace, which holds on to image and file
        except BaseException as error:  # for whoever asks for the result
            return error

    def _give_up(self, task: Task) -> None:
        with self._giving_up:  # the threads of the network may come at once
            if not task.finish(InputError("timeout", f"not decoded within {self._limit_s:g} s")):
                return  # at the last moment
            if self._is_watched and self._on_timeout is not None:
                self._is_watched, self._prepare = False, self._on_timeout()
            self._start_worker()


@dataclass(frozen=True)
class DecodeOptions:
    """How the images of a run are decoded.

    Args:
        mode: ``exact``, or ``fast`` to let the JPEG decoder scale large photos down.
        timeout_s: wall-clock limit for one image, counted from when its bytes have been fetched.
        isolate: decode in separate processes from the start.
        workers: number of decode threads; 0 for one per usable core.
    """

    mode: Decoding = "exact"
    timeout_s: float = DECODE_TIMEOUT_S
    isolate: bool = False
    workers: int = 0


class Decoder:
    """Decodes the images of a run: on threads, or in processes that a crash or a hang does not take down with it.

    Threads cost nothing, but a hanging thread cannot be ended, and a crash in one ends the run. So decoding moves to
    processes after the first timeout, or at once with ``isolate``. Close it to end the processes.
    """

    def __init__(self, reader: Reader, options: DecodeOptions) -> None:
        self._reader, self._options = reader, options
        self._isolated: IsolatedReader | None = None

    def prefetch(self, inputs: Iterable[Input], batch_size: int) -> Prefetcher:
        """Start to decode inputs in the background, for batches of up to ``batch_size`` images."""
        options = self._options
        return Prefetcher(
            inputs,
            self._in_processes() if options.isolate else self._reader,
            batch_size=batch_size,
            workers=options.workers or usable_threads(),
            fetch=self._reader.fetch,
            limit_s=None if options.isolate else options.timeout_s,
            on_timeout=self._in_processes,
        )

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._isolated is not None:
            self._isolated.close()

    def _in_processes(self) -> "IsolatedReader":
        if self._isolated is None:
            from levit_cli.predict.isolation import IsolatedReader  # imports what is needed to start processes

            self._isolated = IsolatedReader(self._reader, self._options.timeout_s)
        return self._isolated
