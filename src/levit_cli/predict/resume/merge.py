"""Merge new records into an existing output, so that it equals the output of an uninterrupted run.

If only records at the end are missing, new records are appended. If a new record belongs in the middle or replaces an
error record, a merged file is written next to the output and then replaces it. That happens once a minute, when all
existing records are merged, and when the run ends. A run that is killed therefore loses none of the existing records
and at most one minute of work.
"""

import time
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator

from levit_cli.errors import OutputError
from levit_cli.predict.resume.plan import PendingSlot, Plan, Range
from levit_cli.system.atomic import Replacement, read_at, writing
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
        # Each replacement moves the records that it copies. From the record ``_firsts[i]`` on, until the next range,
        # a record is found ``_shifts[i]`` bytes after its original offset.
        self._firsts, self._shifts = array("Q", [0]), array("q", [0])
        self._is_unmerged = bytearray(b"\1") * len(plan.existing)  # per record; 0 once it is kept or replaced
        self._num_unmerged = len(plan.existing)
        self._merged_bytes = self._existing.offsets[0]  # bytes of the output that are final; initially the header
        self._is_first_slot = True
        self._replacement: Replacement | None = None
        self._committed_at = clock()

    @property
    def num_removed(self) -> int:
        """The number of records whose inputs are no longer listed; final after ``finish``."""
        return self._num_unmerged if self._removes_unmerged else 0

    @property
    def num_moved_to_end(self) -> int:
        """The number of records whose inputs were not listed, but may still exist; final after ``finish``."""
        return 0 if self._removes_unmerged else self._num_unmerged

    @property
    def _removes_unmerged(self) -> bool:
        return self._plan.is_fully_listed and self._plan.shares_inputs

    def write(self, data: bytes) -> None:
        with deferred_signals():
            self._fill(self._plan.pending.popleft())
            (self._replacement or self._output).write(data)
            if self._replacement and (self._num_unmerged == 0 or self._clock() - self._committed_at > COMMIT_EVERY_S):
                self._commit(self._unmerged_ranges())

    def finish(self) -> None:
        with deferred_signals():
            self._fill(self._plan.pending.popleft())
            if self._replacement:
                self._commit(() if self._removes_unmerged else self._unmerged_ranges())

    def stop(self) -> None:
        with deferred_signals():
            if self._replacement:
                self._commit(self._unmerged_ranges())

    def discard(self) -> None:
        if self._replacement:
            self._replacement.discard()
            self._replacement = None

    def _fill(self, slot: PendingSlot) -> None:
        """Copy the existing records that precede the next new record."""
        if self._is_first_slot and slot == PendingSlot([(0, self._num_unmerged)] if self._num_unmerged else []):
            self._num_unmerged = 0
            self._output.continue_at(self._existing.end)  # removes an incomplete record at the end
        self._is_first_slot = False
        if self._num_unmerged == 0 and not self._replacement:
            return
        replacement = self._replacement or self._begin_replacement()
        for records in slot.kept:
            self._copy_records(records, replacement)
            self._mark_merged(records)
        if slot.replaced is not None:
            self._mark_merged((slot.replaced, slot.replaced + 1))

    def _begin_replacement(self) -> Replacement:
        self._replacement = Replacement(self._output.path)
        self._committed_at = self._clock()
        self._copy(0, self._merged_bytes, self._replacement)
        return self._replacement

    def _commit(self, remaining: Iterable[Range]) -> None:
        """Append the remaining existing records to the merged file, and replace the output with it."""
        assert self._replacement is not None
        replacement, self._replacement = self._replacement, None
        try:
            self._merged_bytes = replacement.size
            firsts, shifts = array("Q"), array("q")
            for records in remaining:
                firsts.append(records[0])
                shifts.append(replacement.size - self._existing.offsets[records[0]])
                self._copy_records(records, replacement)
            self._before_commit(replacement.descriptor)
            self._output.take_over(replacement)
            self._firsts, self._shifts = firsts, shifts
        except BaseException:
            replacement.discard()
            raise

    def _copy_records(self, records: Range, target: Replacement) -> None:
        start, stop = records
        shift = self._shifts[bisect_right(self._firsts, start) - 1]
        self._copy(self._existing.offsets[start] + shift, self._existing.offsets[stop] + shift, target)

    def _copy(self, start: int, end: int, target: Replacement) -> None:
        while start < end:
            with writing(self._output.name):
                data = read_at(self._output.descriptor, min(COPY_BYTES, end - start), start)
            if not data:
                raise OutputError(f"Cannot resume {self._output.name}", why="another program truncated it")
            target.write(data)
            start += len(data)

    def _mark_merged(self, records: Range) -> None:
        start, stop = records
        self._is_unmerged[start:stop] = bytes(stop - start)
        self._num_unmerged -= stop - start

    def _unmerged_ranges(self) -> Iterator[Range]:
        stop = 0
        while (start := self._is_unmerged.find(1, stop)) >= 0:
            stop = self._is_unmerged.find(0, start) % (len(self._is_unmerged) + 1)  # -1, not found, becomes the length
            yield start, stop
