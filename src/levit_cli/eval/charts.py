"""Charts of an evaluation as SVG for a page: what was confused with what, and whether confidence is earned.

matplotlib's ``Figure`` alone, never its ``pyplot``, which keeps a state of its own. Text stays text, so that the
reader's fonts show what ours lack.
"""

import io
import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.container import Container
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from levit_cli.eval.results import BINS, Bin, Calibration

CELL_INCHES = 0.44
NUMBERS_UP_TO = 30  # classes; in more cells numbers could not be read
NAME_LENGTH = 22
INK, MUTED, RULE, BLUE, PALE_BLUE, ORANGE = "#1b2733", "#5a6978", "#d5dce3", "#2563a8", "#a9c6e8", "#d9730d"
METADATA = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)
SIZE = re.compile(r' width="([\d.]+)pt" height="[\d.]+pt"')
PIXELS_PER_POINT, LEGIBLE = 4 / 3, 0.8  # pixels a point: on paper, and at least
STYLE: Any = {  # typed by matplotlib as one of its hundreds of keys
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name is no formula, whatever signs it holds
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": RULE,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


def confusion_chart(rows: Sequence[str], columns: Sequence[str], counts: NDArray[np.int64]) -> str:
    """A matrix of images, the true class down, the answer across; colours by the share of a row.

    Args:
        rows, columns: names; the class of a row is that of the column at the same place. A last column without a row
            is of all other classes.
        counts: (rows, columns).
    """
    height, width = counts.shape
    with rc_context(STYLE):
        figure = Figure(figsize=(CELL_INCHES * width + 1, CELL_INCHES * height + 1))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
        _fill(axes, counts)
        _name(axes, rows, columns)
        return _svg(figure, "confusion")


def _fill(axes: Axes, counts: NDArray[np.int64]) -> None:
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    wrong = (shares * ~np.eye(*counts.shape, dtype=np.bool_))[:, : len(counts)]
    largest = max(wrong.max(), 0.01)
    for row, column in np.argwhere(counts):
        right, among_others = row == column, column == len(counts)
        depth = 0.75 * shares[row, column] if right else 0.0 if among_others else 0.65 * wrong[row, column] / largest
        colour = colormaps["Blues" if right else "Greys" if among_others else "Oranges"](0.08 + depth)
        axes.add_patch(Rectangle((column, row), 1, 1, facecolor=colour, edgecolor="none"))
        if max(counts.shape) <= NUMBERS_UP_TO:
            ink = "white" if depth > 0.5 else INK
            axes.text(column + 0.5, row + 0.5, f"{counts[row, column]:,}", ha="center", va="center", color=ink, size=9)


def _name(axes: Axes, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Names on the axes, and lines between the cells."""
    axes.set_xticks(np.arange(len(columns)) + 0.5, list(map(_short, columns)), rotation=45, ha="left", va="bottom")
    axes.set_yticks(np.arange(len(rows)) + 0.5, list(map(_short, rows)))
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_rotation_mode("anchor")
        label.set_color(INK)
    for edge in range(len(columns) + 1):
        axes.axvline(edge, color=RULE, linewidth=0.6)
    for edge in range(len(rows) + 1):
        axes.axhline(edge, color=RULE, linewidth=0.6)
    axes.xaxis.set_label_position("top")
    axes.set(xlabel="answer", ylabel="true class")


def _short(name: str) -> str:
    return name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1]}…"


def reliability_chart(calibration: Calibration, fitted: Calibration | None) -> str:
    """Accuracy over confidence, bin by bin, and how many images are in each."""
    with rc_context(STYLE):
        figure = Figure(figsize=(5.6, 5.4))
        axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1), gridspec_kw={"hspace": 0.08})
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--")
        drawn = [*_bars(axes, calibration.bins), *([_dots(axes, fitted)] if fitted else [])]
        axes.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="how often it is right")
        axes.legend(handles=drawn, loc="lower left", bbox_to_anchor=(0, 1.01), frameon=False)
        _histogram(counts, calibration.bins)
        for each in (axes, counts):
            each.spines[["top", "right"]].set_visible(False)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.tick_params(bottom=False)
        return _svg(figure, "reliability")


def _bars(axes: Axes, bins: Sequence[Bin]) -> list[Artist | Container]:
    """Accuracy as bars; a line where the confidence is, up to which they should reach."""
    lows, highs, confidences = zip(*((slot.low, slot.high, slot.confidence) for slot in bins), strict=True)
    accuracies = [slot.accuracy for slot in bins]
    bars = axes.bar(lows, accuracies, 1 / BINS, align="edge", color=PALE_BLUE, edgecolor="white", label="this model")
    return [bars, axes.hlines(confidences, lows, highs, color=BLUE, linewidth=2.5, label="where the bars should end")]


def _dots(axes: Axes, fitted: Calibration) -> Artist:
    """Accuracy after fitting, as dots whose area is the number of images."""
    most = max(slot.images for slot in fitted.bins)
    return axes.scatter(
        [slot.confidence for slot in fitted.bins],
        [slot.accuracy for slot in fitted.bins],
        [10 + 90 * slot.images / most for slot in fitted.bins],
        color=ORANGE, alpha=0.9, zorder=3, clip_on=False, label=f"with a temperature of {fitted.temperature:.3g}",
    )  # fmt: skip


def _histogram(axes: Axes, bins: Sequence[Bin]) -> None:
    axes.bar(
        [slot.low for slot in bins], [slot.images for slot in bins], 1 / BINS, align="edge", color=MUTED, alpha=0.6
    )
    axes.set(xlabel="how sure it is", ylabel="images")
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.locator_params(axis="y", nbins=3, integer=True)


def _svg(figure: Figure, salt: str) -> str:
    """The drawing as an element of a page; the salt keeps its identifiers apart from those of another."""
    text = io.StringIO()
    with rc_context({"svg.hashsalt": salt}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that our font lacks and the reader's may have
        figure.savefig(text, format="svg", bbox_inches="tight", transparent=True, metadata={"Date": None})
    drawing = text.getvalue()
    return SIZE.sub(_elastic, METADATA.sub("", drawing[drawing.index("<svg") :]), count=1)


def _elastic(size: re.Match[str]) -> str:
    """A width between what is legible and the drawing's own."""
    points = float(size[1])
    return f' style="min-width:{LEGIBLE * points:.0f}px;max-width:{PIXELS_PER_POINT * points:.0f}px"'
