"""Draw the learning curves of a run."""

from collections.abc import Sequence

from levit_cli.choices import BestMetric
from levit_cli.finetune.metrics import KEYS, NAMES, Metrics, best_of
from levit_cli.system.plotting import BLUE, ORANGE, PALE_BLUE, RULE, Axes, Figure, MaxNLocator, chart_style, encode
from levit_cli.system.text import printable

FIGURE_SIZE_INCHES = (9.0, 3.6)
DPI = 120


def draw_curves(history: Sequence[Metrics], title: str, best_metric: BestMetric = "top1") -> bytes:
    """Return a PNG with the losses on the left and the validation accuracy on the right.

    Args:
        history: the metrics of each epoch, as in ``metrics.jsonl``.
        best_metric: what decides which epoch is the best.
    """
    with chart_style("curves"):
        figure = Figure(figsize=FIGURE_SIZE_INCHES, dpi=DPI, layout="constrained")
        losses, accuracies = figure.subplots(1, 2)
        _draw_losses(losses, history)
        _draw_accuracy(accuracies, history, best_metric)
        for axes in (losses, accuracies):
            axes.grid(color=RULE, linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set(xlabel="epoch", xlim=(history[0]["epoch"] - 0.5, history[-1]["epoch"] + 0.5))
        figure.suptitle(printable(title), fontsize=11)
        return encode(figure, "png")


def _draw_losses(axes: Axes, history: Sequence[Metrics]) -> None:
    epochs = [metrics["epoch"] for metrics in history]
    axes.plot(epochs, [metrics["train_loss"] for metrics in history], color=PALE_BLUE, marker=".", label="training")
    axes.plot(epochs, [metrics["val_loss"] for metrics in history], color=BLUE, marker=".", label="validation")
    axes.set(ylabel="loss", ylim=(0, None))
    axes.legend(frameon=False)


def _draw_accuracy(axes: Axes, history: Sequence[Metrics], best_metric: BestMetric) -> None:
    """Draw the metric that decides which epoch is the best; for the loss, which is drawn already, top-1."""
    shown: BestMetric = "top1" if best_metric == "loss" else best_metric
    values = {metrics["epoch"]: 100 * metrics[KEYS[shown]] for metrics in history}
    axes.plot([*values], [*values.values()], marker=".", color=ORANGE)
    best = best_of(history, best_metric)["epoch"]
    axes.set(ylabel=f"{NAMES[shown]}, %")
    reason = " with the lowest loss" if best_metric == "loss" else ""
    axes.set_title(f"{'' if reason else 'best '}{values[best]:.2f} % at epoch {best}{reason}", fontsize=10)
