"""Signals that let the step under way end and be saved."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from levit_cli.errors import Terminated

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """What has been asked for so far."""

    def __init__(self) -> None:
        self.signum = 0

    def note(self, signum: int, _: FrameType | None) -> None:
        """Keep a signal for the end of the step; a second one acts at once."""
        self.signum = signum
        signal.signal(signum, signal.SIG_DFL)

    def act(self) -> None:
        """Leave as the signal asks for.

        Raises:
            KeyboardInterrupt: it was Ctrl-C.
            Terminated: it was SIGTERM.
        """
        raise KeyboardInterrupt if self.signum == signal.SIGINT else Terminated


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """While it lasts, SIGINT and SIGTERM are noted and nothing more."""
    asked = Interruption()
    before = {signum: signal.signal(signum, asked.note) for signum in SIGNALS}
    try:
        yield asked
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
