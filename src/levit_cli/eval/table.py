"""An evaluation as text for people: the figures, the classes, what is confused with what, and the worst mistakes.

Nothing from outside is read as markup, and control characters are shown, not sent.
"""

import io
from collections.abc import Iterator

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from levit_cli.eval.evaluate import Evaluated
from levit_cli.eval.results import Summary
from levit_cli.eval.wording import (
    below,
    extent,
    interval,
    kinds,
    percent,
    remarks,
    taken_for,
    verdict,
    worst_first,
)
from levit_cli.predict.run_description import RunDescription
from levit_cli.predict.table import caption
from levit_cli.system.text import printable

CLASSES = 30  # a line each; of more the worst
MATRIX_CLASSES = 12
BOUNDLESS = 1000  # characters, for what something would take if it could
WIDE = 70  # characters; in less there is no room for what a class was taken for
TAKEN_FOR = 2
CONFUSIONS = MISTAKES = FAILURES = 10
LEGEND = (
    " recall: of a class's images, how many were found; precision: of the images that got its name, how many "
    "deserve it; F1: the harmonic mean of both"
)


def as_table(
    evaluated: Evaluated, summary: Summary, description: RunDescription, *, is_terminal: bool, color: bool = True
) -> str:
    """The whole text, with colours if it is for a terminal."""
    text = io.StringIO()
    console = Console(
        file=text, force_terminal=is_terminal, no_color=not color or None, highlight=False, emoji=False, markup=False
    )  # fmt: skip
    for block in _blocks(evaluated, summary, console):
        console.print(block)
    console.print(Text(caption(description), style="dim"))
    return text.getvalue()


def _blocks(evaluated: Evaluated, summary: Summary, console: Console) -> Iterator[RenderableType]:
    yield Text.assemble((printable(str(evaluated.folders.root)), "bold"), f": {extent(evaluated)}")
    for remark in remarks(evaluated):
        yield Text(f"Note: {remark}", style="yellow")
    yield ""
    yield _figures(summary)
    yield from _section("Classes, the worst first", _classes(evaluated, summary, console))
    yield from _hidden(len(summary.scores), CLASSES, "class", "classes")
    yield Text(LEGEND, style="dim")
    if summary.confusions:
        yield from _confusion(evaluated, summary, console)
    if summary.mistakes:
        yield from _section("Surest mistakes", _mistakes(evaluated, summary))
    if evaluated.failures:
        yield from _section(f"Not read ({kinds(evaluated)})", _failures(evaluated))
        yield from _hidden(len(evaluated.failures), FAILURES, "image", "images")
    yield ""


def _section(title: str, content: RenderableType) -> Iterator[RenderableType]:
    yield ""
    yield Text(title, style="bold")
    yield content


def _hidden(total: int, shown: int, noun: str, nouns: str) -> Iterator[RenderableType]:
    """Where the rest of a list is."""
    if (more := total - shown) > 0:
        yield Text(f" and {more:,} more {noun if more == 1 else nouns}: --format json has them all", style="dim")


def _grid() -> Table:
    return Table(box=None, padding=(0, 1), header_style="dim")


def _figures(summary: Summary) -> Table:
    grid = _grid()
    grid.show_header = False
    grid.add_column(overflow="fold")
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, proportion in (("top-1", summary.top1), ("top-5", summary.top5)):
        if proportion:
            right = f"{proportion.correct:,} of {proportion.total:,} right; 95 % interval {interval(proportion)}"
            grid.add_row(name, Text(percent(proportion.value), "bold"), right)
    grid.add_row("recall", percent(summary.balanced_accuracy), "mean over the classes (balanced accuracy)")
    grid.add_row("F1", percent(summary.macro_f1), "mean over the classes")
    if summary.calibration:
        sure = (
            f"{percent(summary.calibration.confidence)} sure on average: {verdict(summary.calibration, summary.top1)}"
        )
        grid.add_row("ECE", percent(summary.calibration.error), f"calibration error; {sure}")
    if summary.fitted:
        told = f"with a temperature of {summary.fitted.temperature:.4g}, fitted to these images"
        grid.add_row("", percent(summary.fitted.error), told)
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
        grid.add_column("taken for", overflow="fold")
    for score in worst_first(summary.scores)[:CLASSES]:
        grid.add_row(
            Text(printable(evaluated.labels.names[score.index])),
            f"{score.images:,}",
            percent(score.recall),
            percent(score.precision),
            percent(score.f1),
            *([Text(taken_for(score.index, confusions, evaluated.labels, TAKEN_FOR))] if confusions else []),
        )
    return grid


def _confusion(evaluated: Evaluated, summary: Summary, console: Console) -> Iterator[RenderableType]:
    """The matrix where it fits, else the most frequent confusions."""
    if len(summary.classes_in_play) <= MATRIX_CLASSES:
        matrix = _matrix(evaluated, summary)
        if console.measure(matrix, options=console.options.update_width(BOUNDLESS)).maximum <= console.width:
            yield from _section("Confusion: the true class down, the answer across", matrix)
            return
    yield from _section("Most often confused", _most_confused(evaluated, summary))


def _matrix(evaluated: Evaluated, summary: Summary) -> Table:
    """Classes are numbered, as their names would not fit across."""
    grid = _grid()
    classes = summary.classes_in_play
    grid.add_column(no_wrap=True)
    for number in range(1, len(classes) + 1):
        grid.add_column(str(number), justify="right", no_wrap=True)
    for number, true in enumerate(classes, start=1):
        cells = [_cell(int(summary.confusion[true, other]), right=true == other) for other in classes]
        grid.add_row(Text(f"{number:>2} {printable(evaluated.labels.names[true])}"), *cells)
    return grid


def _cell(images: int, *, right: bool) -> Text:
    return Text(f"{images:,}" if images else "·", style="bold cyan" if right else "" if images else "dim")


def _most_confused(evaluated: Evaluated, summary: Summary) -> Table:
    grid = _grid()
    grid.show_header = False
    grid.add_column(justify="right")
    grid.add_column(overflow="fold")
    names = evaluated.labels.names
    for confusion in summary.confusions[:CONFUSIONS]:
        pair = f"{printable(names[confusion.true])} taken for {printable(names[confusion.predicted])}"
        grid.add_row(f"{confusion.images:,}", Text(pair))
    return grid


def _mistakes(evaluated: Evaluated, summary: Summary) -> Table:
    grid = _grid()
    for name in ("image", "is", "answer"):
        grid.add_column(name, overflow="fold")
    grid.add_column("sure", justify="right", no_wrap=True)
    for mistake in summary.mistakes[:MISTAKES]:
        names = (printable(evaluated.labels.names[index]) for index in (mistake.true, mistake.predicted))
        grid.add_row(Text(below(mistake.path, evaluated)), *map(Text, names), percent(mistake.prob))
    return grid


def _failures(evaluated: Evaluated) -> Table:
    grid = _grid()
    grid.show_header = False
    grid.add_column(overflow="fold")
    grid.add_column(overflow="fold", style="red")
    for failure in evaluated.failures[:FAILURES]:
        assert failure.error
        reason = f"{failure.error.kind}: {printable(failure.error.message)}"
        grid.add_row(Text(below(failure.path, evaluated)), Text(reason))
    return grid
