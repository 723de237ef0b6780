"""An evaluation in plain words: what the table and the report both say."""

import math
import os
from collections import Counter
from collections.abc import Sequence

from levit_cli.data.labels import Labels
from levit_cli.eval.evaluate import Evaluated
from levit_cli.eval.results import Calibration, ClassScore, Confusion, Proportion, Summary
from levit_cli.system.text import printable

ABOUT_RIGHT = 0.02  # between confidence and accuracy; less is not worth a word
NOTHING = "–"


def percent(value: float | None) -> str:
    """In percent, with one digit; a dash where there is no figure."""
    return NOTHING if value is None or math.isnan(value) else f"{100 * value:.1f} %"


def interval(proportion: Proportion) -> str:
    """Where the true value lies."""
    low, high = proportion.interval
    return f"{100 * low:.1f} to {percent(high)}"


def count(number: int, noun: str) -> str:
    """A number and its noun, which gets an s."""
    plural = noun if number == 1 else f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {plural}"


def extent(evaluated: Evaluated) -> str:
    """How much was evaluated."""
    return f"{count(len(evaluated.paths), 'image')} in {count(len(evaluated.folders.classes), 'class')}"


def remarks(evaluated: Evaluated) -> list[str]:
    """What one must know to read the figures."""
    found = []
    if failed := len(evaluated.failures):
        tried = len(evaluated.folders.samples)
        found.append(
            f"{failed:,} of {count(tried, 'image')} could not be read and {'is' if failed == 1 else 'are'} listed; "
            "the figures are over the others."
        )
    covered, known = len(evaluated.folders.classes), len(evaluated.labels)
    if covered < known:
        found.append(
            f"The folders cover {covered:,} of the model's {known:,} classes; it was free to choose among all of them."
        )
    return found


def kinds(evaluated: Evaluated) -> str:
    """How many images could not be read for which reason, the most frequent first."""
    counted = Counter(failure.error.kind for failure in evaluated.failures if failure.error)
    return ", ".join(f"{number:,} {kind}" for kind, number in counted.most_common())


def sureness(calibration: Calibration, top1: Proportion) -> str:
    """Confidence beside accuracy."""
    sure, right = percent(calibration.confidence), percent(top1.value)
    return f"it is {sure} sure on average and right {right} of the time: {verdict(calibration, top1)}"


def verdict(calibration: Calibration, top1: Proportion) -> str:
    """Whether a model is too sure."""
    gap = calibration.confidence - top1.value
    return "about as sure as it may be" if abs(gap) < ABOUT_RIGHT else "too sure" if gap > 0 else "too modest"


def temperature_advice(evaluated: Evaluated, summary: Summary) -> str:
    """What a temperature would do."""
    if summary.fitted is None:
        return "No temperature fits: that takes right answers and wrong ones."
    now = f" instead of {evaluated.temperature:.4g}" if evaluated.temperature != 1 else ""
    return (
        f"With a temperature of {summary.fitted.temperature:.4g}{now}, by which its logits are divided, they would be "
        f"{points(summary.fitted.error)} off on these same images."
    )


def points(value: float) -> str:
    """A difference of percentages."""
    return f"{100 * value:.1f} points"


def worst_first(scores: Sequence[ClassScore]) -> list[ClassScore]:
    """By recall; those without images last."""
    return sorted(scores, key=lambda score: math.inf if score.recall is None else score.recall)


def taken_for(index: int, confusions: Sequence[Confusion], labels: Labels, most: int = 3) -> str:
    """What images of a class were most often mistaken for."""
    own = [confusion for confusion in confusions if confusion.true == index][:most]
    return ", ".join(f"{printable(labels.names[confusion.predicted])} {confusion.images:,}" for confusion in own)


def below(path: str, evaluated: Evaluated) -> str:
    """An image's path below the data set's folder."""
    return printable(path.removeprefix(f"{evaluated.folders.root}{os.sep}"))
