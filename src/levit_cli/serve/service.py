"""The model that answers, and the queue before it. SIGHUP replaces the model while requests are answered."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import TypeVar

from levit_cli.data.input import Input
from levit_cli.serve.connection import overloaded
from levit_cli.serve.messages import HttpError
from levit_cli.serve.metrics import Metrics
from levit_cli.serve.model import Output, ServedModel
from levit_cli.serve.scheduler import Outcome, QueueFullError, Scheduler, Ticket

T = TypeVar("T")


async def in_thread(function: Callable[[], T]) -> T:
    """Call a function in a daemon thread, which does not delay the end of the process."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def finish(result: T | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        try:
            outcome: tuple[T | None, BaseException | None] = (function(), None)
        except BaseException as error:
            outcome = (None, error)
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(finish, *outcome)

    threading.Thread(target=run, name="load", daemon=True).start()
    return await future


class Service:
    """Computes the outcomes of requests with the current model.

    Args:
        make_scheduler: called with the first model.
        request_timeout_s: for all images of a request.

    Attributes:
        model: the current model; None until it is warm.
    """

    def __init__(
        self, metrics: Metrics, make_scheduler: Callable[[ServedModel], Scheduler], request_timeout_s: float
    ) -> None:
        self.metrics = metrics
        self.model: ServedModel | None = None
        self.scheduler: Scheduler | None = None
        self._make_scheduler, self._timeout_s = make_scheduler, request_timeout_s

    def use(self, model: ServedModel) -> None:
        """Answer all further requests with a model that is warm."""
        previous, self.model = self.model, model
        if self.scheduler is None:
            self.scheduler = self._make_scheduler(model)
        if previous is not None:
            previous.retire()

    def require_ready(self) -> ServedModel:
        """Return the model.

        Raises:
            HttpError: it is still being loaded.
        """
        if self.model is None:
            raise HttpError(HTTPStatus.SERVICE_UNAVAILABLE, "the model is being loaded", (("Retry-After", "1"),))
        return self.model

    def require_room(self) -> None:
        """Refuse a request before its body is received.

        Raises:
            HttpError: the model is not ready, or the queue is full.
        """
        self.require_ready()
        if self.scheduler is not None and self.scheduler.is_full:
            raise _queue_is_full()

    async def outcomes(self, items: Sequence[Input], output: Output) -> tuple[ServedModel, list[Outcome]]:
        """Return the logits, the features or the error of each image, and the model that computed them.

        Raises:
            HttpError: the model is not ready, the queue is full, or the request timed out.
        """
        model = self.require_ready()
        assert self.scheduler is not None
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def on_done() -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(done.set)

        ticket = Ticket(items, model, output, on_done)
        try:
            self.scheduler.submit(ticket)
        except QueueFullError:
            raise _queue_is_full() from None
        model.acquire()
        try:
            await asyncio.wait_for(done.wait(), self._timeout_s)
        except asyncio.TimeoutError:
            raise HttpError(HTTPStatus.SERVICE_UNAVAILABLE, "the request timed out", (("Retry-After", "1"),)) from None
        finally:
            if not done.is_set():
                self.scheduler.cancel(ticket)
            model.release()
        if ticket.bug is not None:
            raise ticket.bug
        return model, [outcome for outcome in ticket.outcomes if outcome is not None]


def _queue_is_full() -> HttpError:
    return overloaded("too many requests wait")
