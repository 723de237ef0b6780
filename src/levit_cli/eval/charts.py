"""Draw the charts of the HTML report as inline SVG: the confusion matrix and the reliability diagram."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from levit_cli.eval.results import BINS, Bin, Calibration, Coverage
from levit_cli.system.plotting import (
    BLUE,
    INK,
    MUTED,
    ORANGE,
    PALE_BLUE,
    RULE,
    Artist,
    Axes,
    Container,
    Figure,
    PercentFormatter,
    Rectangle,
    chart_style,
    colormaps,
    encode,
)

CELL_INCHES = 0.44
MAX_NUMBERED_CLASSES = 30  # with more classes, the cells are too small for numbers
NAME_LENGTH = 22
METADATA = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)
SIZE = re.compile(r' width="([\d.]+)pt" height="[\d.]+pt"')
PIXELS_PER_POINT, MIN_PIXELS_PER_POINT = 4 / 3, 0.8  # at natural size; at the smallest size that is legible


def confusion_chart(rows: Sequence[str], columns: Sequence[str], counts: NDArray[np.int64]) -> str:
    """Draw a confusion matrix, each cell shaded by its share of the row.

    Args:
        rows: names of the true classes.
        columns: names of the predicted classes, in the same order; an optional last column counts all other classes.
        counts: (rows, columns) numbers of images.
    """
    height, width = counts.shape
    with chart_style("confusion"):
        figure = Figure(figsize=(CELL_INCHES * width + 1, CELL_INCHES * height + 1))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
        _draw_cells(axes, counts)
        _label_axes(axes, rows, columns)
        return _svg(figure)


def _draw_cells(axes: Axes, counts: NDArray[np.int64]) -> None:
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    errors = (shares * ~np.eye(*counts.shape, dtype=np.bool_))[:, : len(counts)]
    largest = max(errors.max(), 0.01)
    for row, column in np.argwhere(counts):
        correct, is_other = row == column, column == len(counts)
        depth = 0.75 * shares[row, column] if correct else 0.0 if is_other else 0.65 * errors[row, column] / largest
        color = colormaps["Blues" if correct else "Greys" if is_other else "Oranges"](0.08 + depth)
        axes.add_patch(Rectangle((column, row), 1, 1, facecolor=color, edgecolor="none"))
        if max(counts.shape) <= MAX_NUMBERED_CLASSES:
            ink = "white" if depth > 0.5 else INK
            axes.text(column + 0.5, row + 0.5, f"{counts[row, column]:,}", ha="center", va="center", color=ink, size=9)


def _label_axes(axes: Axes, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Write the class names on the axes and draw lines between the cells."""
    axes.set_xticks(np.arange(len(columns)) + 0.5, list(map(_shorten, columns)), rotation=45, ha="left", va="bottom")
    axes.set_yticks(np.arange(len(rows)) + 0.5, list(map(_shorten, rows)))
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_rotation_mode("anchor")
        label.set_color(INK)
    for edge in range(len(columns) + 1):
        axes.axvline(edge, color=RULE, linewidth=0.6)
    for edge in range(len(rows) + 1):
        axes.axhline(edge, color=RULE, linewidth=0.6)
    axes.xaxis.set_label_position("top")
    axes.set(xlabel="predicted class", ylabel="true class")


def _shorten(name: str) -> str:
    return name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1]}…"


def reliability_chart(calibration: Calibration, fitted: Calibration | None) -> str:
    """Draw a reliability diagram: accuracy over confidence in bins, above a histogram of the confidence."""
    with chart_style("reliability"):
        figure = Figure(figsize=(5.6, 5.4))
        axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1), gridspec_kw={"hspace": 0.08})
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--")
        handles = [*_draw_bars(axes, calibration.bins), *([_draw_fitted(axes, fitted)] if fitted else [])]
        axes.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy")
        axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1.01), frameon=False)
        _draw_histogram(counts, calibration.bins)
        for each in (axes, counts):
            each.spines[["top", "right"]].set_visible(False)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.tick_params(bottom=False)
        return _svg(figure)


