"""``levit sort``: sort images into a folder per label, and put them back.

The results are read completely before anything is touched. Then the images are sorted in batches: a batch is planned,
written to the journal, and taken.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from levit_cli.choices import SortFormat, SortMode
from levit_cli.errors import ExitCode, OutputError, Terminated, UsageError, reason_of
from levit_cli.predict.results import Result, not_a_local_file, read_results
from levit_cli.sort.folders import Folders
from levit_cli.sort.journal import (
    History,
    Journal,
    finish_removing,
    line_of,
    open_journal,
    read_history,
    remove_unfinished,
)
from levit_cli.sort.plan import AlreadySortedError, Item, NotSortedError, Planned, Planner
from levit_cli.sort.report import Reporter
from levit_cli.sort.sources import SourceFolders
from levit_cli.sort.steps import Outcome, resolve_pending, take
from levit_cli.sort.undo import KeptError, Undone, check, undo
from levit_cli.system.atomic import writing
from levit_cli.system.output import Sink, is_terminal
from levit_cli.system.progress import Log, Progress, progress, shows_progress
from levit_cli.system.text import printable

BATCH_STEPS = 1000
BATCH_BYTES = 64 << 20  # so that a signal does not wait for long until a batch is synced
MAX_ATTEMPTS = 100  # to find a name while another program takes each


@dataclass(frozen=True)
class SortOptions:
    """How images are sorted.

    Args:
        mode: copy, move or link.
        min_prob: images below it are uncertain; None follows what the results say.
        include_changed: sort files that were changed after the results were written.
        dry_run: only say what would be done.
    """

    mode: SortMode = "copy"
    min_prob: float | None = None
    include_changed: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class SortDisplay:
    """What is written to stdout and logged.

    Args:
        format: of the lines on stdout; None is a table or jsonl with ``--dry-run``, else nothing.
    """

    format: SortFormat | None = None
    quiet: bool = False
    verbose: bool = False


def sort(results: Path, folder: Path, options: SortOptions, display: SortDisplay, log: Log) -> ExitCode:
    """Sort the images of a results file into a folder.

    Returns:
        ``OK``, or ``SOME_FAILED`` if a listed image could not be sorted.

    Raises:
        UsageError: the results cannot be read, or the folder is none. Nothing was touched.
        OutputError: another run uses the folder, or it cannot be written.
    """
    listed = _read(results, options.min_prob, log)
    sources = SourceFolders()
    with _guarded(folder), ExitStack() as stack:
        if options.mode == "link":
            _require_same_file_system(folder, listed.items)
        reporter = _reporter(stack, folder, display, log, dry_run=options.dry_run)
        journal = None
        if not options.dry_run and listed.items:
            journal = stack.enter_context(open_journal(folder, create=True))
        history = journal.history if journal else read_history(Path(os.path.realpath(folder)))
        unresolved = resolve_pending(journal) if journal else {}
        planner = Planner(
            Path(os.path.realpath(folder)), history, listed.folders(folder, history), options.mode, sources,
            unresolved=unresolved,
            no_sidecars={sources.absolute(path) for path in (str(results), *(item.path for item in listed.items))},
            classified_ns=None if options.include_changed else listed.written_ns,
        )  # fmt: skip
        with (
            _hint_when_stopped(folder, log),
            progress(shown=shows_progress(quiet=display.quiet), total=len(listed.items)) as bar,
        ):
            _sort_all(listed.items, planner, journal, reporter, bar)
    reporter.summarize(num_errors=listed.num_errors, dry_run=options.dry_run)
    return ExitCode.SOME_FAILED if reporter.failed else ExitCode.OK


@dataclass
class _Listed:
    """What a results file lists.

    Attributes:
        items: the images that were classified.
        num_errors: number of inputs that were not.
        ambiguous: labels that several classes have.
        written_ns: when the file was written last.
    """

    items: list[Item]
    num_errors: int
    ambiguous: frozenset[str]
    written_ns: int

    def folders(self, folder: Path, history: History) -> Folders:
        """Return the folders of the classes, beginning with those of earlier runs."""
        folders = Folders(lambda name: os.path.lexists(folder / name) and not (folder / name).is_dir(), self.ambiguous)
        for key, name in history.folders.items():
            folders.add(key, name)
        return folders


def _read(results: Path, min_prob: float | None, log: Log) -> _Listed:
    items: list[Item] = []
    num_results = 0
    indices: dict[str, int] = {}
    ambiguous: set[str] = set()
    for result in read_results(results, log):
        num_results += 1
        for entry in result.top:
            if indices.setdefault(entry.label, entry.class_index) != entry.class_index:
                ambiguous.add(entry.label)
        if result.is_ok:
            best = result.top[0]
            items.append(
                Item(result.path, best.label, best.class_index, best.prob, _is_certain(result, best.prob, min_prob))
            )
    return _Listed(items, num_results - len(items), frozenset(ambiguous), _written_ns(results))


def _written_ns(results: Path) -> int:
    try:
        return os.stat(results).st_mtime_ns
    except OSError as error:
        raise UsageError(f"Cannot read the results in {results}", why=reason_of(error)) from error


def _is_certain(result: Result, prob: float, min_prob: float | None) -> bool:
    return result.accepted is not False if min_prob is None else prob >= min_prob


def _require_same_file_system(folder: Path, items: list[Item]) -> None:
    """Check that hard links are possible, before anything is touched."""
    existing = folder if folder.exists() else folder.absolute().parent
    device = os.stat(existing).st_dev if existing.exists() else None
    for item in items:
        if device and not not_a_local_file(item.path) and _device_of(item.path) not in (device, None):
            raise UsageError(
                f"Cannot link {item.path} into {folder}",
                why="they are on different file systems, and hard links do not reach across",
                hint="choose --mode symlink or copy",
            )


def _device_of(path: str) -> int | None:
    try:
        return os.stat(path).st_dev
    except (OSError, ValueError):
        return None  # reported later


def _reporter(stack: ExitStack, folder: Path, display: SortDisplay, log: Log, *, dry_run: bool) -> Reporter:
    format: SortFormat = display.format or ("table" if is_terminal() else "jsonl")
    target = stack.enter_context(Sink(None)) if dry_run or display.format else None
    return Reporter(folder, target, format, log, display.quiet, display.verbose)


@contextmanager
def _guarded(folder: Path) -> Iterator[None]:
    """Report any error of the sorted folder that is not one of a single file."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"Cannot use the folder {folder}", why=reason_of(error)) from error


