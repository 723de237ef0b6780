"""Build the HTML report of an evaluation: one self-contained page with embedded styles, charts and thumbnails.

The page has no JavaScript and makes no network requests; its content security policy forbids both. Names of classes
and files are escaped by the template and always shown as text.
"""

import base64
import io
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from numpy.typing import NDArray

from levit_cli.data.input import Input
from levit_cli.errors import InputError
from levit_cli.eval.charts import confusion_chart, coverage_chart, reliability_chart
from levit_cli.eval.evaluate import Evaluated
from levit_cli.eval.results import BINS, Summary
from levit_cli.eval.wording import (
    correct_of_total,
    coverage_lines,
    dataset_size,
    describe_calibration,
    describe_fitted_temperature,
    misclassified_as,
    notes,
    percent,
    relative_path,
    shown_thresholds,
    worst_first,
)
from levit_cli.images.decode import decode
from levit_cli.predict.reader import read_image
from levit_cli.predict.run_description import RunDescription
from levit_cli.system.text import count_noun, printable

MATRIX_CLASSES = 30  # the largest confusion matrix that is shown completely
SHOWN_CLASSES = 20  # number of classes that are shown of a larger matrix
TWO_COLUMN_CLASSES = 12  # with more classes, the list of confusions goes below the matrix
CLASSES, CONFUSIONS, FAILURES = 30, 12, 200  # maximum numbers of entries in the lists
THUMBNAIL = (320, 240)  # width, height: twice the size on the page, for high-density screens


class _Matrix(NamedTuple):
    """The part of the confusion matrix that the chart shows, and a caption that states which part it is."""

    rows: list[str]
    columns: list[str]
    counts: NDArray[np.int64]
    caption: str

    @property
    def layout(self) -> str:
        return "columns" if len(self.columns) <= TWO_COLUMN_CLASSES else "stacked"

    @property
    def chart(self) -> Markup:
        return Markup(confusion_chart(self.rows, self.columns, self.counts))  # matplotlib escapes the names


def as_html(evaluated: Evaluated, summary: Summary, description: RunDescription) -> str:
    """Return the HTML report.

    Args:
        description: the model, preprocessing and engine that the results depend on.
    """
    calibration, confusions, labels = summary.calibration, summary.confusions, evaluated.labels
    return _environment().get_template("report.html.jinja").render(
        title=f"Evaluation of {description.model.name} on {evaluated.folders.root}",
        size=dataset_size(evaluated),
        notes=notes(evaluated),
        run=description,
        summary=summary,
        names=labels.names,
        scores=worst_first(summary.scores),
        num_shown=CLASSES,
        misclassified_as=lambda index: misclassified_as(index, confusions, labels),
        matrix=_matrix(evaluated, summary) if evaluated.paths else None,
        confusions=confusions[:CONFUSIONS],
        calibration=calibration,
        calibration_chart=Markup(reliability_chart(calibration, summary.fitted)) if calibration else "",
        judgment=_capitalized(describe_calibration(calibration, summary.top1)) if calibration else "",
        coverage=summary.coverage,
        coverage_chart=Markup(coverage_chart(summary.coverage)) if summary.coverage else "",
        coverage_lines=coverage_lines(summary.coverage) if summary.coverage else [],
        thresholds=shown_thresholds(summary.coverage) if summary.coverage else [],
        fitted_temperature=describe_fitted_temperature(evaluated, summary),
        num_bins=BINS,
        failures=evaluated.failures,
        num_failures=FAILURES,
        relative_path=lambda path: relative_path(path, evaluated),
        thumbnail=partial(_thumbnail, {image.path: image for image, _ in evaluated.folders.samples}),
    )  # fmt: skip


def _environment() -> Environment:
    """Return an environment that escapes every value and makes control characters visible."""
    environment = Environment(
        loader=PackageLoader("levit_cli", "assets"), autoescape=True, finalize=_printable,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "percent": percent,
        "correct_of_total": correct_of_total,
        "count_noun": count_noun,
        "thousands": "{:,}".format,
        "units": _keep_units,
    }
    return environment


def _printable(value: object) -> object:
    """Make the control characters of text visible. Markup is text of the template, which is shown as it is."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _keep_units(text: str) -> Markup:
    """Prevent line breaks between a number and its percent sign."""
    return escape(printable(text).replace(" %", "\N{NO-BREAK SPACE}%"))


def _capitalized(sentence: str) -> str:
    return f"{sentence[0].upper()}{sentence[1:]}"


def _matrix(evaluated: Evaluated, summary: Summary) -> _Matrix:
    """Select the classes to show: all, or those with the most errors and one column for all others."""
    classes = summary.confusion_classes
    names = [printable(name) for name in evaluated.labels.names]
    if len(classes) <= MATRIX_CLASSES:
        shown = [names[index] for index in classes]
        return _Matrix(shown, shown, summary.confusion[classes][:, classes], "")
    errors = summary.confusion - np.diag(np.diag(summary.confusion))
    errors_of_class = errors.sum(axis=0) + errors.sum(axis=1)
    chosen = sorted(sorted(classes, key=lambda index: -errors_of_class[index])[:SHOWN_CLASSES])
    rows = summary.confusion[chosen]
    others = rows.sum(axis=1) - rows[:, chosen].sum(axis=1)
    shown = [names[index] for index in chosen]
    caption = (
        f"The chart shows {SHOWN_CLASSES} of {len(classes):,} classes: those with the most errors. Gray cells count "
        "predictions of all other classes."
    )
    return _Matrix(shown, [*shown, "other classes"], np.column_stack([rows[:, chosen], others]), caption)


def _thumbnail(images: Mapping[str, Input], path: str) -> str | None:
    """Return the image as a small JPEG in base64; None if it can no longer be read."""
    with suppress(InputError, OSError):
        image = read_image(images[path], partial(decode, shrink_to=THUMBNAIL))
        image.thumbnail(THUMBNAIL)
        jpeg = io.BytesIO()
        image.save(jpeg, "JPEG", quality=82)
        return base64.b64encode(jpeg.getvalue()).decode("ascii")
    return None
