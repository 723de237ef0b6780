"""The HTML report of an evaluation: one self-contained page with its styles, charts and thumbnails inside.

The page has no JavaScript and makes no network requests; its content security policy forbids both. Names of classes
and files are escaped and always shown as text.
"""

import base64
import io
from collections.abc import Iterable, Sequence
from contextlib import suppress
from html import escape
from importlib import resources
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from levit_cli.data.labels import Labels
from levit_cli.errors import InputError
from levit_cli.eval.evaluate import Evaluated
from levit_cli.eval.results import BINS, ClassScore, ConfidentError, Proportion, Summary
from levit_cli.eval.wording import (
    correct_of_total,
    dataset_size,
    describe_calibration,
    describe_fitted_temperature,
    misclassified_as,
    notes,
    percent,
    percentage_points,
    relative_path,
    worst_first,
)
from levit_cli.images.decode import decode
from levit_cli.predict.reader import open_regular
from levit_cli.predict.run_description import RunDescription
from levit_cli.system.plotting import prepare_matplotlib
from levit_cli.system.text import count_noun, printable

MATRIX_CLASSES = 30  # the largest confusion matrix that is shown completely
SHOWN_CLASSES = 20  # classes of a larger matrix that are shown
TWO_COLUMN_CLASSES = 12  # with more classes, the list of confusions goes below the matrix
CLASSES, CONFUSIONS, FAILURES = 30, 12, 200
THUMBNAIL = (320, 240)  # width, height; twice the size on the page, for high-density screens
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class _Matrix(NamedTuple):
    """The part of the confusion matrix that the chart shows, and a caption about what is left out."""

    rows: list[str]
    columns: list[str]
    counts: NDArray[np.int64]
    caption: str


def as_html(evaluated: Evaluated, summary: Summary, description: RunDescription) -> str:
    """Return the page.

    Args:
        description: the model, preprocessing and engine that the results depend on.
    """
    prepare_matplotlib()
    title = f"Evaluation of {description.model.name} on {evaluated.folders.root}"
    parts = [
        _header(title, evaluated, description),
        _tiles(summary),
        *(f'<p class="note">{_text(note)}</p>' for note in notes(evaluated)),
        _classes(evaluated, summary),
        _confusion(evaluated, summary),
        _confident_errors(evaluated, summary),
        _calibration(evaluated, summary),
        _failures(evaluated),
        _run_details(description),
    ]
    style = resources.files("levit_cli").joinpath("assets/report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(filter(None, parts))
        + "\n</main>\n</body>\n</html>\n"
    )


def _text(text: str) -> str:
    """Escape any text for use in the page and in attributes."""
    return escape(printable(text))


def _keep_units(text: str) -> str:
    """Prevent line breaks between a number and its percent sign."""
    return text.replace(" %", "&nbsp;%")


def _section(title: str, introduction: str, *content: str) -> str:
    return (
        f'<section>\n<h2>{title}</h2>\n<p class="introduction">{introduction}</p>\n'
        + "\n".join(content)
        + "\n</section>"
    )


def _header(title: str, evaluated: Evaluated, description: RunDescription) -> str:
    model = f"{description.model.architecture} with {count_noun(description.model.classes, 'class')}"
    return f"<header>\n<h1>{_text(title)}</h1>\n<p>{dataset_size(evaluated)} · model: {_text(model)}</p>\n</header>"


def _tiles(summary: Summary) -> str:
    tiles = [_proportion_tile("Top-1 accuracy", summary.top1)]
    if summary.top5:
        tiles.append(_proportion_tile("Top-5 accuracy", summary.top5))
    macro_f1 = f"Macro F1: {percent(summary.macro_f1)}"
    balanced = percent(summary.balanced_accuracy)
    tiles.append(_tile(balanced, "Balanced accuracy", "Mean recall over the classes", macro_f1))
    if summary.calibration:
        value = f"{100 * summary.calibration.error:.1f} <small>points</small>"
        judgment = _capitalized(describe_calibration(summary.calibration, summary.top1))
        tiles.append(_tile(value, "Calibration error (ECE)", judgment))
    return f'<div class="tiles">\n{"".join(tiles)}</div>'


def _capitalized(sentence: str) -> str:
    return f"{sentence[0].upper()}{sentence[1:]}"


def _tile(value: str, name: str, *lines: str) -> str:
    text = "".join(f"<br><span>{_keep_units(line)}</span>" for line in lines)
    return f'<div class="tile"><b>{value}</b><span class="name">{name}</span>{text}</div>\n'


