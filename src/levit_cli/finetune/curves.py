"""Draw the learning curves of a run."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

from levit_cli.system.plotting import prepare_matplotlib

FIGURE_SIZE_INCHES = (9.0, 3.6)
DPI = 120


def draw_curves(history: Sequence[Mapping[str, Any]], title: str) -> bytes:
    """Return a PNG with the losses on the left and the validation accuracy on the right.

    Args:
        history: the metrics of each epoch, as in ``metrics.jsonl``.
    """
    prepare_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=FIGURE_SIZE_INCHES, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    losses, accuracies = figure.subplots(1, 2)
    epochs = [metrics["epoch"] for metrics in history]
    losses.plot(epochs, [metrics["train_loss"] for metrics in history], marker=".", label="training")
    losses.plot(epochs, [metrics["val_loss"] for metrics in history], marker=".", label="validation")
    losses.set(xlabel="epoch", ylabel="loss", ylim=(0, None))
    accuracies.plot(epochs, [100 * metrics["val_top1"] for metrics in history], marker=".", color="tab:orange")
    best = max(history, key=lambda metrics: float(metrics["val_top1"]))
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
