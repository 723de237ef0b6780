"""Put back what was sorted: files get their old names again, copies and links are removed.

A file is put back or removed only if it is still what ``levit sort`` made. A copy is removed if its original has the
same bytes, so nothing is lost even if the journal is wrong. What users changed stays, and is reported. Undoing can be
killed and repeated: what is done already is recognized by the files.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from levit_cli.errors import OutputError, reason_of
from levit_cli.sort import files
from levit_cli.sort.journal import NOT_EMPTY, Journal, Step
from levit_cli.sort.steps import FULL, InterruptedCopyError, link_text, new_link_of
from levit_cli.system.signals import DeferredSignals, deferred_signals

BATCH_STEPS = 1000


class KeptError(Exception):
    """A file is not put back; the message says why."""


class GoneError(KeptError):
    """A file is not there any more, so it can never be put back."""


@dataclass
class Undone:
    """What was put back.

    Attributes:
        steps: that were undone.
        kept: steps that were not, and why.
    """

    steps: list[Step] = field(default_factory=list)
    kept: list[tuple[Step, str]] = field(default_factory=list)


def check(folder: Path, step: Step) -> bool:
    """Return whether there is anything to undo. It changes nothing.

    Raises:
        KeptError: the file must stay.
        OSError: the files cannot be read.
    """
    target = os.path.join(folder, step.target)
    status = files.status_of(target)
    if status is None:
        if step.action == "move" and files.status_of(step.source) is None:
            raise GoneError("it is neither in its old nor in its new place")
        return False
    if step.action == "move":
        _require_movable(step, target, status)
    else:
        _require_removable(step, target)
    return True


def _require_removable(step: Step, target: str) -> None:
    """Check that removing a copy or a link loses nothing."""
    if step.action == "symlink":
        if link_text(target) != step.source:
            raise KeptError("it was changed since")
        return
    source = os.path.realpath(step.source)
    if files.status_of(source) is None or files.is_same_name(source, target):
        raise KeptError("its original is gone")
    if step.action == "link":
        if not files.is_same_file(source, target):
            raise KeptError("it or its original was replaced since")
    elif os.path.islink(target) or not os.path.isfile(target) or not files.same_content(source, target):
        raise KeptError("it or its original was changed since")


def _require_movable(step: Step, target: str, status: os.stat_result) -> None:
    """Check that a file that was moved is still the same, and that its old name is free."""
    if _is_put_back(step, target):
        return
    if step.link is not None:
        if link_text(target) != new_link_of(step):
            raise KeptError("it was changed since")
    elif status.st_size != step.size or not _has_time_of(step, status):
        raise KeptError("it was changed since")
    if files.status_of(step.source) is not None:
        raise KeptError("another file has its old name")


def _has_time_of(step: Step, status: os.stat_result) -> bool:
    difference = abs(status.st_mtime_ns - step.mtime_ns)
    return difference == 0 or (status.st_dev != step.device and difference < files.FAT_INTERVAL_NS)


def _is_put_back(step: Step, target: str) -> bool:
    """Whether a killed run gave a file its old name again, and did not remove the new one yet."""
    status = files.status_of(step.source)
    if status is None or files.is_same_name(step.source, target):
        return False
    if step.link is not None:
        return link_text(step.source) == step.link and link_text(target) == new_link_of(step)
    if files.is_same_file(step.source, target):
        return True
    is_copy = (status.st_size, status.st_mtime_ns) == (step.size, step.mtime_ns) and not os.path.islink(step.source)
    return is_copy and files.same_content(step.source, target)


def undo(journal: Journal) -> Iterator[Undone]:
    """Undo all steps, the last one first, and yield what was done in each batch.

    At the end, folders that were made are removed if they are empty. If nothing was kept, the journal is, too.

    Raises:
        OutputError: the disk is full or read-only.
    """
    steps = iter([step for state in ("pending", "done") for step in journal.history.in_state(state)][::-1])
    is_complete = True
    while batch := [*islice(steps, BATCH_STEPS)]:
        with deferred_signals(second_ends=True) as signals:
            undone, closed = _Batch(journal.folder, signals).undo(batch)
            journal.mark(undone=closed)
            if signals.arrived:
                signals.act()
        is_complete &= not any(step.number not in closed for step, _ in undone.kept)
        yield undone
    _remove_folders(journal)
    if is_complete:
        journal.remove()


def _remove_folders(journal: Journal) -> None:
    for name in dict.fromkeys(reversed(journal.history.made_folders)):
        try:
            (journal.folder / name).rmdir()
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in NOT_EMPTY:
                raise OutputError(f"Cannot remove {journal.folder / name}", why=reason_of(error)) from error


class _Batch:
    """Undoes some steps. Moved files get their old names, then the folders are synced, then new names are removed."""

    def __init__(self, folder: Path, signals: DeferredSignals) -> None:
        self._folder, self._signals, self._undone = folder, signals, Undone()
        self._closed: set[int] = set()

    def undo(self, steps: list[Step]) -> tuple[Undone, list[int]]:
        """Undo steps until a signal arrives; return what was done, and the steps for which nothing is left to do."""
        restored = [step for step in steps if self._try(step, self._restore)]
        files.sync_files({os.path.dirname(step.source) for step in restored if step.action == "move"})
        for step in restored:
            if self._try(step, self._remove):
                self._undone.steps.append(step)
                self._closed.add(step.number)
        return self._undone, sorted(self._closed)

    def _try(self, step: Step, part: Callable[[Step], bool]) -> bool:
        try:
            return part(step)
        except KeptError as error:
            self._undone.kept.append((step, str(error)))
            if isinstance(error, GoneError):
                self._closed.add(step.number)
        except OSError as error:
            if error.errno in FULL:
                raise OutputError(f"Cannot put back {step.source}", why=reason_of(error)) from error
            self._undone.kept.append((step, reason_of(error)))
        return False

    def _restore(self, step: Step) -> bool:
        """Remove a copy or a link; give a file that was moved its old name again. Return whether that was done."""
        if self._signals.arrived:
            return False
        if not check(self._folder, step):
            self._closed.add(step.number)
            return False
        if step.action != "move":
            os.unlink(os.path.join(self._folder, step.target))
            return True
        if files.status_of(step.source) is None:
            os.makedirs(os.path.dirname(step.source), exist_ok=True)
            self._move_back(step, os.path.join(self._folder, step.target))
        else:
            files.remove(files.temporary_of(step.source))  # a killed run may have left it
        return True

    def _move_back(self, step: Step, target: str) -> None:
        if step.link is not None:
            temporary = files.link_in_temporary(step.link, step.source, step.mtime_ns)
            try:
                files.place(temporary, step.source)
            finally:
                files.remove(temporary)
            return
        try:
            files.place(target, step.source)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            with suppress(InterruptedCopyError):
                self._copy_back(step, target)

    def _copy_back(self, step: Step, target: str) -> None:
        temporary = files.copy_to_temporary(target, step.source, self._poll)
        try:
            os.utime(temporary, ns=(step.mtime_ns, step.mtime_ns))  # FAT may have rounded it
            files.sync_files([temporary])
            if not files.same_content(target, temporary):
                raise KeptError("it was changed while it was put back")
            files.place(temporary, step.source)
        finally:
            files.remove(temporary)

    def _poll(self) -> None:
        if self._signals.arrived:
            raise InterruptedCopyError

    def _remove(self, step: Step) -> bool:
        """Remove the new name of a file that has its old name again. A file that was renamed has it no more."""
        if files.status_of(step.source) is None:
            return step.action != "move"  # else a signal interrupted the copy
        if step.action == "move":
            files.remove(os.path.join(self._folder, step.target))
        return True
