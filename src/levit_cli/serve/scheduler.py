"""Decode the images of requests in threads and form batches of those that are ready.

A batch takes what is decoded when a core becomes free, and no core waits for more images. While all cores are busy, the
next batch grows. Requests wait in a queue of limited length. Images are taken from them in turns, so a request with one
image does not wait for all images of a request with many. At most ``MAX_READY_BATCHES`` batches of decoded images wait
for the network.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from levit_cli.data.input import Input
from levit_cli.errors import InputError
from levit_cli.serve.metrics import Metrics
from levit_cli.serve.model import Output, ServedModel
from levit_cli.serve.process import yield_to_event_loop

MAX_READY_BATCHES = 1
MAX_DEFERRAL_S = 0.01  # of a batch while all cores are busy; decoding one image can take seconds
WATCH_INTERVAL_S = 0.1

Pixels = NDArray[np.uint8]
Row = NDArray[np.float32]
Outcome = Row | InputError


class QueueFullError(Exception):
    """As many requests wait as may wait."""


class ModelError(Exception):
    """The network failed. The message says how."""


class Ticket:
    """The images of one request, and their outcomes.

    Args:
        output: the output of the network to compute.
        on_done: called once, in any thread, when all images have their outcome.

    Attributes:
        outcomes: one per image, in order.
        bug: what went wrong in this program, if anything did.
    """

    def __init__(
        self, items: Sequence[Input], model: ServedModel, output: Output, on_done: Callable[[], None]
    ) -> None:  # fmt: skip
        self.model, self.output, self._on_done = model, output, on_done
        self.outcomes: list[Outcome | None] = [None] * len(items)
        self.bug: BaseException | None = None
        self.is_cancelled = False
        self.waiting = deque(Image(self, position, item) for position, item in enumerate(items))
        self._num_left = len(items)
        self._lock = threading.Lock()

    def finish(self, position: int, outcome: Outcome | BaseException) -> None:
        """Set the outcome of one image; only the first counts."""
        with self._lock:
            if self.outcomes[position] is not None or self._num_left == 0:
                return
            if isinstance(outcome, (InputError, np.ndarray)):
                self.outcomes[position] = outcome
            else:
                self.bug = outcome
                self.outcomes[position] = InputError("non_finite", "internal error")
            self._num_left -= 1
            is_done = self._num_left == 0
        if is_done:
            self._on_done()


class Image(NamedTuple):
    """One image of a request, and its position in it."""

    ticket: Ticket
    position: int
    item: Input


class _Ready(NamedTuple):
    """A decoded image.

    Args:
        since: the ``time.monotonic`` at which it was decoded.
    """

    image: Image
    pixels: Pixels
    since: float

    @property
    def group(self) -> tuple[int, Output]:
        """Images of one group can be in one batch."""
        return id(self.image.ticket.model), self.image.ticket.output


class _Decoding:
    """An image that is being decoded.

    Attributes:
        is_isolated: whether a worker process decodes it, which has its own limit.
    """

    def __init__(self, image: Image) -> None:
        self.image, self.since = image, time.monotonic()
        self.is_isolated = image.ticket.model.is_isolated


class Scheduler:
    """The threads that decode and run the network.

    Args:
        queue: the number of requests that may wait.
        workers: threads that decode.
        streams: threads that run the network.
        cores: the CPU cores on which images are decoded and batches computed; None if the network does not share them.
        max_batch: images per batch.
        timeout_s: wall-clock limit for decoding one image in a thread.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        queue: int,
        workers: int,
        streams: int,
        cores: int | None,
        max_batch: int,
        timeout_s: float,
    ) -> None:
        self._metrics, self._queue, self._max_batch, self._timeout_s = metrics, queue, max_batch, timeout_s
        self._tickets: deque[Ticket] = deque()  # with images that wait for a decoder
        self._ready: deque[_Ready] = deque()
        self._decoding: set[_Decoding] = set()
        self._streams, self._cores, self._num_computing = streams, cores, 0
        self._lock = threading.Lock()
        self._can_decode, self._can_compute = threading.Condition(self._lock), threading.Condition(self._lock)
        for _ in range(workers):
            self._start(self._decode)
        for _ in range(streams):
            self._start(self._compute)
        self._start(self._watch)

    def submit(self, ticket: Ticket) -> None:
        """Put a request into the queue.

        Raises:
            QueueFullError: it is full.
        """
        with self._lock:
            if len(self._tickets) >= self._queue:
                raise QueueFullError
            self._tickets.append(ticket)
            self._can_decode.notify(len(ticket.waiting))

    def cancel(self, ticket: Ticket) -> None:
        """Do not decode further images of a request."""
        with self._lock:
            ticket.is_cancelled = True
            ticket.waiting.clear()
            if ticket in self._tickets:
                self._tickets.remove(ticket)

    @property
    def is_full(self) -> bool:
        return len(self._tickets) >= self._queue

    @property
    def num_waiting(self) -> int:
        """The number of requests that wait."""
        return len(self._tickets)

    @staticmethod
    def _start(loop: Callable[[], None]) -> None:
        def run() -> None:
            yield_to_event_loop()
            loop()

        threading.Thread(target=run, name=loop.__name__.strip("_"), daemon=True).start()

    def _take_image(self) -> _Decoding:
        """Wait for an image to decode. Each request in turn gives one."""
        with self._lock:
            self._can_decode.wait_for(
                lambda: self._tickets and len(self._ready) < MAX_READY_BATCHES * self._max_batch
            )  # fmt: skip
            ticket = self._tickets.popleft()
            image = ticket.waiting.popleft()
            if ticket.waiting:
                self._tickets.append(ticket)
            decoding = _Decoding(image)
            self._decoding.add(decoding)
            return decoding

    def _decode(self) -> None:
        while True:
            decoding = self._take_image()
            outcome = self._outcome(decoding.image)
            with self._lock:
                if decoding not in self._decoding:
                    return  # it timed out, and another thread has replaced this one
                self._decoding.remove(decoding)
                if isinstance(outcome, np.ndarray):
                    self._ready.append(_Ready(decoding.image, outcome, time.monotonic()))
                self._can_compute.notify()
            if not isinstance(outcome, np.ndarray):
                self._finish(decoding.image, outcome)

    def _outcome(self, image: Image) -> Pixels | BaseException:
        start = time.perf_counter()
        try:
            pixels = image.ticket.model.read(image.item)
        except CancelledError:
            return InputError("decoder_crashed", "the server is stopping")
        except InputError as error:
            return InputError(error.kind, error.message)  # without its traceback, which refers to the image
        except BaseException as error:
            return error
        self._metrics.decode_s.observe(time.perf_counter() - start)
        return pixels

    def _watch(self) -> None:
        """Replace threads whose decoder hangs."""
        while True:
            time.sleep(WATCH_INTERVAL_S)
            limit = time.monotonic() - self._timeout_s
            with self._lock:
                late = [decoding for decoding in self._decoding if decoding.since < limit and not decoding.is_isolated]
                self._decoding.difference_update(late)
            for decoding in late:
                self._finish(decoding.image, InputError("timeout", f"not decoded within {self._timeout_s:g} s"))
                decoding.image.ticket.model.isolate()
                self._start(self._decode)

    def _take_batch(self) -> list[_Ready]:
        """Wait for decoded images and a core, and take as many as a network that is compiled can hold.

        The streams that are idle share the images.
        """
        with self._lock:
            while not self._ready or self._deferral_s() > 0:
                self._can_compute.wait(self._deferral_s() if self._ready else None)
            group, ticket = self._ready[0].group, self._ready[0].image.ticket
            alike = [ready for ready in self._ready if ready.group == group]
            share = -(-len(alike) // (self._streams - self._num_computing))
            batch = alike[: ticket.model.batch_size(ticket.output, share)]
            for ready in batch:
                self._ready.remove(ready)
            self._num_computing += 1
            self._can_decode.notify(len(batch))
            if self._ready:
                self._can_compute.notify()
            return batch

    def _deferral_s(self) -> float:
        """Return how long the next batch may still grow."""
        num_busy = len(self._decoding) + self._num_computing
        if self._cores is None or num_busy < self._cores or len(self._ready) >= self._max_batch:
            return 0.0
        return self._ready[0].since + MAX_DEFERRAL_S - time.monotonic()

    def _compute(self) -> None:
        while True:
            batch = self._take_batch()
            wanted = [ready for ready in batch if not ready.image.ticket.is_cancelled]
            outcomes = self._outcomes(wanted) if wanted else []
            with self._lock:
                self._num_computing -= 1
                self._can_compute.notify()
            for ready, outcome in zip(wanted, outcomes, strict=True):
                self._finish(ready.image, outcome)

    def _outcomes(self, batch: Sequence[_Ready]) -> Sequence[Outcome | BaseException]:
        ticket = batch[0].image.ticket
        start = time.perf_counter()
        try:
            pixels = [ready.pixels for ready in batch]
            outcomes = ticket.model.run(ticket.output, pixels, is_alone=self._num_computing == 1)
        except BaseException as error:
            return [error] * len(batch)
        self._metrics.network_s.observe(time.perf_counter() - start)
        self._metrics.batch_sizes.observe(len(batch))
        return outcomes

    def _finish(self, image: Image, outcome: Outcome | BaseException) -> None:
        kind = outcome.kind if isinstance(outcome, InputError) else "ok" if isinstance(outcome, np.ndarray) else "bug"
        self._metrics.images.add(outcome=kind)
        image.ticket.finish(image.position, outcome)
