"""What a person sees of a run: a bar with loss, accuracy and pace on a terminal, and a line an epoch everywhere."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

Say = Callable[[str], None]
Advance = Callable[[int, float, float], None]


@contextmanager
def epoch_bar(title: str, pictures: int, done: int, *, shown: bool) -> Iterator[Advance]:
    """Yields what is to be called after each step with (pictures, mean loss, accuracy) so far in the epoch."""
    if not shown:
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    numbers = TextColumn(
        "loss {task.fields[loss]:.3f}, accuracy {task.fields[accuracy]:.1%}, {task.fields[pace]:.0f}/s"
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), numbers, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=pictures, completed=done, loss=0.0, accuracy=0.0, pace=0.0)

        def advance(seen: int, loss: float, accuracy: float) -> None:
            bar.update(task, completed=seen, loss=loss, accuracy=accuracy, pace=bar.tasks[0].speed or 0.0)

        yield advance


def epoch_line(row: Mapping[str, Any], epochs: int, *, best: bool) -> str:
    """An epoch in one line."""
    left = (epochs - row["epoch"]) * row["epoch_s"]
    return (
        f"epoch {row['epoch']}/{epochs}: loss {row['train_loss']:.3f}, validation loss {row['val_loss']:.3f}, "
        f"top-1 {row['val_top1']:.2%}{' (best)' if best else ''}, {row['images_per_s']:.0f} pictures/s, "
        f"{_duration(left)} left"
    )


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return (
        f"{minutes // 60} h {minutes % 60} min"
        if minutes >= 60
        else f"{minutes} min"
        if minutes
        else f"{seconds:.0f} s"
    )
