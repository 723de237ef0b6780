"""Draw the learning curves of a run."""

from collections.abc import Mapping, Sequence
from typing import Any

from levit_cli.system.plotting import BLUE, ORANGE, PALE_BLUE, RULE, Axes, Figure, MaxNLocator, chart_style, encode
from levit_cli.system.text import printable

FIGURE_SIZE_INCHES = (9.0, 3.6)
DPI = 120


def draw_curves(history: Sequence[Mapping[str, Any]], title: str) -> bytes:
    """Return a PNG with the losses on the left and the validation accuracy on the right.

    Args:
        history: the metrics of each epoch, as in ``metrics.jsonl``.
    """
    with chart_style("curves"):
        figure = Figure(figsize=FIGURE_SIZE_INCHES, dpi=DPI, layout="constrained")
        losses, accuracies = figure.subplots(1, 2)
        _draw_losses(losses, history)
        _draw_accuracy(accuracies, history)
        for axes in (losses, accuracies):
            axes.grid(color=RULE, linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set(xlabel="epoch", xlim=(history[0]["epoch"] - 0.5, history[-1]["epoch"] + 0.5))
        figure.suptitle(printable(title), fontsize=11)
        return encode(figure, "png")


def _draw_losses(axes: Axes, history: Sequence[Mapping[str, Any]]) -> None:
    epochs = [metrics["epoch"] for metrics in history]
    axes.plot(epochs, [metrics["train_loss"] for metrics in history], color=PALE_BLUE, marker=".", label="training")
    axes.plot(epochs, [metrics["val_loss"] for metrics in history], color=BLUE, marker=".", label="validation")
    axes.set(ylabel="loss", ylim=(0, None))
    axes.legend(frameon=False)


def _draw_accuracy(axes: Axes, history: Sequence[Mapping[str, Any]]) -> None:
    epochs = [metrics["epoch"] for metrics in history]
    axes.plot(epochs, [100 * metrics["val_top1"] for metrics in history], marker=".", color=ORANGE)
    best = max(history, key=lambda metrics: float(metrics["val_top1"]))
    axes.set(ylabel="validation top-1, %")
    axes.set_title(f"best {100 * best['val_top1']:.2f} % at epoch {best['epoch']}", fontsize=10)
