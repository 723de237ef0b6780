"""The learning curves of a run as an image."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

from levit_cli.system.plotting import prepare_matplotlib

INCHES = (9.0, 3.6)
DOTS_PER_INCH = 120


def draw_curves(rows: Sequence[Mapping[str, Any]], title: str) -> bytes:
    """A PNG: loss on the left, accuracy on the right, an epoch a point."""
    prepare_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    losses, accuracies = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in rows]
    losses.plot(epochs, [row["train_loss"] for row in rows], marker=".", label="training, as minimised")
    losses.plot(epochs, [row["val_loss"] for row in rows], marker=".", label="validation")
    losses.set(xlabel="epoch", ylabel="loss", ylim=(0, None))
    accuracies.plot(epochs, [100 * row["val_top1"] for row in rows], marker=".", color="tab:orange")
    best = max(rows, key=lambda row: float(row["val_top1"]))
    accuracies.set(xlabel="epoch", ylabel="validation top-1, %")
    accuracies.set_title(f"best {100 * best['val_top1']:.2f} % at epoch {best['epoch']}", fontsize=10)
    for axes in (losses, accuracies):
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    losses.legend()
    figure.suptitle(title, fontsize=11)
    content = BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()
