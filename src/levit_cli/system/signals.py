"""Raise SIGINT and SIGTERM as exceptions, and defer them while a step must not be interrupted."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from levit_cli.errors import Terminated

# On Windows, no program can send SIGTERM; Ctrl-Break and the end of a console take its place.
SIGNALS = (signal.SIGINT, *(getattr(signal, name) for name in ("SIGTERM", "SIGBREAK") if hasattr(signal, name)))


def raise_on_signals() -> None:
    """Raise ``KeyboardInterrupt`` on SIGINT, ``Terminated`` on other signals. A second one ends the process at once."""
    for number in SIGNALS[1:]:
        signal.signal(number, _raise)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else SIGINT is ignored, as under nohup
        signal.signal(signal.SIGINT, _raise)


def _raise(number: int, _: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    raise _exception(number)


def _exception(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated()


class DeferredSignals:
    """The first signal that arrives while signals are deferred.

    Attributes:
        arrived: number of that signal; 0 if there is none.

    Args:
        second_ends: whether a second signal of the same kind ends the process at once.
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
            KeyboardInterrupt: the signal is SIGINT.
            Terminated: it is another signal, or another process received a signal.
        """
        number, self.arrived = self.arrived, 0
        raise _exception(number)


@contextmanager
def deferred_signals(*, second_ends: bool = False) -> Iterator[DeferredSignals]:
    """Defer SIGINT and SIGTERM until the end of the block or a call of ``DeferredSignals.act``.

    Python handles signals in the main thread only. In other threads this does nothing.
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


@contextmanager
def blocked_signals() -> Iterator[None]:
    """Block SIGINT and SIGTERM; a process that is forked in the block starts with them blocked."""
    if sys.platform == "win32":
        yield
    else:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_signals() -> None:
    """Ignore SIGINT and SIGTERM in this process, also those that arrived while they were blocked."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
