"""The gate: compare the int8 model with the original on the same images, and refuse it if it differs too much.

Both models see the same pixels, so the difference of their accuracies is measured on pairs. The width of its interval
depends only on the images that one model classifies correctly and the other does not. The interval is Wald's after half
an image is added to each of the four cells: Agresti and Min, "Simple improved confidence intervals for comparing
matched proportions", Statistics in Medicine 24 (2005).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from levit_cli.checkpoints.quantized import Gate
from levit_cli.errors import GateError, RefusedError
from levit_cli.system.text import count_noun

MIN_AGREEMENT = 0.97  # on images without classes
CONFIDENCE_LEVEL = 0.95
PSEUDO_IMAGES = 0.5  # added to each cell

Classes = NDArray[np.int64]


@dataclass(frozen=True)
class Compared:
    """The first classes that both models predict for the images that could be read.

    Args:
        before, after: (N,) class indices of the original and of the int8 model.
        targets: (N,) true class indices; None for images without classes.
        unreadable: number of images that could not be read, also among those for the calibration.
    """

    before: Classes
    after: Classes
    targets: Classes | None
    unreadable: int

    def gate(self) -> Gate:
        """Return the figures of the comparison."""
        images = len(self.before)
        agreement = float(np.mean(self.before == self.after))
        if self.targets is None:
            return Gate(images, self.unreadable, agreement)
        right_before, right_after = self.before == self.targets, self.after == self.targets
        lost, gained = int(np.sum(right_before & ~right_after)), int(np.sum(~right_before & right_after))
        interval = paired_interval(lost, gained, images)
        top1_before, top1_after = float(np.mean(right_before)), float(np.mean(right_after))
        return Gate(images, self.unreadable, agreement, top1_before, top1_after, interval)


def paired_interval(lost: int, gained: int, images: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of the drop of accuracy, (lost - gained) / images.

    Args:
        lost: number of images that only the original classifies correctly.
        gained: number of images that only the int8 model classifies correctly.
        images: number of all images, at least 1.
    """
    n = images + 4 * PSEUDO_IMAGES
    difference, discordant = lost - gained, lost + gained + 2 * PSEUDO_IMAGES
    z = NormalDist().inv_cdf((1 + CONFIDENCE_LEVEL) / 2)
    margin = z * math.sqrt(discordant - difference**2 / n)
    return max(-1.0, (difference - margin) / n), min(1.0, (difference + margin) / n)


def require_accurate(gate: Gate, max_drop: float, model: str) -> None:
    """Refuse an int8 model that differs too much from its original.

    Args:
        max_drop: the largest allowed drop of top-1, in percentage points.

    Raises:
        GateError: top-1 drops by more than that; without classes, the first class differs too often.
    """
    drop = drop_points(gate)
    if drop is not None and drop > max_drop + 1e-9:
        what = f"top-1 drops by {drop:.2f} points, and --max-drop allows {max_drop:g}"
    elif drop is None and gate.agreement < MIN_AGREEMENT:
        measured = f"{100 * gate.agreement:.1f} % of the images"
        what = f"the first class is the same on {measured}, and {100 * MIN_AGREEMENT:g} % are required"
    else:
        return
    hint = "calibrate with more images, or with images that are more like those to classify (--samples, --data)"
    raise GateError(f"{model} in int8 is not accurate enough: {what}", why="nothing was written", hint=hint)


def drop_points(gate: Gate) -> float | None:
    """Return the drop of top-1 in percentage points; negative if int8 is better, None without classes."""
    if gate.top1_before is None or gate.top1_after is None:
        return None
    return 100 * (gate.top1_before - gate.top1_after)


def as_rows(gate: Gate, max_drop: float) -> dict[str, str]:
    """Return the figures as rows of a report."""
    rows = {"compared": f"{count_noun(gate.images, 'image')}, fp32 against int8{_skipped(gate.unreadable)}"}
    drop = drop_points(gate)
    if drop is not None and gate.drop_interval and gate.top1_before is not None and gate.top1_after is not None:
        low, high = (100 * bound for bound in gate.drop_interval)
        rows["top-1"] = f"{100 * gate.top1_before:.2f} % in fp32, {100 * gate.top1_after:.2f} % in int8"
        rows["drop"] = f"{drop:.2f} points (95 % interval {low:.2f} to {high:.2f}), at most {max_drop:g} allowed"
    required = f", at least {100 * MIN_AGREEMENT:g} % required" if drop is None else ""
    rows["agreement"] = f"the same first class on {100 * gate.agreement:.2f} % of the images{required}"
    return rows


def _skipped(unreadable: int) -> str:
    return f"; {count_noun(unreadable, 'image')} could not be read" if unreadable else ""


def require_readable(readable: int, minimum: int, folder: str, failures: Sequence[str]) -> None:
    """Check that enough images could be read.

    Args:
        failures: descriptions of images that could not be read.

    Raises:
        RefusedError: there are fewer than ``minimum``.
    """
    if readable >= minimum:
        return
    why = f"quantizing needs at least {minimum}, for calibration and comparison"
    first = f"; the first that cannot be read is {failures[0]}" if failures else ""
    raise RefusedError(
        f"{folder} has only {count_noun(readable, 'readable image')}", why=why + first, hint="add images with --data"
    )
