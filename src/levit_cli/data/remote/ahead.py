"""Read objects of a store ahead of the decoders: several at a time, in order, in bounded memory.

The module imports no library, because it also passes the inputs of local runs through.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, wait
from dataclasses import dataclass, replace
from functools import partial
from queue import SimpleQueue

from levit_cli.data.input import Input
from levit_cli.errors import InputError

READS_AT_ONCE = 16
MAX_AHEAD_BYTES = 64 << 20
UNKNOWN_BYTES = 4 << 20  # assumed for an object whose size was not listed
READ_LIMIT_S = 75.0  # a read that takes longer is abandoned; retries end before
POLL_INTERVAL_S = 0.5  # how often a decoder that waits looks whether the stream was stopped


@dataclass(frozen=True)
class RemoteRead:
    """Reads the bytes of an object when it is called; ``Input.load`` of an object in a store.

    Args:
        read: returns the bytes, or raises an ``InputError``.
        size: the listed size in bytes; None if it is unknown.
    """

    read: Callable[[], bytes]
    size: int | None = None

    def __call__(self) -> bytes:
        return self.read()


class ReadAhead:
    """Yields inputs in order, and reads those that are objects in a store in the background. Others pass unchanged.

    Args:
        inputs: the inputs; iterated over by one thread.
        reads_at_once: maximum number of objects that are being read.
        max_bytes: maximum size of all objects that are being read or wait for a decoder; a larger one is read alone.
        limit_s: a read that takes longer is abandoned, for file systems that know no time limit.
    """

    def __init__(
        self,
        inputs: Iterable[Input],
        reads_at_once: int = READS_AT_ONCE,
        max_bytes: int = MAX_AHEAD_BYTES,
        limit_s: float = READ_LIMIT_S,
    ) -> None:
        self._inputs, self._reads_at_once, self._max_bytes, self._limit_s = inputs, reads_at_once, max_bytes, limit_s
        self._waiting: SimpleQueue[_Reading | None] = SimpleQueue()
        self._turn = threading.Lock()  # reads begin in order, else a later one could hold the bytes that this one needs
        self._changed = threading.Condition()
        self._num_threads = self._held_bytes = 0
        self._stopped = threading.Event()

    def __iter__(self) -> Iterator[Input]:
        try:
            for item in self._inputs:
                yield replace(item, load=self._later(item.load)) if isinstance(item.load, RemoteRead) else item
        finally:
            self._end_threads()

    def stop(self) -> None:
        """Start no further reads."""
        with self._changed:
            self._stopped.set()
            self._changed.notify_all()
        self._end_threads()

    def _later(self, read: RemoteRead) -> Callable[[], bytes]:
        """Read an object as soon as others are done; return a function that waits for its content."""
        reading = _Reading(read, UNKNOWN_BYTES if read.size is None else read.size)
        self._waiting.put(reading)
        if self._num_threads < self._reads_at_once:
            self._start_thread()
        return partial(self._take, reading)

    def _start_thread(self) -> None:
        self._num_threads += 1
        threading.Thread(target=self._work, name="read ahead", daemon=True).start()

    def _end_threads(self) -> None:
        for _ in range(self._num_threads):
            self._waiting.put(None)

    def _work(self) -> None:
        while (reading := self._next()) is not None:
            reading.run()
            if reading.is_abandoned.is_set():
                return  # another thread has replaced this one
            del reading

    def _next(self) -> "_Reading | None":
        """Return the next object as soon as there is room for it; None at the end."""
        with self._turn:
            reading = self._waiting.get()
            if reading is not None:
                with self._changed:
                    self._changed.wait_for(lambda: self._stopped.is_set() or self._has_room(reading.size))
                    self._held_bytes += reading.size
            return None if self._stopped.is_set() else reading

    def _has_room(self, size: int) -> bool:
        return self._held_bytes == 0 or self._held_bytes + size <= self._max_bytes

    def _take(self, reading: "_Reading") -> bytes:
        try:
            return reading.wait(self._limit_s, self._stopped)
        except _HangsError:
            self._start_thread()  # Python cannot stop the other one
            raise InputError("download", f"not read within {self._limit_s:g} s") from None
        finally:
            with self._changed:
                self._held_bytes -= reading.size
                self._changed.notify_all()


class _HangsError(Exception):
    """A read did not end in time."""


class _Reading:
    """One object that is being read, or will be.

    Attributes:
        is_abandoned: set if it took too long.
    """

    def __init__(self, read: RemoteRead, size: int) -> None:
        self.size, self.is_abandoned = size, threading.Event()
        self._read, self._started, self._content = read, threading.Event(), Future[bytes]()

    def run(self) -> None:
        self._started.set()
        try:
            self._content.set_result(self._read())
        except BaseException as error:
            self._content.set_exception(error)

    def wait(self, limit_s: float, stopped: threading.Event) -> bytes:
        """Return the content.

        Raises:
            CancelledError: the stream was stopped.
            _HangsError: it was not read within ``limit_s`` after its turn came.
        """
        while not self._started.wait(POLL_INTERVAL_S):
            _require_running(stopped)
        deadline = time.monotonic() + limit_s
        while not self._content.done():
            _require_running(stopped)
            if (left_s := deadline - time.monotonic()) <= 0:
                self.is_abandoned.set()
                raise _HangsError
            wait([self._content], min(left_s, POLL_INTERVAL_S))
        try:
            return self._content.result()
        finally:
            self._content = Future()  # drop the content


def _require_running(stopped: threading.Event) -> None:
    if stopped.is_set():
        raise CancelledError
