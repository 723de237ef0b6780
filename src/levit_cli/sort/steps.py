"""Take the steps of a batch, and resolve those that a killed run left pending.

The order makes every moment safe. The steps are in the journal, synced, before the first is taken. Contents are copied
to temporary files and synced, then every file gets its new name, which fails if the name is taken. The folders are
synced. Only then the old names of moved files are removed, and the journal says what became of each step.
"""

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from levit_cli.errors import OutputError, reason_of
from levit_cli.sort import files
from levit_cli.sort.journal import Journal, Step
from levit_cli.system.atomic import sync_folder
from levit_cli.system.signals import DeferredSignals, deferred_signals

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
CHANGED = "it was changed while it was sorted"

Phase = Callable[[Step], None]


class InterruptedCopyError(Exception):
    """A signal arrived during a copy."""


@dataclass
class Outcome:
    """What became of a batch.

    Attributes:
        done, cancelled: numbers of steps.
        failed: the error of steps that were not taken, by number.
        taken: images whose new name was taken meanwhile.
        leftover: steps whose temporary file could not be removed. They stay pending, so that the next run removes it.
    """

    done: list[int] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    failed: dict[int, OSError] = field(default_factory=dict)
    taken: list[Step] = field(default_factory=list)
    leftover: set[int] = field(default_factory=set)

    def recorded(self, numbers: list[int]) -> list[int]:
        """Return the steps whose outcome is recorded in the journal."""
        return [number for number in numbers if number not in self.leftover]


def take(journal: Journal, steps: list[Step]) -> Outcome:
    """Take steps that are in the journal, and record what became of them.

    A signal ends the batch early: what was begun is finished, the rest is cancelled.

    Raises:
        OutputError: the disk is full or read-only; what became of the steps is recorded.
    """
    with deferred_signals(second_ends=True) as signals:
        outcome = _Batch(journal.folder, signals).take(steps)
        journal.mark(done=outcome.recorded(outcome.done), cancelled=outcome.recorded(outcome.cancelled))
        if signals.arrived:
            signals.act()
    for error in outcome.failed.values():
        if error.errno in FULL:
            raise OutputError(f"Cannot write into {journal.folder}", why=reason_of(error))
    return outcome


class _Batch:
    def __init__(self, folder: Path, signals: DeferredSignals) -> None:
        self._folder, self._signals, self._outcome = folder, signals, Outcome()
        self._device = os.stat(folder).st_dev
        self._temporary: dict[int, str] = {}  # by number of the step
        self._sync_error: OSError | None = None
        self._without_image: set[str] = set()  # images that were not sorted, so their sidecars are not either

    def take(self, steps: list[Step]) -> Outcome:
        steps = [*self._survivors(steps, self._copy)]
        self._sync(self._temporary[step.number] for step in steps if step.number in self._temporary and not step.link)
        for phase in (self._verify, self._place):
            steps = [*self._survivors(steps, phase)]
        self._sync({os.path.dirname(self._target(step)) for step in steps if step.action == "move"})
        steps = [*self._survivors(steps, self._remove_source, is_placed=True)]
        self._outcome.done += [step.number for step in steps]
        return self._outcome

    def _sync(self, paths: Iterable[str]) -> None:
        try:
            files.sync_files(paths)
        except OSError as error:
            self._sync_error = error  # of the steps that need it

    def _survivors(self, steps: list[Step], phase: Phase, *, is_placed: bool = False) -> Iterator[Step]:
        """Run a phase for each step, and yield the steps that passed it.

        Args:
            is_placed: the files have their new names already, so the phase runs to its end.
        """
        for step in steps:
            if (self._signals.arrived and not is_placed) or step.image in self._without_image:
                self._give_up(step, is_placed=is_placed)
                continue
            try:
                phase(step)
            except InterruptedCopyError:
                self._give_up(step)
            except OSError as error:
                if isinstance(error, FileExistsError) and step.image is None:
                    self._outcome.taken.append(step)
                else:
                    self._outcome.failed[step.number] = error
                self._give_up(step, is_placed=is_placed)
            else:
                yield step

    def _give_up(self, step: Step, *, is_placed: bool = False) -> None:
        """Remove what a step made. If that fails, the step stays pending, and the next run resolves it."""
        self._without_image.add(step.source)
        self._remove_temporary(step)
        if not is_placed or self._take_back(step):
            self._outcome.cancelled.append(step.number)

    def _take_back(self, step: Step) -> bool:
        """Remove the new name of a file, unless it is the only one; return whether that was done."""
        target = self._target(step)
        try:
            is_double = step.action != "move" or step.number in self._temporary
            if not is_double and not files.is_same_file(step.source, target):
                return False
            os.unlink(target)
        except OSError:
            return False
        return True

    def _target(self, step: Step) -> str:
        return os.path.join(self._folder, step.target)

    def _copy(self, step: Step) -> None:
        if step.link is not None:
            self._temporary[step.number] = files.link_in_temporary(
                new_link_of(step), self._target(step), step.mtime_ns
            )  # fmt: skip
        elif step.action == "copy" or (step.action == "move" and step.device != self._device):
            self._copy_now(step)

    def _copy_now(self, step: Step) -> None:
        self._temporary[step.number] = files.copy_to_temporary(step.source, self._target(step), self._poll)

    def _poll(self) -> None:
        if self._signals.arrived:
            raise InterruptedCopyError

    def _verify(self, step: Step) -> None:
        """Check that a copy is on the disk, and equal to the file that will be removed."""
        if step.number not in self._temporary or step.link is not None:
            return
        if self._sync_error:
            raise self._sync_error
        if step.action == "move" and not files.same_content(step.source, self._temporary[step.number]):
            raise OSError(errno.EBUSY, CHANGED)

    def _place(self, step: Step) -> None:
        target = self._target(step)
        if step.number in self._temporary:
            self._place_temporary(step)
        elif step.action == "symlink":
            os.symlink(step.source, target)
        elif step.action == "link":
            os.link(os.path.realpath(step.source, strict=True), target)
        else:
            self._move(step)

    def _move(self, step: Step) -> None:
        _require_unchanged(step)
        try:
            files.place(step.source, self._target(step))
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._copy_now(step)  # the file system says only now that it is another one
            self._sync([self._temporary[step.number]])
            self._verify(step)
            self._place_temporary(step)

    def _place_temporary(self, step: Step) -> None:
        files.place(self._temporary[step.number], self._target(step))
        self._remove_temporary(step)

    def _remove_temporary(self, step: Step) -> None:
        if step.number not in self._temporary:
            return
        try:
            files.remove(self._temporary[step.number])
        except OSError:
            self._outcome.leftover.add(step.number)

    def _remove_source(self, step: Step) -> None:
        if step.action == "move" and self._sync_error:
            raise self._sync_error
        remove_source(self._folder, step)


