"""SIGINT and SIGTERM: raise them as exceptions, and defer them while a step must not be interrupted."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from levit_cli.errors import Terminated

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def raise_on_signals() -> None:
    """Raise ``Terminated`` on SIGTERM and ``KeyboardInterrupt`` on SIGINT. A second signal ends the process at once."""
    signal.signal(signal.SIGTERM, _raise)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else SIGINT is ignored, as under nohup
        signal.signal(signal.SIGINT, _raise)


def _raise(number: int, _: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    raise _exception(number)


def _exception(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated()


class DeferredSignals:
    """The signal that arrived while signals were deferred.

    Attributes:
        arrived: number of the first signal, 0 for none.

    Args:
        second_ends: a second signal of the same kind ends the process at once.
    """

    def __init__(self, *, second_ends: bool) -> None:
        self.arrived, self._second_ends = 0, second_ends

    def handle(self, number: int, _: FrameType | None) -> None:
        self.arrived = self.arrived or number
        if self._second_ends:
            signal.signal(number, signal.SIG_DFL)

    def act(self) -> None:
        """Raise the exception of the deferred signal now.

        Raises:
            KeyboardInterrupt: it is SIGINT.
            Terminated: it is SIGTERM, or another process received it.
        """
        number, self.arrived = self.arrived, 0
        raise _exception(number)


@contextmanager
def deferred_signals(*, second_ends: bool = False) -> Iterator[DeferredSignals]:
    """Defer SIGINT and SIGTERM to the end of the block, or to ``DeferredSignals.act``.

    Signals interrupt the main thread only; in other threads this does nothing.
    """
    deferred = DeferredSignals(second_ends=second_ends)
    if threading.current_thread() is not threading.main_thread():
        yield deferred
        return
    handlers = {number: signal.signal(number, deferred.handle) for number in SIGNALS}
    try:
        yield deferred
    finally:
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set by Python
        if deferred.arrived:
            signal.raise_signal(deferred.arrived)
