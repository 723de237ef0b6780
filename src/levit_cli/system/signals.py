"""Signals that come while a file is between two states are heard when it is in one."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

HEARD_LATER = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """What is done within is done whole; a signal that came meanwhile has its effect at the end."""
    if threading.current_thread() is not threading.main_thread():  # which is the only one that signals interrupt
        yield
        return
    arrived: list[int] = []

    def remember(number: int, _: FrameType | None) -> None:
        arrived.append(number)

    handlers = {number: signal.signal(number, remember) for number in HEARD_LATER}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set by Python
        if arrived:
            signal.raise_signal(arrived[0])