def _proportion_tile(name: str, proportion: Proportion) -> str:
    """Return a tile with a bar that shows the value and its confidence interval."""
    low, high = proportion.interval
    bars = _bar(0, proportion.value, "value") + _bar(low, high, "interval") if proportion.total else ""
    return (
        f'<div class="tile"><b>{percent(proportion.value)}</b><span class="name">{name}</span>'
        f'<div class="track">{bars}</div><span>{_keep_units(correct_of_total(proportion))}</span></div>\n'
    )


def _bar(low: float, high: float, kind: str) -> str:
    return f'<i class="{kind}" style="left:{100 * low:.2f}%;width:{100 * (high - low):.2f}%"></i>'


def _classes(evaluated: Evaluated, summary: Summary) -> str:
    scores = worst_first(summary.scores)
    introduction = (
        "Sorted by recall, lowest first. Recall is the share of a class’s images that were predicted correctly. "
        "Precision is the share of the images predicted as a class that belong to it. F1 is the harmonic mean of the "
        "two."
    )
    shown = _class_table(scores[:CLASSES], evaluated, summary)
    if len(scores) <= CLASSES:
        return _section("Per-class results", introduction, shown)
    rest = _class_table(scores[CLASSES:], evaluated, summary)
    label = f"Show {count_noun(len(scores) - CLASSES, 'more class', 'more classes')}"
    return _section(
        "Per-class results", introduction, shown, f"<details>\n<summary>{label}</summary>\n{rest}\n</details>"
    )


def _class_table(scores: Iterable[ClassScore], evaluated: Evaluated, summary: Summary) -> str:
    head = (
        '<th class="text" scope="col">class</th><th scope="col">images</th><th scope="col">recall</th>'
        '<td class="bar"></td><th scope="col">precision</th><th class="optional" scope="col">F1</th>'
        '<th class="text" scope="col">misclassified as</th>'
    )
    confusions, labels = summary.confusions, evaluated.labels
    rows = [_class_row(score, misclassified_as(score.index, confusions, labels), labels) for score in scores]
    return (
        f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{"".join(rows)}</tbody>\n</table></div>'
    )


def _class_row(score: ClassScore, predictions: str, labels: Labels) -> str:
    bar = f'<div class="track">{_bar(0, score.recall, "recall")}</div>' if score.recall is not None else ""
    return (
        f'<tr><th scope="row">{_text(labels.names[score.index])}</th><td>{score.images:,}</td>'
        f'<td>{percent(score.recall)}</td><td class="bar">{bar}</td><td>{percent(score.precision)}</td>'
        f'<td class="optional">{percent(score.f1)}</td><td class="text muted">{_text(predictions)}</td></tr>\n'
    )


def _confusion(evaluated: Evaluated, summary: Summary) -> str:
    if not evaluated.paths:
        return ""
    from levit_cli.eval.charts import confusion_chart

    matrix = _matrix(evaluated, summary)
    chart = confusion_chart(matrix.rows, matrix.columns, matrix.counts)
    introduction = (
        "Rows are true classes and columns are predicted classes. Blue cells are correct predictions, orange cells are "
        "errors. A darker cell holds a larger share of its row."
    )
    layout = "columns" if len(matrix.columns) <= TWO_COLUMN_CLASSES else "stacked"
    pairs = [
        f'<tr><td>{pair.images:,}</td><td class="text">{_text(evaluated.labels.names[pair.true])} predicted as '
        f"{_text(evaluated.labels.names[pair.predicted])}</td></tr>\n"
        for pair in summary.confusions[:CONFUSIONS]
    ]
    head = '<th scope="col">images</th><th class="text" scope="col">most frequent confusions</th>'
    table = f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{''.join(pairs)}</tbody>\n</table>" if pairs else ""
    return _section(
        "Confusion matrix",
        f"{introduction} {matrix.caption}",
        f'<div class="{layout}"><div class="wide">{chart}</div>\n{table}</div>',
    )


def _matrix(evaluated: Evaluated, summary: Summary) -> _Matrix:
    """Select the classes to show: all, or the ones with the most errors and one column for all others."""
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
        f"The chart shows the {SHOWN_CLASSES} of {len(classes):,} classes with the most errors; gray cells count "
        "predictions of all other classes."
    )
    return _Matrix(shown, [*shown, "other classes"], np.column_stack([rows[:, chosen], others]), caption)


