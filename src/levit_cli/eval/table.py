"""Build the text output of ``levit eval``: metrics, per-class results, confusions, errors and unreadable images.

Names of classes and files are never interpreted as markup; their control characters are shown as escapes.
"""

import io
from collections.abc import Iterator

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from levit_cli.eval.evaluate import Evaluated
from levit_cli.eval.results import Coverage, Summary
from levit_cli.eval.wording import (
    correct_of_total,
    count_error_kinds,
    coverage_lines,
    dataset_size,
    describe_calibration,
    misclassified_as,
    notes,
    percent,
    relative_path,
    shown_thresholds,
    worst_first,
)
from levit_cli.predict.run_description import RunDescription
from levit_cli.predict.table import caption
from levit_cli.system.text import count_noun, printable

CLASSES = 30  # maximum number of lines of per-class results
MATRIX_CLASSES = 12  # the largest confusion matrix that is shown
UNBOUNDED = 1000  # characters, to measure a table's natural width
WIDE = 70  # characters; a narrower terminal has no room for the last column of the per-class results
MISCLASSIFIED_AS = 2  # maximum number of classes in that column
CONFUSIONS = CONFIDENT_ERRORS = FAILURES = 10
LEGEND = (
    " recall: share of a class's images that were predicted correctly; precision: share of the images predicted as a "
    "class that belong to it; F1: harmonic mean of the two"
)


def as_table(
    evaluated: Evaluated, summary: Summary, description: RunDescription, *, is_terminal: bool, color: bool = True
) -> str:
    """Return the text output, with colors if it is for a terminal."""
    text = io.StringIO()
    console = Console(
        file=text, force_terminal=is_terminal, no_color=not color or None, highlight=False, emoji=False, markup=False
    )  # fmt: skip
    for block in _blocks(evaluated, summary, console):
        console.print(block)
    console.print(Text(caption(description), style="dim"))
    return text.getvalue()


def _blocks(evaluated: Evaluated, summary: Summary, console: Console) -> Iterator[RenderableType]:
    yield Text.assemble((printable(str(evaluated.folders.root)), "bold"), f": {dataset_size(evaluated)}")
    for note in notes(evaluated):
        yield Text(f"Note: {note}", style="yellow")
    yield ""
    yield _metrics(summary)
    yield from _section("Per-class results, lowest recall first", _classes(evaluated, summary, console))
    yield from _hidden(len(summary.scores), CLASSES, "class")
    yield Text(LEGEND, style="dim")
    if summary.confusions:
        yield from _confusion(evaluated, summary, console)
    if summary.coverage:
        yield from _section(
            "Coverage and accuracy by threshold (predict --min-prob)", _coverage(summary.coverage, console)
        )
        for line in coverage_lines(summary.coverage):
            yield Text(f" {line}")
    if summary.confident_errors:
        yield from _section("Most confident errors", _confident_errors(evaluated, summary))
    if evaluated.failures:
        yield from _section(f"Unreadable images ({count_error_kinds(evaluated)})", _failures(evaluated))
        yield from _hidden(len(evaluated.failures), FAILURES, "image")
    yield ""


def _section(title: str, content: RenderableType) -> Iterator[RenderableType]:
    yield ""
    yield Text(title, style="bold")
    yield content


def _hidden(total: int, shown: int, noun: str) -> Iterator[RenderableType]:
    """Report how many entries of a list are not shown."""
    if (hidden := total - shown) > 0:
        yield Text(f" and {count_noun(hidden, f'more {noun}')}; --format json lists all of them", style="dim")


def _grid() -> Table:
    return Table(box=None, padding=(0, 1), header_style="dim")


def _metrics(summary: Summary) -> Table:
    grid = _grid()
    grid.show_header = False
    grid.add_column(overflow="fold")
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, proportion in (("top-1", summary.top1), ("top-5", summary.top5)):
        if proportion:
            grid.add_row(name, Text(percent(proportion.value), "bold"), correct_of_total(proportion))
    grid.add_row("balanced accuracy", percent(summary.balanced_accuracy), "mean recall over the classes")
    grid.add_row("macro F1", percent(summary.macro_f1), "mean F1 over the classes")
    if summary.calibration:
        description = describe_calibration(summary.calibration, summary.top1)
        grid.add_row("calibration error (ECE)", percent(summary.calibration.error), description)
    if summary.fitted:
        temperature = f"with a temperature of {summary.fitted.temperature:.4g}, fitted to these images"
        grid.add_row("", percent(summary.fitted.error), temperature)
    return grid


