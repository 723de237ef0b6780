"""Bringing the file of an earlier run to where an unbroken run would have brought it, safely at every moment.

Where every record stands and the rest is missing, the rest is appended. Where a record in the middle is tried again or
is new, the file is written anew beside the old one and then takes its place: as soon as the old records are all in
it, once a minute before that, and whenever the run ends. So what stands in the output is at any time all that was
finished, and a kill costs at most a minute of what was tried again.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator

from levit_cli.errors import OutputError
from levit_cli.predict.resume.plan import Due, Plan, Range
from levit_cli.system.atomic import Replacement, writing
from levit_cli.system.output import OutputFile
from levit_cli.system.signals import deferred_signals

SETTLE_EVERY_S = 60.0
COPIED_BYTES = 1 << 20


class Continuation:
    """Puts new records behind and between those that stand; a ``Target`` for a writer.

    Args:
        output: the file in which they stand.
        plan: of which there is a ``due`` for each record that will be written, and one more.
        mark: told the descriptor of a file that is about to take the place of the output.
        clock: seconds.
    """

    def __init__(
        self,
        output: OutputFile,
        plan: Plan,
        mark: Callable[[int], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._output, self._standing, self._plan, self._mark, self._clock = output, plan.standing, plan, mark, clock
        self._source = output.descriptor  # of the old records; it stays open when another file takes their place
        self._is_open = bytearray(b"\1") * len(plan.standing)  # the records that are neither kept nor replaced yet
        self._num_open = len(plan.standing)
        self._merged = self._standing.places[0]  # bytes of the output that are as they will be: at first the header
        self._is_untouched = True
        self._replacement: Replacement | None = None
        self._settled_at = clock()

    @property
    def num_left_out(self) -> int:
        """Records whose inputs are not listed any more; known behind ``finish``."""
        return self._num_open if self._leaves_out else 0

    @property
    def num_kept_apart(self) -> int:
        """The same, where it cannot be known that these inputs are gone, and their records stand at the end."""
        return 0 if self._leaves_out else self._num_open

    @property
    def _leaves_out(self) -> bool:
        return self._plan.is_complete and self._plan.is_shared

    def write(self, data: bytes) -> None:
        with deferred_signals():
            self._place(self._plan.due.popleft())
            (self._replacement or self._output).write(data)
            if self._replacement and (self._num_open == 0 or self._clock() - self._settled_at > SETTLE_EVERY_S):
                self._settle(self._open_ranges())

    def finish(self) -> None:
        with deferred_signals():
            self._place(self._plan.due.popleft())
            if self._replacement:
                self._settle(() if self._leaves_out else self._open_ranges())

    def stop(self) -> None:
        with deferred_signals():
            if self._replacement:
                self._settle(self._open_ranges())

    def discard(self) -> None:
        if self._replacement:
            self._replacement.discard()
            self._replacement = None

    def _place(self, due: Due) -> None:
        """Put in place what stands in front of the next record."""
        if self._is_untouched and due == Due([(0, self._num_open)] if self._num_open else []):
            self._num_open = 0
            self._output.continue_at(self._standing.end)  # without what is left of a torn record
        self._is_untouched = False
        if self._num_open == 0 and not self._replacement:
            return
        replacement = self._replacement or self._begin_anew()
        for first, behind in due.kept:
            self._copy(self._source, self._standing.places[first], self._standing.places[behind], replacement)
            self._close(first, behind)
        if due.replaced is not None:
            self._close(due.replaced, due.replaced + 1)

    def _begin_anew(self) -> Replacement:
        self._replacement = Replacement(self._output.path)
        self._settled_at = self._clock()
        self._copy(self._output.descriptor, 0, self._merged, self._replacement)
        return self._replacement

    def _settle(self, remaining: Iterable[Range]) -> None:
        """Let the new file take the place of the output, behind its end the old records that are still to come."""
        assert self._replacement is not None
        replacement, self._replacement = self._replacement, None
        try:
            self._merged = replacement.size
            for first, behind in remaining:
                self._copy(self._source, self._standing.places[first], self._standing.places[behind], replacement)
            self._mark(replacement.descriptor)
            self._output.take_over(replacement)
        except BaseException:
            replacement.discard()
            raise

    def _copy(self, source: int, start: int, end: int, target: Replacement) -> None:
        while start < end:
            with writing(self._output.name):
                data = os.pread(source, min(COPIED_BYTES, end - start), start)
            if not data:
                raise OutputError(f"Cannot continue {self._output.name}", why="somebody else cut it off")
            target.write(data)
            start += len(data)

    def _close(self, first: int, behind: int) -> None:
        self._is_open[first:behind] = bytes(behind - first)
        self._num_open -= behind - first

    def _open_ranges(self) -> Iterator[Range]:
        behind = 0
        while (first := self._is_open.find(1, behind)) >= 0:
            behind = self._is_open.find(0, first) % (len(self._is_open) + 1)  # -1, not found: the end
            yield first, behind