@contextmanager
def _hint_when_stopped(folder: Path, log: Log, *, undoing: bool = False) -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, Terminated):
        hint = "" if undoing else f" levit sort --undo {printable(str(folder))} puts back what was sorted."
        log(f"The same command continues.{hint}")
        raise


class _NotTaken(NamedTuple):
    """An image for which nothing is done.

    Args:
        is_failure: it could not be sorted; else it needs nothing.
    """

    path: str
    reason: str
    is_failure: bool


_Batch = list[Planned | _NotTaken]


def _sort_all(items: list[Item], planner: Planner, journal: Journal | None, reporter: Reporter, bar: Progress) -> None:
    for batch in _batches(_planned(item, planner) for item in items):
        _take(batch, planner, journal, reporter)
        bar.advance(len(batch))


def _planned(item: Item, planner: Planner, again: Planned | None = None) -> Planned | _NotTaken:
    try:
        return planner.plan_again(again) if again else planner.plan(item)
    except AlreadySortedError as error:
        return _NotTaken(item.path, str(error), is_failure=False)
    except NotSortedError as error:
        return _NotTaken(item.path, str(error), is_failure=True)


def _batches(images: Iterable[Planned | _NotTaken]) -> Iterator[_Batch]:
    """Yield batches of a bounded number of steps and bytes."""
    batch: _Batch = []
    num_steps = num_bytes = 0
    for image in images:
        batch.append(image)
        steps = image.steps if isinstance(image, Planned) else ()
        num_steps += len(steps) or 1
        num_bytes += sum(step.size for step in steps if step.action in ("copy", "move"))
        if num_steps >= BATCH_STEPS or num_bytes >= BATCH_BYTES:
            yield batch
            batch, num_steps, num_bytes = [], 0, 0
    if batch:
        yield batch