def _classes(evaluated: Evaluated, summary: Summary, console: Console) -> Table:
    grid = _grid()
    grid.add_column("class", overflow="fold")
    for name in ("images", "recall"):
        grid.add_column(name, justify="right", no_wrap=True)
    for name in ("precision", "F1"):
        grid.add_column(name, justify="right", no_wrap=True)
    confusions = summary.confusions if console.width >= WIDE else []
    if confusions:
        grid.add_column("misclassified as", overflow="fold")
    labels = evaluated.labels
    for score in worst_first(summary.scores)[:CLASSES]:
        grid.add_row(
            Text(printable(labels.names[score.index])),
            f"{score.images:,}",
            percent(score.recall),
            percent(score.precision),
            percent(score.f1),
            *([Text(misclassified_as(score.index, confusions, labels, MISCLASSIFIED_AS))] if confusions else []),
        )
    return grid


def _confusion(evaluated: Evaluated, summary: Summary, console: Console) -> Iterator[RenderableType]:
    """Yield the confusion matrix if it fits, else the most frequent confusions."""
    if len(summary.confusion_classes) <= MATRIX_CLASSES:
        matrix = _matrix(evaluated, summary)
        if console.measure(matrix, options=console.options.update_width(UNBOUNDED)).maximum <= console.width:
            yield from _section("Confusion matrix (rows: true classes; columns: predicted classes)", matrix)
            return
    yield from _section("Most frequent confusions", _most_confused(evaluated, summary))


def _matrix(evaluated: Evaluated, summary: Summary) -> Table:
    """Return the confusion matrix; columns have numbers because class names would not fit."""
    grid = _grid()
    classes = summary.confusion_classes
    grid.add_column(no_wrap=True)
    for number in range(1, len(classes) + 1):
        grid.add_column(str(number), justify="right", no_wrap=True)
    for number, true in enumerate(classes, start=1):
        cells = [_cell(int(summary.confusion[true, other]), correct=true == other) for other in classes]
        grid.add_row(Text(f"{number:>2} {printable(evaluated.labels.names[true])}"), *cells)
    return grid


def _cell(images: int, *, correct: bool) -> Text:
    return Text(f"{images:,}" if images else "·", style="bold cyan" if correct else "" if images else "dim")


def _coverage(coverage: Coverage, console: Console) -> Table:
    grid = _grid()
    details = ["images", "95 % interval"] if console.width >= WIDE else []
    for name in ("threshold", "coverage", "accuracy", *details):
        grid.add_column(name, justify="right", no_wrap=True)
    for point in shown_thresholds(coverage):
        threshold = f"{point.threshold:g}" if point.threshold else "none"
        low, high = point.accepted.interval
        interval = f"{100 * low:.1f} to {percent(high)}" if point.accepted.total else ""
        cells = (threshold, percent(point.coverage), percent(point.accepted.value))
        grid.add_row(*cells, *([f"{point.accepted.total:,}", interval] if details else []))
    return grid


def _most_confused(evaluated: Evaluated, summary: Summary) -> Table:
    grid = _grid()
    grid.show_header = False
    grid.add_column(justify="right")
    grid.add_column(overflow="fold")
    names = evaluated.labels.names
    for confusion in summary.confusions[:CONFUSIONS]:
        pair = f"{printable(names[confusion.true])} predicted as {printable(names[confusion.predicted])}"
        grid.add_row(f"{confusion.images:,}", Text(pair))
    return grid


def _confident_errors(evaluated: Evaluated, summary: Summary) -> Table:
    grid = _grid()
    for name in ("image", "true class", "predicted as"):
        grid.add_column(name, overflow="fold")
    grid.add_column("confidence", justify="right", no_wrap=True)
    for error in summary.confident_errors[:CONFIDENT_ERRORS]:
        names = (printable(evaluated.labels.names[index]) for index in (error.true, error.predicted))
        grid.add_row(Text(relative_path(error.path, evaluated)), *map(Text, names), percent(error.prob))
    return grid


def _failures(evaluated: Evaluated) -> Table:
    grid = _grid()
    grid.show_header = False
    grid.add_column(overflow="fold")
    grid.add_column(overflow="fold", style="red")
    for failure in evaluated.failures[:FAILURES]:
        assert failure.error
        reason = f"{failure.error.kind}: {printable(failure.error.message)}"
        grid.add_row(Text(relative_path(failure.path, evaluated)), Text(reason))
    return grid