def _draw_bars(axes: Axes, bins: Sequence[Bin]) -> list[Artist | Container]:
    """Draw the accuracy of each bin as a bar, and its mean confidence as a line that the bar should reach exactly."""
    lows, highs, confidences = zip(*((each.low, each.high, each.confidence) for each in bins), strict=True)
    accuracies = [each.accuracy for each in bins]
    bars = axes.bar(lows, accuracies, 1 / BINS, align="edge", color=PALE_BLUE, edgecolor="white", label="accuracy")
    label = "mean confidence (equals accuracy if calibrated)"
    return [bars, axes.hlines(confidences, lows, highs, color=BLUE, linewidth=2.5, label=label)]


def _draw_fitted(axes: Axes, fitted: Calibration) -> Artist:
    """Draw the accuracy at the fitted temperature as dots; their area grows with the number of images."""
    largest = max(each.images for each in fitted.bins)
    return axes.scatter(
        [each.confidence for each in fitted.bins],
        [each.accuracy for each in fitted.bins],
        [10 + 90 * each.images / largest for each in fitted.bins],
        color=ORANGE, alpha=0.9, zorder=3, clip_on=False,
        label=f"accuracy with a temperature of {fitted.temperature:.3g}",
    )  # fmt: skip


def _draw_histogram(axes: Axes, bins: Sequence[Bin]) -> None:
    axes.bar(
        [each.low for each in bins], [each.images for each in bins], 1 / BINS, align="edge", color=MUTED, alpha=0.6
    )
    axes.set(xlabel="confidence", ylabel="images")
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.locator_params(axis="y", nbins=3, integer=True)


def coverage_chart(coverage: Coverage) -> str:
    """Draw the accuracy on accepted images over their share, with its 95 % intervals and the thresholds of interest."""
    with chart_style("coverage"):
        figure = Figure(figsize=(5.6, 3.8))
        axes = figure.add_subplot()
        shares = [point.coverage for point in coverage.curve]
        accuracies = [point.accepted.value for point in coverage.curve]
        lows, highs = zip(*(point.accepted.interval for point in coverage.curve), strict=True)
        band = axes.fill_between(shares, lows, highs, color=PALE_BLUE, alpha=0.5, linewidth=0, label="95 % interval")
        (line,) = axes.plot(shares, accuracies, color=BLUE, linewidth=2, label="accuracy on accepted images")
        handles = [line, band, *_draw_thresholds(axes, coverage)]
        axes.set(xlim=(0, 1.01), xlabel="coverage: share of images that are accepted", ylabel="accuracy")
        axes.set_ylim(max(0.0, min(accuracies) - 0.1), 1.005)
        axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1.01), frameon=False)
        axes.grid(color=RULE, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1, decimals=0))
        return _svg(figure)


def _draw_thresholds(axes: Axes, coverage: Coverage) -> list[Artist]:
    """Mark the stored threshold, and the target accuracy with the threshold that reaches it."""
    handles: list[Artist] = []
    if coverage.target is not None:
        label = f"target {100 * coverage.target.accuracy:g} %"
        handles.append(axes.axhline(coverage.target.accuracy, color=MUTED, linewidth=1, linestyle="--", label=label))
    chosen = coverage.target.chosen if coverage.target else None
    for point, name, marker, area in ((coverage.stored, "stored", "s", 90), (chosen, "found", "o", 30)):
        if point is not None and point.accepted.total:
            label, fill = f"{name} threshold {point.threshold:g}", "none" if marker == "s" else ORANGE
            handles.append(
                axes.scatter(
                    [point.coverage], [point.accepted.value], area, facecolors=fill, edgecolors=ORANGE, zorder=3,
                    marker=marker, clip_on=False, label=label,
                )
            )  # fmt: skip
    return handles


def _svg(figure: Figure) -> str:
    """Return the figure as an ``<svg>`` element."""
    document = encode(figure, "svg", bbox_inches="tight", transparent=True).decode()
    return SIZE.sub(_responsive_width, METADATA.sub("", document[document.index("<svg") :]), count=1)


def _responsive_width(size: re.Match[str]) -> str:
    """Return a style that lets the chart shrink from its natural width to the smallest legible one."""
    points = float(size[1])
    return f' style="min-width:{MIN_PIXELS_PER_POINT * points:.0f}px;max-width:{PIXELS_PER_POINT * points:.0f}px"'
