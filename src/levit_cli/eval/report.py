"""An evaluation as one HTML page that needs nothing from elsewhere: styles, charts and thumbnails are inside it.

It holds no script, and its policy forbids any, as it forbids every request. Names of classes and files are shown as
text, whatever they hold.
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

from levit_cli.errors import InputError
from levit_cli.eval.evaluate import Evaluated
from levit_cli.eval.results import BINS, ClassScore, Mistake, Proportion, Summary
from levit_cli.eval.wording import (
    below,
    count,
    extent,
    interval,
    percent,
    points,
    remarks,
    sureness,
    taken_for,
    temperature_advice,
    worst_first,
)
from levit_cli.images.decode import decode
from levit_cli.predict.reader import open_regular
from levit_cli.predict.run_description import RunDescription
from levit_cli.system.plotting import prepare_matplotlib
from levit_cli.system.text import printable

MATRIX_CLASSES = 30  # in one image; of more those that are confused most
SHOWN_CLASSES = 20
BESIDE = 12  # classes; a larger matrix leaves no room beside it
CLASSES, CONFUSIONS, FAILURES = 30, 12, 200
THUMBNAIL = (320, 240)  # width, height, for screens of two dots a pixel
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class _Matrix(NamedTuple):
    """What the chart shows of the confusion matrix, and what to say of that."""

    rows: list[str]
    columns: list[str]
    counts: NDArray[np.int64]
    remark: str


def as_html(evaluated: Evaluated, summary: Summary, description: RunDescription) -> str:
    """The page.

    Args:
        description: what the answers depend on.
    """
    prepare_matplotlib()
    title = f"{description.model.name} on {evaluated.folders.root}"
    parts = [
        _header(title, evaluated, description),
        _tiles(evaluated, summary),
        *(f'<p class="note">{_text(remark)}</p>' for remark in remarks(evaluated)),
        _classes(evaluated, summary),
        _confusion(evaluated, summary),
        _mistakes(evaluated, summary),
        _reliability(evaluated, summary),
        _failures(evaluated),
        _origin(description),
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
    """Text from anywhere, as text in a page and in its attributes."""
    return escape(printable(text))


def _whole(words: str) -> str:
    """Words of ours, in which no number is parted from its sign at the end of a line."""
    return words.replace(" %", "&nbsp;%")


def _section(title: str, about: str, *content: str) -> str:
    return f'<section>\n<h2>{title}</h2>\n<p class="about">{about}</p>\n' + "\n".join(content) + "\n</section>"


def _header(title: str, evaluated: Evaluated, description: RunDescription) -> str:
    model = f"{description.model.architecture}, which knows {count(description.model.classes, 'class')}"
    return f"<header>\n<h1>{_text(title)}</h1>\n<p>{extent(evaluated)} · {_text(model)}</p>\n</header>"


def _tiles(evaluated: Evaluated, summary: Summary) -> str:
    tiles = [_proportion_tile("right at the first guess", "top-1", summary.top1)]
    if summary.top5:
        tiles.append(_proportion_tile("right among the first five", "top-5", summary.top5))
    about = f"mean recall over {count(len(evaluated.folders.classes), 'class')}, each counting the same"
    mean_f1 = f"mean F1 {percent(summary.macro_f1)}"
    tiles.append(_tile(percent(summary.balanced_accuracy), "balanced accuracy", about, _whole(mean_f1)))
    if summary.calibration:
        said = _whole(sureness(summary.calibration, summary.top1))
        value = f"{100 * summary.calibration.error:.1f} <small>points</small>"
        tiles.append(_tile(value, "calibration error", f"{said[0].upper()}{said[1:]}"))
    return f'<div class="tiles">\n{"".join(tiles)}</div>'


def _tile(value: str, name: str, *lines: str) -> str:
    told = "".join(f"<br><span>{line}</span>" for line in lines)
    return f'<div class="tile"><b>{value}</b><span class="name">{name}</span>{told}</div>\n'


def _proportion_tile(name: str, short: str, proportion: Proportion) -> str:
    low, high = proportion.interval
    stretches = _stretch(0, proportion.value, "upto") + _stretch(low, high, "range") if proportion.total else ""
    track = f'<div class="track">{stretches}</div>'
    between = interval(proportion).replace(" to ", " and ")
    told = f"{short}: {proportion.correct:,} of {proportion.total:,}; with 95 % confidence between {between}"
    return (
        f'<div class="tile"><b>{percent(proportion.value)}</b><span class="name">{name}</span>{track}'
        f"<span>{_whole(told)}</span></div>\n"
    )


def _stretch(low: float, high: float, kind: str) -> str:
    return f'<i class="{kind}" style="left:{100 * low:.2f}%;width:{100 * (high - low):.2f}%"></i>'


def _classes(evaluated: Evaluated, summary: Summary) -> str:
    scores = worst_first(summary.scores)
    about = (
        "The worst first. Recall: how many of a class’s images were found. Precision: how many of the images that "
        "got its name deserve it. F1 is the harmonic mean of the two."
    )
    shown = _class_table(scores[:CLASSES], evaluated, summary)
    if len(scores) <= CLASSES:
        return _section("Class by class", about, shown)
    rest = _class_table(scores[CLASSES:], evaluated, summary)
    more = f"<details>\n<summary>The other {count(len(scores) - CLASSES, 'class')}</summary>\n{rest}\n</details>"
    return _section("Class by class", about, shown, more)


def _class_table(scores: Iterable[ClassScore], evaluated: Evaluated, summary: Summary) -> str:
    head = (
        '<th class="text" scope="col">class</th><th scope="col">images</th><th scope="col">recall</th>'
        '<td class="bar"></td><th scope="col">precision</th><th class="optional" scope="col">F1</th>'
        '<th class="text" scope="col">most often taken for</th>'
    )
    confusions = summary.confusions
    rows = [_class_row(score, taken_for(score.index, confusions, evaluated.labels), evaluated) for score in scores]
    return (
        f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{"".join(rows)}</tbody>\n</table></div>'
    )


def _class_row(score: ClassScore, confused: str, evaluated: Evaluated) -> str:
    bar = f'<div class="track">{_stretch(0, score.recall, "whole")}</div>' if score.recall is not None else ""
    return (
        f'<tr><th scope="row">{_text(evaluated.labels.names[score.index])}</th><td>{score.images:,}</td>'
        f'<td>{percent(score.recall)}</td><td class="bar">{bar}</td><td>{percent(score.precision)}</td>'
        f'<td class="optional">{percent(score.f1)}</td><td class="text muted">{_text(confused)}</td></tr>\n'
    )


def _confusion(evaluated: Evaluated, summary: Summary) -> str:
    if not evaluated.paths:
        return ""
    from levit_cli.eval.charts import confusion_chart

    matrix = _matrix(evaluated, summary)
    chart = confusion_chart(matrix.rows, matrix.columns, matrix.counts)
    about = "The true class down, the answer across: blue is right, orange is not, deeper is more of the row."
    drawn = f'<div class="wide">{chart}</div>'
    side = "columns" if len(matrix.columns) <= BESIDE else "stacked"
    pairs = [
        f'<tr><td>{pair.images:,}</td><td class="text">{_text(evaluated.labels.names[pair.true])} taken for '
        f"{_text(evaluated.labels.names[pair.predicted])}</td></tr>\n"
        for pair in summary.confusions[:CONFUSIONS]
    ]
    listed = f"<table>\n<tbody>\n{''.join(pairs)}</tbody>\n</table>" if pairs else ""
    return _section(
        "What is confused with what", f"{about} {matrix.remark}", f'<div class="{side}">{drawn}\n{listed}</div>'
    )


def _matrix(evaluated: Evaluated, summary: Summary) -> _Matrix:
    """All classes that have a folder or were an answer; of too many those with most mistakes, and the rest as one."""
    classes = summary.classes_in_play
    names = [printable(name) for name in evaluated.labels.names]
    if len(classes) <= MATRIX_CLASSES:
        shown = [names[index] for index in classes]
        return _Matrix(shown, shown, summary.confusion[classes][:, classes], "")
    wrong = summary.confusion - np.diag(np.diag(summary.confusion))
    involved = wrong.sum(axis=0) + wrong.sum(axis=1)
    chosen = sorted(sorted(classes, key=lambda index: -involved[index])[:SHOWN_CLASSES])
    rows = summary.confusion[chosen]
    others = rows.sum(axis=1) - rows[:, chosen].sum(axis=1)
    shown = [names[index] for index in chosen]
    remark = f"Shown are the {SHOWN_CLASSES} of {len(classes):,} classes that are confused most."
    return _Matrix(shown, [*shown, "all others"], np.column_stack([rows[:, chosen], others]), remark)


def _mistakes(evaluated: Evaluated, summary: Summary) -> str:
    if not summary.mistakes:
        return ""
    about = "Where the model is wrong though it is sure. Look for labels that are wrong, too: they often end up here."
    figures = "".join(_mistake(mistake, evaluated) for mistake in summary.mistakes)
    return _section("Its surest mistakes", about, f'<div class="images">\n{figures}</div>')


def _mistake(mistake: Mistake, evaluated: Evaluated) -> str:
    true, predicted = (_text(evaluated.labels.names[index]) for index in (mistake.true, mistake.predicted))
    return (
        f"<figure>{_thumbnail(mistake.path, f'{true}, taken for {predicted}')}"
        f'<figcaption><span class="wrong">{predicted}</span> {_whole(percent(mistake.prob))}<br>is {true}'
        f'<span class="path">{escape(below(mistake.path, evaluated))}</span></figcaption></figure>\n'
    )


def _thumbnail(path: str, alternative: str) -> str:
    """The image, small; it was read before, but it need not be there any more."""
    with suppress(InputError, OSError), open_regular(path) as file:
        image = decode(file, THUMBNAIL)
        image.thumbnail(THUMBNAIL)
        jpeg = io.BytesIO()
        image.save(jpeg, "JPEG", quality=82)
        data = base64.b64encode(jpeg.getvalue()).decode("ascii")
        return f'<img src="data:image/jpeg;base64,{data}" alt="{alternative}">'
    return '<div class="missing">gone</div>'


def _reliability(evaluated: Evaluated, summary: Summary) -> str:
    if summary.calibration is None:
        return ""
    from levit_cli.eval.charts import reliability_chart

    about = _whole("Of the answers that a model is 80 % sure of, 80 % should be right.")
    told = _whole(
        f"<p>They are {points(summary.calibration.error)} off on average (expected calibration error, {BINS} bins): "
        f"{sureness(summary.calibration, summary.top1)}.</p>\n<p>{temperature_advice(evaluated, summary)}</p>"
    )
    if summary.fitted:
        told += (
            '\n<p class="muted"><code>levit eval --calibrate</code> stores the temperature in the model’s folder, '
            "and <code>levit predict</code> then uses it. The order of the answers stays as it is.</p>"
        )
    chart = reliability_chart(summary.calibration, summary.fitted)
    return _section(
        "Can its probabilities be believed?",
        about,
        f'<div class="columns"><div class="wide">{chart}</div><div>{told}</div></div>',
    )


def _failures(evaluated: Evaluated) -> str:
    if not evaluated.failures:
        return ""
    rows = [
        f'<tr><td class="text">{escape(below(failure.path, evaluated))}</td><td class="text">{failure.error.kind}</td>'
        f'<td class="text">{_text(failure.error.message)}</td></tr>\n'
        for failure in evaluated.failures[:FAILURES]
        if failure.error
    ]
    hidden = len(evaluated.failures) - len(rows)
    about = "These have no part in the figures." + (f" {hidden:,} more are not shown." if hidden else "")
    head = "".join(f'<th class="text" scope="col">{name}</th>' for name in ("image", "kind", "reason"))
    table = (
        f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{"".join(rows)}</tbody>\n</table></div>'
    )
    return _section("Not read", about, table)


def _origin(run: RunDescription) -> str:
    model, transform = run.model, run.transform
    facts: Sequence[tuple[str, str | None]] = (
        ("model", f"{model.name}, {model.architecture}, {model.classes} classes"),
        ("weights’ SHA-256", model.sha256),
        ("temperature", f"{model.temperature:.4g}"),
        (
            "preprocessing",
            f"{transform.name}: {transform.filter}, {transform.crop_size[0]} x {transform.crop_size[1]} px",
        ),
        (
            "computed by",
            f"levit {run.version}, {run.engine} on {run.device} in {run.precision}",
        ),
    )
    listed = "".join(f"<dt>{name}</dt><dd>{_text(str(value))}</dd>\n" for name, value in facts)
    return f"<section>\n<h2>How it was measured</h2>\n<dl>\n{listed}</dl>\n</section>"
