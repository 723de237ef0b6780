"""Merge new records into an existing output, so that it ends up as a run without interruption would have written it.

If only the end is missing, new records are appended. If a record in the middle is new or replaces an error, the merged
file is written beside the output and then replaces it. That happens when all existing records are merged, once a
minute before that, and when the run ends. So the output always holds every finished record, and a kill loses at most
one minute of repeated work.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator

from levit_cli.errors import OutputError
from levit_cli.predict.resume.plan import PendingSlot, Plan, Range
from levit_cli.system.atomic import Replacement, writing
from levit_cli.system.output import OutputFile
from levit_cli.system.signals import deferred_signals

COMMIT_EVERY_S = 60.0
COPY_BYTES = 1 << 20


class Merger:
    """Inserts new records between existing ones; the ``Target`` of a writer.

    Args:
        output: the file with the existing records.
        plan: provides one pending slot for each new record, and one for the end of the file.
        before_commit: called with the descriptor of each file that is about to replace the output.
        clock: returns seconds.
    """

    def __init__(
        self,
        output: OutputFile,
        plan: Plan,
        before_commit: Callable[[int], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._output, self._plan, self._existing = output, plan, plan.existing
        self._before_commit, self._clock = before_commit, clock
        self._source = output.descriptor  # of the existing records; stays open after the output was replaced
        self._is_open = bytearray(b"\1") * len(plan.existing)  # per record: 1 until it is kept or replaced
        self._num_open = len(plan.existing)
        self._merged_bytes = self._existing.offsets[0]  # of the output, from its start: final; at first the header
        self._is_first_slot = True
        self._replacement: Replacement | None = None
        self._committed_at = clock()

    @property
    def num_removed(self) -> int:
        """The number of records whose inputs are no longer listed; final after ``finish``."""
        return self._num_open if self._removes_open else 0

    @property
    def num_moved_to_end(self) -> int:
        """The number of records whose inputs were not listed, but may still exist; final after ``finish``."""
        return 0 if self._removes_open else self._num_open

    @property
    def _removes_open(self) -> bool:
        return self._plan.is_complete and self._plan.is_shared

    def write(self, data: bytes) -> None:
        with deferred_signals():
            self._fill(self._plan.pending.popleft())
            (self._replacement or self._output).write(data)
            if self._replacement and (self._num_open == 0 or self._clock() - self._committed_at > COMMIT_EVERY_S):
                self._commit(self._open_ranges())

    def finish(self) -> None:
        with deferred_signals():
            self._fill(self._plan.pending.popleft())
            if self._replacement:
                self._commit(() if self._removes_open else self._open_ranges())

    def stop(self) -> None:
        with deferred_signals():
            if self._replacement:
                self._commit(self._open_ranges())

    def discard(self) -> None:
        if self._replacement:
            self._replacement.discard()
            self._replacement = None

    def _fill(self, slot: PendingSlot) -> None:
        """Copy the existing records that precede the next new record."""
        if self._is_first_slot and slot == PendingSlot([(0, self._num_open)] if self._num_open else []):
            self._num_open = 0
            self._output.continue_at(self._existing.end)  # cuts off a torn record at the end
        self._is_first_slot = False
        if self._num_open == 0 and not self._replacement:
            return
        replacement = self._replacement or self._begin_replacement()
        for records in slot.kept:
            self._copy_records(records, replacement)
            self._close(records)
        if slot.replaced is not None:
            self._close((slot.replaced, slot.replaced + 1))

    def _begin_replacement(self) -> Replacement:
        self._replacement = Replacement(self._output.path)
        self._committed_at = self._clock()
        self._copy(self._output.descriptor, 0, self._merged_bytes, self._replacement)
        return self._replacement

    def _commit(self, remaining: Iterable[Range]) -> None:
        """Replace the output by the merged file, with the remaining existing records at its end."""
        assert self._replacement is not None
        replacement, self._replacement = self._replacement, None
        try:
            self._merged_bytes = replacement.size
            for records in remaining:
                self._copy_records(records, replacement)
            self._before_commit(replacement.descriptor)
            self._output.take_over(replacement)
        except BaseException:
            replacement.discard()
            raise

    def _copy_records(self, records: Range, target: Replacement) -> None:
        start, stop = records
        self._copy(self._source, self._existing.offsets[start], self._existing.offsets[stop], target)

    def _copy(self, source: int, start: int, end: int, target: Replacement) -> None:
        while start < end:
            with writing(self._output.name):
                data = os.pread(source, min(COPY_BYTES, end - start), start)
            if not data:
                raise OutputError(f"Cannot resume {self._output.name}", why="another program truncated it")
            target.write(data)
            start += len(data)

    def _close(self, records: Range) -> None:
        start, stop = records
        self._is_open[start:stop] = bytes(stop - start)
        self._num_open -= stop - start

    def _open_ranges(self) -> Iterator[Range]:
        stop = 0
        while (start := self._is_open.find(1, stop)) >= 0:
            stop = self._is_open.find(0, start) % (len(self._is_open) + 1)  # -1, not found, becomes the length
            yield start, stop
