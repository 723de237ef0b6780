"""A running count on stderr, for terminals only."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(*, shown: bool, total: int | None = None) -> Iterator[Callable[[], None]]:
    """Yields what is to be called for each finished picture. The total of a stream is unknown."""
    if not shown:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("pictures", total=total, rate="")

        def advance() -> None:
            bar.update(task, advance=1, rate=f"{bar.tasks[0].speed or 0:.0f} pictures/s")

        yield advance