def _confident_errors(evaluated: Evaluated, summary: Summary) -> str:
    if not summary.confident_errors:
        return ""
    introduction = (
        "The misclassified images with the highest confidence. Check their labels too: images with wrong labels often "
        "appear here."
    )
    figures = "".join(_confident_error(error, evaluated) for error in summary.confident_errors)
    return _section("Most confident errors", introduction, f'<div class="images">\n{figures}</div>')


def _confident_error(error: ConfidentError, evaluated: Evaluated) -> str:
    true, predicted = (_text(evaluated.labels.names[index]) for index in (error.true, error.predicted))
    path = escape(relative_path(error.path, evaluated))
    return (
        f"<figure>{_thumbnail(error.path, f'{true}, predicted as {predicted}')}"
        f'<figcaption>predicted: <span class="wrong">{predicted}</span><br>true class: {true}<br>'
        f'confidence: {_keep_units(percent(error.prob))}<span class="path">{path}</span></figcaption></figure>\n'
    )


def _thumbnail(path: str, alternative: str) -> str:
    """Return the image as a small JPEG inside an ``<img>``, or a placeholder if it can no longer be read."""
    with suppress(InputError, OSError), open_regular(path) as file:
        image = decode(file, THUMBNAIL)
        image.thumbnail(THUMBNAIL)
        jpeg = io.BytesIO()
        image.save(jpeg, "JPEG", quality=82)
        data = base64.b64encode(jpeg.getvalue()).decode("ascii")
        return f'<img src="data:image/jpeg;base64,{data}" alt="{alternative}">'
    return '<div class="missing">image not available</div>'


def _calibration(evaluated: Evaluated, summary: Summary) -> str:
    if summary.calibration is None:
        return ""
    from levit_cli.eval.charts import reliability_chart

    introduction = _keep_units(
        "Confidence is the probability of the predicted class. A well calibrated model is correct in 80 % of the "
        "predictions that it makes with 80 % confidence."
    )
    text = _keep_units(
        f"<p>Expected calibration error: {percentage_points(summary.calibration.error)}, averaged over {BINS} bins.</p>"
        f"\n<p>{_capitalized(describe_calibration(summary.calibration, summary.top1))}.</p>"
        f"\n<p>{describe_fitted_temperature(evaluated, summary)}</p>"
    )
    if summary.fitted:
        text += (
            '\n<p class="muted"><code>levit eval --calibrate</code> stores this temperature in the model’s folder, '
            "and <code>levit predict</code> then applies it. It changes the probabilities but not the ranking of the "
            "classes.</p>"
        )
    chart = reliability_chart(summary.calibration, summary.fitted)
    return _section(
        "Calibration", introduction, f'<div class="columns"><div class="wide">{chart}</div><div>{text}</div></div>'
    )


def _failures(evaluated: Evaluated) -> str:
    if not evaluated.failures:
        return ""
    rows = [
        f'<tr><td class="text">{escape(relative_path(failure.path, evaluated))}</td>'
        f'<td class="text">{failure.error.kind}</td><td class="text">{_text(failure.error.message)}</td></tr>\n'
        for failure in evaluated.failures[:FAILURES]
        if failure.error
    ]
    hidden = len(evaluated.failures) - len(rows)
    introduction = "The results exclude these images."
    if hidden:
        introduction += f" The list omits {count_noun(hidden, 'more image')}."
    head = "".join(f'<th class="text" scope="col">{name}</th>' for name in ("image", "error", "message"))
    table = (
        f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{"".join(rows)}</tbody>\n</table></div>'
    )
    return _section("Unreadable images", introduction, table)


def _run_details(run: RunDescription) -> str:
    model, transform = run.model, run.transform
    facts: Sequence[tuple[str, str | None]] = (
        ("model", f"{model.name}, {model.architecture}, {count_noun(model.classes, 'class')}"),
        ("SHA-256 of the weights", model.sha256),
        ("temperature", f"{model.temperature:.4g}"),
        (
            "preprocessing",
            f"{transform.name}: {transform.filter}, {transform.crop_size[0]} x {transform.crop_size[1]} px",
        ),
        (
            "software",
            f"levit {run.version}, {run.engine} on {run.device} in {run.precision}",
        ),
    )
    entries = "".join(f"<dt>{name}</dt><dd>{_text(str(value))}</dd>\n" for name, value in facts)
    return f"<section>\n<h2>Run details</h2>\n<dl>\n{entries}</dl>\n</section>"
