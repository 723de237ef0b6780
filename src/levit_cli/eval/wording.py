"""Format the numbers and sentences that the text table and the HTML report share."""

import math
import os
from collections import Counter
from collections.abc import Sequence

from levit_cli.data.archives import SEPARATOR
from levit_cli.data.labels import Labels
from levit_cli.eval.coverage import CANDIDATES, JOINT_CONFIDENCE
from levit_cli.eval.evaluate import Evaluated
from levit_cli.eval.results import (
    AccuracyTarget,
    Calibration,
    ClassScore,
    Confusion,
    Coverage,
    CoveragePoint,
    Proportion,
    Summary,
)
from levit_cli.system.text import count_noun, printable

WELL_CALIBRATED = 0.02  # largest gap between mean confidence and accuracy
UNDEFINED = "–"


def percent(value: float | None) -> str:
    """Format a proportion in percent with one decimal, or a dash if it is undefined."""
    return UNDEFINED if value is None or math.isnan(value) else f"{100 * value:.1f} %"


def percentage_points(value: float) -> str:
    """Format a difference of two proportions in percentage points."""
    return f"{100 * value:.1f} points"


def correct_of_total(proportion: Proportion) -> str:
    """Format the counts of a proportion and its confidence interval."""
    low, high = proportion.interval
    counts = f"{proportion.correct:,} of {count_noun(proportion.total, 'image')}"
    return f"{counts} correct; 95 % confidence interval {100 * low:.1f} to {percent(high)}"


def dataset_size(evaluated: Evaluated) -> str:
    """Return the number of readable images and of class folders."""
    images, classes = len(evaluated.paths), len(evaluated.folders.classes)
    return f"{count_noun(images, 'image')} in {count_noun(classes, 'class')}"


def notes(evaluated: Evaluated) -> list[str]:
    """Return the notes that are needed to interpret the results."""
    lines = []
    if failed := len(evaluated.failures):
        total = count_noun(len(evaluated.folders.samples), "image")
        lines.append(f"{failed:,} of {total} could not be read (listed below). The results exclude unreadable images.")
    covered, known = len(evaluated.folders.classes), len(evaluated.labels)
    if covered < known:
        folders = "folder covers" if covered == 1 else "folders cover"
        note = f"The {folders} {covered:,} of the model's {known:,} classes; the model can predict any of them."
        lines.append(note)
    return lines


def count_error_kinds(evaluated: Evaluated) -> str:
    """Count the unreadable images by kind of error, most frequent first."""
    kinds = Counter(failure.error.kind for failure in evaluated.failures if failure.error)
    return ", ".join(f"{number:,} {kind}" for kind, number in kinds.most_common())


def describe_calibration(calibration: Calibration, top1: Proportion) -> str:
    """Compare the mean confidence with the accuracy."""
    gap = calibration.confidence - top1.value
    judgment = "well calibrated" if abs(gap) < WELL_CALIBRATED else "overconfident" if gap > 0 else "underconfident"
    return f"{judgment}: mean confidence {percent(calibration.confidence)}, accuracy {percent(top1.value)}"


def describe_fitted_temperature(evaluated: Evaluated, summary: Summary) -> str:
    """State the fitted temperature and the calibration error that it gives."""
    if summary.fitted is None:
        return (
            "No temperature could be fitted: fitting requires both correct and wrong predictions, and a model that is "
            "better than chance."
        )
    current = f" instead of {evaluated.temperature:.4g}" if evaluated.temperature != 1 else ""
    return (
        f"Dividing the logits by a temperature of {summary.fitted.temperature:.4g}{current} gives a calibration error "
        f"of {percentage_points(summary.fitted.error)} on these images."
    )


def describe_point(point: CoveragePoint) -> str:
    """State which share of the images a threshold accepts, and how accurate they are."""
    accepted = point.accepted
    share = f"{percent(point.coverage)} of the images accepted, {accepted.total:,} of {point.images:,}"
    if not accepted.total:
        return share
    low, high = accepted.interval
    interval = f"95 % confidence interval {100 * low:.1f} to {percent(high)}"
    return f"{share}; accuracy on them {percent(accepted.value)}, {interval}"


def describe_target(target: AccuracyTarget) -> str:
    """State the threshold that reaches the target accuracy, and its lower bound; or that there is none."""
    wanted, confidence = percent(target.accuracy), f"{100 * JOINT_CONFIDENCE:g} % confidence"
    if target.chosen is None or target.lower_bound is None:
        return (
            f"No threshold was found that reaches an accuracy of {wanted} on accepted images with {confidence}: "
            f"{CANDIDATES} were tried, and no lower bound is that high."
        )
    return (
        f"The smallest threshold that reaches an accuracy of {wanted} with {confidence} is "
        f"{target.chosen.threshold:g}: {describe_point(target.chosen)}. {CANDIDATES} thresholds were tried. With "
        f"{confidence}, each one's accuracy is above its lower bound, and the bound of this one is "
        f"{percent(target.lower_bound)}."
    )


def coverage_lines(coverage: Coverage) -> list[str]:
    """Return the sentences about the stored threshold and about the target, if there are any."""
    lines = []
    if coverage.stored is not None:
        lines.append(f"Stored threshold {coverage.stored.threshold:g}: {describe_point(coverage.stored)}.")
    if coverage.target is not None:
        lines.append(describe_target(coverage.target))
    return lines


def shown_thresholds(coverage: Coverage) -> list[CoveragePoint]:
    """Return the effects of the fixed thresholds, without those that accept all images although they are above 0."""
    points = coverage.thresholds
    return [point for point in points if point.threshold == 0 or point.accepted.total < point.images]


def worst_first(scores: Sequence[ClassScore]) -> list[ClassScore]:
    """Sort classes by recall, lowest first; classes without images come last."""
    return sorted(scores, key=lambda score: math.inf if score.recall is None else score.recall)


def misclassified_as(index: int, confusions: Sequence[Confusion], labels: Labels, limit: int = 3) -> str:
    """List the wrong classes that images of a class were most often predicted as, with the numbers of images."""
    of_class = [confusion for confusion in confusions if confusion.true == index][:limit]
    return ", ".join(f"{printable(labels.names[confusion.predicted])} {confusion.images:,}" for confusion in of_class)


def relative_path(path: str, evaluated: Evaluated) -> str:
    """Return the printable path of an image, relative to the folder of the data set."""
    root = evaluated.folders.root
    return printable(path.removeprefix(f"{root}{os.sep}").removeprefix(f"{root}{SEPARATOR}"))