def remove_source(folder: Path, step: Step) -> None:
    """Remove the old name of a file that was moved, if the file still has it.

    Raises:
        OSError: it cannot be removed, or a copied file was changed meanwhile. The file at the new name is not needed.
    """
    status = files.status_of(step.source)
    if step.action != "move" or status is None or files.is_same_name(step.source, os.path.join(folder, step.target)):
        return
    target = os.lstat(os.path.join(folder, step.target))
    if not os.path.samestat(status, target):
        if _is_moved(step, target):
            return  # it was renamed, and another file has the old name by now
        _require_unchanged(step)
    os.unlink(step.source)


def _require_unchanged(step: Step) -> None:
    status = os.lstat(step.source)
    found = status.st_size, status.st_mtime_ns, status.st_dev, status.st_ino
    if found != (step.size, step.mtime_ns, step.device, step.inode):
        raise OSError(errno.EBUSY, CHANGED)


def new_link_of(step: Step) -> str:
    """Return the text of a symbolic link that is moved. A relative one would point elsewhere from its new place."""
    assert step.link is not None
    return os.path.join(os.path.dirname(step.source), step.link)


def link_text(path: str) -> str | None:
    """Return the text of a symbolic link; None for anything else."""
    return os.readlink(path) if os.path.islink(path) else None


def was_taken(folder: Path, step: Step) -> bool:
    """Return whether a step gave its file the new name, judged by the file that has this name now.

    Raises:
        OSError: the files cannot be read.
    """
    target = os.path.join(folder, step.target)
    status = files.status_of(target)
    if status is None:
        return False
    if step.action == "symlink":
        return link_text(target) == step.source
    if step.link is not None:
        return link_text(target) == new_link_of(step)
    if step.action == "link":
        return files.is_same_file(os.path.realpath(step.source), target)
    if step.action == "move" and _is_moved(step, status):
        return True
    return status.st_size == step.size and _has_time_or_content(step, status, target)


def _has_time_or_content(step: Step, status: os.stat_result, target: str) -> bool:
    """Whether a copy has the time or the content of its source. File systems such as FAT round times."""
    if status.st_mtime_ns == step.mtime_ns:
        return True
    return files.status_of(step.source) is not None and files.same_content(step.source, target)


def resolve_pending(journal: Journal) -> dict[str, str]:
    """Finish or cancel each step that a killed run left pending.

    Returns:
        why a step could not be resolved, by its source. It stays pending.
    """
    unresolved: dict[str, str] = {}
    done: list[int] = []
    cancelled: list[int] = []
    for step in [*journal.history.in_state("pending")]:
        try:
            (done if _finished(journal.folder, step) else cancelled).append(step.number)
        except OSError as error:
            unresolved[step.source] = reason_of(error)
    journal.mark(done=done, cancelled=cancelled, undone=[*_half_undone(journal)])
    return unresolved


def _half_undone(journal: Journal) -> Iterator[int]:
    """Finish the steps that a killed ``--undo`` left half undone: files that have their old and their new name."""
    for step in [*journal.history.in_state("done")]:
        target = os.path.join(journal.folder, step.target)
        if step.action == "move" and files.is_same_file(step.source, target):
            os.unlink(target)
            yield step.number


def _finished(folder: Path, step: Step) -> bool:
    """Finish a step that was taken; return whether it was."""
    target = os.path.join(folder, step.target)
    if step.action in ("copy", "move"):
        files.remove(files.temporary_of(target))
    if not was_taken(folder, step):
        return False
    if step.action != "move" or files.status_of(step.source) is None:
        return True
    if not files.is_same_file(step.source, target):
        if _is_moved(step, os.lstat(target)):
            return True  # it was renamed, and another file has the old name by now
        if step.link is None and not files.same_content(step.source, target):
            return False
    sync_folder(Path(target).parent)
    try:
        remove_source(folder, step)
    except OSError:
        os.unlink(target)  # the file has its old name, too
        return False
    return True


def _is_moved(step: Step, target: os.stat_result) -> bool:
    return (target.st_dev, target.st_ino) == (step.device, step.inode)