def _take(batch: _Batch, planner: Planner, journal: Journal | None, reporter: Reporter) -> None:
    """Take the steps of a batch and report them. An image whose name was taken meanwhile gets another one."""
    for _ in range(MAX_ATTEMPTS):
        images = [image for image in batch if isinstance(image, Planned)]
        if journal:
            outcome = _taken(images, journal)
        else:
            outcome = Outcome(done=[step.number for image in images for step in image.steps])
        batch = [_planned(image.item, planner, image) for image in _report(batch, outcome, reporter)]
        if not batch:
            return
    for image in batch:
        path = image.item.path if isinstance(image, Planned) else image.path
        reporter.fail(path, "another program takes each new name")


def _taken(batch: list[Planned], journal: Journal) -> Outcome:
    steps = [step for planned in batch for step in planned.steps]
    if not steps:
        return Outcome()
    journal.add([*_folder_lines(batch, journal), *map(line_of, steps)], sync=True)
    for name in {planned.folder for planned in batch}:
        with writing(journal.folder / name):
            (journal.folder / name).mkdir(exist_ok=True)
    return take(journal, steps)


def _folder_lines(batch: list[Planned], journal: Journal) -> Iterator[dict[str, object]]:
    """Yield the lines of folders that the journal does not have, and of those that are about to be made."""
    for name, key in {planned.folder: planned.key for planned in batch}.items():
        is_known = key is None or key in journal.history.folders
        is_made = name not in journal.history.made_folders and not (journal.folder / name).exists()
        if is_made or not is_known:
            label, class_index = key or (None, None)
            yield {"folder": name, "label": label, "class_index": class_index, "made": is_made}


def _report(batch: _Batch, outcome: Outcome, reporter: Reporter) -> list[Planned]:
    """Report what became of a batch, in its order, and return the images whose name was taken."""
    done, taken = {*outcome.done}, {step.number for step in outcome.taken}
    again = []
    for image in batch:
        if isinstance(image, _NotTaken):
            (reporter.fail if image.is_failure else reporter.skip)(image.path, image.reason)
        elif image.steps[0].number in taken:
            again.append(image)
        else:
            _report_steps(image, done, outcome, reporter)
    return again


def _report_steps(image: Planned, done: set[int], outcome: Outcome, reporter: Reporter) -> None:
    if steps := [step for step in image.steps if step.number in done]:
        reporter.sorted(image._replace(steps=steps))
    for step in image.steps:
        if step.number in outcome.failed:
            reporter.fail(step.source, reason_of(outcome.failed[step.number]))


def put_back(folder: Path, display: SortDisplay, log: Log, *, dry_run: bool) -> ExitCode:
    """Put back everything that was sorted into a folder.

    Returns:
        ``OK``, or ``SOME_FAILED`` if a file had to stay, because it was changed since.

    Raises:
        UsageError: the folder has no journal.
        OutputError: another run uses the folder, or it cannot be written.
    """
    real = Path(os.path.realpath(folder))
    with _guarded(folder), ExitStack() as stack:
        reporter = _reporter(stack, folder, display, log, dry_run=dry_run)
        if dry_run:
            _report_undo(_checked(real), reporter)
        elif finish_removing(real) or remove_unfinished(real):
            log("A run that was killed left nothing else to put back.")
        else:
            journal = stack.enter_context(open_journal(real, create=False))
            resolve_pending(journal)
            with _hint_when_stopped(folder, log, undoing=True):
                for undone in undo(journal):
                    _report_undo(undone, reporter)
    reporter.summarize_undo(dry_run=dry_run)
    return ExitCode.SOME_FAILED if reporter.failed else ExitCode.OK


def _checked(folder: Path) -> Undone:
    """Return what undoing would do."""
    undone = Undone()
    for step in [*read_history(folder).in_state("done")][::-1]:
        try:
            if check(folder, step):
                undone.steps.append(step)
        except (KeptError, OSError) as error:
            undone.kept.append((step, reason_of(error)))
    return undone


def _report_undo(undone: Undone, reporter: Reporter) -> None:
    for step in undone.steps:
        reporter.put_back(step)
    for step, reason in undone.kept:
        reporter.keep(step, reason)
