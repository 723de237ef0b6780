"""Test the rule of ``levit eval --target-accuracy`` on random halves of data sets, beside two other rules.

python -m benchmarks.abstaining [--draws 200] [--sets 5]
python -m benchmarks.abstaining --model demo --data cifar10/val

In each draw a threshold is chosen on one half of the images. It passes if the accuracy on the accepted images of the
other half is at least the target. A rule is good if it passes in at least 95 % of the draws in which it finds a
threshold. "worst set" is the lowest share of a set with a threshold in at least a tenth of its draws.

``one bound`` takes the smallest of 100 thresholds whose own 95 % Wilson interval lies above the target. ``sequence``
tests the candidates from the highest threshold on, each with the same interval, and stops at the first that fails.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from levit_cli.checkpoints import load
from levit_cli.data.image_folder import class_folders
from levit_cli.data.labeled_files import is_labeled_file, read_labeled_file
from levit_cli.data.skipped import Skipped
from levit_cli.engines import EngineSpec
from levit_cli.eval.coverage import CANDIDATES, AcceptedImages
from levit_cli.eval.evaluate import evaluate

TARGETS = (0.9, 0.95, 0.99)
SIZES = (500, 2000, 10_000)


class ImageSet(NamedTuple):
    """The probability of the predicted class of each image, and whether the prediction is correct."""

    confidences: NDArray[np.float64]
    correct: NDArray[np.bool_]

    def take(self, rows: NDArray[np.intp]) -> "ImageSet":
        return ImageSet(self.confidences[rows], self.correct[rows])


Rule = Callable[[AcceptedImages, float], float | None]


def calibrated(images: int, rng: np.random.Generator) -> ImageSet:
    """A model whose probabilities are right, and mostly high."""
    confidences = 1 - 0.8 * rng.beta(0.5, 1.6, images)
    return ImageSet(confidences, rng.random(images) < confidences)


def label_noise(images: int, rng: np.random.Generator) -> ImageSet:
    """A better model, on images of which 1 % have a wrong label."""
    confidences = 1 - 0.8 * rng.beta(0.4, 2.5, images)
    return ImageSet(confidences, (rng.random(images) < confidences) & (rng.random(images) < 0.99))


def overconfident(images: int, rng: np.random.Generator) -> ImageSet:
    """A model whose probabilities are four points too high."""
    confidences = 1 - 0.8 * rng.beta(0.3, 2.5, images)
    return ImageSet(confidences, rng.random(images) < confidences - 0.04)


def uninformative(images: int, rng: np.random.Generator) -> ImageSet:
    """A model whose probabilities hardly tell right from wrong."""
    confidences = rng.random(images)
    return ImageSet(confidences, rng.random(images) < 0.93 + 0.03 * confidences)


SYNTHETIC = (calibrated, label_noise, overconfident, uninformative)


def corrected(accepted: AcceptedImages, target: float) -> float | None:
    """The rule of ``levit eval``."""
    chosen = accepted.find_threshold(target).chosen
    return chosen.threshold if chosen else None


def one_bound(accepted: AcceptedImages, target: float) -> float | None:
    points = [point for point in accepted.curve() if point.accepted.interval[0] >= target]
    return points[-1].threshold if points else None


def sequence(accepted: AcceptedImages, target: float) -> float | None:
    found = None
    for point in accepted.curve(CANDIDATES):
        can_pass = type(point.accepted)(point.accepted.total, point.accepted.total).interval[0] >= target
        if point.accepted.interval[0] >= target:
            found = point.threshold
        elif can_pass:
            break
    return found


RULES: dict[str, Rule] = {"levit eval": corrected, "one bound": one_bound, "sequence": sequence}


class Outcome(NamedTuple):
    """How often a threshold was found and passed, and the mean coverage on the other half where one was found."""

    draws: int
    found: int
    passed: int
    coverage: float

    @property
    def share(self) -> float:
        return self.passed / self.found if self.found else 1.0


def draw_halves(images: ImageSet, target: float, rule: Rule, draws: int, seed: int = 0) -> Outcome:
    """Choose a threshold on one random half of the images, and measure it on the other, again and again."""
    rng = np.random.default_rng(seed)
    half, found, passed, coverage = len(images.correct) // 2, 0, 0, 0.0
    for _ in range(draws):
        order = rng.permutation(len(images.correct))
        chosen, others = images.take(order[:half]), images.take(order[half:])
        threshold = rule(AcceptedImages(*chosen), target)
        if threshold is None:
            continue
        point = AcceptedImages(*others).at(threshold)
        found += 1
        passed += not point.accepted.total or point.accepted.value >= target
        coverage += point.coverage
    return Outcome(draws, found, passed, coverage / found if found else 0.0)


def predictions(model: str, data: Path, every: int = 1) -> ImageSet:
    """Classify the images of class folders, or of an archive of them: each ``every``-th image."""
    if is_labeled_file(data):
        train, val, _ = read_labeled_file(data, Skipped())
        folders = val or train
    else:
        folders = class_folders(data, Skipped())
    result = evaluate(load(model), replace(folders, samples=folders.samples[::every]), EngineSpec())
    return ImageSet(result.confidences, result.ranked[:, 0] == result.targets)


def report(name: str, sets: Sequence[ImageSet], draws: int, rules: Sequence[str]) -> None:
    """Print a line for each target and rule, over all sets of one kind."""
    for target in TARGETS:
        for rule in rules:
            outcomes = [draw_halves(images, target, RULES[rule], draws) for images in sets]
            found, passed = sum(each.found for each in outcomes), sum(each.passed for each in outcomes)
            worst = min((each.share for each in outcomes if each.found >= draws / 10), default=None)
            coverage = sum(each.coverage * each.found for each in outcomes) / found if found else None
            values = (found / (draws * len(sets)), passed / found if found else None, worst, coverage)
            head = f"{name:<22}{len(sets[0].correct):>7,}{target:>8}  {rule:<11}"
            print(head + "".join(map(_percent, values)), flush=True)


def _percent(value: float | None) -> str:
    return f"{'–':>11}" if value is None else f"{100 * value:>9.1f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--sets", type=int, default=5, help="synthetic sets of each kind and size")
    parser.add_argument("--rules", default=",".join(RULES))
    parser.add_argument("--model")
    parser.add_argument("--data", type=Path)
    arguments = parser.parse_args()
    rules = arguments.rules.split(",")
    columns = "".join(f"{name:>11}" for name in ("found", "passed", "worst set", "coverage"))
    print(f"{'set':<22}{'images':>7}{'target':>8}  {'rule':<11}{columns}")
    if arguments.model and arguments.data:
        images = predictions(arguments.model, arguments.data)
        report(f"{arguments.model}, {arguments.data.name}"[:21], [images], arguments.draws, rules)
        return
    for kind in SYNTHETIC:
        for size in SIZES:
            sets = [kind(size, np.random.default_rng([seed, size])) for seed in range(arguments.sets)]
            report(kind.__name__, sets, arguments.draws, rules)


if __name__ == "__main__":
    main()
