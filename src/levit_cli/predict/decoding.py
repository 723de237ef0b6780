"""How the images of a run are prepared: on threads, or in processes that may die of it.

Threads cost nothing but cannot be ended, and what crashes one of them ends the run. So processes take over behind the
first image that does not come to an end, and do all of it where that is asked for or where a run is resumed: what
ended it may be the very next image.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from levit_cli.data.inputs import Input
from levit_cli.predict.prefetch import Prefetcher
from levit_cli.predict.reader import Reader

if TYPE_CHECKING:
    from levit_cli.predict.isolation import IsolatedReader


class Preparation:
    """Makes pixels of inputs, until it is closed.

    Args:
        limit_s: wall clock for one image, from when its bytes are there.
        isolate: in processes from the start.
    """

    def __init__(self, reader: Reader, *, limit_s: float, isolate: bool) -> None:
        self._reader, self._limit_s, self._isolate = reader, limit_s, isolate
        self._isolated: IsolatedReader | None = None

    def ahead(self, inputs: Iterable[Input], *, batch_size: int, workers: int) -> Prefetcher:
        """The inputs on their way, from now on."""
        return Prefetcher(
            inputs,
            self._in_processes() if self._isolate else self._reader,
            batch_size=batch_size,
            workers=workers,
            fetch=self._reader.fetch,
            limit_s=None if self._isolate else self._limit_s,
            on_timeout=self._in_processes,
        )

    def __enter__(self) -> "Preparation":
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._isolated is not None:
            self._isolated.close()

    def _in_processes(self) -> "IsolatedReader":
        if self._isolated is None:
            from levit_cli.predict.isolation import IsolatedReader  # and what it takes to start processes

            self._isolated = IsolatedReader(self._reader, self._limit_s)
        return self._isolated
