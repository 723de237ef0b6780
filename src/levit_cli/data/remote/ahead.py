"""Read objects of a store ahead of the decoders: several at a time, in order, in bounded memory.

The module imports no library, because it also passes the inputs of local runs through.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, replace
from functools import partial

from levit_cli.data.input import Input
from levit_cli.errors import InputError

READS_AT_ONCE = 16
MAX_AHEAD_BYTES = 64 << 20
UNKNOWN_BYTES = 4 << 20  # assumed for an object whose size was not listed
READ_LIMIT_S = 75.0  # a read that has not ended by then is abandoned; the store's own time limit is shorter


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
    """Yields inputs in order and starts to read those that are objects in a store. Other inputs pass unchanged.

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
        self._changed = threading.Condition()
        self._num_reading = self._held_bytes = 0
        self._is_stopped = False

    def __iter__(self) -> Iterator[Input]:
        for item in self._inputs:
            if isinstance(item.load, RemoteRead):
                size = UNKNOWN_BYTES if item.load.size is None else item.load.size
                if not self._reserve(size):
                    return
                item = replace(item, load=_Reading(item.load, size, self))
            yield item

    def stop(self) -> None:
        """Start no further reads."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    def _reserve(self, size: int) -> bool:
        """Wait until an object of this size may be read; return False if the stream was stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_stopped or self._has_room(size))
            self._num_reading += 1
            self._held_bytes += size
            return not self._is_stopped

    def _has_room(self, size: int) -> bool:
        fits = self._held_bytes == 0 or self._held_bytes + size <= self._max_bytes
        return fits and self._num_reading < self._reads_at_once

    def release(self, *, reading: bool = False, size: int = 0) -> None:
        """Give back the room of a read that ended, or the bytes that a decoder took."""
        with self._changed:
            self._num_reading -= reading
            self._held_bytes -= size
            self._changed.notify_all()

    @property
    def limit_s(self) -> float:
        return self._limit_s


class _Reading:
    """One read in a thread of its own. A thread that hangs is abandoned; Python cannot stop it."""

    def __init__(self, load: Callable[[], bytes], size: int, ahead: ReadAhead) -> None:
        self._size, self._ahead = size, ahead
        self._deadline = time.monotonic() + ahead.limit_s
        self._content: Future[bytes] = Future()
        self._release_once = _once(partial(ahead.release, reading=True))
        threading.Thread(target=self._run, args=(load,), name="read ahead", daemon=True).start()

    def _run(self, load: Callable[[], bytes]) -> None:
        try:
            self._content.set_result(load())
        except BaseException as error:
            self._content.set_exception(error)
        finally:
            self._release_once()

    def __call__(self) -> bytes:
        try:
            return self._content.result(max(self._deadline - time.monotonic(), 0))
        except FutureTimeoutError:
            self._release_once()
            if self._content.done():  # the read itself raised a TimeoutError
                raise
            raise InputError("download", f"not read within {self._ahead.limit_s:g} s") from None
        finally:
            self._ahead.release(size=self._size)
            del self._content


def _once(action: Callable[[], object]) -> Callable[[], None]:
    """Return a function that runs an action the first time it is called."""
    lock = threading.Lock()

    def call() -> None:
        if lock.acquire(blocking=False):  # never given back
            action()

    return call
