"""Log lines and a progress bar, both on stderr."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

Log = Callable[[str], None]  # logs one line, given without its line break


def log(message: str) -> None:
    """Write a line to stderr; a closed stderr is ignored."""
    if sys.stderr is None:  # print would write to stdout
        return
    with suppress(OSError, ValueError):
        print(message, file=sys.stderr, flush=True)


def silent(_: str) -> None:
    """A ``Log`` that drops every line."""


def shows_progress(*, quiet: bool) -> bool:
    """Return whether to draw a progress bar: stderr is a terminal and ``--quiet`` was not given."""
    return not quiet and sys.stderr is not None and sys.stderr.isatty()


class Progress:
    """A counter of finished steps. Without a bar it draws nothing."""

    def __init__(self, bar: "RichProgress | None" = None, task: "TaskID | None" = None, unit: str = "") -> None:
        self._bar, self._task, self._unit = bar, task, unit

    def advance(self, steps: int = 1, text: str = "") -> None:
        """Count steps as finished.

        Args:
            text: shown after the count, such as the loss or the next step.
        """
        if self._bar is None or self._task is None:
            return
        speed = self._bar.tasks[0].speed or 0.0
        rate = f"{speed:.0f} {self._unit}/s" if self._unit else ""
        self._bar.update(self._task, advance=steps, rate=rate, text=text)


@contextmanager
def progress(
    *, shown: bool, total: int | None = None, title: str = "", unit: str = "images", done: int = 0, per_s: float = 10
) -> Iterator[Progress]:
    """Show a progress bar on stderr that disappears at the end.

    Args:
        total: None for a stream of unknown length.
        unit: unit of the rate; an empty unit shows no rate.
        done: number of steps that an earlier run finished.
        per_s: redraws per second. Drawing takes CPU time from the measured code.
    """
    if not shown:
        yield Progress()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress

    columns = (
        SpinnerColumn(), TextColumn("{task.description}", markup=False), *((BarColumn(),) if total else ()),
        MofNCompleteColumn(), TextColumn("{task.fields[rate]}", markup=False), TimeElapsedColumn(),
        TextColumn("{task.fields[text]}", markup=False),
    )  # fmt: skip
    with RichProgress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=per_s) as bar:
        yield Progress(bar, bar.add_task(title, total=total, completed=done, rate="", text=""), unit)
